"""What samplers are made of: checks of shapes, loading, seeds, first latents and the loop."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from decode.core import Media, Shape, refusal
from decode.pictures import resize
from decode.progress import progress
from decode.weights.hub import opening
from decode.weights.reading import (
    Precision,
    choose_device,
    choose_dtype,
    find_weights,
    quiet,
)

Offload = Literal["none", "model", "sequential"]
Norm = Literal["train", "keep", "first"]


class Precise(Protocol):
    """What loading needs to know."""

    precision: Precision


class Knobs(Precise, Protocol):
    """What loading and placing need to know of a generator."""

    offload: Offload
    device: str


def check_place(knobs: Knobs) -> torch.device:
    """The device; InputError when parts are to be offloaded from something that is not a GPU."""
    device = choose_device(knobs.device)
    if knobs.offload != "none" and device.type != "cuda":
        raise refusal(
            "generator.offload",
            f"none on the device {device}, as it moves parts between a CUDA device and the CPU",
            knobs.offload,
            "set offload to none or device to cuda",
        )
    return device


def check_embedding(
    shapes: Mapping[str, Shape], name: str, *, width: int | None, said: int | None, model: str
) -> None:
    """Compare a target's shape with the width that the folder gives or, if unknown, with `said`."""
    expected = agreed_width(width, said, model)
    wanted = f"({expected},)" if expected is not None else "one vector"
    what = f"an image embedding of shape {wanted}, which conditions {model!r}"
    _check_width(shapes, name, 1, expected, what, "embedding")


def check_tokens(
    shapes: Mapping[str, Shape], name: str, *, width: int | None, said: int | None, model: str
) -> None:
    """The same for a target of tokens (token, width)."""
    expected = agreed_width(width, said, model)
    wanted = f"(token, {expected})" if expected is not None else "(token, width)"
    what = f"tokens of shape {wanted}, which condition {model!r}"
    _check_width(shapes, name, 2, expected, what, "tokens")


def _check_width(
    shapes: Mapping[str, Shape], name: str, ndim: int, width: int | None, what: str, word: str
) -> None:
    """Refuse a target that has not `ndim` axes, the last of them `width` long where that is known."""
    shape = tuple(shapes[name])
    if len(shape) != ndim or (width is not None and shape[-1] != width):
        remedy = f"choose the target whose {word} the model was trained with"
        raise refusal("generator", what, f"target {name!r} of shape {shape}", remedy)


def agreed_width(width: int | None, said: int | None, model: str) -> int | None:
    """The width that the folder gives or, if that is unknown, the one said; they may not differ."""
    if width is not None and said is not None and width != said:
        raise refusal(
            "generator.width",
            f"{width}, by which the folder {model!r} is conditioned",
            said,
            "remove width or correct model",
        )
    return width if width is not None else said


def check_low_level(
    shapes: Mapping[str, Shape], name: str | None, *, channels: int, side: int | None
) -> None:
    """A low-level start is a picture (3, h, w) or latents of exactly the denoiser's shape."""
    if name is None:
        return
    shape = tuple(shapes[name])
    if len(shape) == 3 and shape[0] == 3:
        return
    fits = len(shape) == 3 and shape[0] == channels
    if fits and side is not None:
        fits = shape[1:] == (side, side)
    if not fits:
        where = f"{side}, {side}" if side is not None else "h, w"
        raise refusal(
            "generator.low_level",
            f"a start that is a picture (3, h, w) or latents ({channels}, {where})",
            f"target {name!r} of shape {shape}",
            "set the target's `size` to the generator's",
        )


def open_pipeline(kind: str, model: str, knobs: Knobs, **parts: Any) -> Any:
    """The diffusers pipeline class `kind` with weights, not yet placed; `parts` replace some."""
    import diffusers

    with quiet(), opening(model):
        pipe = getattr(diffusers, kind).from_pretrained(
            str(find_weights(model)),
            torch_dtype=choose_dtype(knobs.precision),
            use_safetensors=True,
            trust_remote_code=False,
            **parts,
        )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def open_parts(
    model: str, knobs: Precise, *, networks: Mapping[str, Any], plain: Mapping[str, Any]
) -> dict[str, Any]:
    """The scheduler and the parts of a pipeline by name, each read by the class given for it.

    For pipelines whose published index names modules that have moved inside the library since.
    """
    import diffusers

    source, dtype = str(find_weights(model)), choose_dtype(knobs.precision)
    with quiet(), opening(model):
        parts = {k: cls.from_pretrained(source, subfolder=k) for k, cls in plain.items()}
        for name, cls in networks.items():
            network = cls.from_pretrained(source, subfolder=name, use_safetensors=True)
            parts[name] = network.to(dtype).eval()
        told = diffusers.DDIMScheduler.load_config(source, subfolder="scheduler")
        scheduler = getattr(diffusers, told["_class_name"])
        return {**parts, "scheduler": scheduler.from_config(told)}


def place_pipeline(pipe: Any, knobs: Knobs) -> Any:
    """Move a pipeline to its device, whole or part by part while it runs."""
    device = check_place(knobs)
    if knobs.offload == "model":
        pipe.enable_model_cpu_offload(device=device)
    elif knobs.offload == "sequential":
        pipe.enable_sequential_cpu_offload(device=device)
    else:
        pipe.to(device)
    return pipe


def whole_autoencoder(pipe: Any) -> Any:
    """The pipeline with its autoencoder in full precision where half would overflow, as SDXL's does."""
    if pipe.vae.config.force_upcast and pipe.vae.dtype == torch.float16:
        with quiet():
            pipe.vae.to(torch.float32)
    return pipe


def mean_norm(features: Tensor) -> float:
    """Mean Euclidean norm of (row, *shape) features, each taken as one vector."""
    return float(features.float().flatten(1).norm(dim=1).mean())


def with_norm(features: Tensor, norm: float) -> Tensor:
    """(row, *shape) features, each scaled to one Euclidean norm."""
    flat = features.float().flatten(1)
    scaled = flat * (norm / flat.norm(dim=1, keepdim=True).clamp_min(1e-12))
    return scaled.view_as(features)


def with_first_norm(tokens: Tensor) -> Tensor:
    """(row, token, width) tokens, each row divided by the norm of its first token."""
    tokens = tokens.float()
    return tokens / tokens[:, :1].norm(dim=-1, keepdim=True).clamp_min(1e-12)


def row_slices(rows: int, batch_size: int) -> Iterator[slice]:
    """Slices of at most `batch_size` rows, with a progress bar."""
    starts = range(0, rows, batch_size)
    for start in progress(starts, "pictures", total=len(starts)):
        yield slice(start, min(start + batch_size, rows))


def row_generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """One random generator per row, on the CPU so that every device draws the same noise."""
    return [torch.Generator().manual_seed(int(seed)) for seed in seeds]


def draw(shape: Shape, rows: list[torch.Generator], like: Tensor) -> Tensor:
    """Standard normal (row, *shape), row i from generator i, at the place and precision of `like`.

    Drawn in float32 whatever the precision, so that half precision starts from the same noise.
    """
    return torch.stack([torch.randn(shape, generator=g) for g in rows]).to(like)


def first_latents(
    scheduler: Any, start: Tensor | None, noise: Tensor, *, steps: int, strength: float
) -> tuple[Tensor, Tensor]:
    """(time steps to run, latents to run them from).

    Without a start that is scaled noise and every step; with one, the start noised to the level at
    which the last `strength` share of the steps begins.
    """
    scheduler.set_timesteps(steps, device=noise.device)
    if start is None:
        return scheduler.timesteps, noise * scheduler.init_noise_sigma
    skipped = steps - int(steps * strength)
    begin = skipped * scheduler.order
    timesteps = scheduler.timesteps[begin:]
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(begin)
    first = timesteps[:1].repeat(len(start))
    return timesteps, scheduler.add_noise(start.to(noise), noise, first)


Predict = Callable[[Tensor, Tensor], Tensor]
Pull = Callable[[Tensor], Tensor]


def guided(noise: Tensor, guidance: float) -> Tensor:
    """Classifier-free guidance: the unconditional half of the batch first, then the conditional."""
    if guidance <= 1:
        return noise
    free, bound = noise.chunk(2)
    return free + guidance * (bound - free)


def denoise(
    scheduler: Any,
    timesteps: Tensor,
    latents: Tensor,
    predict: Predict,
    rows: list[torch.Generator],
    *,
    pull: Pull | None = None,
    scale: float = 1.0,
    every: int = 1,
) -> Tensor:
    """Run the scheduler over `timesteps`; `predict(latents, t)` is the guided denoiser's output.

    `pull` maps an estimate of the clean latents to an energy per row: each `every`-th step also
    goes down its gradient with respect to the noisy latents, times `scale` and their number.
    """
    step = step_arguments(scheduler, rows)
    for i, t in enumerate(timesteps):
        if pull is None or i % every:
            latents = scheduler.step(predict(latents, t), t, latents, **step, return_dict=False)[0]
            continue
        with torch.enable_grad():
            seen = latents.detach().requires_grad_()
            found = scheduler.step(predict(seen, t), t, seen, **step)
            energy = pull(clean_estimate(found, scheduler))
            down = torch.autograd.grad(energy.sum(), seen)[0]
        # Energies are means over a picture: their gradient thins out as latents grow in number.
        latents = found.prev_sample.detach() - scale * down[0].numel() * down.to(latents)
    return latents


def clean_estimate(found: Any, scheduler: Any) -> Tensor:
    """The scheduler's estimate of the clean latents at the step it has just taken."""
    for name in ("pred_original_sample", "denoised"):
        if getattr(found, name, None) is not None:
            return torch.as_tensor(getattr(found, name))
    raise refusal(
        "generator.scheduler",
        "one that tells its estimate of the clean latents, which an energy needs",
        f"{type(scheduler).__name__}, which does not",
        "set scheduler to DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler or LCMScheduler, "
        "or energy to null",
    )


def step_arguments(scheduler: Any, rows: list[torch.Generator]) -> dict[str, Any]:
    """What `scheduler.step` takes beside the sample: no added noise where it can be chosen, and the
    rows' own generators where there is some all the same."""
    known = inspect.signature(scheduler.step).parameters
    wanted: dict[str, Any] = {"eta": 0.0, "generator": rows}
    return {name: value for name, value in wanted.items() if name in known}


def start_from(
    low_level: Tensor, encode: Callable[[Tensor], Tensor], *, channels: int, side: int, size: int
) -> Tensor:
    """Latents (row, channel, side, side) of a low-level prediction; pictures are encoded."""
    check_low_level({"low_level": low_level.shape[1:]}, "low_level", channels=channels, side=side)
    if low_level.shape[1] == channels:
        return low_level
    return encode(resize(low_level.float().clamp(0, 1), (size, size)) * 2 - 1)


def as_media(pictures: Tensor) -> list[Media]:
    """(row, 3, h, w) in [0, 1] -> Media; InputError when half precision has overflowed."""
    pictures = pictures.detach().float().cpu()
    if not bool(torch.isfinite(pictures).all()):
        raise refusal(
            "generator",
            "finite pictures",
            "decoded ones that hold NaN",
            "set precision to bfloat16 or float32",
        )
    return [Media("image", picture.clone()) for picture in pictures.clamp(0, 1)]

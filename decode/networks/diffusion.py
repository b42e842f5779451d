"""What the diffusion generators share: knobs, checks, loading, seeds and the sampling loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from decode.core import InputError, Media, Shape, Tensors
from decode.networks.weights import (
    Precision,
    choose_device,
    choose_dtype,
    find_weights,
    loading,
    quiet,
)
from decode.pictures import resize
from decode.progress import progress

Offload = Literal["none", "model", "sequential"]
Norm = Literal["train", "keep"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """The knobs of a diffusion generator, checked when built.

    `image` names the embedding target, `low_level` an optional target that gives the start of
    sampling: latents as the denoiser sees them, or pictures (3, h, w) in [0, 1]. `strength` in
    (0, 1] is the share of the `steps` that is run from that start. `norm` "train" gives each
    predicted embedding the mean norm of the training ones, since regression shrinks; "keep" leaves
    it.
    """

    image: str
    low_level: str | None
    steps: int
    guidance: float
    strength: float
    size: int | None
    norm: Norm
    precision: Precision
    offload: Offload
    batch_size: int
    device: str

    def __post_init__(self) -> None:
        if self.norm not in ("train", "keep"):
            raise InputError(f"generator: norm is train or keep, got {self.norm!r}")
        if self.offload not in ("none", "model", "sequential"):
            raise InputError(
                f"generator: offload is none, model or sequential, got {self.offload!r}"
            )
        if self.batch_size < 1 or self.steps < 1:
            raise InputError(
                f"generator: steps and batch_size are at least 1, got {self.steps} and "
                f"{self.batch_size}"
            )
        if not 0 < self.strength <= 1 or int(self.steps * self.strength) < 1:
            raise InputError(
                f"generator: strength lies in (0, 1] and steps * strength reaches 1, got "
                f"{self.strength} with {self.steps} steps"
            )
        if self.low_level is None and self.strength != 1:
            raise InputError(
                f"generator: strength={self.strength} means a start from a low-level prediction, "
                "but low_level is null; name a target there or set strength to 1"
            )
        choose_dtype(self.precision)

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.image,) if self.low_level is None else (self.image, self.low_level)


def check_place(knobs: Sampling) -> torch.device:
    """The device; InputError when parts are to be offloaded from something that is not a GPU."""
    device = choose_device(knobs.device)
    if knobs.offload != "none" and device.type != "cuda":
        raise InputError(
            f"generator: offload={knobs.offload} moves parts between a CUDA device and the CPU, "
            f"the device is {device}; set offload to none or device to cuda"
        )
    return device


def check_embedding(
    shapes: Mapping[str, Shape], name: str, *, width: int | None, said: int | None, model: str
) -> None:
    """Compare a target's shape with the width that the folder gives or, if unknown, with `said`."""
    if width is not None and said is not None and width != said:
        raise InputError(
            f"generator: width={said}, but the folder {model!r} is conditioned on {width}; "
            "remove width or correct model"
        )
    expected = width if width is not None else said
    shape = tuple(shapes[name])
    if len(shape) != 1 or (expected is not None and shape[0] != expected):
        wanted = f"({expected},)" if expected is not None else "one vector"
        raise InputError(
            f"generator: {model!r} is conditioned on an image embedding of shape {wanted}, target "
            f"{name!r} has {shape}; choose the target whose embedding the model was trained with"
        )


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
        raise InputError(
            f"generator: a low-level start is a picture (3, h, w) or latents ({channels}, {where})"
            f", target {name!r} has {shape}; set the target's `size` to the generator's"
        )


def open_pipeline(kind: str, model: str, knobs: Sampling, **parts: Any) -> Any:
    """The diffusers pipeline class `kind` with weights, not yet placed; `parts` replace some."""
    import diffusers

    with quiet(), loading(model):
        pipe = getattr(diffusers, kind).from_pretrained(
            str(find_weights(model)),
            torch_dtype=choose_dtype(knobs.precision),
            use_safetensors=True,
            **parts,
        )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def place_pipeline(pipe: Any, knobs: Sampling) -> Any:
    """Move a pipeline to its device, whole or part by part while it runs."""
    device = check_place(knobs)
    if knobs.offload == "model":
        pipe.enable_model_cpu_offload(device=device)
    elif knobs.offload == "sequential":
        pipe.enable_sequential_cpu_offload(device=device)
    else:
        pipe.to(device)
    return pipe


def mean_norm(embeddings: Tensor) -> float:
    """Mean Euclidean norm of (row, width) embeddings."""
    return float(embeddings.float().norm(dim=1).mean())


def conditioned(predicted: Tensors, knobs: Sampling, norm: float | None) -> Tensor:
    """Predicted embeddings (row, width) ready for the generator: finite and at their true scale."""
    embedding = predicted[knobs.image].float()
    for name in knobs.needs:
        if not bool(torch.isfinite(predicted[name]).all()):
            raise InputError(f"generator: predictions of target {name!r} are not all finite")
    if knobs.norm == "keep":
        return embedding
    if norm is None:
        raise InputError(
            "generator: norm=train needs the training embeddings; call learn(shown, truth) first "
            "or set norm to keep"
        )
    return embedding * (norm / embedding.norm(dim=1, keepdim=True).clamp_min(1e-12))


def row_slices(rows: int, knobs: Sampling) -> Iterator[slice]:
    """Slices of at most `batch_size` rows, with a progress bar."""
    starts = range(0, rows, knobs.batch_size)
    for start in progress(starts, "pictures", total=len(starts)):
        yield slice(start, min(start + knobs.batch_size, rows))


def row_generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """One random generator per row, on the CPU so that every device draws the same noise."""
    return [torch.Generator().manual_seed(int(seed)) for seed in seeds]


def draw(shape: Shape, rows: list[torch.Generator], like: Tensor) -> Tensor:
    """Standard normal (row, *shape), row i from generator i, at the place and precision of `like`.

    Drawn in float32 whatever the precision, so that half precision starts from the same noise.
    """
    return torch.stack([torch.randn(shape, generator=g) for g in rows]).to(like)


def first_latents(
    scheduler: Any, knobs: Sampling, start: Tensor | None, noise: Tensor
) -> tuple[Tensor, Tensor]:
    """(time steps to run, latents to run them from).

    Without a start that is scaled noise and every step; with one, the start noised to the level at
    which the last `strength` share of the steps begins.
    """
    scheduler.set_timesteps(knobs.steps, device=noise.device)
    if start is None:
        return scheduler.timesteps, noise * scheduler.init_noise_sigma
    skipped = knobs.steps - int(knobs.steps * knobs.strength)
    begin = skipped * scheduler.order
    timesteps = scheduler.timesteps[begin:]
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(begin)
    first = timesteps[:1].repeat(len(start))
    return timesteps, scheduler.add_noise(start.to(noise), noise, first)


def denoise(
    scheduler: Any,
    timesteps: Tensor,
    latents: Tensor,
    predict: Callable[[Tensor, Tensor], Tensor],
    **step: Any,
) -> Tensor:
    """Run the scheduler over `timesteps`; `predict(latents, t)` is the guided denoiser's output."""
    for t in timesteps:
        latents = scheduler.step(predict(latents, t), t, latents, **step, return_dict=False)[0]
    return latents


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
        raise InputError(
            "generator: decoded pictures hold NaN; set precision to bfloat16 or float32"
        )
    return [Media("image", picture.clone()) for picture in pictures.clamp(0, 1)]

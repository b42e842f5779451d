"""The parent of the diffusion generators: their common knobs, and sampling from prediction to picture."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from decode.core import Generator, Media, Shape, Size, Stimulus, Tensors, refusal
from decode.diffusion.energies import Energy
from decode.diffusion.pipelines import (
    Norm,
    Offload,
    Predict,
    Pull,
    as_media,
    check_low_level,
    check_place,
    denoise,
    draw,
    first_latents,
    mean_norm,
    row_generators,
    row_slices,
    start_from,
    with_first_norm,
    with_norm,
)
from decode.diffusion.schedulers import check_scheduler, choose_scheduler
from decode.pictures import resize
from decode.weights.reading import Precision, choose_dtype, find_weights, read_config


@dataclass(eq=False)
class Diffusion(Generator):
    """A latent diffusion model, and the knobs that all of them have.

    `model` is a hub name or folder. `low_level` gives the start of sampling: it names a target, of
    latents as the denoiser sees them or of pictures (3, h, w) in [0, 1], or is a whole generator of
    pictures, made from the same predictions and seeds. `strength` in (0, 1] is the share of the `steps`
    that is run from that start. `start_size` is the side of the pictures that the start is of, where
    that is not `size`: predicted latents of that side are decoded, pictures brought to it, and then
    enlarged and encoded. `norm` "train" gives each predicted condition the mean norm of the training
    ones, since regression shrinks; "first" divides each row's tokens by the norm of its first one, as
    systems do whose true tokens were divided in that way; "keep" leaves it. `size` is the side of the
    pictures, null the model's own. `scheduler` names any scheduler of diffusers to sample by, `spacing`
    (leading, linspace or trailing) says which of the training's steps it takes; null is the model's own.

    `energy` steers the sampling: any function (pictures (row, 3, h, w) around [0, 1], predictions)
    -> (row,) that can be differentiated by the pictures. Each `energy_every`-th step goes down
    its gradient with respect to the noisy latents, times `energy_scale` and the number of latent
    values, through the decoded estimate of the clean ones (universal guidance, Bansal et al. 2023,
    arXiv:2302.07121). That keeps the activations of denoiser and decoder: expect several times the
    memory. Offloading part by part (`sequential`) was not tried with it.

    `candidates` pictures are sampled per row and the one of the lowest `judge` energy is kept. The
    judge knows the prediction only, and the report says how many there were.
    """

    # Folders of the denoiser and of the autoencoder.
    parts: ClassVar[tuple[str, str]] = ("unet", "vae")
    model: str
    _: KW_ONLY
    low_level: str | Generator | None = None
    steps: int = 50
    guidance: float = 5.0
    strength: float = 1.0
    start_size: int | None = None
    scheduler: str | None = None
    spacing: str | None = None
    size: int | None = None
    norm: Norm = "train"
    energy: Energy | None = None
    energy_scale: float = 1.0
    energy_every: int = 1
    candidates: int = 1
    judge: Energy | None = None
    precision: Precision = "float32"
    offload: Offload = "none"
    batch_size: int = 8
    device: str = "auto"

    def __post_init__(self) -> None:
        self._check_knobs()
        judged = [g for g in (self.energy, self.judge) if g is not None]
        extra = [name for g in judged for name in getattr(g, "needs", ())]
        low = [] if self.start_target is None else [self.start_target]
        first = self.start_generator
        needed = [] if first is None else first.needs
        self.needs = tuple(dict.fromkeys([*self.conditions(), *low, *extra, *needed]))
        self.disclosure = disclose(self)
        self._norms: dict[str, float] = {}
        # What the rows under way start from and are told in words.
        self._pictures: Tensor | None = None
        self._texts: list[str] = []
        self._pipe: Any = None

    def _check_knobs(self) -> None:
        if self.norm not in ("train", "keep", "first"):
            raise refusal("generator.norm", "train, keep or first", f"{self.norm!r}", "choose one")
        if self.offload not in ("none", "model", "sequential"):
            raise refusal(
                "generator.offload", "none, model or sequential", f"{self.offload!r}", "choose one"
            )
        if min(self.batch_size, self.steps, self.candidates, self.energy_every) < 1:
            raise refusal(
                "generator",
                "steps, batch_size, candidates and energy_every of at least 1",
                f"{self.steps}, {self.batch_size}, {self.candidates} and {self.energy_every}",
                "raise the one that is below 1",
            )
        if not 0 < self.strength <= 1 or int(self.steps * self.strength) < 1:
            raise refusal(
                "generator.strength",
                "a share in (0, 1] of which steps * strength reaches 1",
                f"{self.strength} with {self.steps} steps",
                "raise strength or steps",
            )
        if not self.starts() and self.strength != 1:
            raise refusal(
                "generator.low_level",
                f"a prediction to start from, as strength={self.strength} is below 1",
                "null",
                "name a target or a generator there or set strength to 1",
            )
        if self.start_size is not None and (self.size is None or not self.starts()):
            raise refusal(
                "generator.start_size",
                "null without low_level and size, as it is the side of a start that is brought to size",
                self.start_size,
                "give low_level and size too or set start_size to null",
            )
        made = getattr(self.low_level, "makes", "image")
        if not isinstance(self.low_level, str | Generator | None) or made != "image":
            raise refusal(
                "generator.low_level",
                "a target, a generator of pictures or null",
                type(self.low_level).__name__,
                "name one of these",
            )
        if (self.candidates > 1) != (self.judge is not None):
            raise refusal(
                "generator.judge",
                "a judge just where there is more than one candidate",
                f"candidates={self.candidates} with judge={self.judge}",
                "set judge, or candidates to 1",
            )
        choose_dtype(self.precision)

    def starts(self) -> bool:
        """Whether sampling begins with something else than noise."""
        return self.low_level is not None

    @property
    def start_target(self) -> str | None:
        """The target that sampling starts from, where it is one."""
        return self.low_level if isinstance(self.low_level, str) else None

    @property
    def start_generator(self) -> Generator | None:
        """The generator whose pictures sampling starts from, where it is one."""
        return self.low_level if isinstance(self.low_level, Generator) else None

    def texts(self, predicted: Tensors, *, seeds: Sequence[int]) -> list[str]:
        """A text per row for denoisers that read one beside their conditions; else none."""
        return []

    def conditions(self) -> tuple[str, ...]:
        """The targets that the denoiser is conditioned on, which `norm` scales."""
        raise NotImplementedError(f"{type(self).__name__} must name its conditions")

    def open(self) -> Any:
        """The pipeline, with weights, on its device."""
        raise NotImplementedError(f"{type(self).__name__} must say what it loads")

    def denoiser(self, wanted: Tensors, rows: list[torch.Generator]) -> Predict:
        """(latents, time step) -> what the scheduler takes, for these rows' conditions."""
        raise NotImplementedError(f"{type(self).__name__} must say how it denoises")

    def check(self, shapes: Mapping[str, Shape]) -> None:
        """Compare targets with the folders' configuration; no weights are read."""
        super().check(shapes)
        find_weights(self.model)
        check_place(self)
        check_scheduler(self.scheduler, self.spacing)
        for name in self.conditions() if self.norm == "first" else ():
            if len(shapes[name]) != 2:
                raise refusal(
                    "generator.norm",
                    "tokens (token, width) where norm=first divides by the norm of the first one",
                    f"target {name!r} of shape {tuple(shapes[name])}",
                    "set norm to train or keep",
                )
        for judged in (self.energy, self.judge):
            if hasattr(judged, "check"):
                judged.check(shapes)  # type: ignore[union-attr]
        first = self.start_generator
        if first is not None:
            first.check(shapes)

    def told(self) -> tuple[dict[str, Any] | None, int | None]:
        """(configuration of a local folder's denoiser, side of its latents), None where unknown."""
        denoiser = read_config(self.model, self.parts[0])
        if self.size is not None:
            return denoiser, self.size // self.shrinks()
        return denoiser, None if denoiser is None else denoiser["sample_size"]

    def shrinks(self) -> int:
        """Pixels along a side of what the autoencoder makes one latent of; 8 where that is not known yet."""
        autoencoder = read_config(self.model, self.parts[1])
        return 8 if autoencoder is None else 2 ** (len(autoencoder["block_out_channels"]) - 1)

    def size_of(self, shapes: Mapping[str, Shape]) -> Size | None:
        """From `size` or the folder's configuration; None for a published model as large as it was made."""
        side = self.told()[1]
        return None if side is None else (side * self.shrinks(),) * 2

    def check_start(self, shapes: Mapping[str, Shape], side: int | None, channels: int = 4) -> None:
        """A target to start from is a picture, or latents of the denoiser's shape or of `start_size`."""
        if side is not None and self.start_size is not None and self.size is not None:
            side = side * self.start_size // self.size
        check_low_level(shapes, self.start_target, channels=channels, side=side)

    def learn(self, shown: Sequence[Stimulus], truth: Tensors) -> None:
        """Remember the mean norms of the training conditions; the generator of the start learns too."""
        self._norms = {name: mean_norm(truth[name]) for name in self.conditions()}
        first = self.start_generator
        if first is not None:
            first.learn(shown, truth)

    def kept(self) -> Tensors | None:
        first = self.start_generator
        inner = {} if first is None else first.kept()
        if inner is None:
            return None
        norms = {f"norm.{k}": torch.tensor(v, dtype=torch.float64) for k, v in self._norms.items()}
        return {**norms, **within("start", inner)}

    def recall(self, kept: Tensors) -> None:
        self._norms = {name: float(value) for name, value in of("norm", kept).items()}
        first = self.start_generator
        if first is not None:
            first.recall(of("start", kept))

    @torch.no_grad()
    def __call__(self, predicted: Tensors, *, seeds: Sequence[int]) -> list[Media]:
        """One picture (3, size, size) per row."""
        predicted = {name: predicted[name].float() for name in self.needs}
        wanted = {**predicted, **self._conditioned(predicted)}
        first, texts = self.start_generator, self.texts(predicted, seeds=seeds)
        begun = [] if first is None else first(predicted, seeds=seeds)
        if self._pipe is None:
            self._pipe = self.open()
            own = self._pipe.scheduler
            self._pipe.scheduler = choose_scheduler(own, self.scheduler, self.spacing)
        made: list[Media] = []
        for rows in row_slices(len(seeds), self.batch_size):
            self._texts = texts[rows]
            if begun:
                first_size = self.start_size or self.picture_size()
                self._pictures = as_pictures(begun[rows], first_size)
            made += as_media(self._best(cut(wanted, rows), cut(predicted, rows), seeds[rows]))
        return made

    def _conditioned(self, predicted: Tensors) -> Tensors:
        """Predicted conditions, finite and at their true scale."""
        for name, values in predicted.items():
            if not bool(torch.isfinite(values).all()):
                raise refusal(
                    "generator",
                    f"finite predictions of target {name!r}",
                    "NaN or infinite ones",
                    "look at the losses of train (history.jsonl) and lower trainer.rate",
                )
        if self.norm == "keep" or not self.conditions():
            return {}
        if self.norm == "first":
            return {name: with_first_norm(predicted[name]) for name in self.conditions()}
        if not self._norms:
            raise refusal(
                "generator.norm",
                "training embeddings, which norm=train needs",
                "none yet",
                "call learn(shown, truth) first or set norm to keep",
            )
        return {name: with_norm(predicted[name], self._norms[name]) for name in self.conditions()}

    def _best(self, wanted: Tensors, predicted: Tensors, seeds: Sequence[int]) -> Tensor:
        """(row, 3, size, size): of each row's candidates the one that the judge finds nearest."""
        best = self.sample(wanted, predicted, seeds)
        if self.judge is None:
            return best
        lowest = self.judge(best.clamp(0, 1), predicted)
        for k in range(1, self.candidates):
            made = self.sample(wanted, predicted, [another_seed(seed, k) for seed in seeds])
            energy = self.judge(made.clamp(0, 1), predicted)
            better = energy < lowest
            best = torch.where(better.view(-1, 1, 1, 1).to(best.device), made, best)
            lowest = torch.minimum(lowest, energy)
        return best

    def sample(self, wanted: Tensors, predicted: Tensors, seeds: Sequence[int]) -> Tensor:
        """Pictures (row, 3, size, size) of one batch, nominally in [0, 1]."""
        pipe, rows = self._pipe, row_generators(seeds)
        place = {"device": pipe._execution_device, "dtype": self.network.dtype}
        wanted = {name: values.to(**place) for name, values in wanted.items()}
        predict = self.denoiser(wanted, rows)
        noise = self.noise(rows, torch.empty(0, **place))
        start = self.start_latents(wanted)
        timesteps, latents = first_latents(
            pipe.scheduler, start, noise, steps=self.steps, strength=self.strength
        )
        knobs = {"scale": self.energy_scale, "every": self.energy_every}
        pull = self._pull(predicted)
        latents = denoise(
            pipe.scheduler,
            timesteps,
            latents,
            predict,
            rows,
            pull=pull,
            **knobs,  # type: ignore[arg-type]
        )
        pictures = self.finish(self.decode(latents))
        pipe.maybe_free_model_hooks()
        return pictures

    def _pull(self, predicted: Tensors) -> Pull | None:
        """The energy of clean latents, or None when there is nothing to pull with."""
        energy = self.energy
        if energy is None or self.energy_scale == 0:
            return None

        def pull(clean: Tensor) -> Tensor:
            pictures = self.finish(self.decode(clean.to(self.network.dtype)))
            return energy(pictures.float(), predicted)

        return pull

    @property
    def network(self) -> Any:
        """The denoising network of the opened pipeline."""
        return self._pipe.unet

    def latent_shape(self) -> tuple[int, int]:
        """(channel, side) of the latents."""
        config = self.network.config
        if self.size is None:
            return config.in_channels, config.sample_size
        return config.in_channels, self.size // int(self._pipe.vae_scale_factor)

    def picture_size(self) -> int:
        """Side of the pictures in pixels."""
        return self.latent_shape()[1] * int(self._pipe.vae_scale_factor)

    def noise(self, rows: list[torch.Generator], like: Tensor) -> Tensor:
        """(row, channel, side, side) of standard normal noise, each row from its own generator."""
        channels, side = self.latent_shape()
        return draw((channels, side, side), rows, like)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents as the denoiser sees them -> pictures around [0, 1]."""
        vae = self._pipe.vae
        latents = latents.to(vae.dtype) / vae.config.scaling_factor
        return vae.decode(latents, return_dict=False)[0] / 2 + 0.5

    def finish(self, pictures: Tensor) -> Tensor:
        """What is done to decoded pictures before they are shown; nothing for most models."""
        return pictures

    def encode(self, pictures: Tensor) -> Tensor:
        """Pictures (row, 3, size, size) in [-1, 1] -> latents as the denoiser sees them."""
        vae = self._pipe.vae
        pictures = pictures.to(self._pipe._execution_device, vae.dtype)
        return vae.encode(pictures).latent_dist.mode() * vae.config.scaling_factor

    def start_latents(self, wanted: Tensors) -> Tensor | None:
        """What sampling starts from, as the denoiser sees it; None for noise alone."""
        channels, side = self.latent_shape()
        size, low = self.picture_size(), self._pictures
        if low is None:
            if self.start_target is None:
                return None
            low = wanted[self.start_target]
            if self.start_size is not None:
                low = self._pictures_of(
                    low, self.start_size, channels, side * self.start_size // size
                )
        return start_from(low, self.encode, channels=channels, side=side, size=size)

    def _pictures_of(self, low: Tensor, size: int, channels: int, side: int) -> Tensor:
        """Pictures (row, 3, size, size) in [0, 1] of predicted pictures, or latents of that size."""
        check_low_level({"low_level": low.shape[1:]}, "low_level", channels=channels, side=side)
        if low.shape[1] == channels:
            return self.decode(low).float().clamp(0, 1)
        return resize(low.float().clamp(0, 1), (size, size))


def as_pictures(made: Sequence[Media], size: int) -> Tensor:
    """(row, 3, size, size) in [0, 1] of pictures of any size."""
    return torch.cat([resize(torch.as_tensor(m.data)[None], (size, size)) for m in made])


def cut(tensors: Tensors, rows: slice) -> Tensors:
    return {name: values[rows] for name, values in tensors.items()}


def another_seed(seed: int, k: int) -> int:
    """The seed of a row's candidate number `k`."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{k}".encode()).digest()[:4], "big")


def disclose(generator: Diffusion) -> str:
    """What a reader of the pictures has to know about how they were chosen or steered."""
    said, first = [], generator.start_generator
    if first is not None:
        said += [first.disclosure] if first.disclosure else []
        said.append(f"Sampling started from the pictures of generator {type(first).__name__}.")
    if generator.candidates > 1:
        said.append(
            f"Each picture is the best of {generator.candidates} by {generator.judge}; the stimulus "
            "was not looked at."
        )
    if generator.energy is not None and generator.energy_scale:
        said.append(
            f"Sampling was steered by {generator.energy} with scale {generator.energy_scale:g}."
        )
    return " ".join(said)


def within(name: str, kept: Tensors) -> Tensors:
    """What a generator inside another one keeps, named so that nothing else of that is called alike."""
    return {f"{name}.{key}": value for key, value in kept.items()}


def of(name: str, kept: Tensors) -> Tensors:
    """The way back of `within`."""
    return {
        key.removeprefix(f"{name}."): value
        for key, value in kept.items()
        if key.startswith(f"{name}.")
    }

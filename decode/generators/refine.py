"""Another generator's pictures once more through Stable Diffusion XL, with a caption."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from decode.core import Generator, InputError, Media, Shape, Stimulus, Tensors
from decode.networks.diffusion import (
    Predict,
    as_media,
    guided,
    open_pipeline,
    place_pipeline,
    row_slices,
    whole_autoencoder,
)
from decode.networks.sampler import Diffusion, cut
from decode.pictures import resize


@dataclass(eq=False, kw_only=True)
class Refine(Diffusion):
    """Image-to-image refinement (Meng et al. 2022, arXiv:2108.01073; as MindEye2 uses it).

    `first` is a whole generator; its pictures, at the size of this model, are where sampling
    starts, with the last `strength` share of the `steps` left to run. The text is `prompt`, to
    which, where `caption` names a target, the caption of the training stimulus nearest to the
    prediction in that target is appended; `negative` is steered away from. What is added is the
    model's idea of a good photograph of the caption: sharper pictures are not better evidence.

    `norm` has no meaning here: nothing predicted conditions the denoiser.
    """

    first: Generator
    prompt: str = ""
    negative: str = ""
    caption: str | None = None
    steps: int = 25
    strength: float = 0.52

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.low_level is not None:
            raise InputError(
                "refine generator: it starts from the pictures of `first`; set low_level there"
            )
        extra = [] if self.caption is None else [self.caption]
        self.needs = tuple(dict.fromkeys([*self.first.needs, *self.needs, *extra]))
        said = [self.first.disclosure, self.disclosure]
        if self.caption is not None:
            said.append(
                "Pictures were refined with the caption of the training stimulus nearest to the "
                f"prediction of {self.caption!r}."
            )
        self.disclosure = " ".join(filter(None, said))
        self._captions: list[str] = []
        self._gallery = torch.empty(0)

    def starts(self) -> bool:
        return True

    def conditions(self) -> tuple[str, ...]:
        return ()

    def check(self, shapes: Mapping[str, Shape]) -> None:
        """What both generators need, before anything is read."""
        super().check(shapes)
        self.first.check(shapes)

    def learn(self, shown: Sequence[Stimulus], truth: Tensors) -> None:
        """Let the first generator learn; keep the captions and where they lie."""
        self.first.learn(shown, truth)
        if self.caption is None:
            return
        self._captions = [s.text or "" for s in shown]
        if not all(self._captions):
            uid = shown[self._captions.index("")].uid
            raise InputError(
                f"refine generator: caption={self.caption!r} needs a caption of each training "
                f"stimulus, {uid!r} has none; set caption to null or choose data with captions"
            )
        self._gallery = normalize(truth[self.caption].float().flatten(1), dim=1)

    @torch.no_grad()
    def __call__(self, predicted: Tensors, *, seeds: Sequence[int]) -> list[Media]:
        """One picture (3, size, size) per row."""
        first = self.first(predicted, seeds=seeds)
        texts = self.texts(predicted, len(seeds))
        if self._pipe is None:
            self._pipe = self.open()
        side = self.latent_shape()[1] * int(self._pipe.vae_scale_factor)
        pictures = [resize(torch.as_tensor(m.data)[None], (side, side)) for m in first]
        made: list[Media] = []
        for rows in row_slices(len(seeds), self.batch_size):
            self._texts = texts[rows]
            wanted = {"first": torch.cat(pictures[rows])}
            made += as_media(self._best(wanted, cut(predicted, rows), seeds[rows]))
        return made

    def texts(self, predicted: Tensors, rows: int) -> list[str]:
        """What each row is refined with."""
        if self.caption is None:
            return [self.prompt] * rows
        if not self._captions:
            raise InputError(
                "refine generator: asked to generate before it has seen training captions; call "
                "learn(shown, truth) first"
            )
        query = normalize(predicted[self.caption].float().flatten(1), dim=1)
        nearest = (query @ self._gallery.T).argmax(dim=1).tolist()
        return [f"{self.prompt} {self._captions[i]}".strip() for i in nearest]

    def open(self) -> Any:
        pipe = open_pipeline("StableDiffusionXLPipeline", self.model, self, add_watermarker=False)
        return place_pipeline(whole_autoencoder(pipe), self)

    def denoiser(self, wanted: Tensors, rows: list[torch.Generator]) -> Predict:
        pipe, twice = self._pipe, self.guidance > 1
        device = wanted["first"].device
        text, free, pooled, free_pooled = pipe.encode_prompt(
            self._texts,
            device=device,
            do_classifier_free_guidance=twice,
            negative_prompt=[self.negative] * len(self._texts),
        )
        if twice:
            text, pooled = torch.cat([free, text]), torch.cat([free_pooled, pooled])
        size = self.latent_shape()[1] * pipe.vae_scale_factor
        sizes = text.new_tensor([[size, size, 0, 0, size, size]]).expand(len(text), -1)
        told = {"text_embeds": pooled, "time_ids": sizes}

        def predict(latents: Tensor, t: Tensor) -> Tensor:
            seen = torch.cat([latents] * 2) if twice else latents
            seen = pipe.scheduler.scale_model_input(seen, t)
            noise = pipe.unet(
                seen, t, encoder_hidden_states=text, added_cond_kwargs=told, return_dict=False
            )[0]
            return guided(noise, self.guidance)

        return predict

    def start_latents(self, wanted: Tensors) -> Tensor:
        return self.encode(wanted["first"] * 2 - 1)

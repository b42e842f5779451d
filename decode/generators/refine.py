"""Another generator's pictures once more through Stable Diffusion XL, with a caption."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from decode.core import Shape, Stimulus, Tensors, refusal
from decode.diffusion.pipelines import (
    Predict,
    guided,
    open_pipeline,
    place_pipeline,
    whole_autoencoder,
)
from decode.diffusion.sampler import Diffusion


@dataclass(eq=False, kw_only=True)
class Refine(Diffusion):
    """Image-to-image refinement (Meng et al. 2022, arXiv:2108.01073; as MindEye2 uses it).

    Sampling starts from `low_level`, mostly the pictures of a whole generator, with the last `strength`
    share of the `steps` left to run. The text is `prompt`, to which, where `caption` names a target, the
    caption of the training stimulus nearest to the prediction in that target is appended; `negative`
    is steered away from. What is added is the model's idea of a good photograph of the caption:
    sharper pictures are not better evidence. The denoiser is told that the picture was `size` wide and
    uncropped, and is to be `target_size` (null: `size`).

    `norm` has no meaning here: nothing predicted conditions the denoiser.
    """

    prompt: str = ""
    negative: str = ""
    caption: str | None = None
    target_size: int | None = None
    steps: int = 25
    strength: float = 0.48

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.starts():
            raise refusal(
                "generator.low_level",
                "pictures to start from",
                "null",
                "set it to a generator or a target of pictures",
            )
        extra = [] if self.caption is None else [self.caption]
        self.needs = tuple(dict.fromkeys([*self.needs, *extra]))
        if self.caption is not None:
            self.disclosure += (
                " Pictures were refined with the caption of the training stimulus nearest to the "
                f"prediction of {self.caption!r}."
            )
        self._captions: list[str] = []
        self._gallery = torch.empty(0)

    def conditions(self) -> tuple[str, ...]:
        return ()

    def check(self, shapes: Mapping[str, Shape]) -> None:
        """Compare targets with the folder's configuration; no weights are read."""
        super().check(shapes)
        self.check_start(shapes, self.told()[1])

    def learn(self, shown: Sequence[Stimulus], truth: Tensors) -> None:
        """Keep the captions and where they lie; let the generator of the start learn."""
        super().learn(shown, truth)
        if self.caption is None:
            return
        self._captions = [s.text for s in shown]
        if not all(self._captions):
            uid = shown[self._captions.index("")].uid
            raise refusal(
                "generator.caption",
                f"a caption of each training stimulus, which caption={self.caption!r} reads",
                f"none of {uid!r}",
                "set caption to null or choose data with captions",
            )
        self._gallery = normalize(truth[self.caption].float().flatten(1), dim=1)

    def kept(self) -> Tensors | None:
        """None where it refines with captions of training stimuli, which are not given away."""
        return super().kept() if self.caption is None else None

    def texts(self, predicted: Tensors, *, seeds: Sequence[int]) -> list[str]:
        """What each row is refined with."""
        if self.caption is None:
            return [self.prompt] * len(seeds)
        if not self._captions:
            raise refusal(
                "refine generator",
                "training captions",
                "none yet",
                "call learn(shown, truth) first",
            )
        query = normalize(predicted[self.caption].float().flatten(1), dim=1)
        nearest = (query @ self._gallery.T).argmax(dim=1).tolist()
        return [f"{self.prompt} {self._captions[i]}".strip() for i in nearest]

    def open(self) -> Any:
        pipe = open_pipeline("StableDiffusionXLPipeline", self.model, self, add_watermarker=False)
        return place_pipeline(whole_autoencoder(pipe), self)

    def denoiser(self, wanted: Tensors, rows: list[torch.Generator]) -> Predict:
        pipe, twice = self._pipe, self.guidance > 1
        device = pipe._execution_device
        text, free, pooled, free_pooled = pipe.encode_prompt(
            self._texts,
            device=device,
            do_classifier_free_guidance=twice,
            negative_prompt=[self.negative] * len(self._texts),
        )
        if twice:
            text, pooled = torch.cat([free, text]), torch.cat([free_pooled, pooled])
        size = self.picture_size()
        wide = self.target_size or size
        sizes = text.new_tensor([[size, size, 0, 0, wide, wide]]).expand(len(text), -1)
        told = {"text_embeds": pooled, "time_ids": sizes}

        def predict(latents: Tensor, t: Tensor) -> Tensor:
            seen = torch.cat([latents] * 2) if twice else latents
            seen = pipe.scheduler.scale_model_input(seen, t)
            noise = pipe.unet(
                seen, t, encoder_hidden_states=text, added_cond_kwargs=told, return_dict=False
            )[0]
            return guided(noise, self.guidance)

        return predict

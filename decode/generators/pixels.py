"""A predicted picture is already a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from decode.core import Generator, Media, Shape, Size, Tensors, refusal
from decode.pictures import resize


class PixelGenerator(Generator):
    """Predicted pixels (1 or 3, h, w), clamped to [0, 1]; `size` enlarges them to size x size."""

    def __init__(self, target: str = "pixels", *, size: int | None = None) -> None:
        self.target = target
        self.size = size
        self.needs = (target,)

    def check(self, shapes: Mapping[str, Shape]) -> None:
        super().check(shapes)
        shape = tuple(shapes[self.target])
        if len(shape) != 3 or shape[0] not in (1, 3):
            raise refusal(
                "generator.target",
                "a target of pictures (1 or 3, h, w)",
                f"{self.target!r} of shape {shape}",
                "name a pixels target",
            )

    def size_of(self, shapes: Mapping[str, Shape]) -> Size | None:
        _, height, width = shapes[self.target]
        return (height, width) if self.size is None else (self.size, self.size)

    def __call__(self, predicted: Tensors, *, seeds: Sequence[int]) -> list[Media]:
        """One image per row; seeds do not matter."""
        images = as_rgb(predicted[self.target].float().clamp(0, 1))
        if self.size is not None:
            images = resize(images, (self.size, self.size))
        return [Media("image", image.clone()) for image in images]


def as_rgb(images: Tensor) -> Tensor:
    """(image, 1 or 3, h, w) -> (image, 3, h, w)."""
    return images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images

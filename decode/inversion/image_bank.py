"""A bank of plausible pictures around those in hand: an image prior that needs no training.

Each picture is bent, slanted, thickened and thinned at random, then put back to its own size and
centre of mass.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

_FRAMING, _DRAWING = 2, 3  # oversampling while measuring and while drawing


def warped_pictures(pictures: Tensor, n: int, *, strength: float, seed: int) -> Tensor:
    """Each picture (picture, channel, height, width) in [0, 1] and `n` random versions of it, 8 bits.

    Returns (picture, 1 + n, channel, height, width) uint8. A version is a small rotation, stretch,
    shear and smooth bend with strokes up to two thirds of a pixel thicker or thinner; its longer side
    and centre of mass remain those of its picture. `strength` 1 turns by 7 degrees (one standard
    deviation). What a picture's versions are depends on nothing but itself and the knobs, and they are
    remembered: folds share most of their pictures.
    """
    made = []
    for picture in pictures.cpu().contiguous():
        content = picture.numpy().tobytes()
        versions = _versions(content, tuple(picture.shape), n, strength, seed)
        made.append(torch.cat([_eight_bits(picture[None]), versions]))
    return torch.stack(made).to(pictures.device)


def _eight_bits(pictures: Tensor) -> Tensor:
    return (pictures * 255).round().to(torch.uint8)


@lru_cache(maxsize=1024)
def _versions(content: bytes, shape: tuple[int, ...], n: int, strength: float, seed: int) -> Tensor:
    """Versions (n, channel, height, width) of the float32 picture with these bytes, 8 bits."""
    picture = torch.frombuffer(bytearray(content), dtype=torch.float32).view(shape)
    if n == 0:
        return _eight_bits(picture[None][:0])
    own = hashlib.sha256(content + str(seed).encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(own[:7], "big"))
    linear, bend = _random_warps(n, strength, generator)
    thicker = torch.randint(-1, 3, (n,), generator=generator)
    height, width = picture.shape[-2:]
    # One smooth enlargement makes the cheaper bilinear sampling of every version sharp enough.
    fine = F.interpolate(picture[None], scale_factor=_DRAWING, mode="bicubic").clamp(0, 1)
    source = fine.expand(n, -1, -1, -1)
    centre, longest = _frame(picture[None])
    scale, shift = torch.ones(n), torch.zeros(n, 2)

    def draw(times: int) -> Tensor:
        size = (times * height, times * width)
        smooth = F.interpolate(bend, size=size, mode="bicubic", align_corners=True)
        seen = _grid(size) - centre[:, None, None] - shift[:, None, None]
        seen = torch.einsum("nij,nhwj->nhwi", linear, seen / scale[:, None, None, None])
        seen = seen + centre[:, None, None] + smooth.permute(0, 2, 3, 1)
        return F.grid_sample(source, seen, mode="bilinear", align_corners=False)

    # Strokes grow on both sides, so that thicker ones must start from a smaller drawing.
    grown = 4.0 * thicker / (_DRAWING * max(height, width))
    scale = ((longest - grown) / _frame(draw(_FRAMING))[1]).clamp(0.6, 1.6)
    shift = centre - _frame(draw(_FRAMING))[0]
    # Sampling softens edges; contrast about mid-grey restores the sharpness of ink.
    drawn = _thicken(((draw(_DRAWING) - 0.5) * 1.5 + 0.5).clamp(0, 1), thicker)
    return _eight_bits(F.avg_pool2d(drawn, _DRAWING).clamp(0, 1))


def _random_warps(n: int, strength: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Linear maps (n, 2, 2) and coarse displacements (n, 2, 5, 5); a picture is 2 wide."""

    def normal(*shape: int, sd: float) -> Tensor:
        return torch.randn(*shape, generator=generator) * sd * strength

    angle, shear = normal(n, sd=0.12), normal(n, sd=0.18)
    wide, high = normal(n, sd=0.12).exp(), normal(n, sd=0.06).exp()
    rotation = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1)
    stretch = torch.stack([wide, shear, torch.zeros(n), high], 1)
    return rotation.view(n, 2, 2) @ stretch.view(n, 2, 2), normal(n, 2, 5, 5, sd=0.06)


def _thicken(pictures: Tensor, steps: Tensor) -> Tensor:
    """Grow bright strokes by `steps` pixels on each side; negative steps shrink them."""
    result = pictures.clone()
    for step in steps.unique().tolist():
        chosen = pictures[steps == step]
        for _ in range(abs(int(step))):
            sign = 1.0 if step > 0 else -1.0
            chosen = sign * F.max_pool2d(sign * chosen, 3, 1, 1)
        result[steps == step] = chosen
    return result


def _frame(pictures: Tensor, threshold: float = 0.2) -> tuple[Tensor, Tensor]:
    """Centre of mass (n, 2) as x, y and longer side (n,) of what is bright; a picture is 2 wide."""
    ink = pictures.mean(1).clamp(0, 1)
    rows, columns = _axis(ink.shape[1]), _axis(ink.shape[2])
    mass = ink.sum((1, 2)).clamp_min(1e-6)
    centre = (
        torch.stack([(ink.sum(1) * columns).sum(1), (ink.sum(2) * rows).sum(1)], 1) / mass[:, None]
    )
    sides = []
    for profile, axis in ((ink.amax(2), rows), (ink.amax(1), columns)):
        bright = profile > threshold
        last = torch.where(bright, axis, -1.0).amax(1)
        first = torch.where(bright, axis, 1.0).amin(1)
        sides.append((last - first).clamp_min(0) + 2 / len(axis))
    return centre, torch.maximum(*sides)


def _axis(n: int) -> Tensor:
    return (torch.arange(n) + 0.5) / n * 2 - 1


def _grid(size: tuple[int, int]) -> Tensor:
    """Pixel centres (1, height, width, 2) as x, y."""
    x, y = torch.meshgrid(_axis(size[1]), _axis(size[0]), indexing="xy")
    return torch.stack([x, y], -1)[None]

"""Scores of one picture against another: correlation, structural similarity, squared error."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from decode.core import InputError, refusal

How = Literal["bilinear", "bilinear_antialias", "pil_bilinear", "pil_bicubic"]
WINDOW = 11  # of SSIM's Gaussian, in pixels
SsimMode = Literal["2d", "columns_legacy"]


class Resize:
    """Make pictures (picture, 3, h, w) square: (picture, 3, size, size), values in [0, 1].

    The way of resizing changes scores, so it is part of a protocol: "bilinear" samples without, and
    "bilinear_antialias" with a low-pass when shrinking (torchvision's tensor default, old and new);
    "pil_bilinear" and "pil_bicubic" go through 8-bit pictures. A picture of that size is untouched.
    """

    def __init__(self, size: int, how: How = "bilinear_antialias") -> None:
        ways = ("bilinear", "bilinear_antialias", "pil_bilinear", "pil_bicubic")
        if how not in ways:
            raise InputError(
                f"resize: expected how to be one of {list(ways)}, got {how!r}; choose one of these"
            )
        if size < 1:
            raise InputError(f"resize: expected a size of at least 1 pixel, got {size}; raise it")
        self.size, self.how = size, how

    def __call__(self, pictures: Tensor) -> Tensor:
        if tuple(pictures.shape[-2:]) == (self.size, self.size):
            return pictures
        if self.how.startswith("pil_"):
            return torch.stack([self._through_pil(p) for p in pictures])
        return interpolate(
            pictures,
            size=(self.size, self.size),
            mode="bilinear",
            antialias=self.how == "bilinear_antialias",
        ).clamp(0, 1)

    def _through_pil(self, picture: Tensor) -> Tensor:
        from PIL import Image

        way = Image.Resampling.BICUBIC if self.how == "pil_bicubic" else Image.Resampling.BILINEAR
        image = Image.fromarray(eight_bit(picture).permute(1, 2, 0).numpy())
        small = np.asarray(image.resize((self.size, self.size), way), dtype=np.float32)
        return torch.from_numpy(small).permute(2, 0, 1) / 255


def eight_bit(picture: Tensor) -> Tensor:
    """Values in [0, 1] as the uint8 that a PNG of the picture holds."""
    return (picture * 255).round().clamp(0, 255).to(torch.uint8)


def pixel_correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Pearson r over all values of each pair (picture, ...) -> (picture,); 0 for a flat one."""
    a, b = standardise(a.astype(np.float64)), standardise(b.astype(np.float64))
    return np.einsum("pv,pv->p", a, b)


def mean_squared_error(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Mean squared difference of each pair, (picture, ...) -> (picture,)."""
    difference = a.reshape(len(a), -1).astype(np.float64) - b.reshape(len(b), -1)
    return (difference**2).mean(axis=1)


def ssim(a: np.ndarray, b: np.ndarray, mode: SsimMode = "2d") -> np.ndarray:
    """Structural similarity of each pair (picture, 3, h, w) in [0, 1], on luminance -> (picture,).

    Gaussian window of sigma 1.5 (11 pixels), population covariance, data range 1 (Wang et al. 2004,
    doi:10.1109/TIP.2003.819861). "columns_legacy" is what scikit-image below 0.20 computed when
    told that a grey picture is multichannel: the mean of one-dimensional similarities of its
    columns, a different, usually larger number of older papers, never comparable with "2d".
    """
    from skimage.metrics import structural_similarity

    if mode not in ("2d", "columns_legacy"):
        raise InputError(
            f"metric.ssim: expected '2d' or 'columns_legacy', got {mode!r}; choose one of these"
        )
    if min(a.shape[-2:]) < WINDOW:
        raise refusal(
            "metric ssim",
            f"pictures of {WINDOW} pixels or more, its window",
            f"{a.shape[-2]}x{a.shape[-1]}",
            "leave ssim out of `pairs` or resize to something larger",
        )
    channel_axis = 1 if mode == "columns_legacy" else None
    return np.array(
        [
            structural_similarity(
                x,
                y,
                gaussian_weights=True,
                sigma=1.5,
                use_sample_covariance=False,
                data_range=1.0,
                channel_axis=channel_axis,
            )
            for x, y in zip(luminance(a), luminance(b), strict=True)
        ]
    )


def luminance(pictures: np.ndarray) -> np.ndarray:
    """(picture, 3, h, w) -> (picture, h, w) float64 with the weights of scikit-image's rgb2gray."""
    weights = np.array([0.2125, 0.7154, 0.0721])
    return np.einsum("pchw,c->phw", pictures.astype(np.float64), weights)


def standardise(x: np.ndarray) -> np.ndarray:
    """(row, ...) -> (row, value) centred, unit length, so that inner products are Pearson's r.

    A constant row, whose correlation is undefined, becomes zero.
    """
    x = x.reshape(len(x), -1)
    size = np.linalg.norm(x, axis=1, keepdims=True)
    x = x - x.mean(axis=1, keepdims=True, dtype=np.float64).astype(x.dtype)
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    # What centring leaves of a constant row is rounding.
    flat = norm <= 8 * np.finfo(x.dtype).eps * size
    return np.where(flat, 0, x / np.where(flat, 1, norm))

"""Retinotopic units of early visual cortex: Gabor energy, luminance and colour opponency."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SIDE = 32
CHANNELS = ("energy", "luminance", "red_green", "blue_yellow")
# Rows: luminance, red against green, blue against yellow; columns: red, green, blue.
OPPONENT = np.array([[0.30, 0.59, 0.11], [1.0, -1.0, 0.0], [-0.5, -0.5, 1.0]], np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class ReceptiveFields:
    """Where units look and what they prefer, each (unit,).

    `x` (rightwards), `y` (downwards) and `width` (standard deviation) are fractions of the picture,
    `frequency` is in cycles per picture, `orientation` in radians.
    """

    x: np.ndarray
    y: np.ndarray
    width: np.ndarray
    frequency: np.ndarray
    orientation: np.ndarray

    def filters(self) -> tuple[np.ndarray, np.ndarray]:
        """Gaussian (unit, pixel) and quadrature Gabor (2, unit, pixel) weights on SIDE x SIDE."""
        centres = (np.arange(SIDE) + 0.5) / SIDE
        down, right = (v.ravel() for v in np.meshgrid(centres, centres, indexing="ij"))
        u, v = right - self.x[:, None], down - self.y[:, None]
        blob = np.exp(-(u**2 + v**2) / (2 * self.width[:, None] ** 2))
        blob /= blob.sum(axis=1, keepdims=True)
        along = u * np.cos(self.orientation)[:, None] + v * np.sin(self.orientation)[:, None]
        phase = 2 * np.pi * self.frequency[:, None] * along
        waves = np.stack([np.cos(phase), np.sin(phase)])
        # An even filter must not answer to mean luminance.
        gabors = blob * (waves - np.sum(waves * blob, axis=2, keepdims=True))
        # Far tails would be subnormal numbers, with which processors multiply slowly.
        blob[blob < 1e-9] = 0.0
        gabors[np.abs(gabors) < 1e-9] = 0.0
        return blob.astype(np.float32), gabors.astype(np.float32)


def shrink(pictures: np.ndarray) -> np.ndarray:
    """(picture, SIDE, SIDE, 3) in [0, 1] from (picture, h, w, 3) uint8, by averaging blocks."""
    n, h, w, _ = pictures.shape
    blocks = pictures.reshape(n, SIDE, h // SIDE, SIDE, w // SIDE, 3)
    return blocks.mean(axis=(2, 4), dtype=np.float32) / 255


def early_drive(pictures: np.ndarray, blob: np.ndarray, gabors: np.ndarray) -> np.ndarray:
    """(channel, picture, unit) drive in the order of CHANNELS, from pictures of `shrink`.

    Energy is the root of the summed squares of a quadrature pair (Adelson & Bergen 1985,
    doi:10.1364/JOSAA.2.000284), as in the encoding model of Kay et al. 2008
    (doi:10.1038/nature06713).
    """
    n = len(pictures)
    flat = pictures.reshape(n, -1, 3)
    planes = np.stack([flat @ row for row in OPPONENT])
    even, odd = planes[0] @ gabors[0].T, planes[0] @ gabors[1].T
    energy = np.sqrt(even**2 + odd**2)
    opponent = (planes.reshape(3 * n, -1) @ blob.T).reshape(3, n, -1)
    return np.stack([energy, *opponent])

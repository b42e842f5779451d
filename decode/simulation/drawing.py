"""How the parts of a drawn scene look: shapes, textures and backgrounds on a PIL canvas.

All measures are fractions of the picture's width, so a scene looks the same at every resolution;
the caller supersamples.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

Points = list[tuple[float, float]]

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 38, 42),
    "orange": (246, 136, 22),
    "yellow": (252, 222, 48),
    "green": (16, 140, 66),
    "blue": (34, 72, 214),
    "purple": (150, 48, 176),
    "white": (248, 248, 246),
}
INK = (28, 26, 34)
OUTLINE = 0.014
PERIODS_ACROSS = 3.0


class Shape(NamedTuple):
    """Loops of points in units of the object's half-width: outline, holes and inked details."""

    outline: Points
    holes: list[Points]
    details: list[Points]


def paint(
    picture: Image.Image,
    shape: Shape,
    *,
    colour: str,
    texture: str,
    centre: tuple[float, float],
    size: float,
) -> None:
    """Draw an object onto a square picture: textured inside, inked along its edges."""
    side = picture.width

    def place(loop: Points) -> Points:
        return [((centre[0] + size * u) * side, (centre[1] + size * v) * side) for u, v in loop]

    mask = Image.new("L", picture.size)
    pen = ImageDraw.Draw(mask)
    pen.polygon(place(shape.outline), fill=255)
    for hole in shape.holes:
        pen.polygon(place(hole), fill=0)
    box = mask.getbbox()
    if box is not None:
        u, v = ((np.arange(side) + 0.5) / side - c for c in centre)
        is_dark = _pattern(texture, u[box[0] : box[2]] / size, v[box[1] : box[3]] / size)
        light = np.array(COLOURS[colour])
        dark = 0.45 * light + 0.55 * np.array(INK)
        fill = np.where(is_dark[..., None], dark, light).astype(np.uint8)
        picture.paste(Image.fromarray(fill), box[:2], mask.crop(box))
    pen = ImageDraw.Draw(picture)
    for loop in (shape.outline, *shape.holes):
        closed = place(loop)
        pen.line(closed + closed[:2], fill=INK, width=round(OUTLINE * side), joint="curve")
    for detail in shape.details:
        pen.polygon(place(detail), fill=INK)


def _pattern(texture: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Where the texture is dark, (row, column) bool, at columns u and rows v in half-widths; it is
    fixed to the object and grows with it.
    """
    u, v = np.meshgrid(u * PERIODS_ACROSS / 2, v * PERIODS_ACROSS / 2)
    if texture == "stripes":
        return np.cos(2 * np.pi * v) < 0
    if texture == "checks":
        return np.sin(2 * np.pi * u) * np.sin(2 * np.pi * v) > 0
    if texture == "dots":
        return (u - np.round(u)) ** 2 + (v - np.round(v)) ** 2 < 0.28**2
    return np.zeros(u.shape, bool)


@lru_cache(maxsize=8)
def shape(kind: str) -> Shape:
    """Outline, holes and inked details of a kind, as loops of points in units of its half-width."""
    if kind == "disc":
        return Shape(_polygon(64, 0.95), [], [])
    if kind == "ring":
        return Shape(_polygon(64), [_polygon(64, 0.5)], [])
    if kind == "square":
        return Shape([(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)], [], [])
    if kind == "triangle":
        return Shape([(0.0, -0.95), (1.0, 0.8), (-1.0, 0.8)], [], [])
    if kind == "star":
        radii = np.where(np.arange(10) % 2 == 0, 1.08, 0.5)
        return Shape(
            [(r * x, r * y) for r, (x, y) in zip(radii, _polygon(10), strict=True)], [], []
        )
    if kind == "cross":
        a, b = 0.34, 1.0
        corner = [(-a, -b), (a, -b), (a, -a), (b, -a), (b, a), (a, a), (a, b), (-a, b)]
        return Shape([*corner, (-a, a), (-b, a), (-b, -a), (-a, -a)], [], [])
    if kind == "house":
        roof = [(0.0, -1.0), (1.0, -0.15), (0.75, -0.15)]
        walls = [(0.75, 0.9), (-0.75, 0.9), (-0.75, -0.15), (-1.0, -0.15)]
        return Shape(roof + walls, [], [[(-0.2, 0.9), (-0.2, 0.3), (0.2, 0.3), (0.2, 0.9)]])
    angles = np.linspace(0.6, 2 * np.pi - 0.6, 60)
    body = [(float(0.3 - 0.68 * np.cos(a)), float(-0.62 * np.sin(a))) for a in angles]
    tail = [(-1.0, 0.65), (-0.78, 0.0), (-1.0, -0.65)]
    return Shape(body + tail, [], [[(0.1 * x + 0.6, 0.1 * y - 0.16) for x, y in _polygon(16)]])


def _polygon(n: int, radius: float = 1.0) -> Points:
    """Regular polygon around the origin, clockwise on the screen from its topmost corner."""
    angles = 2 * np.pi * np.arange(n) / n
    return [(float(radius * np.sin(a)), float(-radius * np.cos(a))) for a in angles]


@lru_cache(maxsize=16)
def background(name: str, side: int) -> Image.Image:
    """The empty scene, (side, side) pixels: a gradient with a few fixed, faint features."""
    top, bottom = {
        "sky": ((104, 176, 240), (206, 230, 250)),
        "grass": ((186, 220, 142), (142, 194, 96)),
        "sand": ((238, 214, 166), (216, 184, 128)),
        "night": ((12, 14, 44), (44, 42, 92)),
        "stone": ((146, 144, 148), (126, 124, 130)),
    }[name]
    ramp = np.linspace(0, 1, side, dtype=np.float32)[:, None, None]
    colours = (1 - ramp) * np.array(top) + ramp * np.array(bottom)
    picture = Image.fromarray(np.broadcast_to(colours, (side, side, 3)).astype(np.uint8))
    pen = ImageDraw.Draw(picture)

    def oval(x: float, y: float, rx: float, ry: float, colour: tuple[int, int, int]) -> None:
        pen.ellipse(
            [(x - rx) * side, (y - ry) * side, (x + rx) * side, (y + ry) * side], fill=colour
        )

    def stroke(points: Points, colour: tuple[int, int, int], width: float) -> None:
        scaled = [(x * side, y * side) for x, y in points]
        pen.line(scaled, fill=colour, width=max(1, round(width * side)))

    if name == "sky":
        for x, y, r in [(0.14, 0.16, 0.06), (0.22, 0.14, 0.08), (0.31, 0.17, 0.06)]:
            oval(x, y, 1.5 * r, r, (240, 247, 253))
            oval(1.02 - x, y + 0.66, 1.5 * r, r, (240, 247, 253))
    elif name == "grass":
        for i in range(15):
            x, y = (0.09 + 0.37 * i) % 1, (0.08 + 0.222 * i) % 1
            stroke([(x - 0.02, y - 0.045), (x, y), (x + 0.02, y - 0.045)], (112, 168, 74), 0.014)
    elif name == "sand":
        for i in range(6):
            wave = [(x, 0.1 + 0.165 * i + 0.02 * np.sin(9 * x + i)) for x in np.linspace(0, 1, 40)]
            stroke(wave, (200, 168, 114), 0.014)
    elif name == "night":
        for i in range(18):
            r = 0.008 + 0.005 * (i % 3)
            oval((0.07 + 0.618 * i) % 1, (0.05 + 0.382 * i * 1.37) % 1, r, r, (236, 232, 190))
    else:
        for row in range(6):
            y = row / 5
            stroke([(0, y), (1, y)], (104, 102, 108), 0.018)
            for column in range(4):
                x = (column + 0.5 * (row % 2)) / 3
                stroke([(x, y), (x, y + 0.2)], (104, 102, 108), 0.018)
    return picture

"""Drawn scenes: one object on a background, with known attributes and a caption each.

The participants of the simulated data sets look at these pictures, and the tiny foundation models
that ship with the package are trained on them. A scene is its attributes and nothing else, so the
same scene is always the same picture. Test scenes combine kind, colour and background in ways that
no training scene of any seed does (`is_test_combination`), while every pair of those is trained.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from decode.core import InputError, Stimulus
from decode.simulation.drawing import COLOURS, background, paint, shape

KINDS = ("disc", "square", "triangle", "star", "ring", "cross", "house", "fish")
TEXTURES = ("plain", "stripes", "dots", "checks")
BACKGROUNDS = ("sky", "grass", "sand", "night", "stone")
SIZES = ("small", "medium", "large")
PLACES = tuple(
    f"{row} {column}".strip().replace("centre left", "left").replace("centre right", "right")
    for row in ("top", "centre", "bottom")
    for column in ("left", "", "right")
)
SIZE_RANGE = (0.15, 0.27)
SUPERSAMPLING = 4
_MARGIN = 0.03
_SIZE_LIMITS = (0.19, 0.23)
_THIRDS = (0.42, 0.58)
_SETTINGS = {
    "sky": "in the sky",
    "grass": "on the grass",
    "sand": "on the sand",
    "night": "in the night",
    "stone": "on a stone wall",
}


@dataclass(frozen=True, slots=True)
class Scene:
    """One object on a background; `size` is its half-width, `x` (to the right) and `y` (downwards)
    its centre, all three as fractions of the picture's width.
    """

    kind: str
    colour: str
    size: float
    x: float
    y: float
    texture: str
    background: str

    def __post_init__(self) -> None:
        known: Mapping[str, Sequence[str]] = {
            "kind": KINDS,
            "colour": tuple(COLOURS),
            "texture": TEXTURES,
            "background": BACKGROUNDS,
        }
        for name, values in known.items():
            if getattr(self, name) not in values:
                raise InputError(
                    f"scene {name}: expected one of {list(values)}, got {getattr(self, name)!r}"
                    "; choose one of these"
                )

    @property
    def size_word(self) -> str:
        return SIZES[int(np.searchsorted(_SIZE_LIMITS, self.size, side="right"))]

    @property
    def place(self) -> str:
        """One of nine places: 'top left', 'top', ... 'centre' ... 'bottom right'."""
        row, column = (int(np.searchsorted(_THIRDS, v, side="right")) for v in (self.y, self.x))
        return PLACES[3 * row + column]

    @property
    def caption(self) -> str:
        plain = self.texture == "plain"
        thing = f"{'plain ' if plain else ''}{self.colour} {self.kind}"
        texture = "" if plain else f" with {self.texture}"
        where = "in the centre" if self.place == "centre" else f"at the {self.place}"
        return f"a {self.size_word} {thing}{texture} {where} {_SETTINGS[self.background]}"

    @property
    def labels(self) -> dict[str, str]:
        """What `Stimulus.labels` says about this scene, in words."""
        return {
            "kind": self.kind,
            "colour": self.colour,
            "size": self.size_word,
            "place": self.place,
            "texture": self.texture,
            "background": self.background,
        }


def is_test_combination(kind: str, colour: str, background: str) -> bool:
    """The Latin-square rule that keeps one in seven combinations for testing.

    The three indices, weighted 1, 2 and 3, are added modulo the seven colours: for a given pair at
    most one or two values of the third attribute are held out, so every pair occurs in training.
    """
    code = KINDS.index(kind) + 2 * list(COLOURS).index(colour) + 3 * BACKGROUNDS.index(background)
    return code % len(COLOURS) == 0


def training_scenes(n: int, *, seed: int) -> list[Scene]:
    """n random scenes of training combinations."""
    return _scenes(n, seed=seed, test=False)


def test_scenes(n: int, *, seed: int) -> list[Scene]:
    """n random scenes of test combinations, which no training scene has."""
    return _scenes(n, seed=seed, test=True)


# pytest would otherwise collect it wherever a test file imports it
test_scenes.__test__ = False  # type: ignore[attr-defined]


def _scenes(n: int, *, seed: int, test: bool) -> list[Scene]:
    shuffle, rng = (np.random.default_rng([seed, int(test), i]) for i in range(2))
    combinations = [
        (k, c, b)
        for k in KINDS
        for c in COLOURS
        for b in BACKGROUNDS
        if is_test_combination(k, c, b) == test
    ]
    rounds = [shuffle.permutation(len(combinations)) for _ in range(-(-n // len(combinations)))]
    order = np.concatenate([np.zeros(0, int), *rounds])[:n]
    scenes = []
    for i in order:
        kind, colour, background = combinations[i]
        size = float(rng.uniform(*SIZE_RANGE))
        x, y = rng.uniform(size + _MARGIN, 1 - size - _MARGIN, size=2)
        texture = TEXTURES[rng.integers(len(TEXTURES))]
        scenes.append(Scene(kind, colour, size, float(x), float(y), texture, background))
    return scenes


ATTRIBUTES: tuple[str, ...] = (
    *(f"kind={v}" for v in KINDS),
    *(f"colour={v}" for v in COLOURS),
    *(f"texture={v}" for v in TEXTURES),
    *(f"background={v}" for v in BACKGROUNDS),
    "size",
    "x",
    "y",
)


def attributes(scene: Scene) -> np.ndarray:
    """Numeric code of a scene, (attribute,) float32 in the order of `ATTRIBUTES`: one-hots, then
    size and position from -1 to 1.
    """
    words = [f"{k}={v}" for k, v in asdict(scene).items() if isinstance(v, str)]
    code = np.array([float(name in words) for name in ATTRIBUTES], np.float32)
    low, high = SIZE_RANGE
    code[-3:] = 2 * (scene.size - low) / (high - low) - 1, 2 * scene.x - 1, 2 * scene.y - 1
    return code


def draw(scene: Scene, size: int = 64) -> np.ndarray:
    """The picture of a scene, (size, size, 3) uint8, anti-aliased by supersampling."""
    side = size * SUPERSAMPLING
    picture = background(scene.background, side).copy()
    paint(
        picture,
        shape(scene.kind),
        colour=scene.colour,
        texture=scene.texture,
        centre=(scene.x, scene.y),
        size=scene.size,
    )
    return np.asarray(picture.reduce(SUPERSAMPLING))


def as_stimulus(
    scene: Scene, *, part: Literal["train", "test"], seed: int, index: int, folder: Path
) -> Stimulus:
    """The scene as a stimulus; its picture is written to `folder` as PNG unless it is there."""
    path = folder / f"{part}-{seed}-{index:05d}.png"
    if not path.exists():
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        Image.fromarray(draw(scene)).save(partial, format="PNG")
        partial.replace(path)
    return Stimulus(
        uid=f"scene/{part}/{seed}/{index:05d}",
        kind="image",
        path=str(path),
        texts=(scene.caption,),
        labels=scene.labels,
    )

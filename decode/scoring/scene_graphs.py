"""What a text says is in a picture: objects, attributes and relations, and how far two texts agree."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.optimize import linear_sum_assignment

# A thing that is matched: (object,), (attribute,) or (subject, relation, object).
Item = tuple[str, ...]
Alike = Callable[[str, str], bool]
Embed = Callable[[Sequence[str]], np.ndarray]
Base = Callable[[str, Literal["n", "a"]], str]

# Nouns that speak of the picture, or of a place in it, rather than of a thing that it shows.
NO_THINGS = {
    "image", "picture", "photo", "photograph", "painting", "illustration", "scene", "view",
    "background", "foreground", "setting", "environment", "atmosphere", "surroundings",
    "side", "left", "right", "front", "back", "top", "bottom", "middle", "center", "centre",
    "corner", "distance", "area", "space", "position", "color", "colour", "focus", "it", "he",
    "she", "they", "them", "one", "other",
}  # fmt: skip


@dataclass(frozen=True)
class SceneGraph:
    """Objects, each once; attributes, once for each object that has them; relations, each once."""

    objects: tuple[Item, ...]
    attributes: tuple[Item, ...]
    relations: tuple[Item, ...]

    @property
    def kinds(self) -> tuple[tuple[Item, ...], ...]:
        return self.objects, self.attributes, self.relations


def facts(written: str) -> list[Item]:
    """The triples of a parser's answer "( cat , is , black ) , ( cat , sit on , mat )" in small letters.

    A bracket may hold one name, of an object of which nothing is said. Whatever else stands there, as
    where an answer breaks off, is dropped.
    """
    found = []
    for bracket in re.findall(r"\(([^()]*)\)", written.lower()):
        parts = tuple(" ".join(part.split()) for part in bracket.split(","))
        if len(parts) in (1, 3) and all(parts):
            found.append(parts)
    return found


def scene_graph(told: Iterable[Item], base: Base | None = None) -> SceneGraph:
    """The graph of the facts about one picture, with names in their `base` form.

    "is" gives an object an attribute, everything else relates two objects. Numbers ("( cat , is , 2 )")
    and attributes with "of" are left out, and so are objects among `NO_THINGS`, though what is said of
    them is kept, as in CAPTURE (Dong et al. 2024, arXiv:2405.19092).
    """

    def named(name: str, kind: Literal["n", "a"] = "n") -> str:
        return base(name, kind) if base is not None else name

    # Dictionaries, because the order of a set changes from one process to the next.
    objects: dict[Item, None] = {}
    attributes: dict[Item, None] = {}
    relations: dict[Item, None] = {}
    for subject, *said in told:
        owner = named(subject)
        objects[(owner,)] = None
        if not said:
            continue
        relation, other = said
        if relation != "is":
            objects[(named(other),)] = None
            relations[(owner, relation, named(other))] = None
        elif not other.isdigit() and "of" not in other.split():
            attributes[(owner, named(other, "a"))] = None
    things = [o for o in objects if o[0] not in NO_THINGS]
    return SceneGraph(tuple(things), tuple((a,) for _, a in attributes), tuple(relations))


def precision_recall_f1(
    made: Sequence[Item],
    shown: Sequence[Item],
    *,
    alike: Alike | None = None,
    embed: Embed | None = None,
    one_to_one: bool = True,
) -> tuple[float, float, float]:
    """How far two lists agree, matched in three steps: equal ones, those that are `alike` in each word,
    and the rest by the cosine of their embeddings, each on what the step before has left.

    The first two match one to one, as many as can be, so that the order of a list does not matter.
    In the last, a pair counts its cosine (0 when negative); with `one_to_one` pairs are those of
    the greatest sum, else each item takes the nearest of the other list, though several take the same.
    Two empty lists agree (1); where one is empty, nothing does.
    """
    if not made or not shown:
        same = float(not made and not shown)
        return same, same, same
    left, right, n = list(made), list(shown), 0
    for same_thing in (None, alike) if alike is not None else (None,):
        i, j = pairs(matrix(left, right, same_thing))
        n += len(i)
        left = [x for k, x in enumerate(left) if k not in i]
        right = [x for k, x in enumerate(right) if k not in j]
    near_made = near_shown = 0.0
    if embed is not None and left and right:
        near = cosines(left, right, embed)
        if one_to_one:
            near_made = near_shown = float(near[pairs(near)].sum())
        else:
            near_made, near_shown = float(near.max(1).sum()), float(near.max(0).sum())
    precision, recall = (n + near_made) / len(made), (n + near_shown) / len(shown)
    both = precision + recall
    return precision, recall, 2 * precision * recall / both if both else 0.0


def matrix(a: Sequence[Item], b: Sequence[Item], alike: Alike | None) -> np.ndarray:
    """(item of a, item of b) 1 where all words are equal or, when given, `alike`; else 0."""

    def same(x: Item, y: Item) -> bool:
        return x == y if alike is None else all(map(alike, x, y))

    found = [[same(x, y) for y in b] for x in a]
    return np.array(found, dtype=float).reshape(len(a), len(b))


def cosines(a: Sequence[Item], b: Sequence[Item], embed: Embed) -> np.ndarray:
    """(item of a, item of b) cosine of the embeddings, 0 where it is negative."""
    vectors = embed([" ".join(item) for item in (*a, *b)]).astype(float)
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors = vectors / np.where(length > 0, length, 1)
    return np.clip(vectors[: len(a)] @ vectors[len(a) :].T, 0, 1)


def pairs(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the one-to-one pairs with the greatest sum of weights, all above 0."""
    i, j = linear_sum_assignment(weight, maximize=True)
    kept = weight[i, j] > 0
    return i[kept], j[kept]

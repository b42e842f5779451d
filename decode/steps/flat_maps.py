"""Surface data to a picture of the flattened cortex, the same pixels for everybody on one surface."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from decode.core import InputError, Recording, refusal
from decode.preprocessing.mixing import mixed, split_channels
from decode.preprocessing.surfaces import FlatSurface, read_flat

HEMISPHERES = ("lh", "rh")
# Between the hemispheres, as a share of the width of both.
GAP = 0.05


def triangle_weights(points: np.ndarray, at: np.ndarray, *, longest: float | None = None) -> Any:
    """Linear interpolation from `points` (vertex, 2) to `at` (place, 2): sparse (place, vertex).

    Every place lies in one triangle of the points (Delaunay) and is a mixture of its corners; rows of
    places outside are empty. Triangles with an edge longer than `longest` are left open, so that cuts
    and holes stay empty; None is four times the median edge. Raises InputError where the points span
    no area.
    """
    from scipy.sparse import csr_array
    from scipy.spatial import Delaunay, QhullError

    try:
        mesh = Delaunay(points)
    except (QhullError, ValueError) as e:
        raise InputError(
            f"flat_maps: expected flat vertices that span an area, got {len(points)} that do "
            "not; widen the mask"
        ) from e
    corners = points[mesh.simplices]
    edges = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=2)
    bound = 4 * float(np.median(edges)) if longest is None else longest
    triangle = mesh.find_simplex(at)
    place = np.flatnonzero(triangle >= 0)
    place = place[edges[triangle[place]].max(1) <= bound]
    triangle = triangle[place]
    transform = mesh.transform[triangle]
    first = np.einsum("pij,pj->pi", transform[:, :2], at[place] - transform[:, 2])
    weights = np.column_stack([first, 1 - first.sum(1)])
    rows = np.repeat(place, 3)
    shape = (len(at), len(points))
    return csr_array((weights.ravel(), (rows, mesh.simplices[triangle].ravel())), shape=shape)


def pixel_centres(points: np.ndarray, side: int) -> np.ndarray:
    """(side * side, 2) centres, row by row from the upper left, over the box around `points`."""
    low, high = points.min(0), points.max(0)
    along = (np.arange(side) + 0.5) / side
    x = low[0] + along * (high[0] - low[0])
    y = high[1] - along * (high[1] - low[1])
    return np.column_stack([np.tile(x, side), np.repeat(y, side)])


def flat_weights(
    points: Mapping[str, np.ndarray], side: int, *, longest: float | None = None
) -> Any:
    """Sparse (side * side, vertex) from the vertices of all hemispheres, in order, to the picture.

    `points` maps "lh" and/or "rh" to (vertex, 2) in mm. The hemispheres stand beside each other,
    the left one on the left; the box around them is stretched to the square, so that pixels need not
    be square in mm. No triangle reaches from one to the other.
    """
    from scipy.sparse import hstack

    placed = _beside(points)
    at = pixel_centres(np.vstack(list(placed.values())), side)
    return hstack(
        [triangle_weights(xy, at, longest=longest) for xy in placed.values()], format="csr"
    )


def _beside(points: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    width = sum(float(np.ptp(xy[:, 0])) for xy in points.values())
    placed: dict[str, np.ndarray] = {}
    edge = 0.0
    for name in HEMISPHERES:
        if name in points:
            xy = points[name] - [points[name][:, 0].min() - edge, points[name][:, 1].mean()]
            placed[name] = xy
            edge = float(xy[:, 0].max()) + GAP * width
    return placed


def flat_maps(values: np.ndarray, weights: Any, side: int) -> np.ndarray:
    """(trial, row, column) float32 pictures of `values` (trial, vertex), 0 outside the cortex."""
    if values.shape[1] != weights.shape[1]:
        raise InputError(
            f"flat maps: expected values of {weights.shape[1]} vertices, got {values.shape[1]}; "
            "take the flat surface and the mask that the values belong to"
        )
    made = (weights @ np.asarray(values, np.float64).T).T
    return np.ascontiguousarray(made.reshape(len(values), side, side), np.float32)


class FlatMaps:
    """Recordings on a surface -> pixels of its flat map.

    Channels named `lh-17` and `rh-4` (hemisphere and vertex) become channels named `row-column`, the
    pixels of a `side` x `side` picture that lie in the cortex; the others would be constant and are
    left out. Linear interpolation between vertices, whose weights are worked out once; `lh` and `rh`
    are flat surfaces (`read_flat`). Vertices that a recording lacks, as those outside a mask, are not
    drawn and the picture is cropped to the rest; vertices that the flat surface lacks (its cuts) go
    unused. `longest` (mm) is the longest edge of a triangle that is filled. A pixel's region is that
    of its nearest vertex. Where vertices are denser than pixels they are sampled, not averaged.

    Raises InputError for channels of another kind and where the number of vertices shows that the flat
    surface is another one; that of another person with as many vertices cannot be told.
    """

    def __init__(
        self,
        *,
        lh: str,
        rh: str,
        side: int = 256,
        longest: float | None = None,
    ) -> None:
        if side < 2:
            raise refusal("side", "2 pixels or more", side, "correct it")
        if longest is not None and longest <= 0:
            raise refusal(
                "longest", "a length in mm", longest, "give the longest edge that is drawn"
            )
        self.paths = {"lh": Path(lh).expanduser(), "rh": Path(rh).expanduser()}
        self.side, self.longest = side, longest
        self._known: tuple[tuple[str, ...], Any, pd.DataFrame] | None = None

    @cached_property
    def surfaces(self) -> dict[str, FlatSurface]:
        return {name: read_flat(path) for name, path in self.paths.items()}

    def __call__(self, recording: Recording) -> Recording:
        _, channels = split_channels(recording)
        names = tuple(channels["name"])
        if self._known is None or self._known[0] != names:
            weights, pixels = self._map(recording.where, channels)
            self._known = (names, weights, pixels)
        return mixed(recording, *self._known[1:])

    def _map(self, where: str, channels: pd.DataFrame) -> tuple[Any, pd.DataFrame]:
        """Sparse (pixel, channel) and the table of the pixels."""
        from scipy.sparse import csr_array

        side, number = _vertices(where, channels["name"])
        points, used = {}, []
        for name in HEMISPHERES:
            here = np.flatnonzero(side == name)
            if not len(here):
                continue
            surface = self.surfaces[name]
            _check_vertices(where, name, number[here], surface)
            row = pd.Series(np.arange(len(surface.vertex)), surface.vertex)
            at = row.reindex(number[here]).to_numpy(float)
            drawn = np.isfinite(at)
            if drawn.sum() < 3:
                raise refusal(
                    where,
                    f"vertices of {surface.path}",
                    f"{len(here)} channels of {name}, where it has {drawn.sum()}",
                    "give the flat surface of the subject or template",
                )
            points[name] = surface.xy[at[drawn].astype(int)]
            used.append(here[drawn])
        picture = flat_weights(points, self.side, longest=self.longest)
        kept = np.flatnonzero(np.diff(picture.indptr))
        entries = picture[kept].tocoo()
        column = np.concatenate(used)[entries.col]
        shape = (len(kept), len(channels))
        weights = csr_array((entries.data, (entries.row, column)), shape=shape)
        return weights, self._pixels(kept, weights, channels)

    def _pixels(self, kept: np.ndarray, weights: Any, channels: pd.DataFrame) -> pd.DataFrame:
        names = [f"{i // self.side}-{i % self.side}" for i in kept]
        nearest = weights.indices[weights.indptr[:-1] + _argmax(weights)]
        roi = channels["roi"].fillna("").to_numpy()[nearest]
        table = pd.DataFrame({"name": names, "kind": "bold"})
        return table.assign(x=np.nan, y=np.nan, z=np.nan, roi=roi)


def _argmax(weights: Any) -> np.ndarray:
    """Where in its row each row's largest entry stands; every row has three entries or fewer."""
    start, end = weights.indptr[:-1], weights.indptr[1:]
    best = np.zeros(len(start), np.int64)
    for k in range(1, 3):
        has = start + k < end
        better = has.copy()
        better[has] = weights.data[start[has] + k] > weights.data[start[has] + best[has]]
        best[better] = k
    return best


def _vertices(where: str, names: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Hemisphere and vertex of each channel."""
    found = names.astype(str).str.extract(r"^(lh|rh)-(\d+)$")
    if found.isna().any(axis=None):
        bad = names[found[0].isna()].iloc[0]
        raise InputError(
            f"{where}: expected channels lh-VERTEX and rh-VERTEX of a surface, got {bad!r}; flat maps need "
            "surface data (data.space=fsaverage)"
        )
    return found[0].to_numpy(str), found[1].to_numpy(np.int64)


def _check_vertices(where: str, name: str, number: np.ndarray, surface: FlatSurface) -> None:
    """InputError where the channels' vertices show that they are of another surface.

    A mask hides how many there were. A patch does not say it either, but leaves out few of them.
    """
    highest, last = int(number.max()), int(surface.vertex.max())
    whole = len(number) == highest + 1
    n = surface.n_vertices
    fits = highest <= 1.5 * last if n is None else (highest + 1 == n if whole else highest < n)
    if not fits:
        raise InputError(
            f"{where}: expected vertices of {surface.path}, a surface of {n or f'about {last + 1}'} "
            f"vertices, got {len(number)} up to {name}-{highest}; give the flat surface that the data lie on"
        )

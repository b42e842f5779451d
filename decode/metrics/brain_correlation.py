"""Would the made pictures have driven this brain? Correlation of expected with measured responses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np
import pandas as pd

from decode.core import InputError, Measure, Metric, Responses, Results
from decode.scoring.rows import scores, table
from decode.scoring.voxels import blocks, standard

ALL = "all"


class BrainCorrelation(Metric):
    """Pearson r over test rows, per voxel, between measured responses and those that an encoding
    model expects of the made pictures; averaged over the voxels of each region.

    `regions` maps a name to the regions of the data that it is made of; `rest` names all voxels
    outside of these (null: none), `whole` the mean over every voxel. Voxels that are 0 in
    every row, as those that a scaler left out, count nowhere. A region without voxels in a subject has
    no row there. Rows of one gallery (`within`) are correlated.

    A mean r is no mean over rows, so rows are contributions: what r loses when the row is left out
    (`contributions`). Their mean is exactly the mean r, and their spread gives its interval. Chance
    is 0. The ceiling is what a perfect model would reach given
    the noise of the measured responses; how far the encoding model itself is from it is told by the
    control `shown`, its expectation of the shown pictures. A decoder that was trained on the features
    of that model is judged by a friend: take other features for `voxel_model`.
    """

    looks_at: ClassVar[Literal["brain"]] = "brain"

    def __init__(
        self,
        *,
        regions: Mapping[str, Sequence[str]] | None = None,
        rest: str | None = None,
        whole: str = ALL,
        within: Sequence[str] = ("subject", "split", "fold"),
        name: str = "brain_correlation",
    ) -> None:
        self.regions = {k: tuple(v) for k, v in (regions or {}).items()}
        names = [*self.regions, whole, *([] if rest is None else [rest])]
        twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
        if twice:
            raise InputError(
                f"metric.regions: expected names that differ from each other, rest and whole, got "
                f"{twice[0]!r} twice; rename one"
            )
        self.rest, self.whole, self.within, self.name = rest, whole, tuple(within), name

    def measures(self) -> Mapping[str, Measure]:
        text = (
            "Correlation, over test pictures, of measured responses with those that an encoding model "
            "expects of the made pictures; mean over voxels ({})."
        )
        labels = [*self.regions, *([] if self.rest is None else [self.rest]), self.whole]
        return {
            f"{self.name}_{label}": Measure(text.format(label), rows="together", ceiling="rows")
            for label in labels
        }

    def __call__(self, results: Results) -> pd.DataFrame:
        if results.brain is not None:
            self._check_regions(results.brain)
        parts = []
        for block in blocks(results, self.within, self.name):
            values = contributions(block.measured, block.expected)
            for label, voxels in self.members(block.rois).items():
                mean = values[:, voxels].mean(axis=1)
                frame = scores(results, f"{self.name}_{label}", block.rows, mean, chance=0.0)
                ceiling = float(block.ceiling[voxels].mean())
                parts.append(frame.assign(ceiling=ceiling, share=False))
        return table(parts)

    def members(self, rois: np.ndarray) -> dict[str, np.ndarray]:
        """Voxel numbers of each region that has any, from the region name of each voxel."""
        found = {label: np.isin(rois, names) for label, names in self.regions.items()}
        named = np.any(list(found.values()), axis=0) if found else np.zeros(len(rois), bool)
        if self.rest is not None:
            found[self.rest] = ~named
        found[self.whole] = np.ones(len(rois), bool)
        return {label: np.flatnonzero(mask) for label, mask in found.items() if mask.any()}

    def _check_regions(self, brain: Responses) -> None:
        known = {r for rois in brain.rois.values() for r in rois} - {""}
        wanted = {r for names in self.regions.values() for r in names}
        if wanted and not wanted & known:
            raise InputError(
                f"metric.regions: expected regions of the data ({sorted(known) or 'it names none'}), "
                f"got {sorted(wanted)}; correct them, give the data its atlases, or set regions to "
                "null and rest to null"
            )


def contributions(measured: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """(row, voxel) numbers whose mean over rows is the Pearson r of each voxel: r plus n - 1 times what
    leaving the row out takes from it (the jackknife, centred), so that they spread as r does.

    A voxel that does not vary in one of the two has r = 0.
    """
    z, other = standard(measured), standard(expected)
    n = len(z)
    r = (z * other).mean(axis=0)
    # Sums of products over all rows but one, of columns centred again.
    both, left, right = (
        n * (x * y).mean(axis=0) - x * y * n / (n - 1)
        for x, y in ((z, other), (z, z), (other, other))
    )
    varies = (left > 1e-9) & (right > 1e-9)
    without = np.divide(
        both, np.sqrt(np.maximum(left * right, 0)), out=np.zeros_like(both), where=varies
    )
    return r + (n - 1) * (without.mean(axis=0) - without)

"""How much of each voxel's or sensor's variance is predicted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import pandas as pd

from decode.core import Measure, Metric, Results
from decode.scoring.voxels import blocks, explained


class ExplainedVariance(Metric):
    """1 - var(measured - expected) / var(measured) over test rows, a row per voxel or sensor and sample.

    A constant offset costs nothing, a wrong size does: predictions that have nothing to do with the
    response score below 0, the mean response 0, which is the most that can be had without looking at the
    stimulus. The ceiling is the share of the variance that repeats of test stimuli agree in; it is that of
    r squared, not of r. Channels that are 0 in every row, as those that a scaler left out, have no row.
    """

    looks_at: ClassVar[Literal["brain"]] = "brain"

    def __init__(
        self,
        *,
        unit: Literal["voxel", "sensor"] = "voxel",
        within: Sequence[str] = ("subject", "split", "fold"),
        name: str = "explained_variance",
    ) -> None:
        self.unit, self.within, self.name = unit, tuple(within), name

    def measures(self) -> Mapping[str, Measure]:
        meaning = (
            f"Share of the variance over test stimuli of what a {self.unit} answered that was predicted; "
            "the ceiling is the share that repeats of a stimulus agree in."
        )
        return {self.name: Measure(meaning, unit=self.unit, ceiling="rows")}

    def __call__(self, results: Results) -> pd.DataFrame:
        parts = [
            block.scored(self.name, explained(block.measured, block.expected), block.ceiling**2)
            for block in blocks(results, self.within, self.name)
        ]
        return pd.concat(parts, ignore_index=True).assign(bound=True)

"""How well each voxel or sensor is predicted: correlation of measured with expected responses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import pandas as pd

from decode.core import Measure, Metric, Results
from decode.scoring.voxels import blocks, correlation


class VoxelCorrelation(Metric):
    """Pearson r over test rows, a row per voxel or sensor (`unit`) and sample of the window.

    Of rows that agree in `within`. The ceiling is the correlation of a perfect model, the root of the share
    of the variance that repeats of test stimuli agree in. Chance is 0, which a prediction that does not
    vary gets too. Channels that are 0 in every row, as those that a scaler left out, have no row.
    """

    looks_at: ClassVar[Literal["brain"]] = "brain"

    def __init__(
        self,
        *,
        unit: Literal["voxel", "sensor"] = "voxel",
        within: Sequence[str] = ("subject", "split", "fold"),
        name: str = "voxel_r",
    ) -> None:
        self.unit, self.within, self.name = unit, tuple(within), name

    def measures(self) -> Mapping[str, Measure]:
        meaning = (
            f"Correlation over test stimuli of what a {self.unit} answered with what was predicted; the "
            "ceiling is that of a perfect model."
        )
        return {self.name: Measure(meaning, unit=self.unit, ceiling="rows")}

    def __call__(self, results: Results) -> pd.DataFrame:
        parts = [
            block.scored(self.name, correlation(block.measured, block.expected), block.ceiling)
            for block in blocks(results, self.within, self.name)
        ]
        return pd.concat(parts, ignore_index=True)

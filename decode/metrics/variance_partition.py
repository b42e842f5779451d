"""What each kind of stimulus features explains of a voxel alone, and what they share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar, Literal

import pandas as pd

from decode.core import Measure, Metric, Results, refusal
from decode.scoring.rows import table
from decode.scoring.voxels import Block, blocks, explained


class VariancePartition(Metric):
    """Explained variance of a banded model, parted among its `bands`, a row per voxel or sensor and sample.

    What a band explains alone (`unique`) is what the whole model explains more than the same model fitted
    without the band; what is left (`shared`) can be had from two bands or more. They add up to the whole.
    Each may fall below 0, which is the most that can be had without looking at the stimulus. A model that
    is not fitted without its bands, such as a baseline, has no rows.

    Raises InputError where the model has other bands. Borcard, Legendre & Drapeau 1992,
    doi:10.2307/1940179.
    """

    looks_at: ClassVar[Literal["brain"]] = "brain"

    def __init__(
        self,
        *,
        bands: Sequence[str] = ("image", "pixels"),
        unit: Literal["voxel", "sensor"] = "voxel",
        within: Sequence[str] = ("subject", "split", "fold"),
        name: str = "variance",
    ) -> None:
        if len(set(bands)) < 2:
            raise refusal(
                "metric.bands",
                "two different bands or more",
                list(bands),
                "name the encoder's inputs",
            )
        self.bands, self.unit = tuple(bands), unit
        self.within, self.name = tuple(within), name

    def measures(self) -> Mapping[str, Measure]:
        unique = "Share of the variance of a {} that is predicted from {} and from nothing else."
        shared = "Share of the variance of a {} that can be predicted from more than one of {}."
        told = {f"{self.name}_unique_{b}": unique.format(self.unit, b) for b in self.bands}
        told[f"{self.name}_shared"] = shared.format(self.unit, ", ".join(self.bands))
        return {name: Measure(meaning, unit=self.unit) for name, meaning in told.items()}

    def __call__(self, results: Results) -> pd.DataFrame:
        if results.brain is None or not results.brain.without:
            return table([])
        if set(results.brain.without) != set(self.bands):
            raise refusal(
                "metric.bands", f"the bands of the model, {sorted(results.brain.without)}",
                list(self.bands), "name these",
            )  # fmt: skip
        parts = [p for block in blocks(results, self.within, self.name) for p in self._rows(block)]
        return pd.concat(parts, ignore_index=True).assign(bound=True)

    def _rows(self, block: Block) -> Iterator[pd.DataFrame]:
        shared = whole = explained(block.measured, block.expected)
        for band in self.bands:
            unique = whole - explained(block.measured, block.without[band])
            shared = shared - unique
            yield block.scored(f"{self.name}_unique_{band}", unique, None)
        yield block.scored(f"{self.name}_shared", shared, None)

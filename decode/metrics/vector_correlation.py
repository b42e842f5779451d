"""Pearson correlation between the predicted and the true vector of each trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np
import pandas as pd

from decode.core import Measure, Metric, Results
from decode.scoring.picture_scores import standardise
from decode.scoring.rows import galleries, scores, table, vectors


class VectorCorrelation(Metric):
    """r over the features of a target, per row.

    Vectors of unrelated stimuli correlate too (they share a mean), so chance is not zero: it is
    the mean r with a truth drawn at random from the test stimuli of that subject, split and fold.
    """

    looks_at: ClassVar[Literal["predictions"]] = "predictions"
    target: str

    def __init__(
        self,
        target: str = "image",
        *,
        within: Sequence[str] = ("subject", "split", "fold"),
        name: str = "vector_correlation",
    ) -> None:
        self.target, self.within, self.name = target, tuple(within), name

    def measures(self) -> Mapping[str, Measure]:
        return {
            self.name: Measure(
                f"Pearson correlation of the predicted with the true feature vector ({self.target})."
            )
        }

    def __call__(self, results: Results) -> pd.DataFrame:
        predicted, truth = vectors(results, self.target)
        parts = []
        for gallery in galleries(results.trials, self.within):
            made, true = standardise(predicted[gallery.rows]), standardise(truth[gallery.rows])
            value = np.einsum("rf,rf->r", made, true)
            # Mean over the gallery first: the (row, stimulus) matrix is never formed.
            chance = float((made @ true[gallery.first].mean(axis=0)).mean())
            parts.append(scores(results, self.name, gallery.rows, value, chance=chance))
        return table(parts)

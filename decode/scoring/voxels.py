"""Rows of voxels and sensors: what metrics of the brain's responses share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from decode.core import InputError, Responses, Results, refusal
from decode.scoring.rows import galleries


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """The responses of one subject in comparable test rows: `measured`, `expected` and, by what was left
    out of the model, `without`, each (row, voxel).

    `names`, `rois`, `times` and `ceiling` (the correlation of a perfect model) are (voxel,); `rows` are
    those of the table of predictions. Voxels that are 0 in every row, as those that a scaler left out, are
    not in it.
    """

    subject: str
    split: str
    fold: int | None
    rows: np.ndarray
    measured: np.ndarray
    expected: np.ndarray
    without: dict[str, np.ndarray]
    names: np.ndarray
    rois: np.ndarray
    times: np.ndarray
    ceiling: np.ndarray

    def scored(self, metric: str, value: np.ndarray, ceiling: np.ndarray | None) -> pd.DataFrame:
        """A row for each voxel's `value`, with 0 for chance."""
        frame = pd.DataFrame({"metric": metric, "subject": self.subject, "channel": self.names})
        return frame.assign(
            time=self.times,
            region=self.rois,
            value=np.asarray(value, np.float64),
            chance=0.0,
            ceiling=np.nan if ceiling is None else ceiling,
            split=self.split,
            fold=self.fold,
            share=False,
        )


def blocks(results: Results, within: Sequence[str], name: str) -> Iterator[Block]:
    """The responses of each subject, in rows that agree in the columns `within`.

    Raises InputError, naming the metric `name`, where there are no responses, and fewer than 3 rows.
    """
    brain = results.brain
    if brain is None:
        raise refusal(
            f"metric {name}",
            "responses of the brain",
            "none",
            "choose an encoder that predicts the brain (encoder=banded_ridge) or set voxel_model to "
            "a target, as in target@voxel_model=NAME",
        )
    columns = list(dict.fromkeys(("subject", "split", *within)))
    for gallery in galleries(results.trials, columns):
        if len(gallery.rows) < 3:
            raise InputError(
                f"{name}: expected at least 3 test rows to correlate over, got {len(gallery.rows)}; leave "
                "'fold' out of `within` or use fewer folds"
            )
        yield _block(results.trials.iloc[gallery.rows], gallery.rows, brain, name)


def _block(table: pd.DataFrame, rows: np.ndarray, brain: Responses, name: str) -> Block:
    subject, folds = str(table["subject"].iloc[0]), sorted(table["fold"].unique())
    rois = np.array(brain.rois[subject])
    n = len(rois)
    measured = brain.measured[rows, :n].numpy()
    used = (measured != 0).any(0)
    if not used.any():
        raise InputError(
            f"{name}: expected responses of {subject}, got zeros throughout; check `scaler`"
        )
    unknown = np.full(n, np.nan)
    ceiling = np.mean([brain.ceiling.get((subject, int(f)), unknown) for f in folds], axis=0)
    names = brain.names.get(subject) or tuple(str(i) for i in range(n))
    return Block(
        subject,
        str(table["split"].iloc[0]),
        int(folds[0]) if len(folds) == 1 else None,
        rows,
        measured[:, used],
        brain.expected[rows, :n].numpy()[:, used],
        {k: v[rows, :n].numpy()[:, used] for k, v in brain.without.items()},
        np.array(names)[used],
        rois[used],
        np.array(brain.times.get(subject, unknown))[used],
        ceiling[used],
    )


def standard(x: np.ndarray) -> np.ndarray:
    """Columns with mean 0 and variance 1 in float64; 0 where a column does not vary."""
    x = x.astype(np.float64)
    size = np.abs(x).max(axis=0)
    x -= x.mean(axis=0)
    spread = np.sqrt((x**2).mean(axis=0))
    # What centring leaves of a constant column is rounding, of single precision when it came so.
    flat = spread <= 1e-6 * size
    return np.where(flat, 0, x / np.where(flat, 1, spread))


def correlation(measured: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """(voxel,) Pearson r of columns; 0 where one of the two does not vary."""
    return (standard(measured) * standard(expected)).mean(axis=0)


def explained(measured: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """(voxel,) 1 - variance of what is left / variance of what was measured; 0 where that is 0."""
    left = (measured.astype(np.float64) - expected).var(axis=0)
    total = measured.astype(np.float64).var(axis=0)
    return 1 - np.divide(left, total, out=np.ones_like(total), where=total > 0)

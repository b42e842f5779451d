"""What every metric needs: vectors of one target, galleries of comparable rows, tidy rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from decode.core import Results, refusal

COLUMNS = ("metric", "subject", "trial", "value", "chance")


@dataclass(frozen=True, slots=True, eq=False)
class Gallery:
    """The rows of `Results.trials` that are compared with each other.

    `rows` is (row,) positions in the table, `code` is (row,) and numbers the row's stimulus,
    `first` is (stimulus,) and points into `rows` at the first row of each stimulus.
    """

    rows: np.ndarray
    code: np.ndarray
    first: np.ndarray

    @property
    def n_stimuli(self) -> int:
        return len(self.first)


def galleries(trials: pd.DataFrame, within: Sequence[str]) -> list[Gallery]:
    """Split the table into galleries: rows that agree in all columns of `within`."""
    missing = [c for c in (*within, "stimulus") if c not in trials.columns]
    if missing:
        raise refusal(
            "metric",
            f"the trial columns {missing}",
            sorted(trials.columns),
            "name other columns in `within`",
        )
    parts = [np.arange(len(trials))]
    if within:
        number = trials.groupby(list(within), sort=False, dropna=False).ngroup().to_numpy()
        parts = [np.flatnonzero(number == n) for n in range(int(number.max(initial=-1)) + 1)]
    stimulus = trials["stimulus"].to_numpy()
    found = []
    for rows in parts:
        code, uids = pd.factorize(stimulus[rows])
        first = np.full(len(uids), len(rows))
        np.minimum.at(first, code, np.arange(len(rows)))
        found.append(Gallery(rows, code, first))
    return found


def vectors(results: Results, target: str) -> tuple[np.ndarray, np.ndarray]:
    """Predicted and true vectors of one target, each (row, feature) floating point and finite."""
    if target not in results.predicted or target not in results.truth:
        raise refusal(
            "metric",
            f"a target named {target!r}",
            sorted(results.predicted),
            "set the metric's `target` to one of them",
        )
    pair = []
    for name, source in (("predicted", results.predicted), ("true", results.truth)):
        x = source[target].detach().cpu()
        wide = x.is_floating_point() and x.element_size() >= 4
        array = (x if wide else x.float()).reshape(len(x), -1).numpy()
        if not np.isfinite(array).all():
            bad = int(np.flatnonzero(~np.isfinite(array).all(axis=1))[0])
            raise refusal(
                "metric",
                f"finite {name} vectors of target {target!r}",
                f"NaN or infinite values (first in row {bad})",
                "look at the training history for a diverged loss",
            )
        pair.append(array)
    if pair[0].shape != pair[1].shape:
        raise refusal(
            "metric",
            f"predictions of {target!r} of the shape of its truth, {pair[1].shape}",
            pair[0].shape,
            "the encoder's head and the target disagree: choose others",
        )
    return pair[0], pair[1]


def is_one_hot(truth: np.ndarray) -> bool:
    """Whether `truth` (row, class) says one of two or more classes in every row."""
    return bool(
        truth.ndim == 2
        and truth.shape[1] > 1
        and ((truth == 0) | (truth == 1)).all()
        and (truth.sum(axis=1) == 1).all()
    )


def classes_are_stimuli(trials: pd.DataFrame, label: np.ndarray) -> bool:
    """Whether each class, by `label` (row,), was always the same stimulus, so that a trial repeats no
    picture of its class but the class itself.
    """
    pairs = pd.DataFrame({"label": label, "stimulus": trials["stimulus"].to_numpy()})
    return not pairs.drop_duplicates()["label"].duplicated().any()


def class_weight(number: np.ndarray) -> np.ndarray:
    """What multiplies the deviation of each row (row,) from the mean of its class of `number` rows,
    for the mean of all rows to vary as the sum over classes of their means does, variances unbiased.
    """
    return len(number) / number * np.sqrt(number / np.maximum(number - 1, 1))


def made_texts(results: Results, metric: str) -> list[str]:
    """The made text of each row; InputError, naming `metric`, where something else was made."""
    if results.made is None:
        raise refusal(
            f"metric {metric}",
            "made texts",
            "none, as nothing was generated",
            "add a generator of texts to the experiment or drop this metric",
        )
    texts = []
    for row, media in enumerate(results.made):
        if media.kind != "text" or not isinstance(media.data, str):
            raise refusal(
                f"metric {metric}",
                "made texts",
                f"one of kind {media.kind!r} in row {row}",
                "choose a generator of texts or drop this metric",
            )
        texts.append(media.data)
    return texts


def scores(
    results: Results,
    metric: str,
    rows: np.ndarray,
    value: np.ndarray,
    *,
    chance: float | np.ndarray,
) -> pd.DataFrame:
    """One tidy row per position in `rows`, in the columns every metric returns."""
    subject = results.trials["subject"].to_numpy()[rows]
    frame = pd.DataFrame({"metric": metric, "subject": subject, "trial": np.asarray(rows)})
    frame["value"] = np.asarray(value, dtype=np.float64)
    frame["chance"] = chance
    return frame


def table(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """All rows in one table, ordered by metric (as first met) and trial."""
    if not parts:
        return pd.DataFrame(columns=list(COLUMNS))
    whole = pd.concat(parts, ignore_index=True)
    whole["metric"] = pd.Categorical(whole["metric"], pd.unique(whole["metric"]))
    whole = whole.sort_values(["metric", "trial"], kind="stable", ignore_index=True)
    whole["metric"] = whole["metric"].astype(str)
    return whole


def shuffled_rows(table: pd.DataFrame, seed: int) -> np.ndarray:
    """(trial,): another trial of the same subject for each, drawn at random."""
    rng = np.random.default_rng([seed, 11])
    order = np.arange(len(table))
    for rows in table.groupby("subject", sort=False).indices.values():
        order[rows] = rng.permutation(rows)
    return order

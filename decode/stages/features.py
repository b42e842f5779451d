"""features: the vectors of one target for the stimuli that the trials name; grows, never recomputes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from torch import Tensor

from decode.core import PARTS, Reads, SeriesTarget, Stimulus, Target, joint_digest, refusal
from decode.progress import progress
from decode.series import SERIES, Clock, SeriesStore, write_clock, write_series
from decode.store import read_json, write_json
from decode.vectors import FeatureStore

SHARD = 512
READS = "reads.json"
TRIAL: Reads = "trial"


def run(
    out: Path,
    *,
    target: Target | SeriesTarget,
    stimuli: Mapping[str, Stimulus],
    table: pd.DataFrame,
    name: str,
    events: Mapping[str, Stimulus] | None = None,
) -> int:
    """Append what is missing in `out`; returns how many stimuli, or stretches of them, were computed.

    `stimuli` are by uid, `table` has a row for each with the digests of its parts; those that are equal
    in what the target reads are computed once, and so is a stretch of several clips. A target that reads
    trials is given `events`, by key.
    """
    from filelock import FileLock

    out.mkdir(parents=True, exist_ok=True)
    with FileLock(out / ".lock"):
        if isinstance(target, SeriesTarget):
            return _series(out, target, stimuli, table, name)
        write_reads(out, target.reads)
        store = FeatureStore(out)
        if TRIAL in target.reads:
            stimuli = events or {}
            uid_of = {key: key for key in stimuli}
        else:
            uid_of = dict(zip(keys_of(table, target.reads), table["uid"], strict=True))
        missing = store.missing(list(uid_of))
        _accepts(target, [stimuli[uid_of[d]] for d in missing], name)
        chunks = [missing[i : i + SHARD] for i in range(0, len(missing), SHARD)]
        for chunk in progress(chunks, f"features {name}"):
            found = target([stimuli[uid_of[d]] for d in chunk])
            store.append(chunk, _kept(found, target, name, uid_of[chunk[0]]))
    return len(missing)


def _kept(found: Tensor, target: Target | SeriesTarget, name: str, uid: str) -> np.ndarray:
    """Features in the precision of the store; InputError where that cannot hold them."""
    with np.errstate(over="ignore"):
        values = found.float().numpy().astype(getattr(target, "store", "float32"))
    if not np.isfinite(values).all():
        raise refusal(
            f"targets.{name}",
            "finite features",
            f"NaN or infinite ones of {uid!r} or its neighbours",
            "use full precision for this model, and store: float32",
        )
    return values


def _series(
    out: Path,
    target: SeriesTarget,
    stimuli: Mapping[str, Stimulus],
    table: pd.DataFrame,
    name: str,
) -> int:
    """One series for each stretch that is not there yet."""
    _accepts(target, [stimuli[uid] for uid in table["uid"].drop_duplicates()], name)
    rows = table.drop_duplicates("series")
    missing = rows[[not (out / f"{key}.json").is_file() for key in rows["series"]]]
    for row in progress(missing.to_dict("records"), f"features {name}"):
        clip, lasts = stimuli[row["uid"]], row["series_duration"]
        stretch = replace(
            clip, start=row["series_start"], duration=None if pd.isna(lasts) else lasts
        )
        values = _kept(target.series(stretch), target, name, clip.block or clip.uid)
        write_series(out, row["series"], values)
    write_clock(out, Clock(target.rate, target.lag, target.rest))
    return len(missing)


def write_reads(out: Path, reads: Collection[Reads]) -> None:
    """Keep beside the features what of stimuli they were made of, for those who only look them up."""
    if not (out / READS).is_file():
        write_json(out / READS, [part for part in (*PARTS, TRIAL) if part in reads])


def keys_of(table: pd.DataFrame, reads: Collection[Reads]) -> list[str]:
    """What the features of each stimulus in a table (stimulus, parts) are known by."""
    rows = table[list(PARTS)].to_dict("records")
    return [joint_digest({part: row[part] for part in PARTS}, reads) for row in rows]


def open_store(
    folder: Path, table: pd.DataFrame, window: tuple[float, float] | None = None
) -> FeatureStore:
    """The features in a folder, asked for by the digests of whole stimuli; series are cut for windows that
    begin and last as `window` says, in seconds.

    Those of tables without parts, from before features were known by what they read, are known by
    the whole.
    """
    if (folder / SERIES).is_file():
        places = zip(table["series"], table["at"], strict=True)
        return SeriesStore(folder, dict(zip(table["digest"], places, strict=True)), window)
    if (folder / READS).is_file() and TRIAL in read_json(folder / READS):
        return FeatureStore(folder, of_trials=True)
    if not (folder / READS).is_file() or not set(PARTS) <= set(table.columns):
        return FeatureStore(folder)
    keys = keys_of(table, read_json(folder / READS))
    return FeatureStore(folder, dict(zip(table["digest"], keys, strict=True)))


def _accepts(target: Target | SeriesTarget, stimuli: list[Stimulus], name: str) -> None:
    for stimulus in stimuli:
        if stimulus.kind not in target.accepts:
            raise refusal(
                f"targets.{name}",
                f"stimuli of kind {sorted(target.accepts)}, which {type(target).__name__} takes",
                f"{stimulus.uid!r} of kind {stimulus.kind!r}",
                "choose another target",
            )

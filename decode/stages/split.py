"""split: all trials -> the manifest of what is trained on, validated on and tested on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from decode.core import InputError, refusal
from decode.division import Fold
from decode.splitting import digest, manifest
from decode.store import write_json, write_table
from decode.trials import Trials


def run(
    out: Path,
    *,
    trials: Trials,
    stimuli: pd.DataFrame,
    splits: Mapping[str, Callable[[pd.DataFrame], Sequence[Fold]]],
) -> dict[str, Any]:
    """Fill `out` with manifest rows and, in split.json, their hash and sizes."""
    one_content_per_uid(stimuli)
    if not splits:
        raise InputError(
            "splits: expected at least one named split, got none; add e.g. split kfold"
        )
    table = trials.table
    folds = {name: split(table) for name, split in splits.items()}
    rows = manifest(table, folds, trials.spans())
    write_table(out / "manifest.parquet", rows)
    counts = rows.groupby(["split", "fold", "part"]).agg(
        n_trials=("row", "size"), n_stimuli=("stimulus", "nunique")
    )
    facts = {
        "hash": digest(rows, table),
        "hashes": {
            name: digest(rows[rows["split"] == name], table) for name in rows["split"].unique()
        },
        "sizes": counts.reset_index().to_dict("records"),
        "by": rows.groupby("split")["by"].first().to_dict(),
    }
    write_json(out / "split.json", facts)
    return {"hash": facts["hash"], "n_rows": len(rows)}


def one_content_per_uid(stimuli: pd.DataFrame) -> None:
    """Refuse two different contents under one uid."""
    contents = stimuli.drop_duplicates(["uid", "digest"]).groupby("uid").size()
    clash = contents[contents > 1]
    if len(clash):
        raise refusal(
            "stimuli",
            "one content per uid",
            f"{clash.iloc[0]} of {clash.index[0]!r} ({len(clash)} such uids)",
            "give different stimuli different uids",
        )

"""features: the vectors of one target for the stimuli that the trials name; grows, never recomputes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from decode.core import InputError, Stimulus, Target
from decode.progress import progress
from decode.store import FeatureStore

SHARD = 512


def run(
    out: Path,
    *,
    target: Target,
    stimuli: Mapping[str, Stimulus],
    digests: Mapping[str, str],
    name: str,
) -> int:
    """Append what is missing in `out`; returns how many stimuli were computed.

    `stimuli` and `digests` are by uid; stimuli of equal content are computed once.
    """
    from filelock import FileLock

    out.mkdir(parents=True, exist_ok=True)
    with FileLock(out / ".lock"):
        store = FeatureStore(out)
        missing = store.missing(list(digests.values()))
        uid_of = {d: uid for uid, d in digests.items()}
        _accepts(target, [stimuli[uid_of[d]] for d in missing], name)
        chunks = [missing[i : i + SHARD] for i in range(0, len(missing), SHARD)]
        for chunk in progress(chunks, f"features {name}"):
            found = target([stimuli[uid_of[d]] for d in chunk]).float().numpy()
            with np.errstate(over="ignore"):
                values = found.astype(getattr(target, "store", "float32"))
            if not np.isfinite(values).all():
                raise InputError(
                    f"targets.{name}: features of {uid_of[chunk[0]]!r} or its neighbours are not "
                    "finite; use full precision for this model, and store: float32"
                )
            store.append(chunk, values)
    return len(missing)


def _accepts(target: Target, stimuli: list[Stimulus], name: str) -> None:
    for stimulus in stimuli:
        if stimulus.kind not in target.accepts:
            raise InputError(
                f"targets.{name}: {type(target).__name__} takes {sorted(target.accepts)}, stimulus "
                f"{stimulus.uid!r} is of kind {stimulus.kind!r}; choose another target"
            )

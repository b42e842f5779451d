"""Tables of questions about stimuli and of the answers that people gave."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from decode.core import InputError, Stimulus


def read_answers(file: Path) -> pd.DataFrame:
    """A row per answer, all as text: `question`, `answer`, `coco_id` or `stimulus`, and what else the
    table has; questions on one line. InputError when it is missing or lacks a column.
    """
    try:
        told = pd.read_csv(file, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as e:
        raise InputError(
            f"answers: expected a table of answers at {file}, got: {e}; see docs/metrics.md"
        ) from e
    missing = [c for c in ("question", "answer") if c not in told]
    if missing or not {"coco_id", "stimulus"} & set(told):
        raise InputError(
            f"answers: expected the columns question, answer and coco_id or stimulus in {file}, got "
            f"{list(told)}; rename them"
        )
    return told.assign(question=[" ".join(q.split()) for q in told["question"]])


def about(told: pd.DataFrame) -> pd.Series:
    """What each row of the table calls its stimulus."""
    return told["coco_id" if "coco_id" in told else "stimulus"]


def name_of(told: pd.DataFrame, stimulus: Stimulus) -> str:
    """What the table calls a stimulus, "" where the stimulus has no such name."""
    return str(stimulus.labels.get("coco_id", "")) if "coco_id" in told else stimulus.uid

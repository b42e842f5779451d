"""Tables of questions about stimuli and of the answers that people gave."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from decode.core import Stimulus, refusal
from decode.recordings.tables import read_words


def read_answers(file: Path) -> pd.DataFrame:
    """A row per answer, all as text: `question`, `answer`, `coco_id` or `stimulus`, and what else the
    table has, "" where nothing stands. Rows without an answer (empty or n/a) are left out. InputError
    when it is missing, damaged or lacks a column, and for an answer to nothing or about nothing.
    """
    told = read_words(
        file, separator=",", expected="a table of answers", remedy="see docs/metrics.md"
    )
    missing = [c for c in ("question", "answer") if c not in told]
    if missing or not {"coco_id", "stimulus"} & set(told):
        raise refusal(
            file,
            "the columns question, answer and coco_id or stimulus",
            list(told),
            "rename them",
        )
    told = told[told["answer"].notna()]
    for column, known in (("question", told["question"]), (about(told).name, about(told))):
        if known.isna().any():
            row = known.index[known.isna()][0]
            raise refusal(
                f"{file}, row {row}", f"a {column} for the answer", "none", "write it there"
            )
    told = told.fillna("").reset_index(drop=True)
    return told.assign(question=[" ".join(q.split()) for q in told["question"]])


def about(told: pd.DataFrame) -> pd.Series:
    """What each row of the table calls its stimulus."""
    return told["coco_id" if "coco_id" in told else "stimulus"]


def name_of(told: pd.DataFrame, stimulus: Stimulus) -> str:
    """What the table calls a stimulus, "" where the stimulus has no such name."""
    return str(stimulus.labels.get("coco_id", "")) if "coco_id" in told else stimulus.uid

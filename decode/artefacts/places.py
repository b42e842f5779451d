"""Where what belongs to a source lies in the folder of a fold."""

from __future__ import annotations

from pathlib import Path

from decode.sources import DECODER, Source
from decode.store import as_file_name

# What predictions are judged on is no source, so it lies beside all of them.
TRUTH = "truth"
# What the decoder predicts when it is fitted without something is none either.
ABLATED = "ablated"


def place_of(source: Source) -> str:
    """Its folders: `decoder`, `baselines/ridge`, `parts/region/V1`, `controls/prior`."""
    return "/".join(map(as_file_name, source.place))


def folder_of(fold: Path, source: Source) -> Path:
    """The folder of a source in that of a fold."""
    return fold / place_of(source)


def truth_of(source: Source = DECODER) -> str:
    """The folders of what the predictions of a source are judged on, where it is its own."""
    return f"{TRUTH}/{place_of(source)}"


def ablated_of(left_out: str) -> str:
    """The folders of what a model of the brain predicts without one of the targets that it reads."""
    return f"{ABLATED}/{as_file_name(left_out)}"

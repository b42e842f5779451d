"""What the words of the configs mean as numbers and lists: the range of each knob, in one place.

A knob is known by its name; where a class means something else by the word, by `Class.name`. Every
number is finite, whether it is listed or not, and a test asks that each number of each yaml is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

LARGEST = 10**9  # of anything that is counted


@dataclass(frozen=True, slots=True)
class Range:
    """Finite numbers from `low` to `high`; `above` and `below` leave that end itself out."""

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    below: bool = False

    def holds(self, number: float) -> bool:
        if not math.isfinite(number) or not self.low <= number <= self.high:
            return False
        return not (self.above and number == self.low) and not (self.below and number == self.high)

    def __str__(self) -> str:
        low, high = (f"{end:.10g}" for end in (self.low, self.high))
        if math.isinf(self.low):
            return "a finite number"
        if math.isinf(self.high):
            return f"a number above {low}, finite" if self.above else f"{low} or more, finite"
        if self.high == LARGEST:
            return f"{low} or more, at most {high}"
        until = f"below {high}" if self.below else high
        return f"a number above {low}, to {until}" if self.above else f"{low} to {until}"


NUMBER = Range()
COUNT, WHOLE = Range(1, LARGEST), Range(0, LARGEST)
NOT_NEGATIVE, POSITIVE = Range(0), Range(0, above=True)
SHARE, PART = Range(0, 1), Range(0, 1, below=True)


def _each(words: str, meant: Range) -> dict[str, Range]:
    return dict.fromkeys(words.split(), meant)


RANGES: Mapping[str, Range] = {
    **_each(
        """adapter bands bank batch batch_size beams between_hint between_semantic candidates channels
        clusters components decoder_steps depth energy_every expected filters flow_width head_width
        heads k keep kernel last_session max_new_tokens most n_test n_train n_trs n_voxels patch pool
        pooled rank sample sample_steps select sessions rows side size sizes start_size steps
        stride subjects target_size
        test_repeats tokens
        train_repeats trials_per_run values volumes width""",
        COUNT,
    ),
    **_each("blocks caption changed epochs features patience positive projector", WHOLE),
    **_each(
        """alphas blur clip contrast control_scale cycle divergence energy_scale eta factor gain gap
        guidance high_pass
        min_ceiling min_response ncsnr_above noise offset offset_noise rebuild smooth speed
        strengths voxels warp weight weight_decay""",
        NOT_NEGATIVE,
    ),
    **_each(
        """alpha clamp first frame frequencies high hop join last longest low power rate reach sfreq step
        temperature tr""",
        POSITIVE,
    ),
    **_each(
        """blank chance doubt drop final shared shrinkage slice_time starts stops structure text_share
        threshold warmup""",
        SHARE,
    ),
    **_each("average dropout dropout_head dropout_in smoothing validation", PART),
    **_each("after baseline bias lag lift scale start theta window", NUMBER),
    "folds": Range(2, LARGEST),
    "inner_folds": Range(2, LARGEST),
    "n_way": Range(2, LARGEST),
    "layer": Range(-1000, 1000),
    "n_subjects": Range(1, 1000),
    "noise_level": Range(0, 1000),
    "seed": Range(0, 2**32 - 1),
    "strength": Range(0, 1, above=True),
    "tie": Range(0, 0.5),
    "voxel_mm": Range(1, 20),
    "regions.at_least": COUNT,
    "Laplacian.at_least": COUNT,
    "Own.weights": NOT_NEGATIVE,
    "ReliableVoxels.at_least": Range(-1, 1),
    "BandedRidge.draws": WHOLE,
    "BayesianReconstruction.noise": POSITIVE,
    "BayesianReconstruction.steps": WHOLE,
    "BayesianReconstruction.voxels": COUNT,
    "Bids.entities": WHOLE,
    "External.first": WHOLE,
    "windows.width": POSITIVE,
}
# Lists that mean something when nothing is in them, beside those whose default is empty.
MAY_BE_EMPTY = frozenset({"contrastive", "pairs", "rois", "semantic"})
# Of one part of a path, and of a whole one, in bytes: the limits of Linux.
LONGEST_NAME, LONGEST_PATH = 255, 4095


def range_of(kind: str, name: str) -> Range | None:
    """What the class or function `kind` means by the number `name`; None where nothing says."""
    return RANGES.get(f"{kind}.{name}", RANGES.get(name))


def numbers(value: Any) -> Iterator[float]:
    """Every number in a value of a config, lists and mappings included."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        yield value
    elif isinstance(value, list | tuple):
        for one in value:
            yield from numbers(one)
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from numbers(one)


def cannot_be_text(text: str) -> str | None:
    """What text that may name a file or a column is expected to be; None where nothing is wrong.

    Sentences, such as prompts, may be longer than names.
    """
    if any(ord(c) < 32 and c not in "\n\t" for c in text):
        return "text without control characters"
    parts = [] if " " in text else [len(p.encode(errors="replace")) for p in text.split("/")]
    if sum(parts) + len(parts) > LONGEST_PATH or max(parts, default=0) > LONGEST_NAME:
        return f"at most {LONGEST_NAME} bytes between slashes and {LONGEST_PATH} in all"
    return None

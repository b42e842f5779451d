"""What can be decoded before the stimulus: a control."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from decode.core import Layout, refusal
from decode.division import Part
from decode.parting import one_length


def before_stimulus(layouts: Mapping[str, Layout], *, targets: Sequence[str]) -> dict[str, Part]:
    """All samples from before the stimulus: nothing can be decoded there unless something leaks.

    Raises InputError where the preprocessed windows begin with the stimulus.
    """
    layout = next(iter(layouts.values()))
    end = min(round(-layout.start * layout.sfreq), one_length(layouts))
    if end < 1:
        raise refusal(
            "parts.before_stimulus",
            "windows that begin before the stimulus",
            f"ones that begin {layout.start:g} s after it",
            "let preprocess.trials.window begin before 0 or leave this part out",
        )
    # Not pooled: a baseline over these samples would leave a mean of zero, which can tell nothing.
    meaning = (
        "a ridge on the samples from before the stimulus; sits at chance unless something leaks into "
        "them"
    )
    return {"": Part(tuple(targets), 0, end, meaning=meaning, control=True)}

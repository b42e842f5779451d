"""Where predictions and media come from: the decoder, baselines, parts of the signal and controls.

The table of sources: what each is called and means, in which order they are shown, and where the
files of each lie. Truth is no source.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from decode.core import Kind, refusal
from decode.media.medium import MEDIA

Role = Literal["decoder", "baseline", "part", "control"]
# Folders, one inside the other.
Place = tuple[str, ...]
# What stands for everybody in the column `subject` of a summary.
ALL_SUBJECTS = "all"


@dataclass(frozen=True, slots=True)
class Source:
    """One origin of predictions or media, known by its `name` and, of a part of the signal, `part`.

    `meaning` is for readers of a report; `time` is the middle of a window, s after the stimulus; an
    `ideal` one is meant to do as well as the decoder or better.
    """

    name: str
    role: Role
    meaning: str
    part: str | None = None
    time: float | None = None
    ideal: bool = False

    @property
    def key(self) -> tuple[str, str | None]:
        """What tells it from every other source."""
        return self.name, self.part

    @property
    def place(self) -> Place:
        """Where its files lie; roles lie apart, so that no name can be taken for another's."""
        if self.role == "decoder":
            return (self.name,)
        return (f"{self.role}s", self.name, *([self.part] if self.part else []))

    @property
    def config_key(self) -> str:
        """Where a config says what it is; messages name it."""
        keys = {"decoder": "encoder", "baseline": f"baselines.{self.name}"}
        return keys.get(self.role, f"parts.{self.name}")

    def __str__(self) -> str:
        return f"{self.name} {self.part}" if self.part else self.name


DECODER = Source("decoder", "decoder", "what the experiment is about")
WORDS: Mapping[Kind, str] = {
    "image": "picture",
    "audio": "sound",
    "video": "film",
    "mesh": "mesh",
}
NEAREST: dict[Kind, Source] = {
    kind: Source(
        f"nearest_{kind}",
        "control",
        f"the training {word} whose features lie nearest to the prediction",
    )
    for kind, word in WORDS.items()
}
NEAREST["text"] = Source(
    "nearest_text",
    "control",
    "the first text of the training stimulus whose features lie nearest to the prediction",
)
# Of kinds whose mean is something of that kind.
MEAN: dict[Kind, Source] = {
    kind: Source(f"mean_{kind}", "control", f"the mean training {word} shown for every trial")
    for kind, word in WORDS.items()
    if MEDIA[kind].mean is not None
}
NEAREST_IMAGE, NEAREST_TEXT, MEAN_IMAGE = NEAREST["image"], NEAREST["text"], MEAN["image"]
PRIOR = Source(
    "prior", "control", "the generator driven without the brain signal, by its own prior alone"
)
SHUFFLED = Source(
    "shuffled",
    "control",
    "the decoder's own output, paired with the truth of random trials; sits at chance unless a score "
    "rewards something else than the brain signal",
)
SHOWN = Source(
    "shown",
    "control",
    "the shown pictures themselves, for scores of a model of the brain: how good that model is",
    ideal=True,
)
ORACLE = Source(
    "oracle",
    "control",
    "the generator driven by the true features: the ceiling of this generator",
    ideal=True,
)
# In the order of a table's columns; controls that are parts of the signal stand after the first ones.
MADE = (*NEAREST.values(), *MEAN.values(), PRIOR)
LAST = (SHUFFLED, SHOWN, ORACLE)
TABLE = (DECODER, *MADE, *LAST)


def baseline(name: str, what: str) -> Source:
    """Another decoder beside the main one; `what` says which."""
    return Source(name, "baseline", f"{what}, fitted on the same training rows")


def in_order(sources: Collection[Source]) -> list[Source]:
    """Sources as tables show them: the decoder, baselines, parts, and controls in the table's order."""
    ranks = {"decoder": 0, "baseline": 1, "part": 2, "control": 4}
    fixed = {source: rank for rank, group in ((3, MADE), (5, LAST)) for source in group}
    places = {source: i for i, source in enumerate(TABLE)}
    given = {source: i for i, source in enumerate(sources)}
    return sorted(
        given,
        key=lambda s: (fixed.get(s, ranks[s.role]), places.get(s, given[s])),
    )


def check_people(subjects: Sequence[str]) -> None:
    """Raise InputError for a subject who is called as all together are in tables of scores."""
    if ALL_SUBJECTS in subjects:
        raise refusal(
            "subjects",
            "names of single people",
            f"{ALL_SUBJECTS!r}, which stands for all of them in tables of scores",
            "rename that subject in the data or leave it out",
        )


def check_sources(baselines: Sequence[str], parts: Sequence[str]) -> None:
    """Raise InputError for a baseline or part that is called as another source is, letters' case apart:
    tables would show two of one name.
    """
    taken = {source.name.casefold(): f"a {source.role} of every run" for source in TABLE}
    for key, names in (("baselines", baselines), ("parts", parts)):
        for name in names:
            known = taken.setdefault(str(name).casefold(), f"{key}.{name}")
            if known != f"{key}.{name}":
                raise refusal(
                    f"{key}.{name}",
                    "a name that no other source has",
                    f"that of {known}",
                    "choose another",
                )

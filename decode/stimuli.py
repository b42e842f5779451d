"""The nouns of what is shown and what is made: a stimulus, and media."""

from __future__ import annotations

import hashlib
from collections import ChainMap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from decode.content import identity
from decode.media.medium import MEDIA, Kind, Seen
from decode.refusals import InputError, about, refusal

if TYPE_CHECKING:
    from torch import Tensor

# What of a stimulus something reads: its file, its texts, its labels; or the trial that it was shown in.
Reads = Literal["file", "text", "labels", "trial"]
PARTS: tuple[Reads, ...] = ("file", "text", "labels")


@dataclass(frozen=True, slots=True)
class Stimulus:
    """Something shown or played; `uid` is stable across subjects and runs.

    `path` names a file, or one row of an HDF5 dataset as `FILE.hdf5#dataset/41`;
    `start` and `duration` are seconds inside the file (None: to its end). `texts` are what it says or
    what people said of it, the first one first: words, captions. `labels` are other known facts about
    it (category, number, concept) that a target, a split or a metric may name. Clips of one `block`
    share context, so a block never crosses a split. An `event` has neither file nor text, only labels.
    """

    uid: str
    kind: Kind
    path: str | None = None
    texts: tuple[str, ...] = ()
    start: float = 0.0
    duration: float | None = None
    block: str | None = None
    labels: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.texts, str):
            raise TypeError(f"texts are a tuple of texts, got {self.texts!r}")

    @property
    def text(self) -> str:
        """The first of its texts; "" where there is none."""
        return self.texts[0] if self.texts else ""

    def digests(self) -> dict[Reads, str]:
        """Hash of each part of the content, whatever the stimulus is called."""
        parts: dict[Reads, Any] = {
            "file": (self._file(), self.start, self.duration),
            "text": self.texts,
            "labels": sorted(self.labels.items()),
        }
        return {k: hashlib.sha256(repr(v).encode()).hexdigest()[:20] for k, v in parts.items()}

    def digest(self, reads: Iterable[Reads] = PARTS) -> str:
        """Hash of the content that `reads` names, so that equal stimuli share features."""
        return joint_digest(self.digests(), reads)

    def _file(self) -> str | None:
        if self.path is None:
            return None
        try:
            return identity(self.path)
        except OSError as e:
            raise InputError(
                f"stimulus {self.uid!r}: expected a readable file at {self.path}, got "
                f"{e.strerror or e}; put the file there or correct the events that name it"
            ) from e

    def look(self) -> Seen:
        """What its file holds, read to the end of the clip; InputError where that cannot be done."""
        if self.path is None or self.kind not in MEDIA:
            return Seen()
        with about(f"stimulus {self.uid!r}"):
            return MEDIA[self.kind].look(self.path, self.start, self.duration)

    def read(self) -> Media:
        """The thing itself, read from its file."""
        with about(f"stimulus {self.uid!r}"):
            if self.path is None or self.kind not in MEDIA:
                raise refusal(
                    self.kind, "a file to read", "none", "choose what reads its texts or labels"
                )
            return Media(self.kind, *MEDIA[self.kind].read(self.path, self.start, self.duration))

    @property
    def has_content(self) -> bool:
        """Whether anything was shown or played; an event only happens."""
        return self.kind != "event"

    @property
    def can_be_seen(self) -> bool:
        """Whether a page can show or play it; words are told."""
        return self.path is not None and self.kind in MEDIA and self.kind != "text"

    def is_there_as(self, kind: Kind) -> bool:
        """Whether it can be had as a thing of a kind: itself, or the first of its texts."""
        return bool(self.text) if kind == "text" else self.kind == kind and self.path is not None

    def read_as(self, kind: Kind) -> Media:
        """It as a thing of a kind that it is there as."""
        return Media("text", self.text) if kind == "text" and self.text else self.read()


def joint_digest(parts: Mapping[Reads, str], reads: Iterable[Reads]) -> str:
    """One hash of the parts of a stimulus that `reads` names, see `Stimulus.digests`."""
    text = " ".join(parts[name] for name in PARTS if name in set(reads))
    return hashlib.sha256(text.encode()).hexdigest()[:20]


@dataclass(frozen=True, slots=True, eq=False)
class Media:
    """Something made or shown: an image (3, h, w) in [0, 1], audio (channel, sample) in [-1, 1],
    video (frame, 3, h, w) in [0, 1], mesh (point, 3 or 6), the last three colours in [0, 1], or text;
    `rate` is samples or frames per second. Raises ValueError for anything else (`decode.media`).
    """

    kind: Kind
    data: Tensor | str
    rate: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in MEDIA:
            raise ValueError(f"something made is of a kind out of {list(MEDIA)}, got {self.kind!r}")
        MEDIA[self.kind].check(self.data, self.rate)

    def write(self, path: Path) -> None:
        """Write it to a file of the kind's own format, whatever the file is called."""
        MEDIA[self.kind].write(path, self.data, self.rate)

    def view(self, label: str = "") -> str:
        """It as HTML that needs no other file; `label` says what it is where it cannot be seen."""
        return MEDIA[self.kind].view(self.data, self.rate, label)


# What windows show that were cut wherever the recording goes on, whatever happened there.
NOTHING = Stimulus("(nothing)", "event")


def with_nothing(known: Mapping[str, Stimulus]) -> Mapping[str, Stimulus]:
    """The stimuli of a data set, and NOTHING."""
    return ChainMap({NOTHING.uid: NOTHING}, known)  # type: ignore[arg-type]

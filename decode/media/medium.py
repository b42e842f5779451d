"""The kinds of things that are shown and made, and the one place that asks which of them a thing is.

Each kind is a module of this folder; an `event` has no content that could be read or made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from decode.media import audio, image, mesh, text, video
from decode.media.seen import Seen as Seen

if TYPE_CHECKING:
    from torch import Tensor

Kind = Literal["image", "text", "audio", "video", "mesh", "event"]
Data: TypeAlias = "Tensor | str"
# A thing and its samples or frames per second, where it has any.
Thing: TypeAlias = tuple[Any, float | None]


class Medium(Protocol):
    """One kind of thing. Paths name files, or pictures in a row of an HDF5 file (`decode.content`);
    what cannot be read is refused with an InputError that says why.
    """

    @property
    def ENDING(self) -> str:
        """Of the files that are written."""
        ...

    @property
    def SUFFIXES(self) -> tuple[str, ...]:
        """Endings, without the dot, of the files that are read."""
        ...

    @property
    def check(self) -> Callable[[Any, float | None], None]:
        """(data, rate): ValueError unless the shape, the range and the rate are those of the kind."""
        ...

    @property
    def glance(self) -> Callable[[str], None]:
        """(path): refuse a file whose head is of another kind; quick, what follows is not read."""
        ...

    @property
    def read(self) -> Callable[[str, float, float | None], Thing]:
        """(path, start, duration): the clip of a file, in seconds; None is to its end."""
        ...

    @property
    def look(self) -> Callable[[str, float, float | None], Seen]:
        """(path, start, duration): what there is to know of a clip before it is used."""
        ...

    @property
    def write(self) -> Callable[[Path, Any, float | None], None]:
        """(path, data, rate): write it in the kind's own format, whatever the path ends in."""
        ...

    @property
    def view(self) -> Callable[[Any, float | None, str], str]:
        """(data, rate, label): HTML that shows or plays it and needs no other file."""
        ...

    @property
    def mean(self) -> Callable[[Iterable[Thing]], Thing] | None:
        """The mean of several, where that is a thing of the same kind; None where it is not."""
        ...


MEDIA: Mapping[Kind, Medium] = {
    "image": image,
    "text": text,
    "audio": audio,
    "video": video,
    "mesh": mesh,
}
KINDS: tuple[Kind, ...] = ("image", "text", "audio", "video", "mesh")
# Kinds whose stimuli need no file: what they are stands in the events.
NO_FILE: frozenset[Kind] = frozenset({"text", "event"})
SUFFIXES: Mapping[str, Kind] = {s: k for k in KINDS for s in MEDIA[k].SUFFIXES}


def words_of(kind: Kind, source: str | Path) -> tuple[str, ...]:
    """The words of a text, in a file or as they are given; none of anything else."""
    if kind != "text":
        return ()
    words = text.read(str(source))[0] if isinstance(source, Path) else source
    return (words.strip(),)


def kind_of(path: str | Path) -> Kind | None:
    """The kind of the things that files with this ending hold; None where it says none."""
    return SUFFIXES.get(Path(path).suffix.lower().lstrip("."))

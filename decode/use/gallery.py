"""Among what a prediction is looked for: classes, stimuli that were shown, pictures or words in a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import normalize

from decode.content import identity
from decode.core import InputError, SeriesTarget, Stimulus, refusal
from decode.media.medium import NO_FILE, kind_of
from decode.report.classes import class_names
from decode.store import Frame
from decode.use.decoder import Decoder


@dataclass(frozen=True, slots=True, eq=False)
class Gallery:
    """`names` of the entries, `vectors` (entry, *shape) as the decoder predicts them, and the `stimuli`
    behind them, none for classes.
    """

    target: str
    names: tuple[str, ...]
    vectors: Tensor
    stimuli: tuple[Stimulus, ...] = ()

    @property
    def of_classes(self) -> bool:
        return not self.stimuli


def ranked_target(decoder: Decoder, asked: str | None) -> str:
    """The target by which entries are ranked: the one asked for, "retrieval" or the first."""
    names = list(decoder.shapes)
    if asked is not None and asked not in names:
        raise refusal("target", f"one of {names}", repr(asked), "name one of the decoder's targets")
    return asked or ("retrieval" if "retrieval" in names else names[0])


def classes_of(decoder: Decoder, target: str) -> Gallery | None:
    """The classes of a target that has some."""
    node, shape = decoder.nodes["targets"][target], decoder.shapes[target]
    if len(shape) != 1 or not isinstance(node.get("classes"), list):
        return None
    return Gallery(target, tuple(class_names(node, shape[0])), torch.eye(shape[0]))


def runs_in_time(decoder: Decoder, target: str) -> bool:
    """Whether a target is cut per window out of a continuous stimulus, so that no entry has one vector."""
    return isinstance(decoder.target(target), SeriesTarget)


def gallery_of(decoder: Decoder, target: str, stimuli: Sequence[Stimulus]) -> Gallery:
    """Entries with the given content; raises InputError for a kind that the target does not take."""
    if runs_in_time(decoder, target):
        raise refusal(
            "target", "one with a vector for each stimulus", f"{target}, which runs in time",
            "rank by another target, or set gallery=none",
        )  # fmt: skip
    wrong = [s for s in stimuli if s.kind not in decoder.target(target).accepts]
    if not stimuli or wrong:
        raise refusal(
            "gallery", f"stimuli that target {target!r} takes",
            f"{wrong[0].uid!r} of kind {wrong[0].kind}" if wrong else "none",
            "give a folder of such files, or rank by another target",
        )  # fmt: skip
    vectors = decoder.embed(target, decoder.target(target)(list(stimuli)).float())
    return Gallery(target, tuple(s.uid for s in stimuli), vectors, tuple(stimuli))


def stimuli_in(place: str | Path) -> list[Stimulus]:
    """Every file with a known ending in a folder, or every line of a .txt file, by name."""
    path = Path(place).expanduser()
    if path.is_file() and path.suffix.lower() == ".txt":
        lines = dict.fromkeys(path.read_text(encoding="utf-8").splitlines())
        return [Stimulus(line, "text", texts=(line,)) for line in lines if line.strip()]
    if not path.is_dir():
        raise refusal(
            "gallery", "shown, run, none, a folder of stimuli or a .txt file with one on each line",
            repr(str(place)), "correct it",
        )  # fmt: skip
    found = [(p, kind_of(p)) for p in sorted(path.rglob("*"))]
    return [
        Stimulus(p.relative_to(path).as_posix(), kind, path=str(p))
        for p, kind in found
        if kind is not None and kind not in NO_FILE and p.is_file()
    ]


def rank(frame: Frame, gallery: Gallery, top_k: int) -> tuple[pd.DataFrame, np.ndarray]:
    """The `top_k` entries of each row (row, rank, item, similarity), and all similarities (row, entry).

    Similarity is the cosine; of classes, the predicted value of each.
    """
    predicted = torch.from_numpy(np.array(frame.arrays[gallery.target])).flatten(1).double()
    vectors = gallery.vectors.flatten(1).double()
    if not gallery.of_classes:
        predicted, vectors = normalize(predicted, dim=1), normalize(vectors, dim=1)
    similar = (predicted @ vectors.T).numpy()
    order = np.argsort(-similar, axis=1, kind="stable")[:, :top_k]
    rows, ranks = np.indices(order.shape)
    table = pd.DataFrame(
        {
            "row": rows.ravel(),
            "rank": ranks.ravel() + 1,
            "item": [gallery.names[i] for i in order.ravel()],
            "similarity": np.take_along_axis(similar, order, 1).ravel(),
        }
    )
    return table, similar


def found_at(
    decoder: Decoder,
    gallery: Gallery,
    similar: np.ndarray,
    uids: Sequence[str],
    known: Mapping[str, Stimulus],
) -> np.ndarray:
    """(row,) at which rank the stimulus of each row stands: 1 for the most similar, entries as similar
    sharing their ranks; nan where it is not known or not in the gallery.
    """
    place = _places(decoder, gallery, [known[u] for u in dict.fromkeys(uids) if u in known])
    found = np.full(len(uids), np.nan)
    for row, uid in enumerate(uids):
        if uid in place:
            own = similar[row, place[uid]]
            better, alike = (similar[row] > own).sum(), (similar[row] == own).sum()
            found[row] = better + (alike + 1) / 2
    return found


def _places(decoder: Decoder, gallery: Gallery, shown: Sequence[Stimulus]) -> dict[str, int]:
    """Which entry each shown stimulus is: by its class, or by its content."""
    if gallery.of_classes:
        target, places = decoder.target(gallery.target), {}
        for stimulus in shown:
            try:
                places[stimulus.uid] = int(target([stimulus])[0].argmax())
            except InputError:  # a stimulus without that label has no class
                continue
        return places
    entry = {content(s): i for i, s in reversed(list(enumerate(gallery.stimuli)))}
    return {s.uid: entry[content(s)] for s in shown if content(s) in entry}


def content(stimulus: Stimulus) -> str:
    """What tells a stimulus from others, whatever it is called: its file, else its text, else its name."""
    if stimulus.path is None:
        return f"said {stimulus.text or stimulus.uid}"
    part = f"{stimulus.start} {stimulus.duration}"
    return f"{identity(stimulus.path)} {part}"

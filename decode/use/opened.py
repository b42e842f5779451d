"""A finished run in a researcher's words: read it, compare it, use its decoder; read when asked for."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd

from decode.artefacts.folds import fold_folder
from decode.artefacts.media import read_media
from decode.artefacts.places import folder_of, place_of, truth_of
from decode.artefacts.predictions import pooled
from decode.building import build
from decode.core import Dataset, Media, Stimulus, refusal
from decode.linear.encoding import BRAIN
from decode.runs import check_current, newest_run, recorded_run
from decode.scoring.compare import compare
from decode.scoring.summary import read_summary
from decode.sources import DECODER, MADE, ORACLE
from decode.splitting import TEST
from decode.store import read_json, read_table
from decode.trainable import predicts_brain
from decode.use.apply import Applied, Asked, apply
from decode.use.decoder import Decoder
from decode.use.trained import chosen_fold, decoder_of
from decode.workshop import Run


def open_run(folder: str | Path | None = None, *, packages: Sequence[str] = ()) -> OpenedRun:
    """The run whose folder the command printed, or the newest one in a folder of outputs (./outputs).

    A run is data: plug-ins of `packages`, and of those listed in DECODE_PACKAGES, are built, others that
    do not come with this package are refused. Raises InputError for a folder that holds no run.
    """
    path = Path("outputs" if folder is None else folder)
    if folder is None or (path / "report").is_dir():
        path = newest_run(path)
    run = recorded_run(path, packages=packages)
    check_current(path)
    return OpenedRun(path, run, tuple(packages))


@dataclass(frozen=True, eq=False)
class UsableDecoder:
    """A decoder that reads new recordings; `own` gives the stimuli that its run was tested on, and
    `dataset` the recordings of its run, where they are at hand.
    """

    decoder: Decoder
    own: Callable[[], Sequence[Stimulus]] = tuple
    dataset: Callable[[], Dataset] | None = None

    @property
    def subjects(self) -> tuple[str, ...]:
        """Whom it was trained on."""
        return self.decoder.known

    @property
    def targets(self) -> dict[str, tuple[int, ...]]:
        """What it predicts, and the shape of each."""
        return dict(self.decoder.shapes)

    @property
    def facts(self) -> dict[str, Any]:
        """Where it comes from: key, split, fold, hash of the split."""
        return dict(self.decoder.facts)

    def apply(self, data: Dataset | Mapping[str, Any] | None = None, **asked: Any) -> Applied:
        """Read new recordings: a data set, or the node of one as it stands in a config (None: those of
        the run itself). `asked` are the fields of `decode.use.apply.Asked`.
        """
        with tempfile.TemporaryDirectory(prefix="decode-") as work:
            return apply(
                self.decoder, self.recordings(data), Path(work), Asked(**asked), own=self.own
            )

    def recordings(self, data: Dataset | Mapping[str, Any] | None) -> Dataset:
        """The data set that is meant; None is that of the run itself, if it is at hand."""
        if data is None and self.dataset is None:
            raise refusal("data", "a data set", "none", "name the recordings to read")
        if data is None:
            assert self.dataset is not None
            return self.dataset()
        made: Dataset = build(data, "data") if isinstance(data, Mapping) else data
        return made


@dataclass(frozen=True, eq=False)
class OpenedRun:
    """A finished run. `trial` counts the rows of `trials()`, from 0; `source` is "decoder", a baseline or
    a control; `split` may be left out where the run has one.
    """

    folder: Path
    run: Run = field(repr=False)
    packages: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return str(self.run.config["name"])

    @property
    def config(self) -> dict[str, Any]:
        """The composed config that it was made with."""
        return self.run.config

    @property
    def simulated(self) -> bool:
        """Whether its recordings were made by a simulation."""
        return self.run.dataset.facts.simulated

    @property
    def targets(self) -> list[str]:
        """Names of what was predicted: of targets, or "brain"."""
        if predicts_brain(build(self.config["encoder"], "encoder")):
            return [BRAIN]
        return list(self.run.inputs.features)

    @property
    def splits(self) -> list[str]:
        """Names of the splits that it was tested on."""
        return list(dict.fromkeys(split for split, _ in self.run.inputs.folds()))

    def scores(self, **only: Any) -> pd.DataFrame:
        """A row per metric, subject and trial; `only` keeps rows with these values, metric="ssim"."""
        return _only(read_table(self.folder / "scores.parquet"), only)

    def summary(self, **only: Any) -> pd.DataFrame:
        """A row per metric and subject: value, chance, 95 % interval; `only` as of `scores`."""
        return _only(pd.DataFrame(read_summary(self.folder)), only)

    def trials(self, split: str | None = None) -> pd.DataFrame:
        """The tested trials, in the order of predictions and scores."""
        return pooled(self._place("predict"), self._split(split), ()).table

    def shown(self, trial: int, split: str | None = None) -> Media:
        """What was shown in a trial; raises InputError where nothing can be looked at."""
        uid = self.trials(split)["stimulus"].iloc[trial]
        return as_media(self.stimuli[uid])

    def predicted(
        self, target: str | None = None, *, source: str = "decoder", split: str | None = None
    ) -> np.ndarray:
        """(trial, *shape): what was predicted of a target, of the only one or the first."""
        known = {s.name: s for s in self.run.encoders}
        if source not in known:
            raise refusal("source", f"one of {list(known)}", repr(source), "correct it")
        return self._array(place_of(known[source]), target, split)

    def truth(self, target: str | None = None, *, split: str | None = None) -> np.ndarray:
        """(trial, *shape): what should have been predicted."""
        return self._array(truth_of(), target, split)

    def reconstructed(
        self, trial: int, *, source: str = "decoder", split: str | None = None
    ) -> Media:
        """What was made of the prediction of a trial, or shows in a control."""
        table = self.trials(split)
        row, fold = table.iloc[trial], table["fold"]
        number = int((fold.iloc[:trial] == row["fold"]).sum())
        place = fold_folder(self._place("reconstruct"), row["split"], int(row["fold"]))
        folders = {s.name: folder_of(place, s) for s in (*self.run.encoders, *MADE, ORACLE)}
        there = {name: folder for name, folder in folders.items() if folder.is_dir()}
        if source not in there:
            raise refusal("source", f"one of {list(there)}", repr(source), "correct it")
        return read_media(there[source], number + 1)[number]

    def decoder(self, split: str | None = None, fold: int | None = None) -> UsableDecoder:
        """The decoder of a fold, by default the first, to read new recordings with."""
        split, fold = chosen_fold(self.run, split, fold)
        uids = self.run.inputs.part(split, fold, TEST).table["stimulus"].unique()
        return UsableDecoder(
            decoder_of(self.run, split, fold),
            own=lambda: [self.stimuli[u] for u in uids],
            dataset=lambda: self.run.whole_dataset,
        )

    def apply(self, data: Dataset | Mapping[str, Any] | None = None, **asked: Any) -> Applied:
        """Read new recordings with its first decoder, see `UsableDecoder.apply`."""
        return self.decoder().apply(data, **asked)

    def compare(self, other: OpenedRun) -> pd.DataFrame:
        """This run minus another on the items that both were tested on: a row per metric and split with
        95 % interval, p and p corrected for the number of metrics. Raises InputError where no split is
        the same in both.
        """
        hashes = [read_json(r.folder / "split.json")["hashes"] for r in (self, other)]
        same = [name for name, h in hashes[0].items() if hashes[1].get(name) == h]
        if not same:
            raise refusal(
                other.folder, f"a split of {self.folder.name} ({', '.join(hashes[0])})",
                f"other ones ({', '.join(hashes[1])})", "compare runs on the same split",
            )  # fmt: skip
        every = (r.scores(source=DECODER.name) for r in (self, other))
        mine, theirs = (table[table["split"].isin(same)] for table in every)
        return pd.DataFrame([asdict(d) for d in compare(mine, theirs)])

    @cached_property
    def stimuli(self) -> Mapping[str, Stimulus]:
        """What was shown, by uid."""
        return self.run.dataset.stimuli()

    def _array(self, folder: str, target: str | None, split: str | None) -> np.ndarray:
        """(trial, *shape): what lies under a target's name in a folder of the predictions."""
        name = target or self.targets[0]
        array = (PurePosixPath(folder) / name).as_posix()
        found = pooled(self._place("predict"), self._split(split), (array,)).arrays
        if array not in found:
            raise refusal("target", f"one of {self.targets}", repr(name), "correct it")
        return found[array]

    def _split(self, split: str | None) -> str:
        return chosen_fold(self.run, split, None)[0]

    def _place(self, stage: str) -> Path:
        folder = self.run.folder(stage)
        if folder is None:
            raise refusal(self.folder, f"a run with {stage}", "none", "choose one that has")
        return folder


def _only(table: pd.DataFrame, only: Mapping[str, Any]) -> pd.DataFrame:
    for column, value in only.items():
        if column not in table:
            raise refusal("column", f"one of {list(table)}", repr(column), "correct it")
        table = table[table[column] == value]
    return table.reset_index(drop=True)


def as_media(stimulus: Stimulus) -> Media:
    """What is behind a stimulus, to be looked at."""
    if stimulus.can_be_seen:
        return stimulus.read()
    if stimulus.text:
        return stimulus.read_as("text")
    raise refusal(
        f"stimulus {stimulus.uid}", "a file or a text", stimulus.kind, "look at its labels"
    )

"""A decoder on new recordings: predictions, what they are most similar to, and media made of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from decode.artefacts.media import write_media
from decode.building import build
from decode.core import Dataset, Media, Stimulus
from decode.events import events_of, trial_keys
from decode.notices import collected, tell
from decode.stages.reconstruct import CHUNK, seed_of
from decode.store import Frame, write_json, write_table
from decode.use.decoder import Decoder
from decode.use.fits import REFUSED, Fit
from decode.use.gallery import (
    Gallery,
    classes_of,
    found_at,
    gallery_of,
    rank,
    ranked_target,
    runs_in_time,
    stimuli_in,
)
from decode.use.recordings import read_new

SHOWN, OWN, NONE = "shown", "run", "none"


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """What is wanted of a decoder. `subjects` and `trials` (a condition on the columns of the trials)
    choose, `known_as` maps new subjects to those of the run, `repeats` is "single", "before" or "after"
    (None: as the run has it), `preprocess` a node in place of the run's. Predictions of `target` are
    ranked against `gallery`: "shown" (what is known of the new trials), "run" (the run's own test
    stimuli), "none", a folder or a .txt file; None is the classes of the target, else "shown".
    """

    subjects: Sequence[str] | None = None
    known_as: Mapping[str, str] = field(default_factory=dict)
    trials: str | None = None
    repeats: str | None = None
    preprocess: Mapping[str, Any] | None = None
    scale_within: float | None = REFUSED
    target: str | None = None
    gallery: str | None = None
    top_k: int = 5
    generate: bool = True
    seed: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Applied:
    """What a decoder made of new recordings: `trials` with a row per prediction, `predicted` by target
    (row, *shape), `matches` (row, rank, item, similarity) and `media`, None where nothing is ranked or
    made. `fits` and `told` say how the recordings fit. Rows whose stimulus is in the gallery have its
    rank in the column `found_at`.
    """

    decoder: Decoder
    trials: pd.DataFrame
    predicted: Mapping[str, np.ndarray]
    fits: Sequence[Fit]
    told: Sequence[str]
    shown: Sequence[Stimulus | None]
    gallery: Gallery | None = None
    matches: pd.DataFrame | None = None
    media: Sequence[Media] | None = None
    top_k: int = 5

    def scores(self) -> pd.DataFrame:
        """How often the stimulus stood first, and among the first `top_k`, beside chance; no rows where
        no stimulus of a gallery was known.
        """
        found = self.trials["found_at"].dropna() if "found_at" in self.trials else pd.Series()
        if not len(found) or self.gallery is None:
            return pd.DataFrame(columns=["score", "n", "value", "chance"])
        size = len(self.gallery.names)
        rows = [
            {"score": f"top{k}", "n": len(found), "value": (found <= k).mean(), "chance": k / size}
            for k in dict.fromkeys((1, self.top_k))
            if k < size
        ]
        return pd.DataFrame(rows)

    def write(self, folder: Path) -> None:
        """trials.parquet, an array per target, matches.parquet, media/ and fits.json."""
        Frame(self.trials, self.predicted).write(folder / "predicted")
        if self.matches is not None:
            write_table(folder / "matches.parquet", self.matches)
        if self.media is not None:
            (folder / "media").mkdir(exist_ok=True)
            for row, media in enumerate(self.media):
                write_media(folder / "media", row, media)
        fits = [{"subject": f.subject, "what": f.what, "said": f.said} for f in self.fits]
        write_json(folder / "fits.json", {"fits": fits, "decoder": dict(self.decoder.facts)})


def apply(
    decoder: Decoder,
    dataset: Dataset,
    work: Path,
    asked: Asked,
    *,
    own: Callable[[], Sequence[Stimulus]] = tuple,
) -> Applied:
    """Read new recordings with a decoder; `work` is an empty folder for what is preprocessed, `own` gives
    the run's test stimuli, for the gallery of that name.

    Nothing is fitted to the new recordings, unless `protocol.unseen_scaling: own` of the run says so.
    """
    with collected() as told:
        step = build(asked.preprocess or decoder.nodes["preprocess"], "preprocess")
        new = read_new(
            decoder,
            dataset,
            work,
            step=step,
            subjects=asked.subjects,
            known_as=asked.known_as,
            trials=asked.trials,
            scale_within=asked.scale_within,
        )
        _tell_limits(decoder)
        frame = decoder.predict(new.trials, repeats=asked.repeats)
        uids = frame.table["stimulus"].tolist()
        shown = [new.stimuli.get(u) for u in uids]
        gallery = _gallery(decoder, asked, new.stimuli, uids, own)
        table, matches = frame.table, None
        if gallery is not None:
            matches, similar = rank(frame, gallery, asked.top_k)
            names, known = uids, new.stimuli
            if "trial" in decoder.target(gallery.target).reads:
                names, known = trial_keys(table), events_of(table)
            table = table.assign(found_at=found_at(decoder, gallery, similar, names, known))
        media = _generate(decoder, frame, shown, asked) if asked.generate else None
    return Applied(
        decoder, table, frame.arrays, new.fits, told, shown, gallery, matches, media, asked.top_k
    )


def _tell_limits(decoder: Decoder) -> None:
    if decoder.facts.get("folds", 1) > 1:
        split, fold = decoder.facts["split"], decoder.facts["fold"]
        tell(
            "decoder",
            f"fold {fold} of the {decoder.facts['folds']} of split {split} is used; fold=N takes another",
        )
    if decoder.protocol.rescale == "transductive":
        tell(
            "protocol.rescale",
            "the run gave its predictions the statistics of a whole test set, which is not done to new ones",
        )


def _gallery(
    decoder: Decoder,
    asked: Asked,
    known: Mapping[str, Stimulus],
    uids: Sequence[str],
    own: Callable[[], Sequence[Stimulus]],
) -> Gallery | None:
    target = ranked_target(decoder, asked.target)
    if asked.gallery == NONE:
        return None
    classes = classes_of(decoder, target)
    if asked.gallery is None and classes is not None:
        return classes
    if asked.gallery == OWN:
        return gallery_of(decoder, target, own())
    if asked.gallery not in (None, SHOWN):
        return gallery_of(decoder, target, stimuli_in(str(asked.gallery)))
    if asked.gallery is None and runs_in_time(decoder, target):
        tell("gallery", f"target {target} runs in time, so nothing is ranked")
        return None
    takes = decoder.target(target).accepts
    there = [known[u] for u in dict.fromkeys(uids) if u in known and known[u].kind in takes]
    if asked.gallery is None and not there:
        tell("gallery", "no stimulus is known, so nothing is ranked; gallery=FOLDER names pictures")
        return None
    return gallery_of(decoder, target, there)


def _generate(
    decoder: Decoder, frame: Frame, shown: Sequence[Stimulus | None], asked: Asked
) -> list[Media] | None:
    """One Media per row, made as the run makes them; None where the decoder has no generator."""
    generator = decoder.generator
    if generator is None:
        return None
    seed = decoder.nodes["seed"] if asked.seed is None else asked.seed
    seeds = [seed_of(seed, uid) for uid in frame.table["stimulus"]]
    predicted = {name: torch.from_numpy(np.array(v)) for name, v in frame.arrays.items()}
    known = [s for s in shown if s is not None]
    if generator.asks and len(known) < len(shown):
        tell("generator", "it answers questions about stimuli that are known; here they are not")
        return None
    made: list[Media] = []
    for first in range(0, len(seeds), CHUNK):
        rows = slice(first, first + CHUNK)
        part = {name: values[rows] for name, values in predicted.items()}
        if generator.asks:
            made += generator.replies(part, [generator.asked_of(s) for s in known[rows]])
        else:
            made += generator(part, seeds=seeds[rows])
    return made

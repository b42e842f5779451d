"""What the plug-ins for real recordings say about themselves, recomputed from the files."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from chains import meeg

from decode.core import InputError
from decode.data.feis import Feis
from decode.data.feis import passes as feis_passes
from decode.data.haxby2001 import CATEGORIES, Haxby2001, read_blocks
from decode.data.p300_speller import P300Speller, characters, onsets
from decode.preprocessing.bold import single_trial_betas

PLUGINS = {"haxby2001": Haxby2001, "p300_speller": P300Speller, "feis": Feis}


@pytest.mark.data
@pytest.mark.parametrize("name", PLUGINS)
def test_facts_are_what_the_files_hold(name: str, data_root: Path) -> None:
    data = PLUGINS[name](str(data_root / name))
    facts, stimuli = data.facts, data.stimuli()
    assert (facts.n_subjects, facts.n_stimuli) == (len(data.subjects), len(stimuli))
    n_trials, shown = 0, set()
    for subject in data.subjects:
        runs = set()
        for recording in data.recordings(subject):
            assert (recording.subject, recording.modality) == (subject, facts.modality)
            assert recording.sfreq == pytest.approx(facts.sfreq)
            assert recording.signal.dtype == np.float32
            assert np.isfinite(recording.signal).all()
            assert recording.signal.shape[1] == len(recording.channels) == facts.n_channels
            length = len(recording.signal) / recording.sfreq
            ends = recording.events["onset"] + recording.events["duration"]
            assert recording.events["onset"].min() >= 0
            assert ends.max() <= length
            n_trials += len(recording.events)
            shown |= set(recording.events["stimulus"])
            runs.add((recording.session, recording.run))
        assert len(runs) >= 5
        assert data.truth(subject) is None
    assert n_trials == facts.n_trials
    assert shown == set(stimuli)
    assert all(uid == s.uid and s.labels for uid, s in stimuli.items())


@pytest.mark.data
def test_haxby_has_every_category_once_per_run_in_percent(data_root: Path) -> None:
    for recording in Haxby2001(str(data_root / "haxby2001")).recordings("sub001"):
        assert sorted(recording.events["category"]) == sorted(CATEGORIES)
        assert (recording.events["duration"] == 22.5).all()
        assert np.abs(recording.signal.mean(axis=0)).max() < 1e-3
        assert 0.5 < recording.signal.std(axis=0).mean() < 3
        assert np.ptp(recording.channels["x"]) < 0.2  # a head in metres


@pytest.mark.data
def test_haxby_whole_brain_uses_a_mask(data_root: Path) -> None:
    data = Haxby2001(
        str(data_root / "haxby2001"), image="bold_25mm", mask="masks/25mm/brain.nii.gz"
    )
    assert next(data.recordings("sub001")).signal.shape == (121, 129)


@pytest.mark.data
def test_haxby_blocks_tell_categories_apart_across_runs(data_root: Path) -> None:
    """Nearest class mean of betas with a wide margin over chance (.125), runs left out."""
    data = Haxby2001(str(data_root / "haxby2001"))
    betas, labels = [], []
    for recording in data.recordings("sub001"):
        done = single_trial_betas(recording, method="lsa", high_pass=0.002)
        betas.append(done.signal - done.signal.mean(axis=0))
        labels.append(done.table["category"].to_numpy(str))
    hits = []
    for out in range(len(betas)):
        train = np.concatenate([b for i, b in enumerate(betas) if i != out])
        names = np.concatenate([x for i, x in enumerate(labels) if i != out])
        means = np.stack([train[names == c].mean(axis=0) for c in CATEGORIES])
        means /= np.linalg.norm(means, axis=1, keepdims=True)
        best = (betas[out] @ means.T).argmax(axis=1)
        hits += (np.array(CATEGORIES)[best] == labels[out]).tolist()
    assert np.mean(hits) > 0.4


@pytest.mark.data
def test_p300_is_in_volts_and_targets_evoke_another_potential(data_root: Path) -> None:
    data = P300Speller(str(data_root / "p300_speller"))
    for subject in data.subjects:
        effect = []
        for recording in data.recordings(subject):
            assert recording.events["class"].value_counts().to_dict() == {
                "nontarget": 210,
                "target": 30,
            }
            assert 1e-6 < recording.signal.std() < 1e-4
            done = meeg(
                recording, l_freq=0.5, h_freq=20.0, sfreq=None, window=(0.0, 0.8), baseline=None
            )
            rows = done.table["start"].to_numpy()[:, None] + np.arange(done.layout.n_times)
            windows = done.signal[rows]
            target = (done.table["class"] == "target").to_numpy()
            effect.append((windows[target].mean(axis=0) - windows[~target].mean(axis=0)).ravel())
        # The difference wave of one character looks like that of the others.
        alike = np.corrcoef(effect)[np.triu_indices(len(effect), 1)]
        assert alike.mean() > 0.2


@pytest.mark.data
def test_feis_passes_are_balanced_and_volts(data_root: Path) -> None:
    data = Feis(str(data_root / "feis"))
    for recording in data.recordings("01"):
        assert recording.events["phoneme"].nunique() == len(recording.events) == 16
        assert 1e-6 < recording.signal.std() < 1e-3
        assert np.isfinite(recording.channels[["x", "y", "z"]].to_numpy(float)).all()


@pytest.fixture
def copy(data_root: Path, tmp_path: Path) -> Callable[[str], Path]:
    def make(relative: str) -> Path:
        """A copy of one real file below tmp_path, writable."""
        target = tmp_path / relative
        target.parent.mkdir(parents=True)
        shutil.copyfile(data_root / relative, target)
        return target

    return make


def refuse(path: Path, call: Callable[[], Any]) -> None:
    with pytest.raises(InputError) as e:
        call()
    assert path.name in str(e.value)
    assert "\n" not in str(e.value)


@pytest.mark.data
@pytest.mark.parametrize("keep", [0, 100, 100_000])
def test_truncated_files_are_named(copy: Callable[[str], Path], keep: int) -> None:
    mat = copy("p300_speller/S1.mat")
    mat.write_bytes(mat.read_bytes()[:keep])
    refuse(mat, lambda: list(P300Speller(str(mat.parent)).recordings("S1")))
    archive = copy("feis/01/articulators.zip")
    archive.write_bytes(archive.read_bytes()[:keep])
    refuse(archive, lambda: list(Feis(str(archive.parents[1])).recordings("01")))
    run = "haxby2001/sub001/BOLD/task001_run001"
    image = copy(f"{run}/bold_1slice.nii.gz")
    image.write_bytes(image.read_bytes()[:keep])
    root = str(image.parents[3])
    refuse(image, lambda: list(Haxby2001(root).recordings("sub001")))


@pytest.mark.data
def test_a_csv_that_ends_too_early_is_named(copy: Callable[[str], Path]) -> None:
    archive = copy("feis/02/articulators.zip")
    with zipfile.ZipFile(archive) as old:
        csv = old.read("articulators.csv")
    with zipfile.ZipFile(archive, "w") as new:
        new.writestr("articulators.csv", csv[: len(csv) * 2 // 3])
    refuse(archive, lambda: list(Feis(str(archive.parents[1])).recordings("02")))


@pytest.mark.parametrize("name", PLUGINS)
def test_a_missing_folder_names_the_key(name: str, tmp_path: Path) -> None:
    for root in (tmp_path / name, tmp_path):
        with pytest.raises(InputError, match=r"paths\.data") as e:
            PLUGINS[name](str(root))
        assert str(root) in str(e.value)


@pytest.mark.data
@pytest.mark.parametrize("name", PLUGINS)
def test_an_unknown_subject_is_told_the_known_ones(name: str, data_root: Path) -> None:
    data = PLUGINS[name](str(data_root / name))
    with pytest.raises(InputError, match=data.subjects[0]):
        next(data.recordings("nobody"))


def test_events_of_one_block_are_joined(tmp_path: Path) -> None:
    path = tmp_path / "bold_events.tsv"
    events = [(12.0, "face"), (14.0, "face"), (16.0, "face"), (36.0, "cat"), (38.0, "cat")]
    events += [(60.0, "cat"), (62.0, "cat")]
    table = pd.DataFrame(events, columns=["onset", "trial_type"]).assign(duration=0.5)
    table.to_csv(path, sep="\t", index=False)
    blocks = read_blocks(path)
    assert blocks["trial_type"].tolist() == ["face", "cat", "cat"]
    assert blocks["onset"].tolist() == [12.0, 36.0, 60.0]
    assert blocks["duration"].tolist() == [4.5, 2.5, 2.5]


def test_characters_are_cut_in_the_pauses() -> None:
    trigger = np.zeros(100, int)
    trigger[[10, 20, 70, 80]] = [1, -1, 1, 1]
    trigger[11] = 1  # a flash marked by two samples is one flash
    assert onsets(trigger).tolist() == [10, 20, 70, 80]
    assert characters(trigger, 10.0) == [(0, 45), (45, 100)]


def test_a_pass_ends_where_a_label_returns() -> None:
    assert feis_passes(["a", "b", "b", "a", "c"]) == [[0, 1], [2, 3, 4]]

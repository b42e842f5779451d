"""A decoder given away: the same predictions, and nothing of those who were recorded."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from test_apply import TESTED, Changed, MoreTones, finished, larger, tones, world
from test_encoders import FILES, WORLDS, Batches, batches, build, is_large, needs
from test_feature_inversion import SEEDS, folder, make, shown, wanted  # noqa: F401
from torch import Tensor
from worlds import config, sign_again

from decode import open_decoder
from decode.core import Batch, InputError, Stimulus
from decode.diffusion.sampler import of, within
from decode.encoders.ridge import Ridge
from decode.generators.nearest import Nearest
from decode.generators.pixels import PixelGenerator
from decode.generators.unclip import Unclip
from decode.store import read_json, read_tensors, write_tensors
from decode.trainable import held_by
from decode.use.card import PRIVATE
from decode.use.opened import OpenedRun
from decode.use.share import share


@pytest.fixture(scope="module")
def pixels(tmp_path_factory: pytest.TempPathFactory) -> OpenedRun:
    settings = config(tmp_path_factory.mktemp("pixels"), baselines={})
    settings["data"]["n"] = 24
    settings["trainer"]["epochs"] = 2
    settings["metrics"].pop("image")
    return finished(settings)


def ridge_run(place: Path, **knobs: object) -> OpenedRun:
    settings = config(place, baselines={}, objectives={}, metrics={})
    settings["data"]["n"] = 24
    settings["encoder"] = {"_target_": "decode.encoders.ridge.Ridge", "_partial_": True, **knobs}
    settings["metrics"] = {
        "retrieval": {"_target_": "decode.metrics.retrieval.Retrieval", "target": "pixels"}
    }
    settings["trainer"]["epochs"] = 0
    return finished(settings)


def rewrite(path: Path, value: object) -> None:
    """Write JSON in the order that it has."""
    path.write_text(json.dumps(value))


def standard(rows: np.ndarray) -> np.ndarray:
    """Rows with mean 0 and length 1, zero where they do not vary."""
    rows = rows.astype(np.float64) - rows.mean(1, keepdims=True)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(length > 1e-12, length, np.inf)


def copied(arrays: Iterator[np.ndarray], rows: np.ndarray) -> bool:
    """Whether some array holds one of `rows` (row, value), at any scale, along or across."""
    looked_for = standard(rows)
    for array in arrays:
        if array.ndim < 2 or not array.size:
            continue
        for lying in (array.reshape(len(array), -1), array.reshape(len(array), -1).T):
            if lying.shape[1] == rows.shape[1] and len(lying):
                likeness = standard(np.asarray(lying)) @ looked_for.T
                if np.abs(likeness).max() > 0.9999:
                    return True
    return False


def arrays_in(place: Path) -> Iterator[np.ndarray]:
    for file in place.rglob("*.safetensors"):
        yield from (value.float().numpy() for value in read_tensors(file).values())


def signals_of(run: OpenedRun, subject: str) -> list[np.ndarray]:
    """Trials of a subject as recorded, and as the encoder is given them."""
    trials = run.run.inputs.trials
    mine = np.flatnonzero((trials.table["subject"] == subject).to_numpy())
    raw = trials.brain(mine).reshape(len(mine), -1)
    decoder = run.decoder().decoder
    scaled = trials.scale(decoder.scaler, decoder.states).brain(mine).reshape(len(mine), -1)
    fitted = (trials.table["split"].iloc[mine] == "train").to_numpy()
    centred = [x - x[fitted].mean(0) for x in (raw, scaled)]
    return [raw, scaled, *centred]


@pytest.mark.slow
def test_a_shared_decoder_predicts_and_makes_the_same(pixels: OpenedRun, tmp_path: Path) -> None:
    place = share(pixels, tmp_path / "given")
    shared = open_decoder(place, packages=["worlds"])
    for data in (world(pixels), Changed(world(pixels), known=False)):
        mine, theirs = (d.apply(data, trials=TESTED) for d in (pixels, shared))
        assert np.array_equal(mine.predicted["pixels"], theirs.predicted["pixels"])
        assert mine.trials.equals(theirs.trials)
        assert mine.media is not None
        assert theirs.media is not None
        assert all(
            torch.equal(a.data, b.data) for a, b in zip(mine.media, theirs.media, strict=True)
        )  # type: ignore[arg-type]
    assert shared.facts == pixels.decoder().facts
    with pytest.raises(InputError, match="expected a signal about as large"):
        shared.apply(Changed(world(pixels), larger))
    with pytest.raises(InputError, match="expected a data set, got none"):
        shared.apply()


@pytest.mark.slow
def test_people_who_were_not_trained_on_are_scaled_the_same(tmp_path: Path) -> None:
    run = tones(tmp_path / "run", unseen="mean")
    shared = open_decoder(share(run, tmp_path / "given"))
    mine, theirs = run.apply(MoreTones()), shared.apply(MoreTones())
    assert list(mine.predicted) == ["tone", "again"]
    for target in mine.predicted:
        assert np.array_equal(mine.predicted[target], theirs.predicted[target])
    assert mine.fits == theirs.fits


@pytest.mark.slow
def test_nothing_of_participants_or_stimuli_is_given_away(
    pixels: OpenedRun, tmp_path: Path
) -> None:
    place = share(pixels, tmp_path / "given")
    names = {p.relative_to(place).as_posix() for p in place.rglob("*") if p.is_file()}
    assert names == {
        "README.md", "decoder.json", "encoder.safetensors", "generator/kept.safetensors",
        "manifest.json", "scaler.safetensors", "scores.json",
    }  # fmt: skip
    everything = " ".join(p.read_text(errors="replace") for p in place.rglob("*") if p.is_file())
    for uid in world(pixels).stimuli():
        assert f'"{uid}"' not in everything
    assert str(pixels.run.outputs) not in everything
    assert str(pixels.run.config["data"]["root"]) not in everything
    for subject in ("a", "b"):
        for rows in signals_of(pixels, subject):
            assert not copied(arrays_in(place), rows)
    for name in ("predicted", "truth"):
        rows = getattr(pixels, name)("pixels")
        assert not copied(arrays_in(place), rows.reshape(len(rows), -1))


@pytest.mark.slow
def test_weights_that_are_trials_are_given_away_only_when_asked_for(tmp_path: Path) -> None:
    """The dual form of a ridge keeps its training trials: the search that finds none elsewhere finds them."""
    run = ridge_run(tmp_path / "dual", form="dual")
    with pytest.raises(InputError, match=r"signals of single training trials.*include=\[signals\]"):
        share(run, tmp_path / "given")
    assert not (tmp_path / "given").exists()
    place = share(run, tmp_path / "given", include=["signals"])
    rows = signals_of(run, "a")[-1]
    assert copied(arrays_in(place), rows)
    assert PRIVATE not in (place / "README.md").read_text()
    plain = share(ridge_run(tmp_path / "plain"), tmp_path / "other")
    assert not copied(arrays_in(plain), rows)
    with pytest.raises(InputError, match="include: expected some of"):
        share(run, tmp_path / "third", include=["everything"])


def test_an_encoder_says_when_its_weights_are_trials() -> None:
    layouts, shapes = WORLDS["fmri"], {"image": (40,)}
    train = Batches(layouts, shapes=shapes)
    for form, held in (("weights", set()), ("dual", {"signals"})):
        encoder = Ridge(layouts, shapes, form=form)  # type: ignore[arg-type]
        encoder.initialise(train, [])
        assert held_by(encoder) == held
        assert finds(encoder, train.all()) == held


def finds(encoder: torch.nn.Module, batch: Batch) -> set[str]:
    """What of a batch of training rows lies in the weights of an encoder as it is."""
    found = set()
    values = [v.detach().float().numpy() for v in encoder.state_dict().values()]
    for number, layout in enumerate(WORLDS["fmri"].values()):
        mine = batch.subject == number
        brain = batch.brain[mine][:, : layout.n_channels].flatten(1).numpy()
        if any(copied(iter(values), rows) for rows in (brain, brain - brain.mean(0))):
            found.add("signals")
    for target in batch.targets.values():
        if target[0].numel() >= 20 and copied(iter(values), target.flatten(1).numpy()):
            found.add("stimuli")
    return found


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_every_encoder_says_what_of_its_training_lies_in_its_weights(file: Path) -> None:
    needs(file, "fmri")
    if is_large(file, "fmri"):
        pytest.skip("built without memory: the preset is for a GPU")
    encoder, train = build(file, "fmri"), batches(file, "fmri")
    with torch.no_grad():
        encoder.initialise(train, batches(file, "fmri", n=6, seed=1))
    assert finds(encoder, train.all()) <= held_by(encoder)


@pytest.mark.slow
def test_a_planted_command_is_not_run(
    pixels: OpenedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run: list[str] = []
    monkeypatch.setattr(os, "system", run.append)
    place = share(pixels, tmp_path / "given")
    told = read_json(place / "decoder.json")
    for key in ("encoder", "generator", "preprocess", "scaler", "targets"):
        nodes = {**told["nodes"], key: {"_target_": "os.system", "command": "touch taken"}}
        rewrite(place / "decoder.json", {**told, "nodes": nodes})
        sign_again(place)
        with pytest.raises(InputError, match=rf"{key}.*os\.system"):
            open_decoder(place, packages=["worlds"])
    with pytest.raises(InputError, match="worlds"):
        rewrite(place / "decoder.json", told)
        sign_again(place)
        open_decoder(place)
    assert run == []


@pytest.mark.slow
def test_a_folder_that_is_no_whole_decoder_is_refused(pixels: OpenedRun, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"decoder\.json"):
        open_decoder(tmp_path)
    place = share(pixels, tmp_path / "given")
    with pytest.raises(InputError, match="not there yet"):
        share(pixels, place)
    told = read_json(place / "decoder.json")
    rewrite(place / "decoder.json", {**told, "format": 2})
    sign_again(place)
    with pytest.raises(InputError, match="expected format 1, got 2"):
        open_decoder(place)
    rewrite(place / "decoder.json", told)
    sign_again(place)
    weights = place / "encoder.safetensors"
    weights.write_bytes(weights.read_bytes()[:-7] + b"1234567")
    with pytest.raises(InputError, match="damaged or changed"):
        open_decoder(place, packages=["worlds"])


@pytest.mark.slow
def test_the_card_holds_the_scores_of_the_run(pixels: OpenedRun, tmp_path: Path) -> None:
    place = share(pixels, tmp_path / "given")
    card = (place / "README.md").read_text()
    summary = json.loads((pixels.folder / "summary.json").read_text())
    kept = json.loads((place / "scores.json").read_text())
    assert kept == summary
    row = next(r for r in summary if r["metric"] == "retrieval_top1" and r["subject"] == "a")
    assert f"| retrieval_top1 | a | {row['n']} | {row['value']:.3f} |" in card
    for said in ("simulated", PRIVATE, row["split_hash"]):
        assert said in card


@pytest.mark.slow
def test_what_a_generator_has_learnt_is_enough_to_make_the_same(
    folder: Path,  # noqa: F811
    wanted: dict[str, Tensor],  # noqa: F811
    tmp_path: Path,
) -> None:
    one = make(folder, features={"one": 1}, steps=3)
    one.learn([], wanted)
    kept = one.kept()
    assert kept is not None
    write_tensors(tmp_path / "kept.safetensors", kept)
    other = make(folder, features={"one": 1}, steps=3)
    other.recall(read_tensors(tmp_path / "kept.safetensors"))
    for a, b in zip(one(wanted, seeds=SEEDS), other(wanted, seeds=SEEDS), strict=True):
        assert torch.equal(torch.as_tensor(a.data), torch.as_tensor(b.data))


def test_a_generator_of_training_pictures_keeps_nothing_to_give_away() -> None:
    nearest = Nearest("pixels")
    nearest.learn([Stimulus("a", "image", path="a.png")], {"pixels": torch.ones(1, 4)})
    assert nearest.kept() is None
    assert PixelGenerator("pixels").kept() == {}


def test_norms_of_training_embeddings_are_recalled_exactly(tmp_path: Path) -> None:
    """Of a diffusion model and of what makes the picture that it starts from."""
    first = Unclip(model="package:tiny/unclip", norm="train")
    trained = {"image": torch.randn(9, 128, generator=torch.Generator().manual_seed(0)) * 3}
    first.learn([], trained)
    kept = first.kept()
    assert kept is not None
    write_tensors(tmp_path / "kept.safetensors", kept)
    again = Unclip(model="package:tiny/unclip", norm="train")
    again.recall(read_tensors(tmp_path / "kept.safetensors"))
    predicted = {"image": torch.ones(2, 128)}
    one, other = (g._conditioned(predicted)["image"] for g in (first, again))
    assert torch.equal(one, other)
    assert torch.allclose(one.norm(dim=1), trained["image"].norm(dim=1).mean())
    inside = within("start", {"a": torch.ones(1), "start.b": torch.zeros(2)})
    assert of("start", {**inside, "norm.a": torch.ones(3)}).keys() == {"a", "start.b"}

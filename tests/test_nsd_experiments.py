"""Every NSD experiment, made small, decodes a miniature of NSD and nothing from shuffled pairs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import timm
from nsd_twin import GAIN, Twin, ideal_top1, write_atlas, write_nsd, write_timeseries
from scored import means
from test_configs import composed

from decode.cli import CONFIGS
from decode.pipeline import execute
from decode.workshop import Run

PIXELS = {"_target_": "decode.targets.pixels.Pixels", "size": 8}
# Any two pictures of pixels above 0 are alike (cosine .91 on average), so that at NeuroFlow's temperature
# .125 its labels, of targets as they are, would say next to nothing: 4.09 nats of at most 4.16 in 64 rows.
IMAGE = {"neuroflow": {"_target_": "nsd_twin.Patches", "size": 8, "patch": 2}}
# Four features per head would not let the image through the prior's one key and value per token.
# Pixels are no tokens, whose published factor would be out of place.
PRIOR = {"heads": 4, "head_width": 64, "depth": 1, "sample_steps": 20, "factor": None}
EPOCHS = {"neuroflow": 30, "umbrae": 120, "wave": 40, "mindeye1": 45, "mindeye2": 45}
# Those that show one of three repeats are three times as many.
REPEATS = 3
# Beside the target that the experiment scores: the other contrast, and what the prior samples.
ALSO = {"mindeye1": ["image"], "mindeye2": ["image"], "wave": ["text", "image"]}
LOW = "mindeye1_low_level"
SMALL: dict[str, dict[str, Any]] = {
    "brain_diffuser": {"alphas": {name: [30.0] for name in ("image", "text", "lowlevel")}},
    "takagi": {"regions": {"lowlevel": ["early"], "text": ["ventral"]}},
    "takagi_optimised": {"encoders": {"components": {"size": 20}}},
    "mindeye1": {
        "encoders": {
            "high": {**PRIOR, "inner": {"width": 96, "blocks": 1, "projector": 32, "dropout_in": 0.1}},
            "low": {"width": 64, "blocks": 1, "channels": 16, "sizes": [16, 16, 16]},
        }
    },
    LOW: {
        "width": 96, "blocks": 1, "channels": 16, "sizes": [16, 16, 16], "dropout_in": 0.1,
    },
    "mindeye2": {**PRIOR, "inner": {"width": 96, "blocks": 1, "channels": 16, "sizes": [16, 16, 16]}},
    "mindbridge": {
        "pooled": 64, "adapter": 8, "width": 96, "blocks": 1, "projector": 32, "dropout_in": 0.1,
    },
    "voxel_tokens": {"width": 32, "clusters": 16, "depth": 1, "heads": 4},
    "brain_captioning": {"alphas": {"image": [30.0], "depth": [30.0]}},
    "umbrae": {"tokens": 12, "width": 32, "depth": 1, "heads": 2, "head_width": 8},
    "neuroflow": {
        "width": 64, "channels": 4, "blocks": 1, "depth": 1, "heads": 2, "steps": 5, "average": 0.9,
    },
    "feature_inversion": {"size": 20},
    "wave": {
        **PRIOR, "inner": {"network": {"width": 64, "depth": 1, "heads": 4, "longest": 8}},
    },
}  # fmt: skip


def small(name: str, folder: Path) -> dict[str, Any]:
    """The experiment as it ships, with pixels for targets, few weights and no pictures."""
    config = composed(f"experiment=nsd/{name}", f"paths.outputs={folder}/outputs")
    config["data"] |= {"root": str(folder / "nsd"), "captions": None}
    config["subjects"] = ["subj01", "subj03"] if name == "mindbridge" else ["subj01"]
    config["targets"] = {k: places(k, folder) or IMAGE.get(name, PIXELS) for k in config["targets"]}
    config["generator"], config["published"] = None, None
    config["metrics"] = {"retrieval": {**config["metrics"]["retrieval"], "n_way": [2]}}
    config["encoder"] = updated(config["encoder"], SMALL[name])
    for target in ALSO.get(name, []):
        knobs = {"target": target, "name": target}
        config["metrics"][target] = {**config["metrics"]["retrieval"], **knobs}
    if name == "wave":
        config["data"]["volumes"] = None
        config["preprocess"]["steps"]["parcels"] |= {
            "atlas": str(folder / "atlas.nii.gz"),
            "expected": PARCELS,
        }
    one = config["protocol"]["train_repeats"] in ("one", "mixed")
    if config["trainer"]["epochs"]:
        config["trainer"] |= {
            "epochs": EPOCHS.get(name, 25) * (REPEATS if one else 1),
            "rate": 2e-3,
            "batch_size": 64 // len(config["subjects"]),
            "precision": "float32",
        }
    return config


def places(name: str, folder: Path) -> dict[str, Any] | None:
    """A target of tokens for the low level, of pictures as they are or changed."""
    if name not in ("lowlevel_tokens", "lowlevel_changed"):
        return None
    changed = 0 if name == "lowlevel_changed" else None
    tokens = {"output": "patches", "size": 64, "changed": changed, "device": "cpu"}
    return {"_target_": "decode.targets.timm.Timm", "model": str(folder / "convnext"), **tokens}


def updated(node: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    made = dict(node)
    for key, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(made.get(key), Mapping)
        made[key] = updated(made[key], value) if both else value
    return made


# Standard deviation of a beta, and of a volume in units of the response.
NOISE, VOLUME_NOISE, PARCELS = 0.3, 0.5, 24


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Twin:
    """Betas of two subjects, time series of the first, and an atlas on their grid."""
    place = tmp_path_factory.mktemp("twin")
    made = write_nsd(place / "nsd", n_images=320, n_shared=24, size=8, noise=NOISE)
    write_timeseries(made, "subj01", sessions=40, per_run=12, noise=VOLUME_NOISE * GAIN)
    write_atlas(place / "atlas.nii.gz", parcels(made))
    return made


def parcels(twin: Twin) -> np.ndarray:
    """(x, y, z) labels from 1 of runs of neighbouring voxels."""
    shape = twin.masks["subj01"].shape
    size = int(np.prod(shape))
    return (np.arange(size).reshape(shape) * PARCELS // size + 1).astype(np.int16)


def ceiling(name: str, twin: Twin, subject: str) -> float:
    """Top-1 of the ideal observer of what the experiment's decoder gets: means of three trials."""
    response = twin.response[subject][twin.shared(subject)]
    if name != "wave":
        return ideal_top1(response[:, twin.masks[subject]], NOISE / 3**0.5)
    labels = parcels(twin).ravel() - 1
    size = np.bincount(labels)
    means = response.reshape(len(response), -1) @ np.eye(PARCELS)[labels] / size
    # Three volumes hold the response. The observer keeps the mean and line that a run loses: a high ceiling.
    return ideal_top1(means, VOLUME_NOISE / (3 * 3 * size) ** 0.5)


@pytest.fixture(scope="module")
def folder(twin: Twin) -> Path:
    place = twin.root.parent
    shape = {"depths": [1, 1, 1, 1], "dims": [4, 8, 8, 16]}
    network = timm.create_model("convnext_tiny", **shape, num_classes=0)
    timm.models.save_for_hf(network, place / "convnext", model_args=shape, safe_serialization=True)
    return place


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in SMALL if n != LOW])
def test_an_experiment_decodes_the_twin(name: str, folder: Path, twin: Twin) -> None:
    """A third of the way from chance to the ideal observer, with few weights and few epochs."""
    config = small(name, folder)
    run = Run(config)
    execute(run, until="evaluate", force=(), say=lambda s: None)
    scores = pd.read_parquet((run.folder("evaluate") or folder) / "scores.parquet")
    value = means(scores)
    chance = 1 / twin.n_shared
    best = min(ceiling(name, twin, s) for s in run.subjects)
    assert best > 0.9
    for metric in config["metrics"]:
        assert value["decoder"][f"{metric}_top1"] > chance + (best - chance) / 3
        assert abs(value["shuffled"][f"{metric}_top1"] - chance) < 0.04
    assert set(scores["split"]) == set(config["splits"])


@pytest.mark.slow
def test_the_low_level_by_itself_tells_pictures_apart(folder: Path, twin: Twin) -> None:
    """Half the way from chance of two: latents of coarse pixels, learned from means of repeats."""
    config = small(LOW, folder)
    config["trainer"]["epochs"] = 50
    assert config["protocol"]["train_repeats"] == "mixed"
    run = Run(config)
    execute(run, until="evaluate", force=(), say=lambda s: None)
    scores = pd.read_parquet((run.folder("evaluate") or folder) / "scores.parquet")
    value = means(scores)
    assert value["decoder"]["retrieval_2way"] > 0.75
    assert abs(value["shuffled"]["retrieval_2way"] - 0.5) < 0.04


def test_every_experiment_is_tried_small() -> None:
    names = {p.stem for p in (CONFIGS / "experiment" / "nsd").glob("*.yaml")}
    others = {
        "mindeye2_brain_correlation",  # tests/test_brain_correlation.py
        "dynadiff",  # tests/test_dynadiff.py
        "neuropictor",  # tests/test_nsd_surface.py
        "brain_captioning_pictures",
        *("umbrae_grounding", "umbrae_questions"),  # tests/test_grounding.py
        # tests/test_more_experiments.py
        *(f"{name}_packed" for name in ("brain_diffuser", "mindeye1", "mindeye2")),
        *(f"{name}_adapt" for name in ("mindbridge", "mindeye2", "umbrae", "voxel_tokens")),
        *(f"{name}_pretrain" for name in ("mindeye2", "voxel_tokens")),
        "mindeye2_refined",
        "brain_diffuser_vdvae",
    }
    assert names - set(SMALL) == others
    for name in names:
        assert composed(f"experiment=nsd/{name}")["notes"]


@pytest.mark.parametrize(
    "pair", [("brain_captioning", "brain_captioning_pictures"), ("umbrae", "umbrae_grounding")]
)
def test_two_generators_share_what_was_predicted(pair: tuple[str, str], tmp_path: Path) -> None:
    write_nsd(tmp_path / "nsd", n_images=40, n_shared=4, size=8)
    keys = []
    for name in pair:
        config = composed(f"experiment=nsd/{name}", f"paths.outputs={tmp_path}/outputs")
        config["data"] |= {"root": str(tmp_path / "nsd"), "captions": None}
        # The others look for weights and files of COCO.
        config["metrics"] = {"retrieval": config["metrics"]["retrieval"]}
        config["subjects"] = ["subj01"]
        keys.append({task.stage.name: task.key for task in Run(config).tasks})
    captions, pictures = keys
    assert captions["predict"] == pictures["predict"]
    assert captions["reconstruct"] != pictures["reconstruct"]

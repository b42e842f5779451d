"""Experiments on other data sets and packed files, and those that go on from another run, made small."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import packed_twins as twins
import pandas as pd
import pytest
import timm
import torch
from diffusion_twins import save_versatile, tiny_text, tiny_unet, tiny_vae
from nsd_twin import Twin, ideal_top1, shrink_sampling, write_captions, write_nsd
from test_configs import composed
from test_nsd_experiments import PIXELS, SMALL, places, updated
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d
from voxels import Voxels

from decode.building import bound, build
from decode.checks.arguments import check
from decode.core import Generator, InputError, Media, Tensors
from decode.pipeline import execute
from decode.store import Frame, read_tensors
from decode.workshop import Run


@dataclass(frozen=True)
class Packed:
    """Where a twin lies below paths.data and who writes it; its first voxel that is read, its noise."""

    folder: str
    write: Callable[..., twins.Expected]
    first: int = 0
    noise: float = 0.8
    more: Mapping[str, int] = field(default_factory=dict)


PACKED = {
    "mindeye1": Packed("mindeye1/webdataset_avg_split", twins.write_mindeye1, more={"half": 100}),
    "mindeye2": Packed("mindeye2", twins.write_mindeye2, more={"own": 80}),
    "brain_diffuser": Packed(
        "brain_diffuser/processed_data", twins.write_brain_diffuser, noise=0.5
    ),
    "god": Packed("god", twins.write_god_bdpy, first=8, more={"per_run": 100}),
    "bold5000": Packed("bold5000", twins.write_bold5000, more={"runs": 12}),
    "things_fmri": Packed("things_fmri", twins.write_things, first=8, more={"own": 120}),
}
# The data set that an experiment reads, and whose small encoder does for it.
PAIRS = {
    "nsd/mindeye1_packed": ("mindeye1", "mindeye1"),
    "nsd/mindeye2_packed": ("mindeye2", "mindeye2"),
    "nsd/brain_diffuser_packed": ("brain_diffuser", "brain_diffuser"),
    **{f"{data}/mindeye1": (data, "mindeye1") for data in ("god", "bold5000", "things_fmri")},
    **{f"{data}/brain_diffuser": (data, None) for data in ("god", "bold5000", "things_fmri")},
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, twins.Expected]]:
    """A folder for paths.data with every packed twin where the shipped yaml looks for it."""
    place, made = tmp_path_factory.mktemp("packed"), {}
    for name, packed in PACKED.items():
        root = place / "data" / packed.folder
        root.mkdir(parents=True)
        made[name] = packed.write(root, **packed.more)
    (place / "data/things").mkdir()
    (place / "data/things_fmri/images").rename(place / "data/things/images")
    write_convnext(place)
    return place, made


def write_convnext(place: Path, width: int = 16) -> Path:
    """A small ConvNeXt that gives four tokens of `width` for pictures of 64."""
    shape = {"depths": [1, 1, 1, 1], "dims": [4, 8, 8, width]}
    network = timm.create_model("convnext_tiny", **shape, num_classes=0)
    folder = place / "convnext"
    timm.models.save_for_hf(network, folder, model_args=shape, safe_serialization=True)
    return folder


def quick(
    config: dict[str, Any],
    folder: Path,
    encoder: Mapping[str, Any],
    epochs: int = 16,
    batch: int = 24,
) -> dict[str, Any]:
    """A composed experiment with pixels for targets, few weights and epochs, and no pictures made."""
    config["targets"] = {k: places(k, folder) or PIXELS for k in config["targets"]}
    config["generator"], config["published"] = None, None
    ways = config["metrics"]["retrieval"]["n_way"] and [2]
    config["metrics"] = {"retrieval": {**config["metrics"]["retrieval"], "n_way": ways}}
    config["encoder"] = updated(config["encoder"], encoder)
    if config["trainer"].get("per_subject"):
        batch //= len(config["subjects"])
    if config["trainer"]["epochs"]:
        config["trainer"] |= {
            "epochs": epochs, "rate": 3e-3, "batch_size": batch, "precision": "float32", "keep": "last",
            "rows": None,
        }  # fmt: skip
    config["compute"] = {"device": "cpu"}
    return config


def scored(run: Run, until: str = "evaluate") -> pd.Series:
    """Mean score by split, source and metric."""
    execute(run, until=until, force=(), say=lambda s: None)
    scores = pd.read_parquet((run.folder("evaluate") or Path()) / "scores.parquet")
    return scores.groupby(["split", "source", "metric"])["value"].mean()


def best(packed: Packed, expected: twins.Expected) -> tuple[float, float]:
    """Top-1 of the ideal observer of the means over a test picture's trials, and chance."""
    tested = [u for u, s in zip(expected.uids, expected.split, strict=True) if s == "test"]
    uids = list(dict.fromkeys(tested))
    shown = np.stack([expected.pictures[u] for u in uids])
    response = (twins.coarse(shown) @ twins.Person(0).weights)[:, packed.first :]
    fewest = min(tested.count(u) for u in uids)
    return ideal_top1(response, packed.noise / fewest**0.5), 1 / len(uids)


@pytest.mark.slow
@pytest.mark.parametrize("name", PAIRS)
def test_an_experiment_decodes_the_twin_of_its_data_set(
    name: str, world: tuple[Path, dict[str, twins.Expected]]
) -> None:
    """Read where the shipped yaml looks; a third of the way from chance to the ideal observer."""
    place, written = world
    data, encoder = PAIRS[name]
    rois = ["data.rois=[V1,IT]"] if data == "things_fmri" else []
    paths = [f"paths.data={place}/data", f"paths.outputs={place}/outputs"]
    config = composed(f"experiment={name}", *paths, *rois)
    run = Run(quick(config, place, SMALL[encoder] if encoder else {}))
    value = scored(run)
    ideal, chance = best(PACKED[data], written[data])
    (split,) = config["splits"]
    assert ideal > 0.9
    assert value[split, "decoder", "retrieval_top1"] > chance + (ideal - chance) / 3
    assert abs(value[split, "shuffled", "retrieval_top1"] - chance) < 0.05


@pytest.mark.parametrize("data", PACKED)
@pytest.mark.parametrize(
    "system", ["brain_diffuser", "mindeye1", "mindbridge", "umbrae", "feature_inversion"]
)
def test_another_data_set_takes_the_place_of_nsd(system: str, data: str) -> None:
    """As typed: `decode experiment=nsd/umbrae data=god`."""
    config = composed(f"experiment=nsd/{system}", f"data={data}")
    assert config["data"]["_target_"].split(".")[2] == data
    check(config["data"], "data")
    bound(config["data"])


# What starts from the weights of other subjects: the experiment that trained them, whose small encoder,
# and epochs of both.
ADAPTED = {
    "mindeye2_adapt": ("mindeye2_pretrain", "mindeye2", 15, 30),
    "voxel_tokens_adapt": ("voxel_tokens_pretrain", "voxel_tokens", 30, 80),
    "mindbridge_adapt": ("mindbridge", "mindbridge", 40, 100),
    "umbrae_adapt": ("umbrae", "umbrae", 40, 100),
}
# Where nsd/mindbridge_adapt names the new one.
NEW_SUBJECT = (
    "trainer.always=subj01", "splits.shared982.of=subj01", "splits.shared982.tested=[subj01]",
    "encoder.inner.through=subj01",
)  # fmt: skip
BETA_NOISE = 0.15
OTHERS = ("subj02", "subj03", "subj04")


@pytest.fixture(scope="module")
def nsd(tmp_path_factory: pytest.TempPathFactory) -> Twin:
    """Four participants, 18 trials per session, and a small network for the low level."""
    place = tmp_path_factory.mktemp("nsd")
    write_convnext(place)
    people = {"subj01": "nii.gz", **dict.fromkeys(OTHERS, "hdf5")}
    return write_nsd(
        place / "data/nsd", subjects=people, n_images=240, n_shared=16, size=16, noise=BETA_NOISE
    )


def pretrained(name: str, twin: Twin, encoder: Mapping[str, Any], epochs: int) -> Path:
    """The folder of the fold that the experiment trains with the other participants."""
    place = twin.root.parents[1]
    paths = [f"paths.data={place}/data", f"paths.outputs={place}/outputs"]
    config = composed(f"experiment=nsd/{name}", *paths, f"subjects=[{','.join(OTHERS)}]")
    config["data"]["captions"] = None
    run = Run(quick(config, place, encoder, epochs, batch=64))
    execute(run, until="train", force=(), say=lambda s: None)
    (file,) = (run.folder("train") or place).rglob("decoder/encoder.safetensors")
    return file.parent


@pytest.mark.slow
@pytest.mark.parametrize("name", ADAPTED)
def test_a_new_subject_starts_from_the_weights_of_others(name: str, nsd: Twin) -> None:
    """After four sessions, half the way from chance to the ideal observer, who names nearly all; better than
    without those weights. The report draws the curve of a ladder.
    """
    before, encoder, first, epochs = ADAPTED[name]
    weights = pretrained(before, nsd, SMALL[encoder], first)
    place = nsd.root.parents[1]
    paths = [f"paths.data={place}/data", f"paths.outputs={place}/outputs"]
    given = [f"encoder.weights={weights}"]
    if name == "mindeye2_adapt":
        given += [f"baselines.{b}.weights={weights}" for b in ("input", "lora")]
    subjects = "subjects=[subj01]"
    if name == "mindbridge_adapt":
        # Those that it learned from are shown beside the new one.
        subjects = f"subjects=[{','.join([*OTHERS, 'subj01'])}]"
        given += [f"encoder.trained=[{','.join(OTHERS)}]", *NEW_SUBJECT]
    config = composed(f"experiment=nsd/{name}", subjects, *given, *paths)
    config["data"]["captions"] = None
    ladder = len(config["splits"]) > 1
    if ladder:
        assert set(config["splits"]) == {f"sessions_{n}" for n in (1, 2, 4, 10, 40)}
        # One of the ladders is enough to draw a curve, that of the smaller encoder.
        kept = ("sessions_1", "sessions_4") if name == "voxel_tokens_adapt" else ("sessions_4",)
        config["splits"] = {k: config["splits"][k] for k in kept}
    else:
        (split,) = config["splits"].values()
        config["splits"] = {"sessions_4": {**split, "sessions": 4}}
    if config["encoder"]["what"] == "input":
        # The same layers trained before random weights, frozen alike; it takes the place of what trains all.
        config["baselines"] = {"random": {**config["encoder"], "weights": "scratch"}}
    for node in config["baselines"].values():
        node |= updated(node, {"inner": SMALL[encoder]} if "what" in node else SMALL[encoder])
    run = Run(quick(config, place, {"inner": SMALL[encoder]}, epochs))
    value = scored(run, until="report")
    assert ceiling(nsd) > 0.95
    control = "random" if "random" in config["baselines"] else "scratch"
    decoded = value["sessions_4", "decoder", "retrieval_2way"]
    assert decoded > 0.75
    assert decoded > value["sessions_4", control, "retrieval_2way"] + 0.05
    for split in config["splits"]:
        assert abs(value[split, "shuffled", "retrieval_2way"] - 0.5) < 0.03
    if len(config["splits"]) > 1:
        check_curve(run, ["decoder", *config["baselines"]])
    check_frozen(run, weights, config["encoder"]["what"])


def ceiling(twin: Twin) -> float:
    """Top-1 of the ideal observer of the means of three trials."""
    response = twin.response["subj01"][twin.shared("subj01")][:, twin.masks["subj01"]]
    return ideal_top1(response, BETA_NOISE / 3**0.5)


def check_curve(run: Run, names: list[str]) -> None:
    """The report draws one line per way of training over the number of sessions."""
    page = ((run.folder("report") or Path()) / "report.html").read_text()
    (drawn,) = re.findall(r"<h2>Over training sessions</h2>(.*?)(?=<h2>)", page, re.S)
    (figure,) = (f for f in drawn.split("<figure") if 'aria-label="retrieval_top1"' in f)
    lines = re.findall(r'<polyline class="line line-\d" points="([^"]*)"', figure)
    assert [len(points.split()) for points in lines] == [2] * len(names)
    for name in names:
        assert name in figure


# What an encoder calls its layers per subject.
OWN = {"inputs", "embedders", "builders", "tokenizer", "voxels", "passport"}


def check_frozen(run: Run, weights: Path, what: str) -> None:
    """All that is shared stays as the other subjects left it, unless everything is trained."""
    old = read_tensors(weights / "encoder.safetensors")
    folder = (run.folder("train") or Path()) / "sessions_4-00" / "decoder"
    new = read_tensors(folder / "encoder.safetensors")
    shared = [k for k in old if not OWN & set(k.split("."))]
    moved = [k for k in shared if not bool((new[f"inner.{k}"] == old[k]).all())]
    assert len(shared) > 10
    assert bool(moved) == (what == "all")


# Experiments whose encoder has layers per subject, and its choice.
INNER = {
    "mindeye1": "mindeye1_both",
    "mindeye2": "mindeye2",
    "mindbridge": "mindbridge",
    "umbrae": "umbrae_576",
    "voxel_tokens": "voxel_tokens",
    "neuroflow": "neuroflow",
}


@pytest.mark.parametrize("name", INNER)
def test_any_encoder_with_layers_per_subject_is_adapted_as_typed(name: str) -> None:
    """`encoder=adapted +encoder@encoder.inner=NAME`: some weights are trained, the others frozen."""
    typed = ["encoder=adapted", f"+encoder@encoder.inner={INNER[name]}", "encoder.what=input"]
    config = composed(f"experiment=nsd/{name}", *typed, "encoder.weights=scratch")
    config["encoder"] = updated(config["encoder"], {"inner": SMALL[name]})
    check(config["encoder"], "encoder")
    tokens = {"lowlevel_tokens", "lowlevel_changed"}
    shapes = {k: (4, 16) if k in tokens else (3, 8, 8) for k in config["targets"]}
    encoder = build(config["encoder"], "encoder")(Voxels(shapes, voxels=(40,), n=2).layouts, shapes)
    trained = [p.requires_grad for p in encoder.parameters()]
    assert any(trained)
    assert not all(trained)


class Layers:
    """Stands for a VDVAE: 33 maps of 16 channels, each the picture made small."""

    SIDES = (1,) * 2 + (4,) * 4 + (8,) * 8 + (16,) * 16 + (32,) + (64,) * 2

    def __call__(self, pictures: Tensor) -> list[Tensor]:
        made = [adaptive_avg_pool2d(pictures, side) for side in self.SIDES]
        return [x.repeat(1, 6, 1, 1)[:, :16] for x in made]


class LayersToPictures(Generator):
    """Its decoder: the last map that was predicted is the picture."""

    needs = ("lowlevel",)

    def __call__(self, predicted: Tensors, *, seeds: Sequence[int]) -> list[Media]:
        last = predicted["lowlevel"][:, -16 * 32 * 32 :].reshape(-1, 16, 32, 32)[:, :3]
        return [Media("image", x.clamp(0, 1)) for x in last]


# Where Versatile Diffusion's folder keeps the networks of its two targets.
CLIP_PARTS = {
    "image": {"tower": "image_encoder", "prepared": "image_feature_extractor"},
    "text": {"tower": "text_encoder", "prepared": "tokenizer"},
}


def drawn(config: dict[str, Any], twin: Twin, model: Path) -> tuple[Run, pd.Series]:
    """Run a composed experiment with a small sampler, through the pictures to their scores."""
    config["data"]["captions"] = write_captions(twin)
    config["subjects"], config["published"] = ["subj01"], None
    knobs = set(config["generator"])
    shrink_sampling(config, model)
    # The last 48 % of three steps is one; pictures of another size need one of both.
    config["generator"] |= {"steps": 3, "start_size": None}
    config["generator"] = {k: v for k, v in config["generator"].items() if k in knobs}
    config["metrics"]["retrieval"]["k"] = [1]
    run = Run(config)
    return run, scored(run)


def tokens(folder: Path) -> dict[str, Any]:
    knobs = {"output": "patches", "size": 64, "device": "cpu"}
    return {"_target_": "decode.targets.timm.Timm", "model": str(folder), **knobs}


def save_sdxl(folder: Path, *, reads: Literal["text", "tokens"]) -> Path:
    """A small Stable Diffusion XL that reads text, or image tokens in its place; 12 numbers each."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    torch.manual_seed(0)
    names = ("tokenizer", "text_encoder", "tokenizer_2", "text_encoder_2")
    towers: Sequence[Any] = [None] * 4
    if reads == "text":
        towers = [*tiny_text(), *tiny_text(4, projected=True)]
    told = 4 + 6 * 4 if reads == "text" else 4 * 4
    unet = tiny_unet(
        cross_attention_dim=12,
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=told,
    )
    scheduler = EulerDiscreteScheduler(timestep_spacing="trailing")
    parts = {"vae": tiny_vae(), "unet": unet, "scheduler": scheduler, "add_watermarker": False}
    pipe = StableDiffusionXLPipeline(**parts, **dict(zip(names, towers, strict=True)))
    pipe.save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_mindeye2_is_refined_with_captions(nsd: Twin, tmp_path: Path) -> None:
    place = nsd.root.parents[1]
    unclip_folder = save_sdxl(tmp_path / "unclip", reads="tokens")
    sdxl_folder = save_sdxl(tmp_path / "sdxl", reads="text")
    paths = [f"paths.data={place}/data", f"paths.outputs={tmp_path}"]
    config = composed("experiment=nsd/mindeye2_refined", *paths)
    shipped, metrics = config["generator"], config["metrics"]
    config = quick(config, place, SMALL["mindeye2"], epochs=2)
    image = tokens(write_convnext(tmp_path, 12))
    config["targets"] |= {"image": image, "retrieval": image}
    first = shipped["low_level"] | {"model": str(unclip_folder), "size": None, "width": None}
    config["generator"] = shipped | {"low_level": first | {"steps": 2, "precision": "float32"}}
    config["metrics"] = metrics
    run, value = drawn(config, nsd, sdxl_folder)
    assert {"decoder", "oracle", "prior"} <= {
        s for s, m in value["shared1000"].index if m == "pixcorr"
    }
    unrefined = composed("experiment=nsd/mindeye2", "data=nsd_captions", *paths)
    plain = {**config, "generator": unrefined["generator"], "name": unrefined["name"]}
    plain["generator"] |= {"model": str(unclip_folder), "size": None, "width": None}
    keys = [{t.stage.name: t.key for t in r.tasks} for r in (run, Run(plain))]
    assert keys[0]["predict"] == keys[1]["predict"]
    assert keys[0]["reconstruct"] != keys[1]["reconstruct"]


@pytest.mark.slow
def test_brain_diffuser_starts_from_latents_that_another_package_decodes(
    nsd: Twin, tmp_path: Path
) -> None:
    place, me = nsd.root.parents[1], "test_more_experiments"
    typed = [
        f"targets.lowlevel.network={{_target_: {me}.Layers}}",
        f"generator.low_level={{_target_: {me}.LayersToPictures}}",
    ]
    paths = [f"paths.data={place}/data", f"paths.outputs={tmp_path}"]
    config = composed("experiment=nsd/brain_diffuser_vdvae", *typed, *paths)
    model = save_versatile(tmp_path / "versatile")
    for name, parts in CLIP_PARTS.items():
        config["targets"][name] |= {"model": str(model), "device": "cpu", **parts}
    config["encoder"] = updated(config["encoder"], SMALL["brain_diffuser"])
    run, value = drawn(config, nsd, model)
    assert {"decoder", "oracle", "prior"} <= {
        s for s, m in value["shared982"].index if m == "pixcorr"
    }
    frame = Frame.read((run.folder("predict") or tmp_path) / "shared982-00")
    assert frame.arrays["decoder/lowlevel"].shape[1:] == (91168,)


def test_without_a_decoder_of_the_latents_nothing_is_generated(nsd: Twin) -> None:
    place = nsd.root.parents[1]
    typed = "targets.lowlevel.network={_target_: test_more_experiments.Layers}"
    paths = [f"paths.data={place}/data", f"paths.outputs={place}/outputs"]
    config = composed("experiment=nsd/brain_diffuser_vdvae", typed, *paths)
    config["data"]["captions"] = None
    del config["metrics"]["image"]
    with pytest.raises(InputError, match=r"low_level: .* got null; name a target or a generator"):
        _ = Run(config).generator

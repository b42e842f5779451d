"""Mistakes that need no data are told when the plan is made, with their key, before any stage runs."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from nsd_twin import write_nsd
from safetensors.torch import save_file
from test_configs import EXPERIMENTS, composed
from worlds import config

from decode.building import build
from decode.checks.choices import check_config
from decode.checks.frame import check_filled, check_frame
from decode.checks.learning import check_learning
from decode.core import InputError
from decode.data.nsd import NSD
from decode.objectives.soft_tokens import SoftTokens
from decode.pipeline import execute
from decode.stages.table import STAGES
from decode.trainable import left_to_training
from decode.workshop import Run

MLP = {"_target_": "decode.encoders.mlp.MLP", "_partial_": True, "contrastive": []}
ADAPTED = {"_target_": "decode.encoders.adapted.Adapted", "_partial_": True, "inner": MLP}
RETRIEVAL = {"_target_": "decode.metrics.retrieval.Retrieval", "target": "pixels"}
TRAINER = {"_target_": "decode.training.Trainer"}
WORLD = {"_target_": "worlds.PixelWorld", "root": "/nowhere"}


def planned(folder: Path, **changes: Any) -> str:
    """What is said against a plan; nothing has been written by then."""
    with pytest.raises(InputError) as told:
        Run(config(folder, **changes))
    assert not (folder / "outputs").exists()
    return " ".join(str(told.value).split())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seed": "abc"}, ["seed: expected a whole number", "'abc'"]),
        ({"protocol": {"drawn": 5}}, ["protocol.drawn: expected names, each with a list", "got 5"]),
        ({"protocol": {"drawn": {"pixels": []}}}, ["protocol.drawn.pixels: expected a list"]),
        ({"protocol": {"drawn": {"pixels": ["pixels"]}}}, ["drawn.pixels: expected a list of other"]),
        ({"protocol": {"drawn": {"pixels": ["pixls"]}}}, ["drawn.pixels", "'pixls'"]),
        ({"seed": -1}, ["seed:", "-1"]),
        ({"compute": {"device": "gpu"}}, ["compute.device: expected auto, cpu, cuda", "'gpu'"]),
        ({"compute": {"device": 3}}, ["compute.device: expected auto, cpu, cuda", "3"]),
        ({"subjects": "a"}, ["subjects: expected a list of text", "got 'a'", "subjects=[a]"]),
        ({"subjects": ["c"]}, ["subjects: expected some of ['a', 'b']", "got 'c'", "/world"]),
        ({"force": "train"}, ["force: expected a list of text in [brackets], got 'train'", "force=[train]"]),
        ({"trainer": TRAINER | {"rate": "fast"}}, ["trainer.rate: expected a number", "'fast'"]),
        ({"trainer": TRAINER | {"rate": 0.0}}, ["trainer.rate: expected a number above 0", "0.0"]),
        ({"trainer": TRAINER | {"rate": float("nan")}}, ["trainer.rate:", "nan"]),
        ({"trainer": TRAINER | {"epochs": "many"}}, ["trainer.epochs: expected a whole number"]),
        ({"trainer": TRAINER | {"epochs": 1.5}}, ["trainer.epochs: expected a whole number", "1.5"]),
        ({"trainer": TRAINER | {"epochs": True}}, ["trainer.epochs: expected a whole number"]),
        ({"trainer": TRAINER | {"batch_size": 0}}, ["trainer.batch_size: expected 1 or more", "0"]),
        ({"trainer": TRAINER | {"keep": "worst"}}, ["trainer.keep: expected best or last"]),
        ({"data": WORLD | {"n": "all"}}, ["data.n: expected a whole number, got 'all'"]),
        ({"encoder": MLP | {"width": -3}}, ["encoder.width: expected 1 or more", "got -3"]),
        ({"encoder": MLP | {"head": "dens"}}, ["encoder.head: expected one of", "dense", "'dens'"]),
        ({"encoder": MLP | {"contrastive": "pixels"}}, ["encoder.contrastive: expected a list of"]),
        ({"baselines": {"other": MLP | {"blocks": -1}}}, ["baselines.other.blocks", "-1"]),
        ({"protocol": {"train_repeats": "bfore"}}, ["protocol.train_repeats", "'bfore'"]),
        ({"protocol": {"after": "x"}}, ["protocol.after: expected a number or null, got 'x'"]),
        ({"protocol": {"train_repeat": "single"}}, ["protocol", "did you mean 'train_repeats'"]),
        (
            {"objectives": {"it": {"_target_": "worlds.SquaredError", "target": "pixles"}}},
            ["objectives.it.target: expected a target", "'pixles'", "did you mean 'pixels'"],
        ),
        (
            {"objectives": {"it": {"_target_": "decode.objectives.l1.L1"}}},  # its default
            ["objectives.it.target", "['pixels']", "'image'"],
        ),
        (
            {"metrics": {"it": RETRIEVAL | {"target": "pixles"}}},
            ["metrics.it.target", "'pixles'", "did you mean 'pixels'"],
        ),
        ({"metrics": {"it": RETRIEVAL | {"k": [0]}}}, ["metrics.it.k: expected 1 or more", "got [0]"]),
        ({"encoder": ADAPTED | {"weights": None}}, ["encoder.weights", "got null", "scratch"]),
        ({"encoder": ADAPTED}, ["encoder.weights", "got null", "scratch"]),
        ({"baselines": {"it": ADAPTED | {"weights": None}}}, ["baselines.it.weights", "null"]),
        ({"encoder": ADAPTED | {"weights": "/nope"}}, ["encoder.weights", "/nope", "found none"]),
        ({"encoder": ADAPTED | {"weights": 2026}}, ["encoder.weights", "at 2026", "found none"]),
        (
            {"encoder": ADAPTED | {"weights": "scratch", "what": "loar"}},
            ["encoder.what: expected one of input, lora, all, got 'loar'"],
        ),
        (
            {"generator": {"_target_": "decode.generators.unclip.Unclip", "model": "/no/unclip"}},
            ["generator.model: expected a file or folder at /no/unclip, found none"],
        ),
        (
            {"generator": {"_target_": "decode.generators.unclip.Unclip", "model": "m", "strength": 2}},
            ["generator.strength: expected a number above 0, to 1, got 2"],
        ),
        (
            {"generator": {"_target_": "decode.generators.pixels.PixelGenerator", "target": "image"}},
            ["generator PixelGenerator: expected targets ['image'], got ['pixels']", "['pixels']"],
        ),
    ],
    ids=lambda x: str(x)[:60] if isinstance(x, dict) else "",
)  # fmt: skip
def test_a_mistake_is_told_by_the_plan(
    changes: dict[str, Any], words: list[str], tmp_path: Path
) -> None:
    message = planned(tmp_path, **changes)
    for word in words:
        assert word in message


def test_a_device_that_torch_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    message = planned(tmp_path, compute={"device": "cuda"})
    assert "compute.device: expected a CUDA device, as 'cuda' asks for, got none" in message
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert "one of the 1 CUDA devices that torch sees" in planned(
        tmp_path, compute={"device": "cuda:1"}
    )
    Run(config(tmp_path, compute={"device": "cuda:0"}))


def test_only_the_word_scratch_starts_from_random_weights(tmp_path: Path) -> None:
    Run(config(tmp_path, encoder=ADAPTED | {"weights": "scratch"}))


@pytest.mark.parametrize("content", [b"", b"not tensors at all", "cut"])
def test_broken_weights_of_another_run_are_told_with_their_key(
    content: bytes | str, tmp_path: Path
) -> None:
    file = tmp_path / "encoder.safetensors"
    save_file({"w": torch.zeros(9)}, file)
    file.write_bytes(file.read_bytes()[:-4] if content == "cut" else content)  # type: ignore[arg-type]
    message = planned(tmp_path, baselines={"it": ADAPTED | {"weights": str(tmp_path)}})
    assert message.startswith(f"baselines.it.weights: {file}: expected whole safetensors weights")
    # Nobody's run should be deleted for it.
    assert "delete" not in message
    assert "give encoder.safetensors of a trained run" in message


def test_an_encoder_that_is_solved_cannot_be_adapted(tmp_path: Path) -> None:
    ridge = {"_target_": "decode.encoders.ridge.Ridge", "_partial_": True}
    node = ADAPTED | {"inner": ridge, "weights": "scratch", "what": "all"}
    with pytest.raises(
        InputError, match=r"encoder\.inner: .* Ridge, which has no weights to train"
    ):
        execute(Run(config(tmp_path, encoder=node)), until="train", force=(), say=lambda s: None)


class Broken:
    """An encoder that cannot be built from these layouts."""

    def __init__(self, layouts: Any, shapes: Any, *, fault: str) -> None:
        raise {"type": TypeError, "value": ValueError, "runtime": RuntimeError}[fault](
            "no\nwidth 0"
        )


@pytest.mark.parametrize("fault", ["type", "value", "runtime"])
def test_what_an_encoder_refuses_is_told_with_its_key(fault: str, tmp_path: Path) -> None:
    node = {"_target_": f"{__name__}.Broken", "_partial_": True, "fault": fault}
    run = Run(config(tmp_path, baselines={"it": node}))
    with pytest.raises(
        InputError, match=r"config\.baselines\.it: .*Broken takes, got a refusal .*width 0"
    ):
        execute(run, until="train", force=(), say=lambda s: None)


def test_files_are_looked_for_only_where_a_stage_opens_them(tmp_path: Path) -> None:
    node = {"_target_": "decode.generators.unclip.Unclip", "model": "/no/unclip"}
    Run(config(tmp_path, generator=node, until="features"))
    below = f"{tmp_path}/weights/unclip"  # written as ${paths.data}/...
    with pytest.raises(InputError, match=r"generator\.model"):
        Run(config(tmp_path, generator=node | {"model": below}, until="train"))


def test_a_finished_run_needs_its_files_and_device_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = tmp_path / "model"
    picture.mkdir()
    (picture / "encoder.safetensors").write_bytes(b"x")
    node = {"_target_": f"{__name__}.Opened", "_partial_": True, "file": str(picture)}
    changes: dict[str, Any] = {"baselines": {"it": node}, "generator": None}
    changes["metrics"] = {"it": RETRIEVAL}
    execute(Run(config(tmp_path, **changes)), until="report", force=(), say=lambda s: None)
    shutil.rmtree(picture)
    Run(config(tmp_path, **changes))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    Run(config(tmp_path, compute={"device": "cuda"}, **changes))
    with pytest.raises(InputError, match=r"compute\.device"):
        Run(config(tmp_path, compute={"device": "cuda"}, force=["report"], **changes))
    with pytest.raises(InputError, match=r"baselines\.it\.file: expected a file or folder at"):
        Run(config(tmp_path, force=["train"], **changes))


def Opened(layouts: Any, shapes: Any, *, file: str) -> Any:
    from decode.encoders.ridge import Ridge

    return Ridge(layouts, shapes)


def test_a_gallery_that_is_too_small_is_told_before_training(tmp_path: Path) -> None:
    """PixelWorld has 12 test pictures."""
    far = RETRIEVAL | {"n_way": [2, 13], "name": "wide"}
    metrics = {"near": RETRIEVAL | {"n_way": [2, 12]}, "far": far}
    run = Run(config(tmp_path, metrics=metrics))
    with pytest.raises(
        InputError,
        match=r"metrics\.far\.n_way: expected at most 12, the different test stimuli that subject a, "
        r"split published, fold 0 has, got 13",
    ):
        execute(run, until="report", force=(), say=lambda s: None)
    assert not list((tmp_path / "outputs" / "train").glob("*/published-00*"))
    # Wider galleries hold no other stimuli here, and a run that is not scored needs none.
    metrics["far"]["within"] = ["split"]
    with pytest.raises(InputError, match=r"metrics\.far\.n_way"):
        _ = Run(config(tmp_path, metrics=metrics)).inputs
    _ = Run(config(tmp_path, metrics=metrics, until="predict")).inputs
    _ = Run(config(tmp_path, metrics={"near": metrics["near"]})).inputs


RIDGE = {"_target_": "decode.encoders.ridge.Ridge", "_partial_": True}
MSE = {"_target_": "decode.objectives.mse.MSE", "target": "pixels"}
PRIOR = {"_target_": "decode.objectives.own.Own", "weights": {"prior": 30.0}}
SAMPLED = {"_target_": "decode.encoders.with_prior.WithPrior", "_partial_": True, "target": "pixels",
           "inner": MLP}  # fmt: skip
PRINCIPAL = {"_target_": "decode.encoders.principal.Principal", "_partial_": True, "size": 3}
JOINED = {"_target_": "decode.encoders.joined.Joined", "_partial_": True, "targets": {}}
SOFTCLIP = "decode.objectives.softclip.SoftCLIP"
# A term that is zero until training is over.
NEVER = {"_target_": SOFTCLIP, "target": "pixels", "starts": 1.0}
UNTRAINED = "trainer.epochs: expected 1 or more for "


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"encoder": MLP, "trainer": TRAINER | {"epochs": 0}}, [UNTRAINED + "encoder MLP", "got 0"]),
        (
            {"encoder": MLP, "objectives": {}},
            ["targets.pixels is predicted by weights that nothing has fitted", "teaches pixels", "none"],
        ),
        ({"encoder": MLP, "objectives": {"it": NEVER}}, ["weights that nothing has fitted", "['it']"]),
        ({"encoder": MLP, "objectives": {"it": MSE | {"weight": 0.0}}}, ["teaches pixels", "['it']"]),
        ({"encoder": MLP, "objectives": {"it": PRIOR}}, ["teaches pixels, for pixels of encoder MLP"]),
        ({"encoder": SAMPLED, "objectives": {"it": MSE}}, ["own term 'prior'", "more=prior"]),
        (
            {"encoder": SAMPLED, "objectives": {"it": PRIOR | {"weights": {"prior": 0.0}}}},
            ["own term 'prior'"],
        ),
        (
            {"encoder": PRINCIPAL | {"inner": MLP}, "objectives": {}},
            ["pixels of encoder Principal"],
        ),
        (
            {"encoder": ADAPTED | {"weights": "scratch"}, "trainer": TRAINER | {"epochs": 0}},
            [UNTRAINED + "encoder Adapted"],
        ),
        (
            {"encoder": JOINED | {"encoders": {"a": RIDGE, "b": MLP}, "targets": {"b": ["pixels"]}},
             "objectives": {}},
            ["pixels of encoder Joined"],
        ),
        ({"encoder": RIDGE, "baselines": {"it": MLP}, "objectives": {}}, ["of baselines.it MLP"]),
        ({"metrics": {}}, ["metrics: expected one or more, got none", "+metric@metrics."]),
        ({"targets": {}, "encoder": RIDGE}, ["pixels"]),
        ({"splits": {}}, ["splits: expected one or more", "kfold"]),
        ({"subjects": []}, ["subjects: expected a list of one or more, got []", "null for all"]),
        ({"subjects": ["a", "b", "a"]}, ["subjects: expected each subject once, got 'a' twice"]),
        ({"name": "a/../../b"}, ["name: expected a name", "has no / or", "'a/../../b'"]),
        ({"name": "x" * 300}, ["name: expected a name of 1 to 100 bytes"]),
        ({"dry": "yes"}, ["dry: expected true or false, got 'yes'"]),
        ({"encoder": None}, ["encoder: expected a choice", "got None", "encoder=..."]),
        ({"splits": {"it": None}}, ["splits.it: expected a choice", "split@splits.it=..."]),
        ({"trainer": TRAINER | {"weight_decay": float("inf")}}, ["trainer.weight_decay", "inf"]),
        ({"objectives": {"it": MSE | {"weight": -1.0}}}, ["objectives.it.weight: expected 0 or more"]),
        ({"encoder": MLP | {"dropout": 1.0}}, ["encoder.dropout: expected 0 to below 1, got 1.0"]),
        ({"encoder": RIDGE | {"alphas": []}}, ["encoder.alphas: expected a list of one or more"]),
        ({"encoder": MLP | {"share": ""}}, ["encoder.share: expected text that is not empty"]),
        ({"encoder": MLP | {"width": {"_target_": "os.getcwd"}}}, ["encoder.width: expected a whole"]),
        ({"encoder": {"_target_": "os.sep", "_partial_": True}}, ["_target_ that can be called"]),
    ],
    ids=lambda x: str(x)[:60] if isinstance(x, dict) else "",
)  # fmt: skip
def test_what_cannot_give_a_result_is_told_by_the_plan(
    changes: dict[str, Any], words: list[str], tmp_path: Path
) -> None:
    message = planned(tmp_path, **changes)
    for word in words:
        assert word in message


def test_what_initialise_solves_needs_no_training(tmp_path: Path) -> None:
    none: dict[str, Any] = {"objectives": {}, "trainer": TRAINER | {"epochs": 0}}
    mixed = JOINED | {"encoders": {"a": RIDGE, "b": MLP}, "targets": {"b": ["another"]}}
    for encoder in (RIDGE, PRINCIPAL | {"inner": RIDGE}, mixed):
        Run(config(tmp_path, encoder=encoder, **none))
    Run(config(tmp_path, encoder=SAMPLED, objectives={"prior": PRIOR}))
    # What is not reached is not asked for.
    Run(config(tmp_path, encoder=MLP, until="features", **none))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_what_ships_passes(name: str) -> None:
    made = composed(f"experiment={name}")
    for where in [made, *made["baselines"].values()]:
        node = where.get("encoder", where)
        if str(node["_target_"]).endswith(".Adapted"):
            node["weights"] = "scratch"
    check_frame(made)
    check_config(made)
    check_filled(made, STAGES)
    check_learning(made)


def test_a_subject_without_betas_is_told_what_is_missing(tmp_path: Path) -> None:
    root = write_nsd(tmp_path / "nsd", n_images=40, n_shared=4, size=8).root
    node = {"_target_": "decode.data.nsd.NSD", "root": str(root)}
    message = planned(tmp_path, data=node, subjects=["subj02"])
    assert message.startswith(
        "subjects: expected a subject out of ['subj01', 'subj03'], which have betas_"
    )
    assert "got 'subj02'" in message
    assert f"{root}/" in message
    folder = next(p for p in root.rglob("betas_fithrf_GLMdenoise_RR") if "subj01" in str(p))
    (missing,) = folder.glob("betas_session01.*")
    missing.unlink()
    with pytest.raises(InputError, match=r"got no betas_session01 .1 missing.; fetch it$"):
        next(NSD(str(root)).recordings("subj01"))


def test_what_is_only_compared_with_is_not_taught() -> None:
    beside = {"target": "tokens", "other": "changed", "weight": 1.0}
    assert SoftTokens.teaches(beside) == {"tokens"}


def test_pictures_are_not_drawn_by_heads_that_nothing_taught() -> None:
    """The sensors' quickstart has no objective for what its generator draws from."""
    for encoder in ("flat", "tsconv", "mlp"):
        made = composed("experiment=quickstart_eeg", f"encoder={encoder}")
        with pytest.raises(
            InputError, match=r"^targets.image is predicted by weights that nothing"
        ):
            check_learning(made)
    asked = ("image", "lowlevel")
    by_choice = [f"+objective@objectives.{name}=mse" for name in asked]
    by_choice += [f"objectives.{name}.target={name}" for name in asked]
    check_learning(composed("experiment=quickstart_eeg", "encoder=flat", *by_choice))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_what_ships_is_refused_without_its_objectives(name: str) -> None:
    """Whatever is trained step by step; closed forms need none."""
    made = composed(f"experiment={name}")
    if not made["objectives"] or not made["trainer"].get("epochs", 1):
        return
    made["objectives"] = {}
    step_by_step = left_to_training(build(made["encoder"], "encoder"), list(made["targets"]))
    if step_by_step:
        with pytest.raises(InputError, match="weights that nothing has fitted"):
            check_learning(made)
    else:
        check_learning({**made, "baselines": {}})


def test_a_plan_opens_no_file_of_the_data(tmp_path: Path) -> None:
    root = write_nsd(tmp_path / "nsd", n_images=40, n_shared=4, size=8).root
    node = {"_target_": "decode.data.nsd.NSD", "root": str(root)}
    unread = {path for path in root.rglob("*") if path.is_file()}
    old = {path: path.stat().st_atime_ns for path in unread}
    opened: list[str] = []
    watching = True

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        if watching and event == "open" and str(arguments[0]).startswith(str(root)):
            opened.append(str(arguments[0]))

    sys.addaudithook(watch)
    tasks = Run(config(tmp_path, data=node)).of("preprocess")
    watching = False
    assert [t.item for t in tasks] == list(NSD(root).subjects)
    assert opened == []
    assert {p: p.stat().st_atime_ns for p in unread} == old

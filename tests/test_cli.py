"""The command: help, plans, and one-line errors with exit code 2."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def decode(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "decode.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)


def quick(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """The command in a fork of this process, which has the libraries already; for what fails early."""
    import decode.building
    import decode.pipeline  # noqa: F401
    from decode.cli import main

    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        child = os.fork()
        if child == 0:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
            os.chdir(cwd)
            sys.argv = ["decode", *arguments]
            code = 1
            try:
                main()
                code = 0
            except SystemExit as e:
                code = int(e.code or 0)
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        _, status = os.waitpid(child, 0)
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read())
    code = os.waitstatus_to_exitcode(status)
    return subprocess.CompletedProcess(list(arguments), code, *texts)


def _one_line(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 2, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert done.stdout == ""
    return lines[0]


def test_help_lists_every_choice_of_every_group() -> None:
    text = decode("--help").stdout
    for group in (ROOT / "configs").iterdir():
        if group.is_dir() and group.name != "local":
            line = next(s for s in text.splitlines() if s.split()[:1] == [group.name])
            for choice in group.rglob("*.yaml"):
                assert str(choice.relative_to(group).with_suffix("")) in line.split()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["experiment=quikstart"], ["experiment", "'quikstart'", "did you mean 'quickstart'"]),
        (["sead=1"], ["'sead'", "did you mean 'seed'"]),
        (["encoder=rigde"], ["encoder", "did you mean 'ridge'"]),
        (["data.n_trian=5"], ["'data.n_trian'", "'n_train'"]),
        (["+data.n_trian=5"], ["config.data", "did you mean 'n_train'"]),
        (["until=trian"], ["until", "did you mean 'train'"]),
        (["subjects=[sub-09]"], ["subjects", "sub-09"]),
        (["experiment=digits69", "paths.data=nowhere"], ["digits69", "nowhere", "paths.data"]),
        (["experiment=haxby2001", "paths.data=nowhere"], ["haxby2001", "nowhere", "paths.data"]),
        (["seed=[1"], ["seed: expected a value", "'[1'", "close its brackets"]),
        (["~seed"], ["seed: expected a value, got none", "leave ~seed out"]),
        (["a"], ["expected key=value, got 'a'"]),
        (["paths.data=/x/${y}"], ["'y' not found", "${...} asks for another key"]),
        (["seed=abc"], ["seed: expected a whole number", "'abc'"]),
        (["compute.device=gpu"], ["compute.device: expected auto, cpu, cuda", "'gpu'"]),
        (["subjects=sub-01"], ["subjects", "subjects=[sub-01]"]),
        (["force=train"], ["force", "'train'", "force=[train]"]),
        (["trainer.rate=fast"], ["trainer.rate: expected a number", "'fast'"]),
        (["trainer.batch_size=0"], ["trainer.batch_size: expected 1 or more", "0"]),
        (["encoder.width=-3"], ["encoder.width: expected 1 or more", "-3"]),
        (["protocol.train_repeats=bfore"], ["protocol.train_repeats", "'bfore'"]),
        (["objectives.image.target=imgae"], ["objectives.image.target", "did you mean 'image'"]),
        (["metrics.retrieval.target=imgae"], ["metrics.retrieval.target", "did you mean 'image'"]),
        (["+protocol.aftr=1"], ["protocol", "did you mean 'after'"]),
        (["encoder.head=dense"], ["'encoder.head'", "RidgeMLP takes, got 'head'"]),
        (["encoder=mlp", "encoder.head=dense"], ["'encoder.head'", "write +encoder.head=dense"]),
        (["encoder.widht=3"], ["unknown key 'encoder.widht'", "did you mean 'width'"]),
        (["split@splits.x=kfold"], ["split@splits.x: expected", "write +split@splits.x="]),
        (["split@splits.x=kfold", "splits.xx=1"], ["split@splits.x: expected"]),
        (["encoder=adapted"], ["encoder.inner", "???", "+encoder@encoder.inner=mlp"]),
        (
            ["encoder=adapted", "+encoder@encoder.inner=mlp"],
            ["encoder.weights: expected encoder.safetensors", "got null", "scratch"],
        ),
        (
            ["experiment=nsd/wave"],
            [
                "preprocess.steps.parcels.atlas: expected a value",
                "add preprocess.steps.parcels.atlas=...",
            ],
        ),
        (["~experiment"], ["name: expected a value", "experiment=quickstart"]),
        (["experiment=nsd/mindeye2_adapt"], ["encoder.weights: expected", "got null"]),
        (
            ["experiment=nsd/mindeye2_adapt", "encoder.weights=scratch"],
            ["baselines.input.weights: expected", "got null"],
        ),
        (
            ["experiment=nsd/mindeye2_adapt", "encoder.weights=/no/run", "dry=true"],
            ["encoder.weights: expected encoder.safetensors", "/no/run", "found none"],
        ),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], words: list[str], tmp_path: Path) -> None:
    message = _one_line(quick(f"paths.outputs={tmp_path}/o", *arguments))
    for word in words:
        assert word in message
    assert not (tmp_path / "o" / "report").exists()


@pytest.mark.parametrize("sign", [*"ü=(#,{}[]'\"&;!~日|$\\%@+*: ", "\\'", "'\"", "\\", "a) (b"])
def test_a_path_of_any_signs_can_be_quoted_as_the_message_says(sign: str, tmp_path: Path) -> None:
    """The advice is what a shell and Hydra turn back into the path, to the letter."""
    import shlex

    from hydra.core.override_parser.overrides_parser import OverridesParser

    from decode.cli import quoted

    path = f"/a/{sign}/b{sign}"
    (argument,) = shlex.split(quoted("paths.data", path))
    assert OverridesParser.create().parse_override(argument).value() == path


@pytest.mark.parametrize("sign", list("ü=(#{['\"&;!日"))
def test_an_unquoted_path_is_told_how_to_be_quoted(sign: str, tmp_path: Path) -> None:
    from decode.cli import quoted

    data = f"{tmp_path}/a{sign}b"
    message = _one_line(quick(f"paths.outputs={tmp_path}/o", f"paths.data={data}"))
    assert message.startswith("decode: paths.data: expected a value")
    assert message.endswith(f"quote it: {quoted('paths.data', data)}")


def test_a_fault_of_ours_is_one_line_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from decode import cli

    def broken(_: object) -> None:
        raise KeyError("whitener")

    monkeypatch.setattr(cli, "_hydra", broken)
    monkeypatch.setattr(sys, "argv", ["decode"])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "a fault of decode itself" in line
    assert "KeyError: 'whitener'" in line
    assert "test_cli.py" in line
    monkeypatch.setattr(sys, "argv", ["decode", "debug=true"])
    with pytest.raises(KeyError):
        cli.main()


def test_a_group_cannot_be_null(tmp_path: Path) -> None:
    done = quick(f"paths.outputs={tmp_path}", "generator=null")
    assert done.returncode == 2
    assert "~generator" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_named_nodes_set_to_null_are_none(tmp_path: Path) -> None:
    plans = [
        quick(f"paths.outputs={tmp_path}", "dry=true", without).stdout
        for without in ("baselines=null", "~encoder@baselines.ridge")
    ]
    keys = [[line.rsplit("-", 1)[-1] for line in plan.splitlines()] for plan in plans]
    assert keys[0] == keys[1] != []


@pytest.mark.slow
def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = decode(f"paths.outputs={tmp_path}", "subjects=[sub-09]", "debug=true")
    assert done.returncode != 0
    assert "Traceback" in done.stderr


def test_dry_prints_the_plan_and_touches_nothing(tmp_path: Path) -> None:
    done = quick(f"paths.outputs={tmp_path}/o", "dry=true", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert {line[2] for line in lines} >= {"preprocess", "split", "features", "train", "report"}
    assert all(line[:2] == ["to", "do"] for line in lines)
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    """A small file system of its own, where this machine lets us mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        message = _one_line_after_progress(decode(f"paths.outputs={disk}/o", "until=preprocess"))
        assert "disk" in message
        assert not list((disk / "o").glob("preprocess/*/manifest.json"))
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def _one_line_after_progress(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.replace("\r", "\n").strip().splitlines()[-1]


def test_bars_are_gone_before_something_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    from tqdm import tqdm

    from decode.progress import close_bars

    bars = [tqdm(range(3), desc=name, leave=False) for name in ("outer", "inner")]
    close_bars()
    print("said", file=sys.stderr)
    for bar in bars:
        bar.close()
    assert capsys.readouterr().err.splitlines()[-1].endswith("said")


SMALL = [
    "data.n_train=60", "data.n_test=8", "data.n_voxels=200", "data.trials_per_run=40",
    "data.test_repeats=1", "encoder=ridge", "trainer=closed_form", "~generator",
    "~objective@objectives.contrast", "~objective@objectives.image",
    "~objective@objectives.lowlevel", "~target@targets.lowlevel", "target@targets.image=pixels_8",
    "target@targets.retrieval=pixels_8", "~metric@metrics.image", "~encoder@baselines.ridge",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["local", "joblib"])
def test_a_sweep_runs_every_point(launcher: str, tmp_path: Path) -> None:
    where = f"paths.outputs={tmp_path}/o"
    done = decode("-m", f"launcher={launcher}", "seed=0,1", where, *SMALL)
    assert done.returncode == 0, done.stderr
    reports = sorted((tmp_path / "o" / "report").glob("*/summary.json"))
    assert len(reports) == 2
    rows = json.loads(reports[0].read_text())
    assert {"metric", "subject", "n", "value", "chance", "ci_low", "ci_high"} <= set(rows[0])
    assert (tmp_path / "o" / "index.html").is_file()


@pytest.mark.slow
def test_the_scripts_stop_at_their_stage(tmp_path: Path) -> None:
    where = f"paths.outputs={tmp_path}/o"
    script = [sys.executable, str(ROOT / "scripts" / "train.py"), where, "seed=2", *SMALL]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    last = Path(done.stdout.strip().splitlines()[-1])
    assert last.parent.name == "train"
    assert (last / "manifest.json").is_file()

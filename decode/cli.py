"""The `decode` command: the only file that knows Hydra."""

from __future__ import annotations

import difflib
import os
import re
import shlex
import signal
import sys
import traceback
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from decode import keys
from decode.machine import in_words
from decode.shipped import CONFIGS
from decode.stages.table import NAMES

HELP = """decode: from brain recordings to what was seen, in one command

  decode [experiment=NAME] [key=value ...]     run what is not yet done, up to the report
  decode dry=true                              print the plan, touch nothing
  decode -m experiment=NAME seed=0,1,2         a sweep (launcher=local|joblib|slurm)
  decode apply RUN data=NAME [key=value ...]   the decoder of a finished run or a shared one on new recordings
  decode share RUN FOLDER [key=value ...]      the decoder of a finished run as a folder to give away

Keys: paths.data paths.outputs subjects=[..] seed until=STAGE force=[STAGE,..] dry debug
Stages: {stages}

Choices (group=choice):
"""


def main() -> None:
    """Entry point: exit code 0, or 2 with one line for what a researcher can mend."""
    arguments = sys.argv[1:]
    if {"-h", "--help"} & set(arguments):
        print(HELP.format(stages=" ".join(NAMES)) + list_choices(CONFIGS))
        return
    command = partial(_use if arguments[:1] and arguments[0] in USES else _hydra, arguments)
    debug = "debug=true" in [a.lower() for a in arguments]
    if debug:
        command()
        return
    try:
        command()
        sys.stdout.flush()
    except BrokenPipeError:
        _reader_is_gone()
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        sys.exit(130)
    except Exception as e:
        message = explain(e, arguments)
        if message is None:
            _own_fault(e)
        else:
            _refuse(message)


def _reader_is_gone() -> None:
    """Leave without a word, as after `| head`: what is still to be printed has nowhere to go."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            os.dup2(nowhere, stream.fileno())
    sys.exit(128 + signal.SIGPIPE)


def list_choices(configs: Path) -> str:
    """Every choice of every group, one group per line."""
    lines = []
    for group in sorted(p for p in configs.iterdir() if p.is_dir()):
        names = sorted(str(f.relative_to(group).with_suffix("")) for f in group.rglob("*.yaml"))
        lines.append(f"  {group.name:<11} {'  '.join(names)}")
    return "\n".join(lines)


def _hydra(arguments: Sequence[str]) -> None:
    # Hydra would print its own exceptions and exit with 1; ours are printed by main.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    if any(a.startswith("-") or "hydra" in a.partition("=")[0] for a in arguments):
        import hydra

        hydra.main(config_path=str(CONFIGS), config_name="config", version_base="1.3")(_point)()
    else:  # Hydra's own way composes twice
        _job(_composed("config", arguments), sweep=False)


# What a finished run is used for, and the folders that stand behind each word.
USES = {"apply": ("RUN",), "share": ("RUN", "FOLDER")}


def _use(arguments: Sequence[str]) -> None:
    """`decode apply RUN key=value ...` and the like: compose the config of that name and use a run."""
    from decode.refusals import refusal

    verb, *rest = arguments
    folders = [a for a in rest if "=" not in a and not a.startswith(("~", "+"))]
    if len(folders) != len(USES[verb]):
        wanted = " ".join(USES[verb])
        raise refusal(
            f"decode {verb}", wanted, " ".join(folders) or "none",
            f"write decode {verb} {wanted} key=value ..., RUN being what `decode` prints",
        )  # fmt: skip
    config = _contained(_composed(verb, [a for a in rest if a not in folders]))
    from decode.use import commands

    _quiet()
    if verb == "share":
        made = commands.run_share(folders[0], folders[1], config)
    else:
        made = commands.run_apply(folders[0], config, _to_user)
    print(made.resolve())


def _to_user(line: str) -> None:
    print(line, file=sys.stderr)


def _composed(name: str, overrides: Sequence[str]) -> Any:
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose(name, overrides=list(overrides))


def _contained(composed: Any) -> dict[str, Any]:
    from omegaconf import OmegaConf

    found = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    assert isinstance(found, dict)
    return {str(k): v for k, v in found.items()}


def _point(composed: Any) -> float | None:
    """One run: Hydra calls this once, or once per point of a sweep, maybe on another machine."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    return _job(composed, sweep=HydraConfig.get().mode is RunMode.MULTIRUN)


def _job(composed: Any, *, sweep: bool) -> float | None:
    try:
        config = _contained(composed)
        config.pop("launcher", None)
        found = run(config)
        sys.stdout.flush()
        return found
    except BrokenPipeError:
        _reader_is_gone()
    except Exception as e:
        # Leaving here keeps Hydra from adding lines of its own; a sweep must see the exception.
        message = explain(e, sys.argv[1:])
        if composed.debug is True or message is None or sweep:
            raise
        _refuse(message)
    return None


def _refuse(message: str, code: int = 2) -> None:
    if "tqdm" in sys.modules:
        from decode.progress import close_bars

        close_bars()
    print(f"decode: {message}", file=sys.stderr)
    sys.exit(code)


def _own_fault(error: BaseException) -> None:
    """One line, and exit code 1, for what no researcher can mend."""
    last = traceback.extract_tb(error.__traceback__)[-1:]
    place = f" at {last[0].filename}, line {last[0].lineno}" if last else ""
    what = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    _refuse(
        f"a fault of decode itself{place} ({what}); debug=true shows how it came there, please report "
        "it with the command",
        code=1,
    )


def run(config: dict[str, Any]) -> float | None:
    """Check the whole config, then plan or execute it; prints the run folder last."""
    unknown = set(config) - keys.NAMES
    if unknown:
        from decode.core import refusal

        wrong = sorted(unknown)[0]
        advice = _nearest(wrong, keys.NAMES)
        raise refusal(wrong, "a key of the config", f"unknown key {wrong!r}", advice)
    for key in sorted(keys.NAMES - set(config)):
        from decode.core import refusal

        raise refusal(key, "a value", "none, the command drops it", f"leave ~{key} out")
    # `baselines=null` on the command line means none, as an empty mapping does
    config |= {name: config[name] or {} for name in keys.NAMED}
    from decode.memory import Memory
    from decode.pipeline import execute
    from decode.workshop import Run

    planned = Run(config, memory=Memory.of_user())
    if config["dry"]:
        for task in planned.tasks:
            print(
                f"{'done' if planned.is_done(task) else 'to do':<6} {task.stage.name:<12} {task.folder}"
            )
        return None
    _quiet()
    folder = execute(
        planned,
        until=config["until"],
        force=config["force"],
        say=_to_user,
    )
    return _tell(planned, folder, config)


def _tell(planned: Any, folder: Path, config: dict[str, Any]) -> float | None:
    """Print the table of scores, when there is one, and the folder; returns the first score."""
    from decode.store import read_json

    first = None
    if config["until"] in ("evaluate", "report"):
        from decode.report.table import score_table

        summary = read_json(planned.folder("evaluate") / "summary.json")
        print(score_table(summary, simulated=planned.dataset.facts.simulated))
        first = summary[0]["value"] if summary else None
    print(folder.resolve())
    return first


def _quiet() -> None:
    """What libraries warn of becomes a line of ours; what networks say of their own code is left out."""
    import logging
    import warnings

    from decode.notices import tell

    def show(message: Any, category: Any, filename: str, *_: Any, **__: Any) -> None:
        tell(_library(filename), str(message))

    warnings.showwarning = show
    warnings.filterwarnings("ignore", module=r"(diffusers|transformers)")
    for name in ("mne", "diffusers", "transformers"):
        logging.getLogger(name).setLevel(logging.ERROR)
    os.environ.setdefault("MNE_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


def _library(filename: str) -> str:
    """The package that a source file belongs to."""
    parts = Path(filename).parts
    return (
        parts[parts.index("site-packages") + 1] if "site-packages" in parts else Path(filename).stem
    )


def explain(error: BaseException, arguments: list[str]) -> str | None:
    """One line for errors that the researcher can mend, None for faults of ours."""
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    for e in chain:
        kind = type(e).__name__
        if kind == "InputError":
            return " ".join(str(e).split())
        if said := in_words(e):
            return said
        if kind == "MissingConfigException":
            return _missing_choice(str(e))
        if kind == "MissingMandatoryValue":
            return _left_open(str(e))
        if kind in ("ConfigCompositionException", "ConfigAttributeError", "ConfigKeyError"):
            return _misspelt(e, arguments)
        if kind == "ValueError" and "Config group override must be" in str(e):
            return (
                "a group takes the name of a choice, not null; to leave it out put ~ before it, as in "
                "'~generator'"
            )
        if kind == "OverrideParseException":
            return _unreadable(str(getattr(e, "override", "")))
        if kind in ("HydraException", "ConfigTypeError", "ValidationError",
                    "InterpolationKeyError"):  # fmt: skip
            return _told_by_hydra(str(e))
    return None


def _told_by_hydra(message: str) -> str:
    """A message of Hydra in one line, without its addresses, and what to do about it."""
    text = " ".join(re.sub(r"(full_key|object_type|See https)\S*.*", "", message).split())
    if "nterpolation" in text:
        return f"{text}; ${{...}} asks for another key of the config, before a plain $ write \\"
    if text.startswith("Error merging"):
        return f"{text}; expected a value of the kind that stands there, --cfg=job shows it"
    return text


def _unreadable(argument: str) -> str:
    """Quotes around the value make a text of what Hydra's grammar takes for its own signs."""
    key, equals, value = argument.partition("=")
    if not equals or not value:
        return (
            f"expected key=value, got {argument!r}; write for example seed=1, or ~key to drop one"
        )
    mine = "[({"
    hint = "close its brackets, or quote it if it is text" if value[0] in mine else "quote it"
    return (
        f"{key}: expected a value in Hydra's grammar, got {value!r}; {hint}: {quoted(key, value)}"
    )


def quoted(key: str, value: str) -> str:
    """`key=value` as a shell and then Hydra read it as that text, whatever its characters."""
    backslashes = re.sub(r"(\\+)(?='|$)", r"\1\1", value).replace("'", r"\'")
    whole = f"{key}='{backslashes}'"
    return f'"{whole}"' if not set(whole) & set('"$`!\\') else shlex.quote(whole)


def _missing_choice(message: str) -> str:
    """`Could not find 'experiment/quikstart'` -> the nearest choice of that group."""
    found = re.search(r"find '([\w/]+)/([^/']+)'", message)
    if not found:
        return " ".join(message.split())
    group, name = found.group(1).split("/")[0], found.group(0).split("'")[1].split("/", 1)[1]
    folder = CONFIGS / group
    choices = sorted(str(f.relative_to(folder).with_suffix("")) for f in folder.rglob("*.yaml"))
    return f"{group}: expected one of its choices, got {name!r}; {_nearest(name, choices)}"


def _left_open(message: str) -> str:
    """`Missing mandatory value: ... full_key: a.b` -> what stands there in a command."""
    found = re.search(r"full_key: (\S+)", message)
    if not found:
        return " ".join(message.split())
    key = found.group(1)
    group, _, inside = key.partition(".")
    remedy = f"add {key}=... to the command or to the experiment"
    if not inside:
        remedy += ", or choose a whole experiment, for example experiment=quickstart"
    elif inside.rsplit(".", 1)[-1] == "inner" and group in ("encoder", "baselines"):
        remedy = f"choose an encoder for it, for example +encoder@{key}=mlp"
    return f"{key}: expected a value, the config leaves it open (???); {remedy}"


def _misspelt(error: BaseException, arguments: list[str]) -> str:
    text = " ".join(str(error).split())
    found = re.search(r"Key '([^']+)' is not in struct", text) or re.search(
        r"Could not override '([^']+)'", text
    )
    if not found:
        return text
    key = found.group(1)
    if "@" in key:
        return (
            f"{key}: expected a choice that the experiment has, got another; to add one write "
            f"+{key}=NAME"
        )
    wrong = key.split(".")[-1]
    argument = next((a for a in arguments if wrong in re.split(r"[.+~]", a.split("=")[0])), wrong)
    advice = _class_says(argument, arguments) or _nearest(wrong, _all_keys())
    return f"unknown key {argument.split('=')[0]!r}; {advice}"


def _class_says(argument: str, arguments: list[str]) -> str | None:
    """What the class of a node says to `argument` (key=value), which its yaml does not list."""
    from omegaconf import OmegaConf

    from decode.core import InputError

    path = argument.split("=")[0].split(".")
    if len(path) == 1:
        return None
    others = [a for a in arguments if "=" in a and a != argument and not a.startswith("-")]
    try:
        node: Any = OmegaConf.to_container(
            _composed("config", [*others, f"+{argument}"]), resolve=True
        )
        for name in path[:-1]:
            node = node[name]
        if "_target_" not in node:
            return None
        _check_knob(node["_target_"], path[-1], node[path[-1]])
    except InputError as e:
        return str(e).removeprefix("config.: ").lstrip(".")
    except Exception:  # another mistake in the command: the first one stands alone
        return None
    return f"the config does not list it, the class does: write +{argument}"


def _check_knob(target: str, name: str, value: Any) -> None:
    """Raise InputError where a class does not take `name`, or not such a value."""
    from decode.checks.arguments import check, unknown_argument
    from decode.memory import Memory

    takes = Memory.of_user().takes(target)
    if takes and name not in takes:
        raise unknown_argument(target, name, takes)
    check({"_target_": target, "_partial_": True, name: value}, "")


def _all_keys() -> list[str]:
    groups = [p.name for p in CONFIGS.iterdir() if p.is_dir()]
    words = re.findall(
        r"^\s*([a-z_]+):", "\n".join(p.read_text() for p in CONFIGS.rglob("*.yaml")), re.M
    )
    return sorted({*keys.NAMES, *groups, *words, "experiment"})


def _nearest(word: str, choices: Any) -> str:
    near = difflib.get_close_matches(word, list(choices), 1, cutoff=0.5)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"choices: {', '.join(sorted(choices))}"


if __name__ == "__main__":
    main()

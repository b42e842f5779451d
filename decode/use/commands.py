"""`decode apply` and `decode share`, once their config is composed."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from decode.building import bound, build
from decode.checks.arguments import check
from decode.checks.resources import check_rights
from decode.checksums import identity
from decode.core import Dataset
from decode.plan import digest_of
from decode.store import as_file_name, fill_folder, whole_file
from decode.use.apply import Applied, Asked, apply
from decode.use.opened import UsableDecoder, open_run
from decode.use.page import page
from decode.use.share import PASSPORT, open_decoder, share
from decode.weights.reading import choose_device

ASKED = tuple(f.name for f in fields(Asked))


def run_apply(folder: str, config: Mapping[str, Any], say: Callable[[str], None]) -> Path:
    """Read what `config.data` names with the decoder in `folder`; returns the folder of the results,
    which is only found where the same was asked before.
    """
    config = {"data": None, "preprocess": None, **config}
    for key in ("data", "preprocess"):
        check(config[key], key)
    decoder = open_any(folder, config)
    dataset, own = _data(decoder, config)
    asked = Asked(**{name: config[name] for name in ASKED})
    names = list(dataset.subjects) if asked.subjects is None else list(asked.subjects)
    key = digest_of(
        [
            decoder.facts, own, bound(config["data"]), {k: config[k] for k in ASKED},
            [identity(dataset.files(s), Path()) for s in names if s in dataset.subjects],
            _gallery_identity(asked.gallery),
        ]
    )  # fmt: skip
    name = as_file_name(f"{decoder.decoder.name}-{key}")
    out = Path(config["paths"]["outputs"]) / "apply" / name

    def fill(part: Path) -> dict[str, Any]:
        applied = apply(decoder.decoder, dataset, part / "work", asked, own=decoder.own)
        shutil.rmtree(part / "work")
        applied.write(part)
        with whole_file(part / "report.html") as file:
            file.write_text(page(applied, _about(folder, decoder, dataset, config)), "utf-8")
        _say(applied, say)
        return {"config": dict(config), "decoder": decoder.facts, "told": applied.told}

    fill_folder(out, fill, keep=False)
    return out


def run_share(folder: str, new: str, config: Mapping[str, Any]) -> Path:
    """Write the decoder of the run in `folder` to the folder `new`."""
    run = open_run(folder, packages=config["packages"])
    return share(
        run, Path(new), split=config["split"], fold=config["fold"], include=config["include"]
    )


def open_any(folder: str, config: Mapping[str, Any]) -> UsableDecoder:
    """The decoder in the folder of a run, or in one that was shared."""
    if (Path(folder) / PASSPORT).is_file():
        device = str(choose_device(config["compute"]["device"], "compute.device"))
        return open_decoder(folder, packages=config["packages"], device=device)
    run = open_run(folder, packages=config["packages"])
    run.config["compute"] = config["compute"]
    return run.decoder(config["split"], config["fold"])


def _data(decoder: UsableDecoder, config: Mapping[str, Any]) -> tuple[Dataset, bool]:
    """The recordings to read, and whether they are those of the run itself."""
    if config["data"] is None:
        return decoder.recordings(None), True
    check_rights(config["data"].get("root"))
    return decoder.recordings(build(config["data"], "data")), False


def _gallery_identity(gallery: str | None) -> str:
    place = Path(str(gallery)).expanduser()
    files = [p for p in place.rglob("*") if p.is_file()] if place.is_dir() else [place]
    return identity(files, place)


def _about(
    folder: str, decoder: UsableDecoder, dataset: Dataset, config: Mapping[str, Any]
) -> dict[str, str]:
    facts, data = decoder.facts, config["data"]
    return {
        "decoder": f"{folder}, split {facts['split']}, fold {facts['fold']}",
        "recordings": "those of the run" if data is None else str(data["_target_"]).rsplit(".")[-1],
        "source": dataset.facts.citation,
        "targets": ", ".join(decoder.targets),
        "split hash": str(facts["split_hash"]),
    }


def _say(applied: Applied, say: Callable[[str], None]) -> None:
    for fit in applied.fits:
        if not fit.worth_telling:
            say(f"{fit.subject}: {fit.what}: {fit.said}")
    for row in applied.scores().itertuples():
        say(f"{row.score}: {row.value:.3f} of {row.n} trials, chance {row.chance:.3f}")

"""report: everything that was found -> the run folder with its page, scores, config and split."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from decode.artefacts.folds import fold_folder
from decode.artefacts.predictions import pooled
from decode.checksums import check_finished
from decode.content import is_there
from decode.core import Dataset, Stimulus
from decode.report.ceilings import read_ceilings
from decode.report.classes import ClassCard, class_cards, class_names
from decode.report.content import (
    Artefact,
    Gallery,
    Report,
    RunCard,
    Score,
    Shot,
    SplitCard,
    choose,
)
from decode.report.curves import learning_curves, region_scores, session_curves, time_curves
from decode.report.page import index_page, page
from decode.report.published import beside_published
from decode.scoring.intervals import are_classes
from decode.scoring.rows import is_one_hot
from decode.stages.reconstruct import first_text, place
from decode.store import MANIFEST, is_finished, read_json, read_table, whole_file

# A name stands for all metrics that begin with it; those of whole corpora cannot rank captions.
GALLERY_METRICS = (
    "two_way_tiny_clip", "two_way_clip", "pixcorr",
    "cider", "clipscore", "rouge_l", "meteor_exact", "sentence_bleu4",
)  # fmt: skip
BESIDE = ("decoded", "ridge", "nearest_image", "oracle")
BESIDE_TEXT = ("decoded", "ridge", "nearest_text", "prior", "oracle")


def run(
    out: Path,
    *,
    config: Mapping[str, Any],
    dataset: Dataset,
    stimuli: Mapping[str, Stimulus],
    folders: Mapping[str, Path],
    artefacts: Sequence[Mapping[str, str]],
    versions: Mapping[str, str],
    disclosure: str = "",
    told: Sequence[str] = (),
) -> dict[str, Any]:
    """Fill the run folder: report.html, scores.parquet, summary.json, config.yaml/.json, split.json.

    `told` are the lines that earlier stages had for the user; they stand among the limits.
    """
    evaluated, predicted = folders["evaluate"], folders["predict"]
    trained, split_folder = folders["train"], folders["split"]
    for name in ("scores.parquet", "summary.json"):
        _copy(evaluated / name, out / name)
    _copy(split_folder / "split.json", out / "split.json")
    text = _write_config(out, config)
    summary, split = read_json(out / "summary.json"), read_json(out / "split.json")
    scores = read_table(out / "scores.parquet")
    galleries = _galleries(
        scores, predicted, folders.get("reconstruct"), stimuli, list(split["by"])
    )
    simulated, found = dataset.facts.simulated, [Score(**row) for row in summary]
    content = Report(
        name=config["name"],
        summary=summary,
        simulated=simulated,
        about=_about(config, dataset),
        galleries=galleries,
        learning=learning_curves(_histories(trained)),
        curves=time_curves(found),
        regions=region_scores(found),
        growth=session_curves(found),
        ceilings=read_ceilings(predicted, _with_repeats(predicted, stimuli, list(split["by"]))),
        splits=_split_cards(split),
        config=text,
        versions=dict(versions),
        artefacts=[Artefact(**a) for a in artefacts],
        baselines=_baselines(config),
        approximations=_approximations(dataset) if simulated else [],
        limits=[*config["notes"], *filter(None, [disclosure]), *told, *_limits(found)],
        published=beside_published(config, found),
        classes=_classes(predicted, config["targets"], list(split["by"])),
    )
    with whole_file(out / "report.html") as part:
        part.write_text(page(content), encoding="utf-8")
    return {"n_scores": len(summary), "simulated": simulated, **_thumbnails(galleries)}


TWO_WAY = "Two-way scores depend on the other pictures of the test set: compare runs of one data set only."
INTERVALS = (
    "Intervals hold for these subjects and stimuli as samples of such subjects and stimuli; with few "
    "subjects they say little about other people."
)


def _limits(scores: Sequence[Score]) -> list[str]:
    two_way = any(s.plain.startswith("two_way") for s in scores)
    return [TWO_WAY, INTERVALS] if two_way else [INTERVALS]


def _classes(
    predicted: Path, targets: Mapping[str, Mapping[str, Any]], splits: Sequence[str]
) -> list[ClassCard]:
    """Confusion matrices of the decoder's class targets, split by split."""
    cards = []
    for split in splits:
        for target, node in targets.items():
            truth_name, made_name = f"truth.{target}", f"encoder.{target}"
            frame = pooled(predicted, split, (truth_name, made_name))
            truth, made = frame.arrays.get(truth_name), frame.arrays.get(made_name)
            if truth is not None and made is not None and is_one_hot(truth):
                names = class_names(node, truth.shape[1])
                cards += class_cards(frame.table, target, made, truth, names)
    return cards


def _with_repeats(
    predicted: Path, stimuli: Mapping[str, Stimulus], splits: Sequence[str]
) -> list[str]:
    """Splits that test stimuli repeatedly; trials of one class are no repeats of a stimulus."""
    found = []
    for split in splits:
        table = pooled(predicted, split, ()).table
        shown = table["stimulus"].unique()
        events = all(stimuli[u].kind == "event" for u in shown)
        if not events and not are_classes(len(table), len(shown), table["subject"].nunique()):
            found.append(split)
    return found


def _copy(source: Path, target: Path) -> None:
    check_finished(source)
    shutil.copyfile(source, target)


def _write_config(out: Path, config: Mapping[str, Any]) -> str:
    import yaml

    text = str(yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True))
    (out / "config.yaml").write_text(text, encoding="utf-8")
    (out / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    return text


def _class(node: Mapping[str, Any]) -> str:
    return str(node["_target_"]).rsplit(".", 1)[-1]


def _about(config: Mapping[str, Any], dataset: Dataset) -> dict[str, str]:
    facts = dataset.facts
    generator = config["generator"]
    return {
        "data": f"{_class(config['data'])}, {facts.modality}",
        "source": facts.citation,
        "subjects": ", ".join(config["subjects"] or dataset.subjects),
        "repeats": f"training {config['protocol']['train_repeats']}, "
        f"test {config['protocol']['test_repeats']}",
        "targets": ", ".join(f"{k} ({_class(v)})" for k, v in config["targets"].items()),
        "encoder": _class(config["encoder"]),
        "generator": _class(generator) if generator else "none",
        "seed": str(config["seed"]),
    }


def _baselines(config: Mapping[str, Any]) -> dict[str, str]:
    return {
        name: f"{_class(node)}, fitted on the same training rows"
        for name, node in config["baselines"].items()
    }


def _approximations(dataset: Dataset) -> list[str]:
    truths = [dataset.truth(s) for s in dataset.subjects[:1]]
    return [t.approximation for t in truths if t is not None and t.approximation]


def _histories(trained: Path) -> dict[str, list[dict[str, float]]]:
    found = {}
    for path in sorted(trained.glob("*/history.jsonl")):
        check_finished(path)
        found[path.parent.name] = [json.loads(line) for line in path.read_text().splitlines()]
    return found


def _split_cards(split: Mapping[str, Any]) -> list[SplitCard]:
    return [
        SplitCard(
            name=name,
            hash=split["hashes"][name],
            folds=[row for row in split["sizes"] if row["split"] == name],
            by=by,
        )
        for name, by in split["by"].items()
    ]


def _galleries(
    scores: pd.DataFrame,
    predicted: Path,
    made: Path | None,
    stimuli: Mapping[str, Stimulus],
    splits: Sequence[str],
) -> list[Gallery]:
    """Best, median and worst of each split by the first metric that there is of single media."""
    if made is None:
        return []
    galleries = []
    for split in splits:
        rows = scores[scores["split"] == split]
        metric = gallery_metric(rows["metric"].unique())
        if metric is None:
            continue
        table = pooled(predicted, split, ()).table
        table = table.assign(row=table.groupby("fold", sort=False).cumcount())
        values = rows[rows["metric"] == metric].set_index("trial")["value"]
        groups = {
            label: [_shot(table.iloc[t], values[t], made, stimuli) for t in trials]
            for label, trials in choose(_settle_ties(rows, metric), metric).items()
        }
        gallery = Gallery(f"Shown and reconstructed, split {split}", metric, groups)
        if gallery.told:
            gallery = replace(gallery, title=f"Shown and told, split {split}")
        galleries.append(gallery)
    return galleries


def gallery_metric(names: Iterable[str]) -> str | None:
    """The metric of the decoder itself that chooses what a gallery shows; None where none can."""
    known = list(names)
    found = (n for m in GALLERY_METRICS for n in known if n == m or n.startswith(f"{m}_"))
    return next(found, None)


def _settle_ties(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Rows of the metric, with pixcorr or, for texts, rouge_l deciding between equal values."""
    part = rows[rows["metric"] == metric]
    deciding = "pixcorr" if (rows["metric"] == "pixcorr").any() else "rouge_l"
    other = rows[rows["metric"] == deciding].set_index("trial")["value"]
    return part.assign(value=part["value"] + 1e-6 * part["trial"].map(other).fillna(0.0))


def _shot(row: pd.Series, value: float, made: Path, stimuli: Mapping[str, Stimulus]) -> Shot:
    folder = fold_folder(made, row["split"], row["fold"])
    at, stimulus = int(row["row"]), stimuli[row["stimulus"]]
    pictures: dict[str, Any] = {}
    if stimulus.kind == "image" and stimulus.path is not None:
        pictures["shown"] = stimulus.path
    for source in BESIDE:
        path = place(folder / source, at, "image")
        if path.is_file():
            pictures[source] = path
    texts = {source: place(folder / source, at, "text") for source in BESIDE_TEXT}
    told = {k: v.read_text(encoding="utf-8") for k, v in texts.items() if v.is_file()}
    written = first_text(stimulus)
    if told and written:
        told = {"written": written, **told}
    return Shot(row["subject"], row["stimulus"], value, pictures, told)


def _thumbnails(galleries: Sequence[Gallery]) -> dict[str, Any]:
    """The median trial's pictures and what was told of it, for the index page."""
    for gallery in galleries:
        shots = gallery.groups.get("median")
        if shots:
            seen = {k: str(v) for k, v in shots[0].pictures.items() if k in ("shown", "decoded")}
            return {"pictures": seen, "text": shots[0].texts.get("decoded", "")}
    return {"pictures": {}, "text": ""}


def _present(pictures: Mapping[str, str]) -> dict[str, str]:
    """What was shown first, then what was made of it; without files that have gone."""
    named = {k: pictures[k] for k in ("shown", "decoded") if k in pictures}
    return {k: v for k, v in named.items() if is_there(v)}


def write_index(outputs: Path) -> Path:
    """outputs/index.html: every finished run with its headline scores and a link to its report."""
    cards = []
    for folder in sorted((outputs / "report").glob("*-*")):
        if not is_finished(folder) or ".old-" in folder.name:
            continue
        manifest = read_json(folder / MANIFEST)
        facts, config = manifest["facts"], read_json(folder / "config.json")
        cards.append(
            RunCard(
                name=config["name"],
                link=f"report/{folder.name}/report.html",
                summary=read_json(folder / "summary.json"),
                simulated=facts["simulated"],
                finished=manifest.get("finished", ""),
                about=f"seed {config['seed']}, {folder.name.rpartition('-')[2]}",
                pictures=_present(facts["pictures"]),
                text=facts.get("text", ""),
            )
        )
    path = outputs / "index.html"
    with whole_file(path) as part:
        part.write_text(index_page(cards), encoding="utf-8")
    return path

"""report: everything that was found -> the run folder with its page, scores, config and split."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from decode.artefacts.folds import fold_folder
from decode.artefacts.media import kept_kind, place
from decode.artefacts.places import folder_of, place_of, truth_of
from decode.artefacts.predictions import pooled
from decode.checksums import check_finished
from decode.content import is_there
from decode.core import Dataset, Measure, Ranking, Stimulus
from decode.media.medium import kind_of
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
from decode.report.voxels import voxel_cards
from decode.scoring.intervals import are_classes
from decode.scoring.rows import is_one_hot
from decode.scoring.summary import is_current
from decode.sources import (
    DECODER,
    NEAREST,
    ORACLE,
    PRIOR,
    SHOWN,
    Source,
)
from decode.store import MANIFEST, is_finished, read_json, read_table, whole_file

# Controls whose media are shown beside those of the decoder and its baselines; of some, texts alone.
BESIDE = (*NEAREST.values(), PRIOR, ORACLE)
TEXTS_ONLY = (PRIOR,)


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
    for name in ("scores.parquet", "summary.json", "glossary.json"):
        _copy(evaluated / name, out / name)
    _copy(split_folder / "split.json", out / "split.json")
    text = _write_config(out, config)
    summary, split = read_json(out / "summary.json"), read_json(out / "split.json")
    scores = read_table(out / "scores.parquet")
    measures, sources = read_glossary(out / "glossary.json")
    galleries = _galleries(
        scores, measures, sources, predicted, folders.get("reconstruct"), stimuli, list(split["by"])
    )
    simulated, found = dataset.facts.simulated, [Score(**row) for row in summary]
    content = Report(
        name=config["name"],
        summary=summary,
        measures=measures,
        sources=sources,
        simulated=simulated,
        about=_about(config, dataset),
        galleries=galleries,
        learning=learning_curves(_histories(trained)),
        curves=time_curves(found, measures),
        regions=region_scores(found, measures),
        growth=session_curves(found, config["splits"]),
        ceilings=read_ceilings(predicted, _with_repeats(predicted, stimuli, list(split["by"]))),
        voxels=voxel_cards(scores, measures),
        splits=_split_cards(split),
        config=text,
        versions=dict(versions),
        artefacts=[Artefact(**a) for a in artefacts],
        approximations=_approximations(dataset) if simulated else [],
        limits=[*config["notes"], *filter(None, [disclosure]), *told, *_limits(measures)],
        published=beside_published(config, found),
        classes=_classes(predicted, config["targets"], list(split["by"])),
    )
    with whole_file(out / "report.html") as part:
        part.write_text(page(content), encoding="utf-8")
    return {"n_scores": len(summary), "simulated": simulated, **_thumbnails(galleries)}


AMONG = (
    "Rows are compared with other rows of the test set in {}: compare these scores between runs on one "
    "test set only."
)
INTERVALS = (
    "Intervals hold for these subjects and stimuli as samples of such subjects and stimuli; with few "
    "subjects they say little about other people."
)


def read_glossary(path: Path) -> tuple[dict[str, Measure], list[Source]]:
    """What `evaluate` wrote of the scores and of the sources, in order."""
    content = read_json(path)
    measures = {
        name: Measure(**{**told, "ranks": told["ranks"] and Ranking(**told["ranks"])})
        for name, told in content["metrics"].items()
    }
    return measures, [Source(**told) for told in content["sources"]]


def _limits(measures: Mapping[str, Measure]) -> list[str]:
    among = [name for name, measure in measures.items() if measure.rows == "among"]
    return [AMONG.format(", ".join(among)), INTERVALS] if among else [INTERVALS]


def _classes(
    predicted: Path, targets: Mapping[str, Mapping[str, Any]], splits: Sequence[str]
) -> list[ClassCard]:
    """Confusion matrices of the decoder's class targets, split by split."""
    cards = []
    for split in splits:
        for target, node in targets.items():
            truth_name, made_name = f"{truth_of()}/{target}", f"{place_of(DECODER)}/{target}"
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
        if any(stimuli[u].has_content for u in shown) and not are_classes(
            len(table), len(shown), table["subject"].nunique()
        ):
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


def _approximations(dataset: Dataset) -> list[str]:
    truths = [dataset.truth(s) for s in dataset.subjects[:1]]
    return [t.approximation for t in truths if t is not None and t.approximation]


def _histories(trained: Path) -> dict[str, list[dict[str, float]]]:
    found = {}
    for path in sorted(trained.glob(f"*/{place_of(DECODER)}/history.jsonl")):
        check_finished(path)
        found[path.parents[1].name] = [json.loads(line) for line in path.read_text().splitlines()]
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
    measures: Mapping[str, Measure],
    sources: Sequence[Source],
    predicted: Path,
    made: Path | None,
    stimuli: Mapping[str, Stimulus],
    splits: Sequence[str],
) -> list[Gallery]:
    """Best, median and worst of each split by the first metric that there is of single media."""
    if made is None:
        return []
    beside = [s for s in sources if s.role in ("decoder", "baseline") or s in BESIDE]
    galleries = []
    for split in splits:
        rows = scores[(scores["split"] == split) & (scores["role"] == "decoder")]
        there = set(rows["metric"])
        choosing = choosers({k: m for k, m in measures.items() if k in there})
        if not choosing:
            continue
        metric = choosing[0]
        table = pooled(predicted, split, ()).table
        table = table.assign(row=table.groupby("fold", sort=False).cumcount())
        values = rows[rows["metric"] == metric].set_index("trial")["value"]
        groups = {
            label: [_shot(table.iloc[t], values[t], made, stimuli, beside) for t in trials]
            for label, trials in choose(_settle_ties(rows, choosing), metric).items()
        }
        gallery = Gallery(f"Shown and reconstructed, split {split}", metric, groups)
        if gallery.told:
            gallery = replace(gallery, title=f"Shown and told, split {split}")
        galleries.append(gallery)
    return galleries


def choosers(measures: Mapping[str, Measure]) -> list[str]:
    """The scores that can choose what a gallery shows, the best for it first."""
    able = {k: m.chooses for k, m in measures.items() if m.chooses and m.rows != "together"}
    return sorted(able, key=lambda name: -able[name])


def _settle_ties(rows: pd.DataFrame, choosing: Sequence[str]) -> pd.DataFrame:
    """Rows of the first of the choosing metrics, the second deciding between equal values."""
    first, *others = choosing
    part = rows[rows["metric"] == first]
    if not others:
        return part
    other = rows[rows["metric"] == others[0]].set_index("trial")["value"]
    return part.assign(value=part["value"] + 1e-6 * part["trial"].map(other).fillna(0.0))


def _shot(
    row: pd.Series,
    value: float,
    made: Path,
    stimuli: Mapping[str, Stimulus],
    sources: Sequence[Source],
) -> Shot:
    folder = fold_folder(made, row["split"], row["fold"])
    at, stimulus = int(row["row"]), stimuli[row["stimulus"]]
    pictures: dict[str, Any] = {}
    if stimulus.can_be_seen:
        pictures[SHOWN.name] = stimulus
    texts = {}
    for source in sources:
        where = folder_of(folder, source)
        if not where.is_dir():
            continue
        kind = kept_kind(where)
        path = place(where, at, kind)
        if kind == "text":
            texts[source.name] = path.read_text(encoding="utf-8")
        elif source not in TEXTS_ONLY:
            pictures[source.name] = path
    written = stimulus.text if texts else ""
    return Shot(row["subject"], row["stimulus"], value, pictures, texts, written)


def _thumbnails(galleries: Sequence[Gallery]) -> dict[str, Any]:
    """The median trial's pictures and what was told of it, for the index page."""
    for gallery in galleries:
        shots = gallery.groups.get("median")
        if shots:
            text = shots[0].texts.get(DECODER.name, "")
            return {"pictures": _stills(shots[0].pictures), "text": text}
    return {"pictures": {}, "text": ""}


def _stills(seen: Mapping[str, Any]) -> dict[str, str]:
    """Addresses of what was shown and made, where they are pictures: an index plays nothing."""
    paths = {k: v.path if isinstance(v, Stimulus) else str(v) for k, v in seen.items()}
    named = {k: str(p) for k, p in paths.items() if k in (SHOWN.name, DECODER.name)}
    return {k: p for k, p in named.items() if (kind_of(p) or "image") == "image"}


def _present(pictures: Mapping[str, str]) -> dict[str, str]:
    """What was shown first, then what was made of it; without files that have gone."""
    shown_first = sorted(pictures, key=lambda name: name != SHOWN.name)
    return {k: pictures[k] for k in shown_first if is_there(pictures[k])}


def write_index(outputs: Path) -> Path:
    """outputs/index.html: every finished run with its headline scores and a link to its report."""
    cards = []
    for folder in sorted((outputs / "report").glob("*-*")):
        if not is_finished(folder) or ".old-" in folder.name:
            continue
        manifest = read_json(folder / MANIFEST)
        facts, config = manifest["facts"], read_json(folder / "config.json")
        summary = read_json(folder / "summary.json")
        cards.append(
            RunCard(
                name=config["name"],
                link=f"report/{folder.name}/report.html",
                summary=summary if is_current(summary) else [],
                outdated=not is_current(summary),
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

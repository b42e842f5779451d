"""What can be found wrong before training once trials and their split are known."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import pandas as pd

from decode.building import bound, build
from decode.core import ComparesPictures, Generator, Kind, Shape, about, refusal
from decode.keys import Config
from decode.scoring.rows import galleries


def check_answers(config: Config, of_trials: Collection[str]) -> None:
    """Raise InputError where targets that read trials meet what knows stimuli only: means over repeats, whose
    trials have different answers, and ranks among stimuli.
    """
    if not of_trials:
        return
    first = sorted(of_trials)[0]
    for key in ("train_repeats", "test_repeats"):
        asked = bound({"_target_": "decode.folds.Protocol", **config["protocol"]})[key]
        if asked != "single":
            raise refusal(
                f"protocol.{key}",
                f"single, since targets.{first} differs from trial to trial of one stimulus",
                asked,
                f"write protocol.{key}=single",
            )
    for name, node in config["metrics"].items():
        metric = build(node, f"metrics.{name}")
        ranks = any(measure.ranks is not None for measure in metric.measures().values())
        if ranks and metric.target in of_trials:
            raise refusal(
                f"metrics.{name}.target",
                "a target that reads stimuli, which it ranks",
                f"{metric.target}, which reads trials",
                "choose accuracy, auc or vector_correlation for it",
            )


def check_galleries(config: Config, trials: pd.DataFrame, manifest: pd.DataFrame) -> None:
    """Raise InputError, before training, when a metric asks for more rivals than a gallery has.

    `trials` is the table of single trials, `manifest` says which of its rows are in which part.
    """
    test = manifest[manifest["part"] == "test"]
    rows = trials.iloc[test["row"].to_numpy()].reset_index(drop=True)
    rows = rows.assign(split=test["split"].to_numpy(), fold=test["fold"].to_numpy())
    for name, node in config["metrics"].items():
        asked = max(bound(node).get("n_way") or [0])
        within = node.get("within", bound(node).get("within"))
        # Columns that only predictions have are left to the metric.
        if not asked or within is None or not len(rows) or not set(within) <= set(rows.columns):
            continue
        fewest = min(galleries(rows, within), key=lambda g: g.n_stimuli)
        if fewest.n_stimuli < asked:
            first = rows.iloc[fewest.rows[0]]
            here = ", ".join(f"{c} {first[c]}" for c in within)
            raise refusal(
                f"metrics.{name}.n_way",
                f"at most {fewest.n_stimuli}, the different test stimuli that {here} has",
                f"{asked:g}",
                f"lower n_way, use other columns in metrics.{name}.within or give the data more test trials",
            )


def check_picture_sizes(config: Config, stimuli: pd.DataFrame, shapes: Mapping[str, Shape]) -> None:
    """Raise InputError, before training, when what was shown is not of a kind that the generator learns
    from, or a metric cannot compare pictures of the sizes that there are: those shown, `height` and
    `width` in the table of stimuli, and those that will be made.
    """
    if not config["generator"]:
        return
    generator: Generator = build(config["generator"], "generator")
    kinds = set(stimuli["kind"])
    generator.check_shown(kinds)
    pairs = stimuli[["height", "width"]].drop_duplicates().itertuples(index=False)
    shown = {(int(height), int(width)) for height, width in pairs}
    for name, node in config["metrics"].items():
        metric = build(node, f"metrics.{name}")
        if isinstance(metric, ComparesPictures):
            with about(f"metrics.{name}"):
                _check_pictures(kinds)
                metric.check_sizes(shown, generator.size_of(shapes))


def _check_pictures(kinds: Collection[Kind]) -> None:
    if others := sorted(set(kinds) - {"image"}):
        raise refusal(
            "stimuli", "pictures, beside which made ones are scored", f"some of kind {others[0]}",
            "choose another metric or leave the generator out",
        )  # fmt: skip


def check_voxel_people(config: Config, manifest: pd.DataFrame) -> None:
    """Raise InputError, before training, when a model of the voxels has no training trials of someone."""
    if not config.get("voxel_model"):
        return
    for (split, fold), rows in manifest.groupby(["split", "fold"], sort=False):
        whose = {part: set(rows.loc[rows["part"] == part, "subject"]) for part in ("train", "test")}
        strangers = sorted(whose["test"] - whose["train"])
        if strangers:
            raise refusal(
                "voxel_model",
                "training trials of every tested subject, whose voxels it models",
                f"none of {strangers[0]} in fold {fold} of split {split}",
                "set voxel_model=null and leave brain_correlation out, or split within subjects",
            )

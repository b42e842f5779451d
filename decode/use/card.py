"""The model card of a shared decoder: what it reads, how well, from whom, and what must not be concluded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from decode.sources import DECODER
from decode.trainable import held_by
from decode.use.decoder import Decoder
from decode.use.opened import OpenedRun

SIMULATED = "The recordings it was trained on are simulated: it reads no real brain."
STAMP = (
    "TEST-CONDITIONED: the scores were made with a look at the test part as a whole; they may not be "
    "compared with others."
)
PRIVATE = (
    "This folder holds no recording, no table of trials, no prediction and no stimulus. It holds weights, "
    "means and scales of channels, channel names and positions, and the subjects' labels in the data set."
)
HELD = "Its weights hold {}: ask whose they are before you pass it on."


def card(
    run: OpenedRun, decoder: Decoder, summary: Sequence[Mapping[str, Any]], generates: bool
) -> str:
    """The card in Markdown, with the head that model hubs read."""
    facts = run.run.dataset.facts
    first = decoder.people[decoder.known[0]].layout
    lines = [
        "---",
        "library_name: decode",
        f"tags: [brain-decoding, neuroscience, {first.modality}]",
        "---",
        f"# {decoder.name}",
        "",
        f"Decodes {', '.join(decoder.shapes)} from {first.modality.upper()}.",
        *_limits(run, decoder),
        "",
        "## What it reads",
        "",
        *_reads(decoder),
        "",
        "## Trained on",
        "",
        f"- data: {facts.citation} (licence: {facts.licence})",
        f"- subjects: {', '.join(decoder.known)}",
        f"- encoder: {_short(decoder.nodes['encoder'])}, targets: "
        + ", ".join(f"{k} ({_short(v)})" for k, v in decoder.nodes["targets"].items()),
        f"- split {decoder.facts['split']}, fold {decoder.facts['fold']} of {decoder.facts['folds']}, "
        f"hash {decoder.facts['split_hash']}",
        "",
        "## Scores on its test part",
        "",
        *table(summary),
        "",
        "All folds of the split together; each score beside chance, with its 95 % interval.",
        "",
        "## Use it",
        "",
        "```",
        "decode apply THIS_FOLDER data=bids data.root=... data.datatype=... gallery=PICTURES",
        "```",
        "",
        "Makes media." if generates else "Makes no media: its generator is not shared.",
        *(["", *_notes(run)] if run.config["notes"] else []),
    ]
    return "\n".join(lines) + "\n"


def _limits(run: OpenedRun, decoder: Decoder) -> list[str]:
    held = sorted(held_by(decoder.encoder))
    said = [PRIVATE] if not held else [HELD.format(" and ".join(held))]
    said += [SIMULATED] if run.simulated else []
    said += [STAMP] if decoder.facts["test_conditioned"] else []
    return [line for text in said for line in ("", text)]


def _reads(decoder: Decoder) -> list[str]:
    rows = ["| subject | channels | rate | window |", "| --- | --- | --- | --- |"]
    for name in decoder.known:
        layout = decoder.people[name].layout
        end = layout.start + layout.n_times / layout.sfreq
        window = f"{layout.start:g} to {end:g} s" if layout.n_times > 1 else "one sample a trial"
        rows.append(f"| {name} | {layout.n_channels} | {layout.sfreq:g} Hz | {window} |")
    unseen = {
        "refuse": "not read"
        if not decoder.reads_others()
        else "read, the encoder knows no subjects",
        "shared": "read by the one layer for all",
        "mean": "read through the layers of all training subjects, averaged",
    }[decoder.protocol.unseen]
    step = _short(decoder.nodes["preprocess"])
    return [*rows, "", f"People who are not listed: {unseen}. Preprocessing: {step}."]


def table(summary: Sequence[Mapping[str, Any]]) -> list[str]:
    """The decoder's own scores, over all subjects and of each, as lines of Markdown."""
    rows = [
        "| score | subject | n | value | 95 % | chance |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in (row for row in summary if row["source"] == DECODER.name):
        numbers = (_number(row[k]) for k in ("value", "ci_low", "ci_high", "chance"))
        value, low, high, chance = numbers
        rows.append(
            f"| {row['metric']} | {row['subject']} | {row['n']} | {value} | {low} to {high} | {chance} |"
        )
    return rows


def _number(value: Any) -> str:
    return "–" if value is None or value != value else f"{value:.3f}"


def _notes(run: OpenedRun) -> list[str]:
    return ["## Notes", "", *(f"- {note}" for note in run.config["notes"])]


def _short(node: Mapping[str, Any]) -> str:
    return str(node["_target_"]).rsplit(".", 1)[-1]

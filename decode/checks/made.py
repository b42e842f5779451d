"""Whether the generator and the metrics can be made, as far as no network has to be opened."""

from __future__ import annotations

from collections.abc import Collection

from decode.checks.choices import told
from decode.core import Generator, Metric, refusal
from decode.keys import Config
from decode.media.medium import KINDS
from decode.scoring.tidy import measures_of


def check_made(config: Config, opened: Collection[str]) -> None:
    """Raise InputError when the generator or a metric, if it is `opened`, refuses its arguments, or the
    generator needs a target that the experiment has not. Networks are opened later.
    """
    if config["generator"] and "generator" in opened:
        generator = told("generator", config["generator"])
        if generator.makes not in KINDS:
            raise refusal(
                "generator",
                f"one that makes one of {list(KINDS)}",
                generator.makes,
                "choose another",
            )
        Generator.check(generator, dict.fromkeys(config["targets"], ()))
    if "metrics" in opened:
        metrics = {k: told(f"metrics.{k}", node) for k, node in config["metrics"].items()}
        measures_of(metrics)
        for name, metric in metrics.items():
            _check_scored(f"metrics.{name}", metric, config)


def _check_scored(where: str, metric: Metric, config: Config) -> None:
    """Refuse a metric that cannot score what the generator makes."""
    if metric.looks_at != "media" or not config["generator"]:
        return
    makes = told("generator", config["generator"]).makes
    if makes not in metric.accepts:
        wanted = " or ".join(sorted(metric.accepts))
        raise refusal(
            where, f"a generator of {wanted}, which it scores", f"one of {makes}",
            f"drop it (~{where}) or choose a metric of {makes}",
        )  # fmt: skip

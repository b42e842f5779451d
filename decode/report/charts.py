"""Small charts as inline SVG, coloured by the page's own style (light, dark, print)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup, escape

from decode.report.content import Curve, Score
from decode.report.voxels import Cloud


def scale_of(scores: Sequence[Score]) -> tuple[float, float]:
    """The axis shared by scores of one metric: 0 to 1 where they fit, else what they need."""
    numbers = [
        x
        for s in scores
        for x in (s.value, s.chance, s.ci_low, s.ci_high, s.ceiling)
        if x is not None and math.isfinite(x)
    ]
    low, high = min([0.0, *numbers]), max(numbers, default=1.0)
    if scores and scores[0].better == "higher" and high <= 1:
        return low, 1.0
    return low, (high * 1.1 or 1.0)


def span(score: Score, axis: tuple[float, float], *, width: int = 180) -> Markup:
    """A dot with its interval on a track, a tick for chance and a diamond for the ceiling."""
    low, high = axis

    def x(value: float) -> float:
        return round(6 + (width - 12) * (value - low) / (high - low), 1)

    parts = [f'<line class="track" x1="6" x2="{width - 6}" y1="9" y2="9"/>']
    if known(score.chance):
        at = x(score.chance)  # type: ignore[arg-type]
        parts.append(f'<line class="chance" x1="{at}" x2="{at}" y1="2" y2="16"/>')
    if known(score.ceiling):
        at = x(score.ceiling)  # type: ignore[arg-type]
        parts.append(f'<path class="ceiling" d="M{at} 3l4 6l-4 6l-4-6z"/>')
    if known(score.ci_low) and known(score.ci_high):
        a, b = x(score.ci_low), x(score.ci_high)  # type: ignore[arg-type]
        parts.append(f'<line class="whisker" x1="{a}" x2="{b}" y1="9" y2="9"/>')
    parts.append(f'<circle class="dot" cx="{x(score.value)}" cy="9" r="4"/>')
    label = escape(f"{score.metric}: {score.value:.3f}")
    return Markup(
        f'<svg class="span" viewBox="0 0 {width} 18" width="{width}" height="18" role="img" '
        f'aria-label="{label}">{"".join(parts)}</svg>'
    )


def known(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers between `low` and `high`, about `count` of them."""
    raw = (high - low) / count
    power = 10 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw)
    first = math.ceil(low / step - 1e-9) * step
    return [first + i * step for i in range(int((high - first) / step + 1e-9) + 1)]


def chart(curve: Curve, *, width: int = 420, height: int = 220) -> Markup:
    """A line chart with axes, a legend and the level of chance."""
    left, right, top, bottom = 48, 12, 12, 34
    xs = np.concatenate([np.asarray(x, float) for x, _ in curve.lines.values()])
    ys = np.concatenate([np.asarray(y, float) for _, y in curve.lines.values()])
    ys = np.append(ys, float(curve.chance)) if known(curve.chance) else ys  # type: ignore[arg-type]
    ys = ys[np.isfinite(ys)]
    x0, x1 = widened(xs.min(), xs.max(), 0)
    y0, y1 = widened(ys.min(), ys.max(), 0.06)

    def px(x: float) -> float:
        return round(left + (width - left - right) * (x - x0) / (x1 - x0), 1)

    def py(y: float) -> float:
        return round(height - bottom - (height - top - bottom) * (y - y0) / (y1 - y0), 1)

    parts = []
    for t in ticks(y0, y1):
        parts.append(
            f'<line class="grid" x1="{left}" x2="{width - right}" y1="{py(t)}" y2="{py(t)}"/>'
        )
        parts.append(
            f'<text class="tick" x="{left - 6}" y="{py(t) + 4}" text-anchor="end">{t:.4g}</text>'
        )
    for t in ticks(x0, x1, 6):
        place = f'x="{px(t)}" y="{height - bottom + 16}"'
        parts.append(f'<text class="tick" {place} text-anchor="middle">{t:.4g}</text>')
    if known(curve.chance):
        at = py(curve.chance)  # type: ignore[arg-type]
        parts.append(f'<line class="level" x1="{left}" x2="{width - right}" y1="{at}" y2="{at}"/>')
        parts.append(
            f'<text class="tick" x="{width - right}" y="{at - 4}" text-anchor="end">chance</text>'
        )
    for i, (x, y) in enumerate(curve.lines.values()):
        points = " ".join(
            f"{px(a)},{py(b)}" for a, b in zip(x, y, strict=True) if math.isfinite(a + b)
        )
        parts.append(f'<polyline class="line line-{i % 5}" points="{points}"/>')
    parts.append(
        f'<text class="tick" x="{(left + width - right) / 2}" y="{height - 3}" '
        f'text-anchor="middle">{escape(curve.x_label)}</text>'
    )
    return Markup(
        f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(curve.title)}">{"".join(parts)}</svg>'
    )


def dots(cloud: Cloud, *, size: int = 300) -> Markup:
    """Values over ceilings on equal axes, with a line where a value is its ceiling."""
    every = np.concatenate([np.asarray(v, float) for pair in cloud.dots.values() for v in pair])
    low, high = widened(min(0.0, float(every.min())), float(every.max()), 0.04)
    left, bottom = 44, 34

    def px(x: float) -> float:
        return round(left + (size - left - 12) * (x - low) / (high - low), 1)

    def py(y: float) -> float:
        return round(size - bottom - (size - bottom - 12) * (y - low) / (high - low), 1)

    parts = []
    for t in ticks(low, high):
        parts.append(f'<line class="grid" x1="{left}" x2="{size - 12}" y1="{py(t)}" y2="{py(t)}"/>')
        parts.append(
            f'<text class="tick" x="{left - 6}" y="{py(t) + 4}" text-anchor="end">{t:.4g}</text>'
            f'<text class="tick" x="{px(t)}" y="{size - 18}" text-anchor="middle">{t:.4g}</text>'
        )
    for i, (x, y) in enumerate(cloud.dots.values()):
        path = "".join(f"M{px(a)} {py(b)}h0" for a, b in zip(x, y, strict=True))
        parts.append(f'<path class="dots line-{i % 5}" d="{path}"/>')
    parts.append(
        f'<line class="level" x1="{px(low)}" y1="{py(low)}" x2="{px(high)}" y2="{py(high)}"/>'
        f'<text class="tick" x="{(left + size) / 2}" y="{size - 3}" text-anchor="middle">ceiling</text>'
    )
    return Markup(
        f'<svg class="chart" viewBox="0 0 {size} {size}" role="img" '
        f'aria-label="{escape(cloud.title)} over its ceiling">{"".join(parts)}</svg>'
    )


def widened(low: float, high: float, share: float) -> tuple[float, float]:
    """The range with a margin; never empty."""
    room = (high - low) * share
    if high - low <= 0:
        room = abs(high) * 0.1 or 1.0
    return float(low - room), float(high + room)

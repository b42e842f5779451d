"""How like made sounds are to those that were played, in their mel bands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np
import pandas as pd

from decode.core import Kind, Measure, Media, Metric, Results, refusal
from decode.features.sound import FLOOR, mel_bands
from decode.progress import progress
from decode.scoring.identification import share_beaten
from decode.scoring.picture_scores import standardise
from decode.scoring.rows import galleries, scores, table


class Sound(Metric):
    """`mel_correlation`, Pearson r over frames and bands of the made and the played sound, and
    `two_way_mel`, the share of the other sounds of the gallery that it is less like than its own.

    Sounds are mixed to one channel; `bands`, `low`, `high` (Hz), `rate` (Hz) and `frame` (s) are those of
    `decode.features.sound`. The shorter of two goes on in silence, so that what is not said counts.
    Unlike sounds correlate too: chance of the first is the mean r with a sound of the gallery.
    """

    looks_at: ClassVar[Literal["media"]] = "media"
    accepts: ClassVar[frozenset[Kind]] = frozenset({"audio"})

    def __init__(
        self,
        *,
        bands: int = 40,
        low: float = 50.0,
        high: float = 8000.0,
        rate: float = 100.0,
        frame: float = 0.025,
        within: Sequence[str] = ("subject", "split", "fold"),
    ) -> None:
        self.knobs = {"bands": bands, "low": low, "high": high, "rate": rate, "frame": frame}
        self.within = tuple(within)

    def measures(self) -> Mapping[str, Measure]:
        text = "Correlation of the mel bands of the made and the played sound, frame by frame."
        other = "Two-way identification by mel bands: share of other sounds that are less alike."
        return {
            "mel_correlation": Measure(text, ceiling="generator", chooses=1),
            "two_way_mel": Measure(other, rows="among", ceiling="generator"),
        }

    def __call__(self, results: Results) -> pd.DataFrame:
        if results.made is None:
            raise refusal(
                "metric sound",
                "made sounds",
                "none, as nothing was generated",
                "add a generator of sounds or drop this metric",
            )
        made = [self._mel(m) for m in progress(results.made, "made sounds")]
        parts = []
        for gallery in galleries(results.trials, self.within):
            heard = [results.shown[gallery.rows[i]].read_as("audio") for i in gallery.first]
            true = [self._mel(m) for m in progress(heard, "played sounds")]
            likeness = correlations([made[i] for i in gallery.rows], true)
            rows = np.arange(len(likeness))
            rival = np.ones(likeness.shape, bool)
            rival[rows, gallery.code] = False
            own, beaten = likeness[rows, gallery.code], share_beaten(likeness, gallery.code, rival)
            chance = float(likeness.mean())
            parts.append(scores(results, "mel_correlation", gallery.rows, own, chance=chance))
            if gallery.n_stimuli > 1:
                parts.append(scores(results, "two_way_mel", gallery.rows, beaten, chance=0.5))
        return table(parts)

    def _mel(self, media: Media) -> np.ndarray:
        """(frame, band) of one sound."""
        assert media.rate is not None
        sound = media.data.mean(0).cpu().numpy()  # type: ignore[union-attr]
        return mel_bands(sound, media.rate, **self.knobs)  # type: ignore[arg-type]


def correlations(made: Sequence[np.ndarray], true: Sequence[np.ndarray]) -> np.ndarray:
    """(made, true) Pearson r of sounds (frame, band), all made as long as the longest by silence."""
    longest = max(len(x) for x in (*made, *true))
    silence = np.log10(FLOOR)

    def rows(sounds: Sequence[np.ndarray]) -> np.ndarray:
        wide = [np.pad(x, ((0, longest - len(x)), (0, 0)), constant_values=silence) for x in sounds]
        return standardise(np.stack(wide).reshape(len(wide), -1))

    return rows(made) @ rows(true).T

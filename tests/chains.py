"""Chains of preprocessing steps as the recipes have them, by their knobs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from decode.core import Recording
from decode.preprocessing.chain import Chain
from decode.preprocessing.prepared import Cut, Prepared, Step
from decode.steps.epoch import Epoch
from decode.steps.filter import Filter
from decode.steps.flat_maps import FlatMaps
from decode.steps.notch import Notch
from decode.steps.parcels import Parcels
from decode.steps.pick import Pick
from decode.steps.reference import Reference
from decode.steps.resample import Resample


def meeg(
    recording: Recording,
    *,
    kinds: Sequence[str] = ("eeg",),
    channels: Sequence[str] | None = None,
    drop: Sequence[str] = (),
    l_freq: float | None = 0.1,
    h_freq: float | None = None,
    notch: Sequence[float] = (),
    sfreq: float | None = 250.0,
    reference: str | Sequence[str] | None = None,
    **trials: Any,
) -> Prepared:
    """Pick, filter, notch, resample and reference, in this order, then windows."""
    steps: dict[str, Step | None] = {
        "pick": Pick(kinds=kinds, names=channels, drop=drop),
        "filter": Filter(low=l_freq, high=h_freq),
        "notch": Notch(frequencies=notch) if notch else None,
        "resample": None if sfreq is None else Resample(sfreq=sfreq),
        "reference": None if reference is None else Reference(to=reference, kinds=kinds),
    }
    return Chain(steps=steps, trials=Epoch(**trials))(recording)


def parcels(inner: Cut, **knobs: Any) -> Chain:
    """What `inner` makes of the parcels of an atlas."""
    return Chain(steps={"parcels": Parcels(**knobs)}, trials=inner)


def flat(inner: Cut, **knobs: Any) -> Chain:
    """What `inner` makes of the pixels of a flat map."""
    return Chain(steps={"flat_maps": FlatMaps(**knobs)}, trials=inner)

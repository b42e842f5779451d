"""Whether a new recording fits a decoder: channels by name, rate, window, unit and place."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from decode.core import InputError, Layout, Recording, refusal

# Sensors or voxels this far (m) from where they were in training are worth telling.
FAR = 0.01
# Between people, caps and scanners signals differ this much, units by a thousand.
TOLD, REFUSED = 3.0, 10.0


@dataclass(frozen=True, slots=True)
class Fit:
    """One thing that was compared: `what`, and in words how new recordings and the decoder agree."""

    subject: str
    what: str
    said: str
    worth_telling: bool = False


def align(recording: Recording, layout: Layout) -> tuple[Recording, list[Fit]]:
    """The recording with the channels of the layout first, in its order.

    Names are compared as they are written, then without case. Other channels of the same kinds are left
    out, those of other kinds (eye movements, confounds) follow. A recording that shares no name with the
    layout is left as it is: preprocessing may make channels of its own. Raises InputError where the
    modality is another or channels are missing.
    """
    if recording.modality != layout.modality:
        raise refusal(
            recording.where, f"{layout.modality}, which the decoder reads", recording.modality,
            "choose recordings of that kind",
        )  # fmt: skip
    names = recording.channels["name"].astype(str).tolist()
    place = _places(names, layout.names)
    if not place:
        return recording, []
    missing = [name for name in layout.names if name not in place]
    if missing:
        raise lacking(recording.where, layout, missing, names)
    kinds = recording.channels["kind"].astype(str).to_numpy()
    first = [place[name] for name in layout.names]
    taken = set(kinds[first])
    rest = [i for i in range(len(names)) if i not in set(first) and kinds[i] not in taken]
    order = [*first, *rest]
    if order == list(range(len(names))) and tuple(names[: len(first)]) == layout.names:
        return recording, [Fit(recording.subject, "channels", f"the same {len(first)} by name")]
    channels = recording.channels.iloc[order].reset_index(drop=True)
    channels.loc[: len(first) - 1, "name"] = list(layout.names)
    said = f"{len(first)} found by name"
    if [n for n in names if n in set(layout.names)] != list(layout.names):
        said += ", put in the decoder's order"
    left = [names[i] for i in range(len(names)) if i not in set(order)]
    if left:
        said += f"; {len(left)} others left out ({_some(left)})"
    fit = Fit(recording.subject, "channels", said, worth_telling=True)
    return replace(recording, signal=recording.signal[:, order], channels=channels), [fit]


def _places(names: list[str], wanted: tuple[str, ...]) -> dict[str, int]:
    """Where each wanted name stands, without regard to case where that is the only difference."""
    exact = {name: i for i, name in enumerate(names)}
    folded = {name.casefold(): i for i, name in enumerate(names)}
    if len(folded) < len(names):
        return {name: exact[name] for name in wanted if name in exact}
    known = {name: exact.get(name, folded.get(name.casefold())) for name in wanted}
    return {name: i for name, i in known.items() if i is not None}


def lacking(where: object, layout: Layout, missing: list[str], names: list[str]) -> InputError:
    """The refusal of a recording without some of the channels."""
    unit = "voxels" if layout.modality == "fmri" else "channels"
    return refusal(
        where,
        f"the {layout.n_channels} {unit} that the decoder reads",
        f"{len(names)} without {_some(missing)}",
        "record or interpolate them, unmark them in channels.tsv if they are only marked bad, or train a "
        "decoder on the common ones (preprocess.steps.pick.names)",
    )


def _some(names: list[str], n: int = 6) -> str:
    return ", ".join(names[:n]) + (f", ... ({len(names)} in all)" if len(names) > n else "")


def check_layout(subject: str, now: Layout, expected: Layout) -> list[Fit]:
    """Compare what preprocessing made with what the decoder reads; InputError where they differ."""
    if now.names != expected.names:
        missing = [n for n in expected.names if n not in set(now.names)]
        if missing or now.n_channels != expected.n_channels:
            odd = missing or [n for n in now.names if n not in set(expected.names)]
            raise lacking(f"subject {subject}", expected, odd, list(now.names))
        raise refusal(
            f"subject {subject}", "the channels in the decoder's order", "another order of them",
            "preprocess as the run did",
        )  # fmt: skip
    if now.sfreq != expected.sfreq:
        raise refusal(
            f"subject {subject}", f"{expected.sfreq:g} samples a second", f"{now.sfreq:g}",
            "resample the recordings (preprocess.steps.resample.sfreq), or record at that rate",
        )  # fmt: skip
    if (now.n_times, now.start) != (expected.n_times, expected.start):
        raise refusal(
            f"subject {subject}",
            f"windows of {expected.n_times} samples from {expected.start:g} s",
            f"{now.n_times} samples from {now.start:g} s",
            "preprocess as the run did",
        )
    rate = f"{now.n_times} samples at {now.sfreq:g} Hz from {now.start:g} s on"
    return [Fit(subject, "window", rate), *_moved(subject, now, expected)]


def _moved(subject: str, now: Layout, expected: Layout) -> list[Fit]:
    """How far channels lie from where they lay in training, where both are known."""
    far = np.linalg.norm(now.positions - expected.positions, axis=1)
    far = far[np.isfinite(far)]
    if not len(far):
        return []
    median = float(np.median(far))
    said = f"median distance from the places in training {1000 * median:.3g} mm"
    return [Fit(subject, "places", said, worth_telling=median > FAR)]


def check_scale(subject: str, now: float, expected: float, within: float | None = REFUSED) -> Fit:
    """Compare the spread of new windows with that of training windows; InputError where they differ by
    more than the factor `within`, as volts and microvolts do (None: never).
    """
    if not (now > 0 and expected > 0):
        return Fit(subject, "unit", "not compared: too few samples to tell how large the signal is")
    ratio = now / expected
    said = f"signal {ratio:.3g} times as large as in training ({now:.3g} and {expected:.3g})"
    if within is not None and max(ratio, 1 / ratio) > within:
        power = round(np.log10(ratio) / 3) * 3
        hint = f", about 10^{power} as between SI prefixes" if power else ""
        raise refusal(
            f"subject {subject}", f"a signal about as large as in training, {expected:.3g}",
            f"{now:.3g}, {ratio:.3g} times as much{hint}",
            "correct the unit of the recordings, or, if it is right, set scale_within=null",
        )  # fmt: skip
    return Fit(subject, "unit", said, worth_telling=max(ratio, 1 / ratio) > TOLD)

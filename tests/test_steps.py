"""Steps of preprocessing against MNE, scipy and sums by hand; what each does to channels and time."""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path
from typing import Any

import mne
import numpy as np
import pandas as pd
import pytest
import scipy.signal
import yaml
from nsd_twin import write_atlas
from scipy.fft import next_fast_len
from test_configs import composed

from decode import scratch
from decode.building import build
from decode.cli import CONFIGS
from decode.core import InputError, Recording
from decode.kinds import locate
from decode.preprocessing import streams
from decode.preprocessing.chain import Chain
from decode.preprocessing.contacts import contact_of
from decode.preprocessing.prepared import Prepared
from decode.steps.band_power import BandPower
from decode.steps.bipolar import Bipolar
from decode.steps.epoch import Epoch
from decode.steps.filter import Filter
from decode.steps.laplacian import Laplacian
from decode.steps.notch import Notch
from decode.steps.pick import Pick
from decode.steps.reference import Reference
from decode.steps.resample import Resample

SFREQ = 500.0
STEPS = sorted((CONFIGS / "step").glob("*.yaml"))
SHAFT = [f"{shaft}{i}" for shaft in ("LA", "RB'") for i in (1, 2, 3, 4)]


def recording(
    signal: np.ndarray,
    names: list[str],
    *,
    sfreq: float = SFREQ,
    kind: str = "seeg",
    **columns: Any,
) -> Recording:
    """Contacts 3.5 mm apart on each shaft, the shafts 40 mm apart; the region is that of the shaft."""
    place = [contact_of(n) for n in names]
    shafts = list(dict.fromkeys(shaft for shaft, _ in place))
    table = pd.DataFrame({"name": names, "kind": kind})
    table["x"] = [0.0035 * (number or 0) for _, number in place]
    table["y"] = [0.04 * shafts.index(shaft) for shaft, _ in place]
    table["z"] = 0.01
    table["roi"] = [f"region {shaft}" for shaft, _ in place]
    table["bad"] = False
    events = pd.DataFrame(
        {"onset": [1.0, 2.0], "duration": 0.1, "stimulus": ["a", "b"], "split": ""}
    )
    return Recording(
        "p", "", "1", "ieeg", signal.astype(np.float32), sfreq, table.assign(**columns), events
    )


def noise(width: int, seconds: float = 6.0, sfreq: float = SFREQ) -> np.ndarray:
    return 2e-5 * np.random.default_rng(0).normal(size=(round(seconds * sfreq), width))


def shafts(**columns: Any) -> Recording:
    return recording(noise(8), SHAFT, **columns)


def close(made: Recording | np.ndarray, expected: np.ndarray) -> None:
    """Equal within the rounding of float32."""
    signal = made.signal if isinstance(made, Recording) else made
    assert signal.dtype == np.float32
    np.testing.assert_allclose(signal, expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())


# Each against the library or formula that it is said to be.


def test_filter_and_notch_are_those_of_mne() -> None:
    given = shafts()
    x = given.signal.T.astype(float)
    close(
        Filter(low=1.0, high=40.0)(given),
        mne.filter.filter_data(x, SFREQ, 1.0, 40.0, verbose="error").T,
    )
    close(
        Filter(low=None, high=90.0)(given),
        mne.filter.filter_data(x, SFREQ, None, 90.0, verbose="error").T,
    )
    close(
        Notch(frequencies=[50.0])(given),
        mne.filter.notch_filter(x, SFREQ, [50.0], verbose="error").T,
    )
    many = mne.filter.notch_filter(x, SFREQ, [60.0, 120.0, 180.0, 240.0], verbose="error").T
    close(Notch(frequencies=[60.0], harmonics=True)(given), many)
    assert Notch(frequencies=[50.0], harmonics=True).tones(500.0).tolist() == [
        50.0,
        100.0,
        150.0,
        200.0,
    ]
    assert Filter(low=None, high=None)(given) is given


def test_resample_is_that_of_mne_where_that_keeps_moments() -> None:
    given = shafts()
    x = given.signal.T.astype(float)
    made = Resample(sfreq=250.0)(given)
    theirs = mne.filter.resample(x, up=250.0, down=SFREQ, npad="auto", verbose="error").T
    np.testing.assert_array_equal(made.signal, theirs.astype(np.float32))
    assert made.sfreq == 250.0
    pd.testing.assert_frame_equal(made.events, given.events)
    assert Resample(sfreq=SFREQ)(given) is given


RATES = [
    (500.0, 100.0),
    (500.0, 128.0),
    (499.7, 100.0),
    (512.0, 100.0),
    (200.0, 100.0),
    (100.0, 250.0),
]


@pytest.mark.parametrize(("old", "new"), RATES)
@pytest.mark.parametrize("n", [30_000, 30_001, 31_234])
def test_a_tone_keeps_its_phase_at_any_rate_from_end_to_end(old: float, new: float, n: int) -> None:
    """Sample k stands for k / rate: MNE's own padding is up to .7 samples off."""
    hz = 0.11 * min(old, new)
    tone = lambda rate, k: np.cos(2 * np.pi * hz * np.arange(k) / rate)  # noqa: E731
    made = Resample(sfreq=new)(recording(tone(old, n)[:, None], ["A1"], sfreq=old)).signal[:, 0]
    assert len(made) == round(n * new / old)
    inside = slice(round(0.02 * len(made)), round(0.98 * len(made)))
    np.testing.assert_allclose(made[inside], tone(new, len(made))[inside], atol=6e-3)


@pytest.mark.parametrize("new", [100.0, 128.0, 200.0, 333.0])
def test_an_impulse_is_found_at_the_nearest_sample(new: float) -> None:
    at = np.array([0.6, 61.3, 119.2])  # s, near the end as well
    x = np.zeros((round(120 * SFREQ), 1))
    x[np.round(at * SFREQ).astype(int)] = 1e-4
    made = Resample(sfreq=new)(recording(x, ["A1"])).signal[:, 0]
    first = np.round(at * new).astype(int) - 20
    assert [int(np.argmax(made[s : s + 40])) for s in first] == [20, 20, 20]


def test_averages_are_means_of_all_of_groups_or_of_named_channels() -> None:
    given = shafts(kind=["seeg"] * 7 + ["eog"])
    x = given.signal.astype(float)
    made = Reference(to="average")(given)
    close(made, np.column_stack([x[:, :7] - x[:, :7].mean(1, keepdims=True), x[:, 7]]))
    pd.testing.assert_frame_equal(made.channels, given.channels)
    by_shaft = Reference(by="group")(given).signal
    close(by_shaft[:, :4], x[:, :4] - x[:, :4].mean(1, keepdims=True))
    close(by_shaft[:, 4:7], x[:, 4:7] - x[:, 4:7].mean(1, keepdims=True))
    same = Reference(by="roi")(given).signal
    np.testing.assert_array_equal(same, by_shaft)
    named = Reference(to=["LA2", "RB'1"])(given).signal
    close(named[:, :7], x[:, :7] - x[:, [1, 4]].mean(1, keepdims=True))
    grid = shafts(group=["g"] * 3 + [None] * 5)
    with pytest.raises(InputError, match="2 or more channels in each group, got one in 'LA'"):
        Reference(by="group")(grid)


def test_bipolar_is_that_of_mne() -> None:
    given = shafts()
    made = Bipolar()(given)
    names = ["LA1-LA2", "LA2-LA3", "LA3-LA4", "RB'1-RB'2", "RB'2-RB'3", "RB'3-RB'4"]
    assert made.channels["name"].tolist() == names
    info = mne.create_info(SHAFT, SFREQ, "seeg")
    raw = mne.io.RawArray(given.signal.T.astype(float), info, verbose="error")
    anode, cathode = zip(*(name.split("-") for name in names), strict=True)
    theirs = mne.set_bipolar_reference(raw, list(anode), list(cathode), verbose="error")
    close(made, theirs.get_data(picks=names).T)


def test_a_pair_lies_between_its_contacts_and_has_their_region() -> None:
    given = shafts(roi=["V1", "V1", "V2", "", "V1", "V1", "V1", "V1"])
    table = Bipolar()(given).channels
    np.testing.assert_allclose(table["x"][:3], [0.00525, 0.00875, 0.01225])
    np.testing.assert_allclose(table["y"], [0] * 3 + [0.04] * 3)
    assert table["roi"].tolist() == ["V1", "", "", "V1", "V1", "V1"]
    assert set(table["kind"]) == {"seeg"}
    named = Bipolar(pairs=[["RB'1", "LA1"]])(given)
    assert named.channels["name"].tolist() == ["RB'1-LA1"]
    assert named.channels["y"].tolist() == [0.02]
    close(named, (given.signal[:, 4] - given.signal[:, 0]).astype(float)[:, None])


def test_a_bad_contact_leaves_a_gap_that_no_pair_bridges() -> None:
    given = shafts()
    given.channels.loc[1, "bad"] = True
    picked = Pick(kinds=["seeg"])(given)
    assert Bipolar()(picked).channels["name"].tolist()[:2] == ["LA3-LA4", "RB'1-RB'2"]


def test_the_end_of_a_row_is_no_neighbour_of_the_next_ones_beginning(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A grid of 4 x 4 whose numbers run along its rows: 12 pairs, not 15."""
    given = grid()
    assert len(Bipolar()(given).channels) == 12
    assert "3 pairs of contacts" in capsys.readouterr().err
    unknown = replace(given, channels=given.channels.assign(x=np.nan, y=np.nan, z=np.nan))
    assert len(Bipolar()(unknown).channels) == 15


def grid() -> Recording:
    row, column = np.divmod(np.arange(16), 4)
    names = [f"G{i + 1}" for i in range(16)]
    return recording(noise(16), names, kind="ecog", x=0.01 * column, y=0.01 * row, z=0.03)


def test_laplacian_of_a_grid_is_that_of_a_loop() -> None:
    given = grid()
    made = Laplacian()(given)
    x = given.signal.astype(float).reshape(-1, 4, 4)
    expected = np.empty_like(x)
    for r in range(4):
        for c in range(4):
            near = [(r + 1, c), (r - 1, c), (r, c + 1), (r, c - 1)]
            inside = [x[:, a, b] for a, b in near if 0 <= a < 4 and 0 <= b < 4]
            expected[:, r, c] = x[:, r, c] - np.mean(inside, axis=0)
    close(made, expected.reshape(-1, 16))
    pd.testing.assert_frame_equal(made.channels, given.channels)


@pytest.mark.parametrize("known", [True, False])
def test_laplacian_of_a_shaft_drops_its_ends(known: bool) -> None:
    given = shafts() if known else shafts(x=np.nan)
    made = Laplacian()(given)
    assert made.channels["name"].tolist() == ["LA2", "LA3", "RB'2", "RB'3"]
    x = given.signal.astype(float)
    close(made.signal[:, :1], (x[:, 1] - (x[:, 0] + x[:, 2]) / 2)[:, None])
    assert len(Laplacian(at_least=1)(given).channels) == 8
    with pytest.raises(InputError, match="at_least"):
        Laplacian(at_least=3)(given)


def test_band_power_is_the_square_of_scipys_envelope() -> None:
    given = recording(noise(3), ["A1", "A2", "A3"])
    x = given.signal.T.astype(float)
    band = mne.filter.filter_data(x, SFREQ, 70.0, 150.0, verbose="error")
    n = band.shape[1]
    envelope = np.abs(scipy.signal.hilbert(band, N=next_fast_len(n), axis=1)[:, :n]).T
    close(BandPower()(given), envelope**2)
    close(BandPower(scale="amplitude")(given), envelope)
    close(BandPower(scale="log")(given), 2 * np.log10(envelope))
    halves = [BandPower(low=70.0, high=110.0)(given), BandPower(low=110.0, high=150.0)(given)]
    each = [h.signal.astype(float) / h.signal.astype(float).mean(0) for h in halves]
    np.testing.assert_allclose(
        BandPower(bands=2)(given).signal, np.mean(each, axis=0), rtol=1e-4, atol=1e-7
    )


def test_band_power_knows_the_size_and_the_moment_of_a_burst() -> None:
    """A tone of 5 uV at 100 Hz for half a second: power 25e-12 V^2, centred where it is."""
    t = np.arange(round(8 * SFREQ)) / SFREQ
    inside = (t >= 3) & (t < 3.5)
    x = 1e-9 * np.random.default_rng(1).normal(size=(len(t), 2))
    x[:, 0] += 5e-6 * np.sin(2 * np.pi * 100 * t) * inside
    power = BandPower()(recording(x, ["A1", "A2"])).signal
    np.testing.assert_allclose(power[(t > 3.1) & (t < 3.4), 0], 25e-12, rtol=0.05)
    assert power[(t < 2.8) | (t > 3.7), 0].max() < 0.01 * 25e-12
    assert abs((t * power[:, 0]).sum() / power[:, 0].sum() - 3.25) < 1 / SFREQ
    assert power[:, 1].max() < 1e-3 * 25e-12


# What all steps keep.


def given_for(name: str, tmp_path: Path) -> tuple[Recording, dict[str, Any]]:
    """A recording that the step of that yaml takes, and the knobs that the yaml leaves open."""
    if name == "parcels":
        ijk = np.argwhere(np.ones((4, 3, 2), bool))
        affine = np.diag([2.0, 2.0, 2.0, 1.0])
        atlas = write_atlas(
            tmp_path / "a.nii.gz", (np.arange(24).reshape(4, 3, 2) % 3 + 1).astype(np.int16), affine
        )
        places = dict(zip("xyz", ijk.T * 0.002, strict=True))
        names = [f"v{i}" for i in range(24)]
        return recording(noise(24, 1), names, kind="bold", **places), {"atlas": atlas}
    if name == "flat_maps":
        from test_flat_maps import LEFT, RIGHT

        flat = {"lh": str(LEFT), "rh": str(RIGHT), "side": 4}
        names = [f"lh-{i}" for i in range(10242)]
        return recording(noise(10242, 0.02), names, kind="bold", roi="V1"), flat
    kind = "eeg" if name == "pick" else "seeg"
    return shafts(kind=kind), {}


@pytest.mark.parametrize("path", STEPS, ids=lambda p: p.stem)
def test_a_step_keeps_its_contract(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = yaml.safe_load(path.read_text())
    given, more = given_for(path.stem, tmp_path)
    before = given.signal.copy(), given.channels.copy(), given.events.copy()
    made = build({**node, **more}, path.stem)(given)
    np.testing.assert_array_equal(given.signal, before[0])
    pd.testing.assert_frame_equal(given.channels, before[1])
    if isinstance(made, Prepared):
        assert made.signal.dtype == np.float32
        assert made.layout.n_channels == made.signal.shape[1] == len(made.layout.rois)
        assert made.table["start"].tolist() == [500, 1000]
        return
    assert isinstance(made, Recording)
    assert made.signal.dtype == np.float32
    assert np.isfinite(made.signal).all()
    assert made.signal.shape == (round(len(given.signal) * made.sfreq / SFREQ), len(made.channels))
    assert made.channels["name"].is_unique
    assert made.channels.index.tolist() == list(range(len(made.channels)))
    assert set(given.channels.columns) - {"bad"} <= set(made.channels.columns)
    assert made.channels["roi"].notna().all()
    pd.testing.assert_frame_equal(made.events, before[2])
    assert (made.subject, made.run, made.modality, made.offset) == ("p", "1", "ieeg", 0.0)
    # The same, whether it is worked through at once or in pieces, in memory or on disk.
    if path.stem != "flat_maps":
        monkeypatch.setattr(streams, "CHUNK_BYTES", 8 * len(given.signal))
        monkeypatch.setattr(scratch, "IN_MEMORY", 0)
        pieces = build({**node, **more}, path.stem)(given)
        np.testing.assert_array_equal(np.asarray(pieces.signal), np.asarray(made.signal))


def test_every_step_has_a_yaml_that_lists_its_knobs() -> None:
    files = {p.stem for p in (CONFIGS.parent / "decode/steps").glob("*.py")} - {"__init__"}
    nodes = [yaml.safe_load(p.read_text()) for p in STEPS]
    assert {node["_target_"].split(".")[-2] for node in nodes} == files
    for node in nodes:
        assert set(inspect.signature(locate(node["_target_"], "")).parameters) == set(node) - {
            "_target_"
        }


def test_large_signals_lie_on_disk_and_memory_stays_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scratch, "IN_MEMORY", 2**16)
    monkeypatch.setattr(streams, "CHUNK_BYTES", 2**18)
    path = tmp_path / "raw.npy"
    np.save(path, noise(8, 60).astype(np.float32))
    given = replace(shafts(), signal=np.load(path, mmap_mode="r"))
    seen: list[int] = []
    filtered = mne.filter.filter_data

    def watched(x: np.ndarray, *rest: Any, **knobs: Any) -> np.ndarray:
        seen.append(x.nbytes)
        return filtered(x, *rest, **knobs)

    monkeypatch.setattr(mne.filter, "filter_data", watched)
    with scratch.scratch_in(tmp_path):
        made = Filter(low=1.0, high=40.0)(Reference()(given))
    assert isinstance(made.signal.base, np.memmap)
    assert max(seen) <= 2**18
    assert [p.name for p in tmp_path.iterdir()] == ["raw.npy"]


# Chains.


def test_a_chain_runs_its_steps_in_order_and_leaves_out_null() -> None:
    def node(*changes: str) -> Any:
        return composed("experiment=quickstart_eeg", *changes)["preprocess"]

    assert list(node()["steps"]) == ["pick", "notch", "filter", "resample", "reference"]
    changed = node(
        "preprocess.steps.filter.low=1.5", "preprocess.steps.resample=null",
        "+step@preprocess.steps.notch=notch", "+step@preprocess.steps.power=band_power",
    )  # fmt: skip
    assert list(changed["steps"]) == ["pick", "notch", "filter", "resample", "reference", "power"]
    chain = build(changed, "preprocess")
    assert list(chain.steps) == ["pick", "notch", "filter", "power"]
    assert chain.steps["filter"].low == 1.5
    swapped = composed(
        "experiment=quickstart_eeg", "preprocess=ieeg", "step@preprocess.steps.reference=bipolar"
    )["preprocess"]
    assert isinstance(build(swapped, "preprocess").steps["reference"], Bipolar)
    assert list(swapped["steps"])[:3] == ["pick", "notch", "reference"]


def test_order_counts() -> None:
    """The average of rectified signals is not the rectified average: power after a reference is not power
    before it.
    """
    given = shafts()
    steps = {"reference": Reference(), "power": BandPower()}
    one = Chain(steps=steps, trials=Epoch())(given).signal
    other = Chain(steps=dict(reversed(steps.items())), trials=Epoch())(given).signal
    close(one, BandPower()(Reference()(given)).signal.astype(float))
    assert np.abs(one - other).max() > 0.1 * np.abs(one).max()


def test_what_refuses_is_named() -> None:
    given = shafts()
    with pytest.raises(
        InputError, match=r"^preprocess\.steps\.high: high: expected a frequency between 0 and 250"
    ):
        Chain(steps={"high": Filter(low=None, high=250.0)}, trials=Epoch())(given)
    with pytest.raises(
        InputError, match=r"steps\.it: expected a step that makes a recording, got .*Prepared"
    ):
        Chain(steps={"it": Epoch()}, trials=Epoch())(given)  # type: ignore[dict-item]
    with pytest.raises(InputError, match=r"preprocess\.trials: window: "):
        Chain(steps={}, trials=Epoch(window=(0.0, 0.0)))(given)
    broken = given.signal.copy()
    broken[100, 3] = np.nan
    with pytest.raises(
        InputError, match=r"preprocess\.trials: .*others in LA4; let the step `pick`"
    ):
        Chain(steps={}, trials=Epoch())(replace(given, signal=broken))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Filter(low=40.0, high=30.0), "low: expected less than `high`, 30 Hz, got 40"),
        (lambda: BandPower(low=150.0, high=70.0), "low: expected less than"),
        (lambda: BandPower(scale="dB"), "scale: expected one of power, amplitude, log"),  # type: ignore[arg-type]
        (lambda: Reference(to=["A1"], by="group"), "by: expected null beside named references"),
        (lambda: Reference(by="lobe")(shafts()), "by: expected group or a column of the channels"),
        (lambda: Reference(kinds=["ecog"])(shafts()), r"kinds: expected channels of \['ecog'\]"),
        (lambda: Bipolar(pairs=[["A1", "A1"]]), "pairs: expected lists of two different channels"),
        (lambda: Bipolar(pairs=[["A1", "A2"]])(shafts()), "pairs: expected channels of .* got 'A1'"),
        (lambda: Bipolar()(recording(noise(2), ["A1", "A3"])), "whose numbers follow each other"),
        (lambda: Resample(sfreq=0.0), "sfreq: expected a positive rate"),
        (lambda: Notch(frequencies=[250.0])(shafts()), "frequencies: expected a frequency between"),
    ],
)  # fmt: skip
def test_knobs_that_cannot_be(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)

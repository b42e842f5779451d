"""Every published preset at its real size, without memory: shapes, and parameters by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hydra.utils
import numpy as np
import pytest
import torch
import yaml

from decode.core import Batch, InputError, Layout
from decode.encoders.with_prior import WithPrior
from decode.trainable import Encoder

CONFIGS = Path(__file__).resolve().parents[1] / "configs" / "encoder"
NSD = {"subj01": 15724, "subj02": 14278, "subj05": 13039, "subj07": 12682}
BIGG, VITL, TEXT = (256, 1664), (257, 768), (77, 768)


def layouts(voxels: dict[str, int], times: int = 1) -> dict[str, Layout]:
    return {
        name: Layout("fmri", ("v",) * n, np.zeros((n, 3)), ("",) * n, 1.0, times)
        for name, n in voxels.items()
    }


def built(preset: str, worlds: dict[str, Layout], shapes: dict[str, Any], **knobs: Any) -> Encoder:
    node = yaml.safe_load((CONFIGS / f"{preset}.yaml").read_text())
    inner = {"inner": {**node["inner"], **knobs}} if "inner" in node else knobs
    make = hydra.utils.instantiate({**node, **inner}, _convert_="all")
    with torch.device("meta"):
        return make(worlds, shapes).eval()


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def linear(i: int, o: int, bias: bool = True) -> int:
    return i * o + bias * o


def norm(n: int) -> int:
    return 2 * n


def conv(i: int, o: int, kernel: int) -> int:
    return i * o * kernel + o


def projector(width: int, hidden: int) -> int:
    """Norm and linear, three times."""
    return (
        norm(width) + linear(width, hidden)
        + norm(hidden) + linear(hidden, hidden)
        + norm(hidden) + linear(hidden, width)
    )  # fmt: skip


def prior(tokens: int, width: int, depth: int, heads: int, head: int) -> int:
    """The published prior: many queries, one key and value, gated feed-forward of four widths."""
    inner = heads * head
    attention = (
        width + width * inner + width * 2 * head + 2 * head + inner * width + width
    )  # norm, queries, key and value, null key and value, out, norm
    feed = width + width * 8 * width + 4 * width * width
    time = linear(width, 2 * width) + linear(2 * width, 2 * width) + linear(2 * width, width)
    learned = 3 * tokens * width  # positions, null brain, null picture
    return depth * (attention + feed) + 32 * heads + time + learned + width + width * width


def decoder(inputs: int, outputs: int, sizes: tuple[int, int, int]) -> int:
    """Decoder of a latent autoencoder, one layer per block, which means two residual units."""
    low, mid, high = sizes

    def unit(i: int, o: int) -> int:
        skip = conv(i, o, 1) if i != o else 0
        return norm(i) + conv(i, o, 9) + norm(o) + conv(o, o, 9) + skip

    middle = 2 * unit(high, high) + norm(high) + 4 * linear(high, high)
    up = (
        2 * unit(high, high) + conv(high, high, 9)
        + unit(high, mid) + unit(mid, mid) + conv(mid, mid, 9)
        + unit(mid, low) + unit(low, low)
    )  # fmt: skip
    return conv(inputs, high, 9) + middle + up + norm(low) + conv(low, outputs, 9)


def readers(inputs: int, features: int) -> int:
    hidden = inputs * features + norm(features) + features * features + norm(features)
    return hidden + linear(features, features)


def mindeye1() -> int:
    block = linear(4096, 4096) + norm(4096)
    head = linear(4096, 257 * 768)
    backbone = linear(15724, 4096) + norm(4096) + 4 * block + head
    return backbone + projector(768, 2048) + prior(257, 768, 6, 12, 64)


def mindeye1_low_level() -> int:
    block = linear(4096, 4096, bias=False) + norm(4096)
    trunk = linear(15724, 4096, bias=False) + norm(4096) + 4 * block
    head = linear(4096, 64 * 16 * 16, bias=False) + norm(64)
    return trunk + head + decoder(64, 4, (64, 128, 256)) + readers(64, 512)


def mindeye2(voxels: int, legacy: bool = False) -> int:
    block = norm(4096) + 2 * linear(4096, 4096)
    if legacy:
        block += norm(1) + 2 * linear(1, 1)
    trunk = linear(voxels, 4096) + 4 * block
    head = linear(4096, 256 * 1664)
    low = linear(4096, 4 * 28 * 28) + norm(64) + decoder(64, 4, (32, 64, 128)) + readers(64, 512)
    return trunk + head + projector(1664, 1664) + low + prior(256, 1664, 6, 32, 52)


def mindbridge(subjects: int) -> int:
    adapter = linear(8192, 128) + linear(128, 8192)
    embedder = adapter + linear(8192, 2048) + norm(2048)
    builder = linear(2048, 8192) + norm(8192) + adapter
    heads = linear(2048, 257 * 768) + linear(2048, 77 * 768)
    return subjects * (embedder + builder) + 4 * (linear(2048, 2048) + norm(2048)) + heads


def umbrae(voxels: list[int], tokens: int = 256) -> int:
    tokenizers = sum(linear(1, 256) + linear(v, 1024) for v in voxels)
    inner = 16 * 96
    attention = 2 * norm(1024) + 1024 * inner + 1024 * 2 * inner + inner * 1024
    feed = norm(1024) + 1024 * 4096 + 4096 * 1024
    around = norm(1024) + 1024 + norm(1024) + linear(1024, 1024)  # in, medium, out, projection
    return tokenizers + 6 * (attention + feed) + tokens * 1024 + around


def voxel_tokens(voxels: list[int]) -> int:
    d = 512
    attention = norm(d) + 4 * d * d
    feed = norm(d) + 8 * d * d
    gather = norm(d) + d * d + linear(d, d) + 128 * d + norm(d) + 128 * d
    branch = 256 * d + 6 * (attention + norm(d) + feed) + 5 * attention + norm(d) + linear(d, 1664)
    return sum(voxels) * d + gather + branch


def neuroflow(voxels: int) -> int:
    c1, c2, c4, length = 64, 128, 256, 4 * 1664

    def unit(i: int, o: int) -> int:
        skip = conv(i, o, 1) if i != o else 0
        return norm(i) + conv(i, o, 3) + norm(o) + conv(o, o, 3) + skip

    middle = 2 * unit(c4, c4) + norm(c4) + 4 * conv(c4, c4, 1)
    first = conv(1, c1, 1) + linear(voxels, 1024) + norm(1024) + linear(1024, length)
    down = (
        2 * unit(c1, c1)
        + conv(c1, c1, 7) + unit(c1, c2) + unit(c2, c2)
        + conv(c2, c2, 7) + unit(c2, c4) + unit(c4, c4) + middle + norm(c4)
    )  # fmt: skip
    code = conv(256, 2 * 256, 1) + conv(256, 1, 1) + conv(1, 256, 1)
    up = (
        middle + 3 * unit(c4, c4)
        + conv(c4, c4, 7) + unit(c4, c2) + 2 * unit(c2, c2)
        + conv(c2, c2, 7) + unit(c2, c1) + 2 * unit(c1, c1)
    )  # fmt: skip
    last = linear(length, 1024) + norm(1024) + linear(1024, voxels) + norm(c1) + conv(c1, 1, 1)
    w = 1664
    block = linear(w, 3 * w) + linear(w, w) + linear(w, 4 * w) + linear(4 * w, w) + linear(w, 6 * w)
    flow = linear(256, w) + linear(w, w) + 12 * block + linear(w, 2 * w) + linear(w, w)
    return first + down + code + up + last + projector(w, w) + flow


def dynadiff(voxels: list[int]) -> int:
    volumes = 6 * linear(1552, 1552) + norm(1552) + linear(6, 1)
    return sum(linear(v, 1552) for v in voxels) + volumes + linear(1552, 257 * 768)


def neuropictor(channels: int = 320, *, extra: bool = False) -> int:
    w = 1024
    block = (
        norm(w) + linear(w, 3 * w) + linear(w, w) + norm(w) + linear(w, 4 * w) + linear(4 * w, w)
    )
    transformer = conv(1, w, 256) + w + 257 * w + 24 * block + norm(w)
    semantic = linear(257, 128) + linear(128, 77) + linear(w, w) + norm(w)
    hint = linear(257, 514) + linear(514, channels) + linear(w, 64 * 64)
    hint += conv(channels, channels, 3)
    beside = semantic + conv(77, 77, 3) if extra else 0
    return transformer + semantic + hint + beside


def wave() -> int:
    w = 768
    block = (
        norm(w) + linear(w, 3 * w) + linear(w, w) + norm(w) + linear(w, 4 * w) + linear(4 * w, w)
    )
    network = linear(1024, w) + norm(w) + w + 513 * w + 4 * block + norm(w)
    return network + 2 * linear(w, w)


LOW = {"lowlevel": (4, 28, 28), "lowlevel_tokens": (49, 512)}
ONE = layouts({"subj01": 15724})
FOUR = layouts(NSD)
CASES: dict[str, tuple[str, dict[str, Layout], dict[str, Any], dict[str, Any], int]] = {
    "mindeye1": ("mindeye1", ONE, {"image": VITL, "retrieval": VITL}, {}, mindeye1()),
    "mindeye1_low_level": (
        "mindeye1_low_level",
        ONE,
        {"lowlevel": (4, 64, 64), "lowlevel_tokens": (256, 512)},
        {},
        mindeye1_low_level(),
    ),
    "mindeye2": ("mindeye2", ONE, {"image": BIGG, "retrieval": BIGG, **LOW}, {}, mindeye2(15724)),
    "mindeye2_legacy": (
        "mindeye2",
        layouts({"subj05": 13039}),
        {"image": BIGG, "retrieval": BIGG, **LOW},
        {"mixer": "legacy"},
        mindeye2(13039, legacy=True),
    ),
    "mindbridge": ("mindbridge", FOUR, {"image": VITL, "text": TEXT}, {}, mindbridge(4)),
    "mindeye1_both": (
        "mindeye1_both",
        ONE,
        {"image": VITL, "retrieval": VITL, "lowlevel": (4, 64, 64), "lowlevel_tokens": (256, 512)},
        {},
        mindeye1() + mindeye1_low_level(),
    ),
    "umbrae": ("umbrae", FOUR, {"image": (256, 1024)}, {}, umbrae(list(NSD.values()))),
    "umbrae_as_in_the_experiment": (
        "umbrae",
        ONE,
        {"image": (576, 1024)},
        {"tokens": 576},
        umbrae([15724], tokens=576),
    ),
    "voxel_tokens": ("voxel_tokens", FOUR, {"image": BIGG}, {}, voxel_tokens(list(NSD.values()))),
    "neuroflow": ("neuroflow", ONE, {"image": BIGG, "retrieval": BIGG}, {}, neuroflow(15724)),
    "dynadiff": ("dynadiff", layouts({"subj01": 15724}, 6), {"image": VITL}, {}, dynadiff([15724])),
    "neuropictor": (
        "neuropictor",
        layouts({"subj01": 256 * 256}),
        {"text": (77, 1024), "hint": (320, 64, 64)},
        {},
        neuropictor(),
    ),
    "neuropictor_as_in_the_experiment": (
        "neuropictor",
        layouts({"subj01": 256 * 256}),
        {"text": (77, 1024), "text_last": (77, 1024), "latents": (4, 64, 64)},
        {},
        neuropictor(channels=4, extra=True),
    ),
    "wave": ("wave", layouts({"CSI1": 1024}, 5), {"image": (768,), "text": (768,)}, {}, wave()),
    "wave_prior": (
        "wave_prior",
        layouts({"subj01": 1024}, 5),
        {"image": VITL, "retrieval": (768,), "text": (768,)},
        {},
        wave() + linear(768, 257 * 768) + prior(257, 768, 6, 12, 64),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_published_preset_has_its_shapes_and_its_size(case: str) -> None:
    preset, worlds, shapes, knobs, expected = CASES[case]
    encoder = built(preset, worlds, shapes, **knobs)
    assert all(p.device.type == "meta" for p in encoder.parameters())
    assert count(encoder) == pytest.approx(expected, rel=0.01)
    n, voxels = 3, max(l.n_channels for l in worlds.values())
    times = next(iter(worlds.values())).n_times
    rows = torch.arange(n)
    brain = torch.empty(n, voxels, times, device="meta")
    batch = Batch(brain, {}, rows % len(worlds), rows, rows)
    for module in encoder.modules():
        if isinstance(module, WithPrior):
            module.sample_steps = 2  # shapes are the same after each
    with torch.no_grad():
        made = encoder(batch)
    assert {k: tuple(v.shape) for k, v in made.items()} == {k: (n, *s) for k, s in shapes.items()}


def test_sums_by_hand_are_the_rounded_figures_of_the_field() -> None:
    """Sizes that anybody can check without this package, and those that publications round."""
    assert linear(4096, 256 * 1664) == pytest.approx(1.74e9, rel=5e-3)
    assert 4 * 2 * linear(4096, 4096) == pytest.approx(134e6, rel=5e-3)
    tail = projector(768, 2048) + prior(257, 768, 6, 12, 64)
    assert mindeye1() - tail == pytest.approx(940e6, rel=0.01)
    assert mindeye1() == pytest.approx(1.0e9, rel=0.01)
    assert 2.2e9 < mindeye2(15724) < 2.6e9
    assert neuroflow(15724) == pytest.approx(660e6, rel=0.02)
    # "About 400 M" is the module of all four subjects.
    assert dynadiff(list(NSD.values())) == pytest.approx(400e6, rel=0.02)


def test_a_factorised_head_needs_an_eighth_of_the_memory_of_a_dense_one() -> None:
    shapes = {"image": BIGG, "retrieval": BIGG}
    dense, small = built("mindeye2", ONE, shapes), built("mindeye2_factorised", ONE, shapes)
    rest = mindeye2(15724) - linear(4096, 256 * 1664)
    head = 4096 * 256 * 200 + 200 * 1664 + 256 * 1664
    assert count(dense.inner.heads.heads[0]) == linear(4096, 256 * 1664)  # type: ignore[union-attr, index, operator]
    assert count(small.inner.heads.heads[0]) == head  # type: ignore[union-attr, index, operator]
    # AdamW keeps two numbers beside each weight and its gradient: memory goes with the count.
    assert 8 * head <= linear(4096, 256 * 1664)
    assert count(small) < rest + head


def test_a_thousand_wide_preset_is_what_fits_one_small_gpu() -> None:
    shapes = {"image": BIGG, "retrieval": BIGG}
    small = built("mindeye2", ONE, shapes, width=1024)
    assert count(small) < 0.45 * count(built("mindeye2", ONE, shapes))


def test_flat_maps_of_another_size_are_refused() -> None:
    with pytest.raises(InputError, match="expected flat maps"):
        built("neuropictor", layouts({"subj01": 255 * 256}), {"text": (77, 1024)})

"""NSD's betas on fsaverage, read as they were written, and flat maps of them through the pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import pytest
from diffusion_twins import save_words
from nsd_twin import (
    Twin,
    ideal_top1,
    save_mgh,
    shrink_sampling,
    write_captions,
    write_nsd,
    write_surface,
)
from scored import means
from test_configs import composed
from test_hinted import write_model

from decode.core import InputError
from decode.data.nsd import NSD
from decode.pipeline import execute
from decode.store import Frame, read_json, read_tensors
from decode.workshop import Run

N = 40
FOLDER = "nsddata_betas/ppdata/subj01/fsaverage/betas_fithrf_GLMdenoise_RR"
LABELS = "nsddata/freesurfer/fsaverage/label"


def surface(place: Path) -> tuple[Twin, np.ndarray]:
    twin = write_nsd(place / "nsd", n_images=80, size=8, grid=(2, 2, 2))
    return twin, write_surface(twin, "subj01", n=N)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Twin, np.ndarray]:
    return surface(tmp_path_factory.mktemp("surface"))


def test_vertices_are_read_as_they_were_written(written: tuple[Twin, np.ndarray]) -> None:
    twin, betas = written
    data = NSD(str(twin.root), space="fsaverage", rois=["streams"])
    assert data.subjects == ("subj01",)
    runs = list(data.recordings("subj01"))
    assert len(runs) == 40
    kept = np.flatnonzero(np.tile(np.arange(N) % 5 > 0, 2))
    np.testing.assert_array_equal(np.vstack([r.signal for r in runs]), betas[:, kept])
    channels = runs[0].channels
    names = [f"{'lh' if v < N else 'rh'}-{v % N}" for v in kept]
    assert list(channels["name"]) == names
    assert channels.loc[channels["name"] == "rh-1", "roi"].item() == "early"
    volumes = NSD(str(twin.root))
    pd.testing.assert_frame_equal(runs[3].events, list(volumes.recordings("subj01"))[3].events)


def test_vertices_are_kept_by_their_noise_ceiling(written: tuple[Twin, np.ndarray]) -> None:
    twin, _ = written
    data = NSD(str(twin.root), space="fsaverage", ncsnr_above=0.5)
    names = next(data.recordings("subj01")).channels["name"]
    bound = np.linspace(0, 1, N, dtype=np.float32) > 0.5
    assert list(names[names.str.startswith("lh")]) == [
        f"lh-{v}" for v in range(N) if v % 5 and bound[v]
    ]
    with pytest.raises(InputError, match="with ncsnr above 2, got none"):
        list(NSD(str(twin.root), space="fsaverage", ncsnr_above=2.0).recordings("subj01"))


def test_planted_faults_are_named(tmp_path: Path) -> None:
    twin, betas = surface(tmp_path)
    root = str(twin.root)
    with pytest.raises(InputError, match=r"data\.space: expected one of .*got 'mni'"):
        NSD(root, space="mni")
    first = twin.root / FOLDER / "rh.betas_session01.mgh"
    per = twin.per_session
    for values, said in (
        (
            betas[:per, : N - 1],
            rf"\({N}, 1, 1, {per}\), as .* got float32 \({N - 1}, 1, 1, {per}\)",
        ),
        (betas[: per - 1, :N], rf"got float32 \({N}, 1, 1, {per - 1}\)"),
        ((300 * betas[:per, :N]).astype(np.int16), "expected float betas .* got int16"),
    ):
        save_mgh(first, values.T[:, None, None])
        with pytest.raises(InputError, match=said):
            list(NSD(root, space="fsaverage").recordings("subj01"))
    save_mgh(first, betas[:per, N:].T[:, None, None])
    first.write_bytes(first.read_bytes()[:300])
    with pytest.raises(InputError, match=r"rh\.betas_session01\.mgh: expected a whole MGH file"):
        list(NSD(root, space="fsaverage").recordings("subj01"))
    first.unlink()
    with pytest.raises(InputError, match=r"\(lh\. and rh\., \.mgh\), got no betas_session01"):
        list(NSD(root, space="fsaverage").recordings("subj01"))
    save_mgh(first, betas[:per, N:].T[:, None, None])
    with pytest.raises(InputError, match=r"lh\.V1\.mgz: expected an MGH file, found no such file"):
        list(NSD(root, space="fsaverage", mask="V1", last_session=1).recordings("subj01"))
    save_mgh(twin.root / LABELS / "lh.other.mgz", np.ones((N + 1, 1, 1), np.int32))
    with pytest.raises(InputError, match=rf"expected {N} vertices, as in the mask, got {N + 1}"):
        NSD(root, space="fsaverage", rois=["other"])._reader("subj01")
    assert nibabel.load(twin.root / LABELS / "lh.other.mgz").shape == (N + 1, 1, 1)


def small(place: Path, model: Path) -> dict[str, Any]:
    """nsd/neuropictor as it ships, with the twin's networks and few weights."""
    config = composed(
        "experiment=nsd/neuropictor", f"paths.outputs={place}/outputs", f"paths.data={place}"
    )
    # Its two captions per picture are part of the twin, in COCO's own files.
    config["data"]["captions"] = ["captions_train2017.json", "captions_val2017.json"]
    config["published"] = None
    config["preprocess"]["steps"]["flat_maps"]["side"] = 16
    words = {"tower": "text_encoder", "prepared": "tokenizer", "prepared_by": None}
    for name, knobs in (("text", {}), ("text_last", words), ("latents", {"size": 16})):
        config["targets"][name] |= {"model": str(model), "device": "cpu", **knobs}
    config["encoder"] |= {
        "side": 16, "patch": 4, "width": 64, "depth": 1, "heads": 2, "between_semantic": 32,
        "between_hint": 8,
    }  # fmt: skip
    config["objectives"]["denoising"] |= {"model": str(model), "precision": "float32"}
    config["trainer"] |= {"epochs": 40, "rate": 2e-3, "batch_size": 64, "precision": "float32"}
    shrink_sampling(config, model)
    return config


@pytest.mark.slow
def test_neuropictor_decodes_the_twin_from_vertices_to_scores(tmp_path: Path) -> None:
    """Captions a third of the way from chance to the ideal observer of the vertices, and pictures."""
    model, noise = write_model(tmp_path / "sd"), 0.3
    twin = write_nsd(tmp_path / "nsd", n_images=320, n_shared=24, size=16, grid=(2, 2, 2))
    # The short caption, colour and kind, comes first and is read.
    twin.captions = [several[::-1] for several in twin.captions]
    write_captions(twin)
    save_words(model, [twin.captions[i][0] for i in twin.ids("subj01")])
    write_surface(twin, "subj01", n=200, noise=noise)
    run = Run(small(tmp_path, model))
    execute(run, until="evaluate", force=(), say=lambda s: None)
    layout = read_json((run.folder("preprocess") or tmp_path) / "layout.json")
    assert 60 < len(layout["names"]) < 256
    fold = {n: (run.folder(n) or tmp_path) / "shared982-00" for n in ("train", "predict")}
    tuned = read_tensors(fold["train"] / "decoder" / "generator.safetensors")
    assert float(tuned["controlnet_mid_block.weight"].abs().sum()) > 0
    frame = Frame.read(fold["predict"])
    assert frame.arrays["decoder/latents"].shape[1:] == (4, 8, 8)
    scores = pd.read_parquet((run.folder("evaluate") or tmp_path) / "scores.parquet")
    value = means(scores)
    assert {"decoder", "oracle", "prior"} <= {s for s, found in value.items() if "pixcorr" in found}
    # The last shared picture is shown after session 37; captions of the others differ.
    shared = twin.shared("subj01")[:-1]
    assert len({twin.captions[i][0] for i in shared}) == len(shared) == len(frame.table)
    chance = 1 / len(shared)
    ceiling = ideal_top1(twin.surface["subj01"][shared], noise / 3**0.5)
    assert ceiling > 0.9
    assert value["decoder"]["retrieval_top1"] > chance + (ceiling - chance) / 3
    assert abs(value["shuffled"]["retrieval_top1"] - chance) < 0.04

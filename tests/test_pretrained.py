"""Published weights into a network of ours: files, folders, names, and faults that are named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from voxels import Voxels

from decode.core import InputError
from decode.encoders.neuropictor import NeuroPictor
from decode.networks.causal import CausalVolumes
from decode.networks.vit import MapTransformer
from decode.weights.pretrained import load_pretrained, renamed, weight_files


def network(seed: int) -> CausalVolumes:
    torch.manual_seed(seed)
    return CausalVolumes(6, width=8, depth=1, heads=2, longest=4)


def same(a: CausalVolumes, b: CausalVolumes) -> bool:
    return all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())


def split(state: dict[str, Tensor], folder: Path) -> None:
    """Two parts and their index, as the hub keeps large models."""
    names = sorted(state)
    files = {n: f"model-0000{1 + (i % 2)}-of-00002.safetensors" for i, n in enumerate(names)}
    for file in set(files.values()):
        save_file({n: state[n] for n in names if files[n] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))


def test_a_file_a_folder_and_parts_give_the_same(tmp_path: Path) -> None:
    published = network(1)
    for name in ("one", "parts"):
        (tmp_path / name).mkdir()
    save_file(published.state_dict(), tmp_path / "one" / "model.safetensors")
    split(published.state_dict(), tmp_path / "parts")
    sources = [tmp_path / "one" / "model.safetensors", tmp_path / "one", tmp_path / "parts"]
    for source in sources:
        ours = network(2)
        assert not same(published, ours)
        load_pretrained(ours, str(source))
        assert same(published, ours)
    assert len(weight_files(str(tmp_path / "parts"))) == 2


def test_published_names_become_ours(tmp_path: Path) -> None:
    published = network(1)
    state = {f"encoder.{k}".replace("blocks.", "h."): v for k, v in published.state_dict().items()}
    state["decoder.head.weight"] = torch.zeros(3)
    save_file(state, tmp_path / "w.safetensors")
    ours = network(2)
    names = {"encoder.": "", "encoder.h.": "blocks."}
    load_pretrained(ours, str(tmp_path / "w.safetensors"), names=names, skip=["decoder."])
    assert same(published, ours)
    assert renamed("encoder.h.0.x", names) == "blocks.0.x"
    assert renamed("other", names) == "other"
    with pytest.raises(
        InputError, match=r"decoder\.head\.weight nowhere in the network, found \(3,\)"
    ):
        load_pretrained(ours, str(tmp_path / "w.safetensors"), names=names)


def test_faults_are_named_with_file_tensor_expected_and_found(tmp_path: Path) -> None:
    state = dict(network(1).state_dict())
    file = tmp_path / "w.safetensors"
    ours = network(2)
    before = {k: v.clone() for k, v in ours.state_dict().items()}
    save_file({**state, "closing": torch.zeros(1, 9)}, file)
    with pytest.raises(
        InputError, match=r"w\.safetensors: expected closing \(1, 8\), found \(1, 9\)"
    ):
        load_pretrained(ours, str(file))
    save_file({k: v for k, v in state.items() if k != "closing"}, file)
    with pytest.raises(InputError, match=r"expected closing \(1, 8\), found no such tensor \(1 of"):
        load_pretrained(ours, str(file))
    save_file({**state, "old.closing": torch.zeros(1, 8)}, file)
    with pytest.raises(InputError, match=r"found old\.closing \(1, 8\) a second time"):
        load_pretrained(ours, str(file), names={"old.": ""})
    assert all(torch.equal(v, before[k]) for k, v in ours.state_dict().items())
    file.write_bytes(b"cut off")
    with pytest.raises(InputError, match="expected whole safetensors weights"):
        load_pretrained(ours, str(file))


def test_folders_without_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"found neither; give a safetensors file or convert"):
        weight_files(str(tmp_path))
    with pytest.raises(InputError, match="expected a folder"):
        weight_files(str(tmp_path / "none"))
    split(dict(network(1).state_dict()), tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(InputError, match=r"expected the part model-00002-of-00002\.safetensors"):
        weight_files(str(tmp_path))
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(InputError, match="expected an index with a weight_map, got KeyError"):
        weight_files(str(tmp_path))


def test_the_map_transformer_takes_a_file_or_a_folder(tmp_path: Path) -> None:
    """NeuroPictor begins with it, and is told where another one does not fit."""
    world = Voxels({"text": (3, 6)}, voxels=(64,), n=3)
    knobs = {"patch": 4, "width": 16, "heads": 2}
    published = MapTransformer(8, depth=1, **knobs)
    save_file(published.state_dict(), tmp_path / "model.safetensors")
    for source in (tmp_path, tmp_path / "model.safetensors"):
        encoder = NeuroPictor(world.layouts, world.shapes, depth=1, weights=str(source), **knobs)
        encoder.initialise([world.batch], [world.batch])
        for name, value in encoder.transformer.state_dict().items():
            assert torch.equal(value, published.state_dict()[name])
    deeper = NeuroPictor(world.layouts, world.shapes, depth=2, weights=str(tmp_path), **knobs)
    with pytest.raises(InputError, match=r"expected blocks\.1\..*found no such tensor"):
        deeper.initialise([world.batch], [world.batch])

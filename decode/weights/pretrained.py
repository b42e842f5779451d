"""Weights that were trained elsewhere into a network of ours: found, renamed, compared, taken."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from decode.core import InputError
from decode.store import read_tensors
from decode.weights.hub import opening
from decode.weights.reading import find_weights

_ONE, _INDEX = "model.safetensors", "model.safetensors.index.json"


def load_pretrained(
    network: nn.Module,
    source: str,
    *,
    names: Mapping[str, str] | None = None,
    skip: Sequence[str] = (),
) -> None:
    """Put published weights into `network`; every one of its tensors has to be there and fit.

    `source` is a safetensors file, a folder with `model.safetensors` (or its parts and their index), or
    the name of a model on the Hugging Face hub. `names` maps beginnings of published names to ours, the
    longest that fits is taken; tensors whose published names begin with one of `skip` are left out,
    as the decoder of a masked autoencoder. Raises InputError, naming file, tensor, expected and found.
    """
    own = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    taken: dict[str, Tensor] = {}
    for file in weight_files(source):
        for published, value in read_tensors(file).items():
            if published.startswith(tuple(skip)):
                continue
            name = renamed(published, names or {})
            if own.get(name) != tuple(value.shape) or name in taken:
                called = "" if published == name else f"{published} "
                raise InputError(
                    f"{file}: expected {name} {own.get(name, 'nowhere in the network')}, found "
                    f"{called}{tuple(value.shape)}{' a second time' * (name in taken)}; correct the "
                    "settings of the network, the names or what is skipped"
                )
            taken[name] = value
    missing = [name for name in own if name not in taken]
    if missing:
        raise InputError(
            f"{source}: expected {missing[0]} {own[missing[0]]}, found no such tensor ({len(missing)} of "
            f"{len(own)} are missing); give the weights of this network or correct the names"
        )
    network.load_state_dict(taken)


def renamed(name: str, names: Mapping[str, str]) -> str:
    """`name` with the longest of the beginnings in `names` replaced."""
    fits = [start for start in names if name.startswith(start)]
    if not fits:
        return name
    longest = max(fits, key=len)
    return names[longest] + name[len(longest) :]


def weight_files(source: str) -> list[Path]:
    """The safetensors files of a file, a folder or a published name; InputError where there are none."""
    file = Path(source).expanduser()
    if file.is_file():
        return [file]
    found = find_weights(source)
    folder = found if isinstance(found, Path) else _fetched(source)
    if (folder / _ONE).is_file():
        return [folder / _ONE]
    if not (folder / _INDEX).is_file():
        raise InputError(
            f"{folder}: expected weights in {_ONE} or in parts with {_INDEX}, found neither; give a "
            "safetensors file or convert the weights"
        )
    try:
        parts = set(
            json.loads((folder / _INDEX).read_text(encoding="utf-8"))["weight_map"].values()
        )
    except (OSError, ValueError, KeyError, AttributeError) as e:
        raise InputError(
            f"{folder / _INDEX}: expected an index with a weight_map, got {type(e).__name__}; copy it "
            "again"
        ) from e
    absent = sorted(p for p in parts if not (folder / p).is_file())
    if absent:
        raise InputError(f"{folder}: expected the part {absent[0]}, found none; copy it there")
    return [folder / p for p in sorted(parts)]


def _fetched(model: str) -> Path:
    from huggingface_hub import snapshot_download

    with opening(model):
        return Path(snapshot_download(model, allow_patterns=["*.safetensors", _INDEX]))

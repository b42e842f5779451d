"""A trained encoder meets a new subject: what is loaded, what is frozen, what is added.

Modules with `per_subject = True` hold what belongs to single subjects, in lists in the order of the
subjects; everything else is shared.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from decode.core import InputError, refusal
from decode.store import read_tensors

What = Literal["input", "lora", "all"]
_ADDED = ("lora_down", "lora_up")


class LowRankLinear(nn.Linear):
    """A frozen linear layer plus a trained product of rank `rank` (LoRA, Hu et al. 2021).

    Starts as the layer that it replaces and keeps the names of its weights. The product has the
    layer's precision, or that of `dtype`: half precision loses the small steps of training.
    """

    def __init__(self, layer: nn.Linear, *, rank: int, dtype: torch.dtype | None = None) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.weight, self.bias = layer.weight, layer.bias
        like = layer.weight
        self.lora_down = nn.Parameter(like.new_empty(rank, layer.in_features, dtype=dtype))
        self.lora_up = nn.Parameter(like.new_zeros(layer.out_features, rank, dtype=dtype))
        nn.init.kaiming_uniform_(self.lora_down, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        inside = linear(x, self.lora_down.to(x.dtype))
        return super().forward(x) + linear(inside, self.lora_up.to(inside.dtype))


def subject_modules(encoder: nn.Module) -> dict[str, nn.Module]:
    """The modules that hold what belongs to single subjects, by name."""
    return {
        name: module
        for name, module in encoder.named_modules()
        if getattr(module, "per_subject", False)
    }


def adapt(
    encoder: nn.Module, what: What, *, rank: int = 8, known: Sequence[int] = ()
) -> list[nn.Parameter]:
    """Leave trainable, and return, what the step of the ladder names; freeze everything else.

    `input`: only the layers of subjects not in `known` (numbers of subjects); `lora`: those and
    low-rank products of `rank` beside every linear layer of the shared part; `all`: everything.
    Raises InputError for another word, a rank below one, and where there are no layers per subject.
    """
    if what not in get_args(What):
        raise InputError(
            f"encoder.what: expected one of {list(get_args(What))}, got {what!r}; choose one of these"
        )
    if rank < 1:
        raise InputError(f"encoder.rank: expected 1 or more, got {rank}; raise it")
    private = _prefixes(encoder)
    if what == "lora":
        _add_low_rank(encoder, private, rank)
    trained = []
    for name, parameter in encoder.named_parameters():
        number = _subject_number(name, private)
        own = number is not None and number not in known
        added = name.rsplit(".", 1)[-1] in _ADDED
        parameter.requires_grad_(what == "all" or own or added)
        if parameter.requires_grad:
            trained.append(parameter)
    if not trained and what == "all":
        raise InputError(
            f"encoder.inner: expected an encoder that is trained by gradient, got "
            f"{type(encoder).__name__}, which has no weights to train; choose another, for example mlp, or "
            "use it by itself"
        )
    if not trained:
        raise refusal(
            "encoder.what",
            f"all, as {type(encoder).__name__} has no layers per subject that could be trained",
            what,
            "choose what=all",
        )
    return trained


def start_from(
    encoder: nn.Module, file: Path, *, subjects: Sequence[str] = (), trained: Sequence[str] = ()
) -> list[int]:
    """Take the shared weights of a trained encoder of the same kind; all of them must fit.

    `subjects` are those of `encoder` and `trained` those of `file`, in order: a subject in both gets
    its layers back, the others stay as they are. Returns the numbers of those that came back. Raises
    InputError, naming file, tensor, expected and found, where a shape differs or a tensor misses.
    """
    remedy = "give encoder.safetensors of a trained run or its folder (outputs/train/...)"
    saved = read_tensors(file, "encoder.weights: ", remedy)
    own, private = encoder.state_dict(), _prefixes(encoder)
    back = {subjects.index(name): trained.index(name) for name in subjects if name in trained}
    taken: dict[str, Tensor] = {}
    for name, value in own.items():
        source = name
        if name.startswith(private):
            number = _subject_number(name, private)
            if number is None or number not in back:
                continue
            source = _renumbered(name, private, back[number])
        elif name.rsplit(".", 1)[-1] in _ADDED and name not in saved:
            continue
        taken[name] = _fitting(saved, source, value, file)
    unknown = [k for k in saved if k not in own and not k.startswith(private)]
    if unknown:
        raise InputError(
            f"{file}: expected the tensors of this encoder, found {unknown[0]} "
            f"{tuple(saved[unknown[0]].shape)}, which it has not; choose the encoder, its settings and "
            "the targets of the trained run"
        )
    encoder.load_state_dict({**own, **taken})
    return sorted(back)


def _fitting(saved: dict[str, Tensor], name: str, value: Tensor, file: Path) -> Tensor:
    expected = tuple(value.shape)
    if name not in saved:
        found = "no such tensor"
    elif tuple(saved[name].shape) != expected:
        found = str(tuple(saved[name].shape))
    else:
        return saved[name]
    raise InputError(
        f"{file}: expected {name} {expected}, found {found}; choose the encoder, its settings and the "
        "voxels and targets of the trained run"
    )


def _prefixes(encoder: nn.Module) -> tuple[str, ...]:
    return tuple(f"{name}." for name in subject_modules(encoder))


def _subject_number(name: str, private: tuple[str, ...]) -> int | None:
    """The subject of a tensor inside a module per subject: its place in that module's list."""
    for prefix in private:
        if name.startswith(prefix):
            found = re.match(r"\w+\.(\d+)(\.|$)", name[len(prefix) :])
            return int(found[1]) if found else None
    return None


def _renumbered(name: str, private: tuple[str, ...], number: int) -> str:
    prefix = next(p for p in private if name.startswith(p))
    return prefix + re.sub(r"^(\w+)\.\d+", rf"\g<1>.{number}", name[len(prefix) :])


def _add_low_rank(encoder: nn.Module, private: tuple[str, ...], rank: int) -> None:
    layers = [
        name
        for name, module in encoder.named_modules()
        if type(module) is nn.Linear and not name.startswith(private)
    ]
    add_low_rank(encoder, layers, rank=rank)


def add_low_rank(
    network: nn.Module, layers: Iterable[str], *, rank: int, dtype: torch.dtype | None = None
) -> dict[str, LowRankLinear]:
    """Put a low-rank product beside each of the linear layers with these names; gives them by name."""
    added = {}
    for name in layers:
        parent, _, last = name.rpartition(".")
        layer: Any = network.get_submodule(name)
        added[name] = LowRankLinear(layer, rank=rank, dtype=dtype)
        setattr(network.get_submodule(parent), last, added[name])
    return added

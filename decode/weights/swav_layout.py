"""SwAV's published checkpoint as weights of torchvision's ResNet-50.

Caron et al. 2020, arXiv:2006.09882. The checkpoint holds a ResNet-50 without classifier, beside the
projection head and the prototypes of its training, which no score reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from decode.core import InputError
from decode.weights.reading import read_torch_file

WRAPPED = "module."
TRAINING_ONLY = ("projection_head.", "prototypes.")
CLASSIFIER = "fc."


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The tensors of a .pth.tar file that holds nothing but tensors; nothing in it is run.

    Raises InputError when the file is missing, damaged or holds other objects.
    """
    found = read_torch_file(path, "SwAV's checkpoint, a file of tensors only")
    other = [name for name, value in found.items() if not isinstance(value, Tensor)]
    if other:
        raise InputError(
            f"{path}: expected SwAV's checkpoint, names and tensors, got {other[0]!r} beside them; "
            "fetch the pretrained ResNet-50, not a state of its training"
        )
    return found


def trunk(state: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """The weights of `network`, a ResNet of torchvision, but for its classifier.

    Raises InputError when names or shapes are missing or left over.
    """
    plain = {name.removeprefix(WRAPPED): value for name, value in state.items()}
    kept = {
        name: value.contiguous()
        for name, value in plain.items()
        if not name.startswith((*TRAINING_ONLY, CLASSIFIER))
    }
    wanted = {
        name: value.shape
        for name, value in network.state_dict().items()
        if not name.startswith(CLASSIFIER)
    }
    wrong = [name for name in kept if kept[name].shape != wanted.get(name)]
    missing = [name for name in wanted if name not in kept]
    if wrong or missing:
        raise InputError(
            f"checkpoint: expected the {len(wanted)} tensors of a ResNet-50 beside projection_head and "
            f"prototypes, got {wrong[:3]} too many or of another shape and {missing[:3]} missing; fetch "
            "SwAV's ResNet-50 of ordinary width"
        )
    return kept

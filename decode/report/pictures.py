"""Pictures inside the page, as data addresses."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np

from decode.content import open_picture
from decode.core import InputError
from decode.pictures import on_ground, upright

# Larger pictures are shrunk and stored as JPEG, so that a page of a hundred stays a few MB.
LARGEST = 256


def data_address(picture: Any) -> str:
    """A picture as a `data:` address: PNG up to 256 pixels, JPEG of that size beyond.

    `picture` is a path, a uint8 array (h, w, 3) or (h, w), or floats (3, h, w) in [0, 1].
    """
    from PIL import Image, UnidentifiedImageError

    if isinstance(picture, str | Path):
        try:
            with open_picture(picture) as opened:
                image = on_ground(upright(opened))
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as e:
            raise InputError(
                f"report: {picture} is not a readable picture ({e})"
                "; fetch the file again or correct it"
            ) from e
    else:
        image = Image.fromarray(as_bytes(np.asarray(picture))).convert("RGB")
    large = max(image.size) > LARGEST
    if large:
        image.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    if large:
        image.save(buffer, "JPEG", quality=88)
    else:
        image.save(buffer, "PNG", optimize=True)
    code = base64.b64encode(buffer.getvalue()).decode()
    return f"data:image/{'jpeg' if large else 'png'};base64,{code}"


def as_bytes(array: np.ndarray) -> np.ndarray:
    """(h, w, 3) or (h, w) uint8 from uint8 as it is, or from (3, h, w) in [0, 1]."""
    if array.dtype == np.uint8:
        return array
    if array.ndim != 3 or array.shape[0] != 3:
        raise InputError(
            f"report: a picture of floats is (3, h, w) in [0, 1], got {array.shape}"
            "; fetch the file again or correct it"
        )
    return (array.transpose(1, 2, 0) * 255).round().clip(0, 255).astype(np.uint8)

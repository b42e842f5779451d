"""Films without sound: (frame, 3, h, w) in [0, 1] at frames per second, kept without loss as FFV1."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from html import escape
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from decode.media.image import LARGEST, check_range, described, inline, to_eight_bits
from decode.media.seen import Seen
from decode.refusals import InputError, refusal

if TYPE_CHECKING:
    from torch import Tensor

ENDING = ".mkv"
SUFFIXES = ("mp4", "avi", "mkv", "mov", "webm", "m4v")
# Of a clip that is read into memory at once, as floats.
MOST_BYTES = 8 * 2**30
# By which a file may say its length too long.
SHARE = 0.02


def check(data: Any, rate: float | None) -> None:
    """A finite (frame, 3, h, w) in [0, 1] at frames per second."""
    import torch

    if not isinstance(data, torch.Tensor) or data.ndim != 4 or data.shape[1] != 3 or not len(data):
        raise ValueError(f"a video is (frame, 3, h, w), got {described(data)}")
    if not rate or rate <= 0:
        raise ValueError(f"a video has a rate, frames per second, got {rate}")
    check_range("a video", data, 0, 1)


def read(path: str, start: float = 0.0, duration: float | None = None) -> tuple[Tensor, float]:
    """(frame, 3, h, w) float32 and frames per second: those that begin inside the clip."""
    import torch

    held = frames_of(path)
    first, stop = _span(path, held, start, duration)
    n = (stop - first) * held.height * held.width * 3 * 4
    if n > MOST_BYTES:
        raise refusal(
            path, f"a clip of at most {MOST_BYTES >> 30} GB", f"{n / 2**30:.1f} GB",
            "make it smaller, or name shorter clips by their duration",
        )  # fmt: skip
    pictures = np.stack(
        [f.to_ndarray(format="rgb24") for f in _frames(path, first, stop, held.rate)]
    )
    return torch.from_numpy(pictures).movedim(-1, 1).float() / 255, held.rate


def glance(path: str) -> None:
    import av

    with _readable(path), av.open(path) as file:
        file.streams.video[0]


def look(path: str, start: float = 0.0, duration: float | None = None) -> Seen:
    held = frames_of(path)
    first, stop = _span(path, held, start, duration)
    return Seen(held.height, held.width, (stop - first) / held.rate)


class _Held:
    """What a file holds: frames, frames per second, pixels."""

    def __init__(self, n: int, rate: float, height: int, width: int) -> None:
        self.n, self.rate, self.height, self.width = n, rate, height, width


def frames_of(path: str) -> _Held:
    """What a whole file holds; it is read to its end once."""
    with _readable(path):
        stat = os.stat(path)
        return _whole(path, stat.st_size, stat.st_mtime_ns)


@contextmanager
def _readable(path: str) -> Iterator[None]:
    from av.error import FFmpegError

    try:
        yield
    except InputError:
        raise
    except FileNotFoundError as e:
        raise refusal(path, "a film", "no file", "put it there or correct the events") from e
    except (OSError, ValueError, FFmpegError, IndexError) as e:
        said = " ".join(str(e).split()) or type(e).__name__
        raise refusal(path, "a film", said, "replace the file") from e


@lru_cache(maxsize=4096)
def _whole(path: str, size: int, changed: int) -> _Held:
    import av

    with av.open(path) as file:
        stream = file.streams.video[0]
        n = sum(1 for _ in file.decode(stream))
        rate = float(stream.average_rate or stream.guessed_rate or 0)
        said = _promised(file, stream)
        if not n or not rate or n + 2 < (1 - SHARE) * said * rate:
            got = f"{n} frames at {rate:g} per second"
            raise refusal(
                path, f"a film of {said:.6g} s, as it says of itself", got, "fetch it again"
            )
        return _Held(n, rate, stream.height, stream.width)


def _promised(file: Any, stream: Any) -> float:
    """Seconds that a film lasts by its own word; 0 where only sound beside it may be meant."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return 0.0 if file.streams.audio else (file.duration or 0) / 1_000_000


def _span(path: str, held: _Held, start: float, duration: float | None) -> tuple[int, int]:
    first = round(start * held.rate)
    stop = held.n if duration is None else first + max(1, round(duration * held.rate))
    if not 0 <= first < stop <= held.n + 1:
        end = "its end" if duration is None else f"{start + duration:.6g} s"
        raise refusal(
            path, f"a clip inside its {held.n / held.rate:.6g} s", f"{start:.6g} s to {end}",
            "correct the events, or put the whole film there",
        )  # fmt: skip
    return first, min(stop, held.n)


def _frames(path: str, first: int, stop: int, rate: float) -> Iterator[Any]:
    """Frames by their number, sought by the time at which they are shown."""
    import av

    with _readable(path), av.open(path) as file:
        stream = file.streams.video[0]
        begun = float((stream.start_time or 0) * stream.time_base) if stream.time_base else 0.0
        if first and stream.time_base:
            file.seek(int((begun + first / rate) / stream.time_base), stream=stream)
        for count, frame in enumerate(file.decode(stream)):
            known = frame.time is not None
            number = round((float(frame.time or 0) - begun) * rate) if known else count
            if first <= number < stop:
                yield frame
            if number >= stop - 1:
                return


def write(path: Path, data: Tensor, rate: float | None) -> None:
    assert rate is not None
    path.write_bytes(_encoded(to_eight_bits(data), rate, "matroska", "ffv1", "bgr0", {}))


def _encoded(
    pictures: np.ndarray, rate: float, container: str, codec: str, pixels: str, how: dict[str, str]
) -> bytes:
    """(frame, h, w, 3) uint8 in a container."""
    from fractions import Fraction

    import av

    kept = BytesIO()
    with av.open(kept, "w", format=container) as file:
        stream: Any = file.add_stream(codec, Fraction(rate).limit_denominator(1001), options=how)
        stream.height, stream.width = pictures.shape[1:3]
        stream.pix_fmt = pixels
        for picture in pictures:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return kept.getvalue()


def mean(many: Iterable[tuple[Tensor, float | None]]) -> tuple[Tensor, float]:
    """Mean of every pixel of every frame, at the size and rate of the first, as long as the shortest."""
    import torch
    from torch.nn.functional import interpolate

    total, n, rate = torch.zeros(()), 0, 0.0
    for film, speed in many:
        if n == 0:
            total, rate = torch.zeros(film.shape, dtype=torch.float64), float(speed or 0)
        size = tuple(total.shape[2:])
        if tuple(film.shape[2:]) != size:
            film = interpolate(film, size, mode="bilinear", antialias=True)
        short = min(len(total), len(film))
        total, n = total[:short] + film[:short], n + 1
    return (total / n).float(), rate


def view(data: Tensor, rate: float | None, label: str = "") -> str:
    """A player of the film, shrunk to 256 pixels."""
    from torch.nn.functional import interpolate

    assert rate is not None
    shrink = min(1.0, LARGEST / max(data.shape[2:]))
    # Both sides are even, as H.264 wants them.
    size = tuple(max(2, 2 * round(side * shrink / 2)) for side in data.shape[2:])
    small = interpolate(data.float(), size, mode="bilinear", antialias=True).clamp(0, 1)
    film = _encoded(to_eight_bits(small), rate, "mp4", "libx264", "yuv420p", {"crf": "23"})
    address = inline("video/mp4", film)
    said = f'title="{escape(label)}" src="{address}"'
    return f'<video controls loop muted playsinline preload="metadata" {said}></video>'

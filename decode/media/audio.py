"""Sounds: (channel, sample) in [-1, 1] at a rate in Hz, kept as WAV of 16 bits."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from html import escape
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from decode.media.image import check_range, described, inline
from decode.media.seen import Seen
from decode.refusals import InputError, refusal

if TYPE_CHECKING:
    from torch import Tensor

ENDING = ".wav"
SUFFIXES = ("wav", "flac", "mp3", "ogg", "oga", "opus", "m4a", "aac")
# The mean of waves is next to silence, whatever was said.
mean: Callable[[Iterable[Any]], Any] | None = None
FULL_SCALE = 32768
# What MP3 knows, in Hz, and what is taken where a sound has another rate.
MP3_RATES, MP3_RATE = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000), 44100
MP3_BITS = 64_000
# A compressed file may say its length by this share too long, and encoders add up to half a second.
SHARE, PADDING = 0.01, 0.5
WAVE_BINS = 120


def check(data: Any, rate: float | None) -> None:
    """A finite (channel, sample) in [-1, 1] at a whole number of samples per second."""
    import torch

    if not isinstance(data, torch.Tensor) or data.ndim != 2 or not data.numel():
        raise ValueError(f"audio is (channel, sample), got {described(data)}")
    if not rate or rate < 1 or rate != round(rate):
        raise ValueError(f"audio has a rate, a whole number of Hz, got {rate}")
    check_range("audio", data, -1, 1)


def read(path: str, start: float = 0.0, duration: float | None = None) -> tuple[Tensor, float]:
    """(channel, sample) float32 and its rate; refuses a clip that reaches beyond the file."""
    import torch

    n, rate = samples_of(path)
    first, stop = _span(path, n, rate, start, duration)
    cut = _wav if Path(path).suffix.lower() == ".wav" else _compressed
    sound = cut(path, first, stop)
    return torch.from_numpy(np.ascontiguousarray(sound.T, np.float32)), float(rate)


def glance(path: str) -> None:
    import av

    with _readable(path):
        if Path(path).suffix.lower() == ".wav":
            _data_bytes(path)
            return
        with av.open(path) as file:
            file.streams.audio[0]


def look(path: str, start: float = 0.0, duration: float | None = None) -> Seen:
    n, rate = samples_of(path)
    first, stop = _span(path, n, rate, start, duration)
    return Seen(seconds=(stop - first) / rate)


def samples_of(path: str) -> tuple[int, int]:
    """Number of samples and rate of a whole file, which is read to its end once."""
    with _readable(path):
        stat = os.stat(path)
        return _samples(path, stat.st_size, stat.st_mtime_ns)


def _span(path: str, n: int, rate: int, start: float, duration: float | None) -> tuple[int, int]:
    """First sample of a clip and the one after its last; a sample more than there are is let go."""
    first = round(start * rate)
    stop = n if duration is None else first + round(duration * rate)
    if not 0 <= first < stop <= n + 1:
        end = "its end" if duration is None else f"{start + duration:.6g} s"
        raise refusal(
            path, f"a clip inside its {n / rate:.6g} s", f"{start:.6g} s to {end}",
            "correct the events, or put the whole sound there",
        )  # fmt: skip
    return first, min(stop, n)


@contextmanager
def _readable(path: str) -> Iterator[None]:
    from av.error import FFmpegError

    try:
        yield
    except FileNotFoundError as e:
        raise refusal(path, "a sound", "no file", "put it there or correct the events") from e
    except InputError:
        raise
    except (OSError, ValueError, FFmpegError, IndexError) as e:
        said = " ".join(str(e).split()) or type(e).__name__
        raise refusal(path, "a sound", said, "replace the file") from e


@lru_cache(maxsize=4096)
def _samples(path: str, size: int, changed: int) -> tuple[int, int]:
    if Path(path).suffix.lower() == ".wav":
        values, rate = _open_wav(path)
        _check_floats(path, values)
        return len(values), rate
    import av

    with av.open(path) as file:
        return len(_decoded(path, size, changed)), int(file.streams.audio[0].rate)


def _check_length(path: str, seconds: float, said: float) -> None:
    """Refuse a file that stops before the end that it names, as after a broken download."""
    if seconds < said * (1 - SHARE) - PADDING or seconds == 0:
        raise refusal(
            path, f"{said:.6g} s, as it says of itself", f"{seconds:.6g} s", "fetch it again"
        )


def _open_wav(path: str) -> tuple[np.ndarray, int]:
    """(sample, channel) as stored and the rate; scipy reads what is there of a file that was cut."""
    from scipy.io import wavfile

    promised, there = _data_bytes(path)
    if promised > there:
        raise refusal(path, f"{promised} bytes of sound", f"{there}", "fetch it again")
    with warnings.catch_warnings():
        # Chunks beside the sound, such as names, are none of its business.
        warnings.simplefilter("ignore", wavfile.WavFileWarning)
        try:
            rate, values = wavfile.read(path, mmap=True)
        except ValueError:  # 24 bits cannot be mapped
            rate, values = wavfile.read(path)
    return values.reshape(len(values), -1), int(rate)


def _data_bytes(path: str) -> tuple[int, int]:
    """What the head of a RIFF file promises of its sound, and what follows of it."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        head = file.read(12)
        if head[:4] not in (b"RIFF", b"RIFX", b"RF64") or head[8:] != b"WAVE":
            raise ValueError("a file without the head of a WAV")
        order = "big" if head[:4] == b"RIFX" else "little"
        while len(chunk := file.read(8)) == 8:
            n = int.from_bytes(chunk[4:], order)  # type: ignore[arg-type]
            if chunk[:4] == b"data":
                return (0 if n == 0xFFFFFFFF else n), size - file.tell()
            file.seek(n + n % 2, os.SEEK_CUR)
    raise ValueError("a WAV without sound")


def _check_floats(path: str, values: np.ndarray) -> None:
    if values.dtype.kind != "f":
        return
    for first in range(0, len(values), 2**22):
        part = np.asarray(values[first : first + 2**22])
        top = float(np.abs(part).max(initial=0))
        if not top <= 1:
            raise refusal(
                path, "samples in [-1, 1]", f"up to {top:.4g}", "scale it, or store it as 16 bits"
            )


def _wav(path: str, first: int, stop: int) -> np.ndarray:
    values, _ = _open_wav(path)
    part = np.asarray(values[first:stop])
    if part.dtype == np.uint8:
        return (part.astype(np.float32) - 128) / 128
    if part.dtype.kind == "i":
        return (part / float(2 ** (8 * part.dtype.itemsize - 1))).astype(np.float32)
    return part.astype(np.float32)


def _compressed(path: str, first: int, stop: int) -> np.ndarray:
    """(sample, channel) of any format that FFmpeg decodes."""
    with _readable(path):
        stat = os.stat(path)
        return _decoded(path, stat.st_size, stat.st_mtime_ns)[first:stop]


@lru_cache(maxsize=2)
def _decoded(path: str, size: int, changed: int) -> np.ndarray:
    """(sample, channel) of the whole file, since compressed sounds cannot be entered at a sample; peaks
    beyond full scale are clipped, as by every player.
    """
    import av

    to_float = av.AudioResampler(format="fltp")
    with av.open(path) as file:
        frames = [p for frame in file.decode(audio=0) for p in to_float.resample(frame)]
        said = (file.duration or 0) / 1_000_000
    found = np.concatenate([p.to_ndarray().T for p in frames]).clip(-1, 1)
    _check_length(path, len(found) / frames[0].sample_rate, said)
    return found


def write(path: Path, data: Tensor, rate: float | None) -> None:
    from scipy.io import wavfile

    assert rate is not None
    wavfile.write(path, round(rate), sixteen_bits(data).T)


def sixteen_bits(data: Tensor) -> np.ndarray:
    """(channel, sample) int16; 1 itself is the largest number below it."""
    values = (data.detach().cpu().double() * FULL_SCALE).round().clamp(-FULL_SCALE, FULL_SCALE - 1)
    return values.numpy().astype(np.int16)


def view(data: Tensor, rate: float | None, label: str = "") -> str:
    """A player above a drawing of the wave."""
    assert rate is not None
    address = inline("audio/mpeg", as_mp3(sixteen_bits(data)[:2], round(rate)))
    player = f'<audio controls preload="metadata" src="{address}"></audio>'
    return f'<div class="sound" title="{escape(label)}">{_drawn(data)}{player}</div>'


def as_mp3(sound: np.ndarray, rate: int) -> bytes:
    """(1 or 2 channels, sample) int16 as MP3."""
    import av

    kept = BytesIO()
    layout = "mono" if len(sound) == 1 else "stereo"
    with av.open(kept, "w", format="mp3") as file:
        stream: Any = file.add_stream("libmp3lame", rate if rate in MP3_RATES else MP3_RATE)
        stream.layout, stream.bit_rate = layout, MP3_BITS
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound), "s16p", layout)
        frame.sample_rate = rate
        for part in (frame, None):
            file.mux(stream.encode(part))
    return kept.getvalue()


def _drawn(data: Tensor) -> str:
    """How loud it is over time, as a filled curve."""
    loud = np.abs(data.detach().cpu().numpy()).max(0)
    bins = np.array_split(loud, min(WAVE_BINS, len(loud)))
    half = [20 * float(b.max()) for b in bins]
    upper = [f"{i},{20 - h:.1f}" for i, h in enumerate(half)]
    lower = [f"{i},{20 + h:.1f}" for i, h in reversed(list(enumerate(half)))]
    points = " ".join([*upper, *lower])
    return (
        f'<svg class="wave" viewBox="0 0 {len(half)} 40" preserveAspectRatio="none">'
        f'<polygon points="{points}"/></svg>'
    )

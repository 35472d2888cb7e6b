"""What a model hears of a recording, window by window.

A recording of up to 30 s is one window. A longer one is cut into equal windows of 15 to 30 s, so that there is no short
rest, and decoded as they are asked for. Seeking costs little: an hour of FLAC, Vorbis, Opus or MP3 takes 1.3, 1.6, 7.4
or 10.5 s in windows, 3.4, 3.0, 8.1 or 2.7 s as a whole.

How good each window is, ``chns.data.quality`` measures.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import soxr

from chns.core import AudioError, Float32Array
from chns.data import (
    LARGEST_SAMPLE,
    MAX_RATE_HZ,
    MIN_RATE_HZ,
    Quality,
    Recording,
    channels_differ,
    file_channels_differ,
    joint_quality,
    measure_quality,
    proven_info,
    read_audio,
)

__all__ = [
    "MIN_SECONDS",
    "WINDOW_SECONDS",
    "Float32Array",
    "Part",
    "Quality",
    "array_windows",
    "as_waveform",
    "checked_rate",
    "file_windows",
    "holds_several_sounds",
    "joint_quality",
    "measure_quality",
    "measured_windows",
    "named_source",
    "source_name",
]


WINDOW_SECONDS = 30.0
MIN_SECONDS = 0.1

_FRAGMENT = re.compile(r"#(?:t=(\d+(?:\.\d+)?),(\d+(?:\.\d+)?))?&?(?:channel=(\d{1,3}))?$")


class Part(NamedTuple):
    """A part of a recording."""

    offset_seconds: float
    duration_seconds: float


_MOST_CHANNELS = 32


def as_waveform(samples: npt.NDArray[np.generic], channel: int | None = None) -> Float32Array:
    """Samples of a caller as this package has them: one channel, float32, full scale at 1.

    Args:
        samples: int16, or floating point in [-1, 1], in any byte order; shape (samples,) or (samples, channels), which
            are averaged.
        channel: Take this one, from 0, instead of the mean.

    Returns:
        Shape (samples,).

    Raises:
        ValueError: If the type or the shape is another.
        AudioError: If a sample is not finite, or far outside [-1, 1].
    """
    if samples.ndim not in (1, 2) or (samples.ndim == 2 and not 1 <= samples.shape[1] <= _MOST_CHANNELS):
        raise ValueError(
            f"samples must have shape (samples,) or (samples, channels) with at most {_MOST_CHANNELS} channels, "
            f"got {samples.shape}."
        )
    is_int16 = samples.dtype.kind == "i" and samples.dtype.itemsize == 2
    if not is_int16 and samples.dtype.kind != "f":
        raise ValueError(f"samples must be int16, or floating point in [-1, 1], got {samples.dtype}.")
    with np.errstate(over="ignore"):  # what becomes infinite is refused below
        waveform = samples.astype(np.float32)
    if is_int16:
        waveform /= 2**15
    num_channels = 1 if waveform.ndim == 1 else waveform.shape[1]
    if channel is not None and not channel < num_channels:
        raise AudioError(
            f"channel must be one of the recording's {num_channels}, counted from 0, got {channel} in an array."
        )
    if waveform.ndim == 2:
        waveform = np.ascontiguousarray(waveform[:, channel]) if channel is not None else waveform.mean(axis=1)
    _require_full_scale_at_one(waveform, source="an array")
    return waveform


def checked_rate(sample_rate_hz: int) -> int:
    """The rate, if it is one of recordings.

    Raises:
        ValueError: If it is not an integer between 4,000 and 384,000.
    """
    if int(sample_rate_hz) != sample_rate_hz or not MIN_RATE_HZ <= sample_rate_hz <= MAX_RATE_HZ:
        raise ValueError(
            f"sample_rate_hz must be an integer between {MIN_RATE_HZ} and {MAX_RATE_HZ}, got {sample_rate_hz}."
        )
    return int(sample_rate_hz)


def source_name(recording: Recording, part: Part | None, channel: int | None) -> str:
    """What a store keeps of a recording: its path, and part and channel as in W3C's media fragments (``#t=1.5,4``)."""
    where = recording.absolute() if isinstance(recording, Path) else recording
    parts = [] if part is None else [f"t={part.offset_seconds:.10g},{sum(part):.10g}"]
    parts += [] if channel is None else [f"channel={channel}"]
    return f"{where}#{'&'.join(parts)}" if parts else str(where)


def named_source(name: str) -> tuple[Path, Part | None, int | None] | None:
    """File, part and channel that `source_name` has named; None if there is no such file."""
    found = None if Path(name).is_file() else _FRAGMENT.search(name)
    path = Path(name if found is None else name[: found.start()])
    if not path.is_file():
        return None
    if found is None:
        return path, None, None
    start, end, channel = found.groups()
    part = None if start is None else Part(float(start), float(end) - float(start))
    return path, part, None if channel is None else int(channel)


def file_windows(
    path: Recording, *, sample_rate_hz: int, channel: int | None = None, part: Part | None = None
) -> Iterator[Float32Array]:
    """A recording, or one channel of it, as equal windows of at most 30 s, at the wanted rate.

    Args:
        path: The recording.
        sample_rate_hz: Wanted rate.
        channel: Only this one, from 0.
        part: Only this part; by default all, whose length is then proven.

    Raises:
        FileNotFoundError: If there is no such file.
        AudioError: If it cannot be decoded, or is not audio with full scale at 1.
    """
    start, seconds = part or Part(0.0, proven_info(path).duration_seconds)
    num_windows = _num_windows(seconds)
    for number in range(num_windows):
        is_last = part is None and number == num_windows - 1
        waveform = read_audio(
            path,
            sample_rate_hz=sample_rate_hz,
            offset_seconds=start + number * seconds / num_windows,
            duration_seconds=(seconds + 1 if is_last else seconds) / num_windows,
            channel=channel,
        )
        _require_full_scale_at_one(waveform, source=str(path))
        yield waveform


def measured_windows(
    windows: Iterable[Float32Array], *, sample_rate_hz: int, min_samples: int, source: str
) -> Iterator[tuple[Float32Array, Quality]]:
    """Each window with its quality.

    Raises:
        AudioError: If one has fewer samples than can be embedded.
    """
    for window in windows:
        if len(window) < min_samples:
            shortest, seconds = min_samples / sample_rate_hz, len(window) / sample_rate_hz
            raise AudioError(f"recording must hold at least {shortest:g} s, got {seconds:.3f} s in {source}.")
        yield window, measure_quality(window, sample_rate_hz=sample_rate_hz)


def array_windows(
    samples: npt.NDArray[np.generic], sample_rate_hz: int, *, wanted_rate_hz: int, channel: int | None = None
) -> Iterator[Float32Array]:
    """An array, or one channel of it, as equal windows of at most 30 s, at the wanted rate.

    Raises:
        ValueError: As `as_waveform` and `checked_rate`, also AudioError.
    """
    rate_hz = checked_rate(sample_rate_hz)
    num_windows = _num_windows(samples.size and len(samples) / rate_hz)
    for number in range(num_windows):
        first, end = (len(samples) * place // num_windows for place in (number, number + 1))
        waveform = as_waveform(samples[first:end], channel)
        yield waveform if rate_hz == wanted_rate_hz else soxr.resample(waveform, rate_hz, wanted_rate_hz)


def holds_several_sounds(audio: str | os.PathLike[str] | npt.NDArray[np.generic]) -> bool:
    """Whether two channels of a recording, or of an array of shape (samples, channels), are of different sounds."""
    if isinstance(audio, (str, os.PathLike)):
        return file_channels_differ(Path(audio))
    samples = np.asarray(audio)
    if samples.ndim == 1:
        return False
    return channels_differ(samples / 2**15 if samples.dtype.kind == "i" else samples)


def _num_windows(seconds: float) -> int:
    return max(1, math.ceil(seconds / WINDOW_SECONDS))


def _require_full_scale_at_one(waveform: Float32Array, *, source: str) -> None:
    """Refuse what is not audio with full scale at 1; filters and mixes may overshoot that somewhat."""
    peak = float(np.abs(waveform).max(initial=0.0))
    if not peak <= LARGEST_SAMPLE:  # also true of NaN
        raise AudioError(
            f"samples must be finite and in [-1, 1], got a peak of {peak:g} in {source}. "
            "Divide by full scale, or give an array as int16."
        )

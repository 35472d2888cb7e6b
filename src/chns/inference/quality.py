"""What a model hears of a recording, window by window, and how good it is: length, level, clipping, silence.

A recording of up to 30 s is one window. A longer one is cut into equal windows of 15 to 30 s, so that there is no short
rest, and decoded as they are asked for. Seeking costs little: an hour of FLAC, Vorbis, Opus or MP3 takes 1.3, 1.6, 7.4
or 10.5 s in windows, 3.4, 3.0, 8.1 or 2.7 s as a whole.

Levels are those of 10 ms frames without their mean, so an offset of the sound card does not pass for sound. The limits
were looked up in real speech: of 142 VoxCeleb2 excerpts none is below -42 dBFS or has more than 0.001 % of its samples
at full scale, and none of 898 words from Speech Commands is silent throughout. There is no speech detector here: noise
counts as sound.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soxr

from chns.data.audio import MAX_RATE_HZ, MIN_RATE_HZ, audio_info, read_audio
from chns.errors import AudioError

FloatArray = npt.NDArray[np.float32]

WINDOW_SECONDS = 30.0
MIN_SECONDS = 0.1
RELIABLE_SECONDS = 2.0
SILENCE_DBFS = -60.0
QUIET_DBFS = -50.0
CLIPPED_SHARE = 0.001

_FRAME_SECONDS = 0.01
_FULL_SCALE = 0.999
_LOWEST_DBFS = -100.0
_LARGEST_SAMPLE = 8.0
_MOST_CHANNELS = 32


@dataclass(frozen=True, kw_only=True)
class Quality:
    """How good a recording is.

    Attributes:
        duration_seconds: Its length.
        level_dbfs: Its mean level, where 0 is a square wave at full scale; -100 stands for anything below.
        clipped_share: Share of the samples at full scale.
        silent_share: Share of the 10 ms frames below -60 dBFS.
    """

    duration_seconds: float
    level_dbfs: float
    clipped_share: float
    silent_share: float

    @property
    def sounding_seconds(self) -> float:
        """Length of what is not silent."""
        return self.duration_seconds * (1 - self.silent_share)

    @property
    def is_silent(self) -> bool:
        """Whether no frame holds sound."""
        return self.silent_share == 1.0

    @property
    def warnings(self) -> tuple[str, ...]:
        """Why a decision about this recording may be wrong, in words; empty for a good one."""
        found = []
        if self.sounding_seconds < RELIABLE_SECONDS:
            found.append(f"{self.sounding_seconds:.1f} s of sound; less than {RELIABLE_SECONDS:g} s is unreliable")
        if self.level_dbfs < QUIET_DBFS:
            found.append(f"nearly silent, {self.level_dbfs:.0f} dBFS; noise may drown the voice")
        if self.clipped_share > CLIPPED_SHARE:
            found.append(f"clipped, {self.clipped_share:.1%} of the samples are at full scale; the voice is distorted")
        return tuple(found)

    def to_json(self) -> dict[str, object]:
        """The measures and the warnings as JSON values."""
        return {**asdict(self), "warnings": list(self.warnings)}


def measure_quality(waveform: FloatArray, *, sample_rate_hz: int) -> Quality:
    """Measure a recording, or a part of it.

    Args:
        waveform: Samples in [-1, 1], shape (samples,), at least one.
        sample_rate_hz: Their rate.
    """
    frame_samples = min(len(waveform), round(_FRAME_SECONDS * sample_rate_hz))
    num_frames = len(waveform) // frame_samples
    powers = waveform[: num_frames * frame_samples].reshape(num_frames, frame_samples).var(axis=1, dtype=np.float64)
    return Quality(
        duration_seconds=len(waveform) / sample_rate_hz,
        level_dbfs=_decibels(powers.mean()),
        clipped_share=float(np.mean(np.abs(waveform) >= _FULL_SCALE)),
        silent_share=float(np.mean(powers < 10 ** (SILENCE_DBFS / 10))),
    )


def joint_quality(parts: Sequence[Quality]) -> Quality:
    """The quality of a recording from that of its parts, at least one."""
    seconds = np.array([part.duration_seconds for part in parts])

    def mean(values: list[float]) -> float:
        return float(np.average(values, weights=seconds))

    return Quality(
        duration_seconds=float(seconds.sum()),
        level_dbfs=_decibels(mean([10 ** (part.level_dbfs / 10) for part in parts])),
        clipped_share=mean([part.clipped_share for part in parts]),
        silent_share=mean([part.silent_share for part in parts]),
    )


def as_waveform(samples: npt.NDArray[np.generic]) -> FloatArray:
    """Samples of a caller as this package has them: one channel, float32, full scale at 1.

    Args:
        samples: int16, or floating point in [-1, 1]; shape (samples,) or (samples, channels), which are averaged.

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
    if samples.dtype != np.int16 and not np.issubdtype(samples.dtype, np.floating):
        raise ValueError(f"samples must be int16, or floating point in [-1, 1], got {samples.dtype}.")
    with np.errstate(over="ignore"):  # what becomes infinite is refused below
        waveform = samples.astype(np.float32)
    if samples.dtype == np.int16:
        waveform /= 2**15
    waveform = waveform if waveform.ndim == 1 else waveform.mean(axis=1)
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


def file_windows(path: Path, *, sample_rate_hz: int) -> Iterator[FloatArray]:
    """A file as equal windows of at most 30 s, at the wanted rate.

    Raises:
        FileNotFoundError: If there is no such file.
        AudioError: If it cannot be decoded, or is not audio with full scale at 1.
    """
    seconds = audio_info(path).duration_seconds
    num_windows = _num_windows(seconds)
    for number in range(num_windows):
        is_last = number == num_windows - 1
        waveform = read_audio(
            path,
            sample_rate_hz=sample_rate_hz,
            offset_seconds=number * seconds / num_windows,
            duration_seconds=None if is_last else seconds / num_windows,
        )
        _require_full_scale_at_one(waveform, source=str(path))
        yield waveform


def array_windows(
    samples: npt.NDArray[np.generic], sample_rate_hz: int, *, wanted_rate_hz: int
) -> Iterator[FloatArray]:
    """An array as equal windows of at most 30 s, at the wanted rate.

    Raises:
        ValueError: As `as_waveform` and `checked_rate`, also AudioError.
    """
    rate_hz = checked_rate(sample_rate_hz)
    num_windows = _num_windows(samples.size and len(samples) / rate_hz)
    for number in range(num_windows):
        first, end = (len(samples) * place // num_windows for place in (number, number + 1))
        waveform = as_waveform(samples[first:end])
        yield waveform if rate_hz == wanted_rate_hz else soxr.resample(waveform, rate_hz, wanted_rate_hz)


def _num_windows(seconds: float) -> int:
    return max(1, math.ceil(seconds / WINDOW_SECONDS))


def _require_full_scale_at_one(waveform: FloatArray, *, source: str) -> None:
    """Refuse what is not audio with full scale at 1; filters and mixes may overshoot that somewhat."""
    peak = float(np.abs(waveform).max(initial=0.0))
    if not peak <= _LARGEST_SAMPLE:  # also true of NaN
        raise AudioError(
            f"samples must be finite and in [-1, 1], got a peak of {peak:g} in {source}. "
            "Divide by full scale, or give an array as int16."
        )


def _decibels(power: float) -> float:
    return max(_LOWEST_DBFS, 10 * math.log10(max(power, 1e-30)))

"""How good a recording is: length, level, clipping, silence.

Levels are those of 10 ms frames without their mean, so an offset of the sound card does not pass for sound. The limits
were looked up in real speech: of 142 VoxCeleb2 excerpts none is below -42 dBFS or has more than 0.001 % of its samples
at full scale, and none of 898 words from Speech Commands is silent throughout. There is no speech detector here: noise
counts as sound.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from chns.core import Float32Array, percent

_SOUND_POWER = 1e-6
_SAME_CORRELATION = 0.8

RELIABLE_SECONDS = 2.0
SILENCE_DBFS = -60.0
QUIET_DBFS = -50.0
CLIPPED_SHARE = 0.001
LARGEST_SAMPLE = 8.0
"""What is audio with full scale at 1 stays below; filters and mixes may overshoot full scale somewhat."""

_FRAME_SECONDS = 0.01
_FULL_SCALE = 0.999
_LOWEST_DBFS = -100.0


@dataclass(frozen=True, kw_only=True)
class Quality:
    """How good a recording is.

    Attributes:
        duration_seconds: Its length.
        level_dbfs: Its mean level, where 0 is a square wave at full scale; -100 stands for anything below.
        clipped_share: Share of the samples at full scale.
        silent_share: Share of the 10 ms frames below -60 dBFS.
        channels_differ: Whether it is the mean of channels that hold different sounds.
    """

    duration_seconds: float
    level_dbfs: float
    clipped_share: float
    silent_share: float
    channels_differ: bool = False

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
            found.append(
                f"clipped, {percent(self.clipped_share, 1)} of the samples are at full scale; the voice is distorted"
            )
        if self.channels_differ:
            found.append(
                "its channels hold different sounds and were averaged; if they are two people, choose a channel"
            )
        return tuple(found)

    def to_json(self) -> dict[str, object]:
        """The measures and the warnings as JSON values."""
        return {**asdict(self), "warnings": list(self.warnings)}


def measure_quality(waveform: Float32Array, *, sample_rate_hz: int) -> Quality:
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


def channels_differ(samples: npt.NDArray[np.generic]) -> bool:
    """Whether two channels hold different sounds, so that their mean mixes them.

    They do if both are above -60 dBFS and their correlation is below 0.8; opposite phases, which cancel, count too.

    Args:
        samples: Shape (samples, channels), floating point with full scale at 1.
    """
    centred = samples.astype(np.float64) - samples.mean(axis=0, dtype=np.float64)
    powers = np.square(centred).mean(axis=0)
    sounding = np.flatnonzero(powers > _SOUND_POWER)
    if len(sounding) < 2:
        return False
    first, others = sounding[0], sounding[1:]
    products = (centred[:, others] * centred[:, [first]]).mean(axis=0)
    return bool((products < _SAME_CORRELATION * np.sqrt(powers[first] * powers[others])).any())


def _decibels(power: float) -> float:
    return max(_LOWEST_DBFS, 10 * math.log10(max(power, 1e-30)))

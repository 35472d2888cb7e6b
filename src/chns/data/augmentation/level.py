"""How loud a waveform is, gain as an augmentation, and rules that several effects share."""

from __future__ import annotations

import math

import numpy as np

from chns.core import Float32Array


def require_probability(name: str, probability: float) -> None:
    """Check a probability.

    Raises:
        ValueError: If it is not between 0 and 1.
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"{name} must be between 0 and 1, got {probability}.")


def require_range(name: str, lowest: float, highest: float, *, within: tuple[float, float]) -> None:
    """Check the two ends that something is drawn between.

    Raises:
        ValueError: If they do not rise, or leave the bounds of what makes sense.
    """
    low, high = within
    if not (math.isfinite(lowest) and math.isfinite(highest) and low <= lowest <= highest <= high):
        raise ValueError(f"{name} must rise within {low:g} and {high:g}, got {lowest} to {highest}.")


def power_of(waveform: Float32Array) -> float:
    """Mean square of the samples, summed in float64."""
    return float(np.mean(np.square(waveform, dtype=np.float64)))


def without_clipping(waveform: Float32Array) -> Float32Array:
    """The waveform, turned down as a whole if a sample is outside [-1, 1]."""
    peak = float(np.abs(waveform).max())
    return (waveform / np.float32(peak)).astype(np.float32) if peak > 1 else waveform


class Gain:
    """Turns the volume up or down.

    Log-mel features with their mean subtracted do not hear it; it matters to features that keep their mean, and to
    what is quantised after it.

    Args:
        probability: How often.
        min_gain_db: Smallest gain.
        max_gain_db: Largest gain; peaks that it would clip turn the whole crop down instead.

    Raises:
        ValueError: If a setting is out of range.
    """

    def __init__(self, *, probability: float, min_gain_db: float, max_gain_db: float) -> None:
        require_probability("gain probability", probability)
        require_range("min_gain_db to max_gain_db", min_gain_db, max_gain_db, within=(-60, 60))
        self._probability = probability
        self._range_db = (min_gain_db, max_gain_db)

    def __call__(self, waveform: Float32Array, rng: np.random.Generator) -> tuple[Float32Array, str]:
        """The waveform, changed or not, and what was done, in words."""
        if rng.random() >= self._probability:
            return waveform, ""
        gain_db = rng.uniform(*self._range_db)
        return waveform * np.float32(10 ** (gain_db / 20)), f"gain {gain_db:+.1f} dB"

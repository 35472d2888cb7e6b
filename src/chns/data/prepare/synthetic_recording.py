"""How synthetic speech is recorded: noise in the background, a microphone, a level."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from chns.core.arrays import Float32Array
from chns.data.audio import Waveform

SAMPLE_RATE_HZ = 16_000
_SIGNAL_TO_NOISE_DB = (8.0, 30.0)
_LEVEL_DB = (-34.0, -20.0)  # of the root mean square, below full scale
_PEAK = 0.95


def recorded(speech: Waveform, rng: np.random.Generator) -> Waveform:
    """Speech with background noise, through a microphone, at some level; all in one pass over the spectrum.

    Args:
        speech: Shape (samples,), at ``SAMPLE_RATE_HZ``.
        rng: Draws the noise, the channel and the level.

    Returns:
        Shape (samples,), float32, within (-1, 1).
    """
    size = -(-(len(speech) + 1024) // 4096) * 4096  # room for the filter to ring; a size that transforms fast
    frequencies_hz = np.fft.rfftfreq(size, 1 / SAMPLE_RATE_HZ).astype(np.float32)
    noise_level = _root_mean_square(speech) / _amplitude(rng.uniform(*_SIGNAL_TO_NOISE_DB))
    spectrum = np.fft.rfft(speech, size) + noise_level * _noise_spectrum(frequencies_hz, size, rng)
    waveform = np.fft.irfft(spectrum * _channel_gain(frequencies_hz, rng), size)[: len(speech)].astype(np.float32)
    level = _amplitude(rng.uniform(*_LEVEL_DB)) / _root_mean_square(waveform)
    return waveform * np.float32(min(level, _PEAK / np.abs(waveform).max()))


def _root_mean_square(waveform: Waveform) -> np.float32:
    return np.float32(np.sqrt(np.mean(waveform**2)))


def _amplitude(decibels: float) -> np.float32:
    return np.float32(10 ** (decibels / 20))


def _noise_spectrum(frequencies_hz: Float32Array, size: int, rng: np.random.Generator) -> npt.NDArray[np.complex64]:
    """A random mixture of white, pink and brown noise (power falls as 1, 1 / f, 1 / f^2), of mean square 1."""
    audible_hz = np.maximum(frequencies_hz, 60.0)
    density = np.zeros_like(audible_hz)
    for slope, share in enumerate(rng.dirichlet((1, 1, 1))):
        power = audible_hz ** np.float32(-slope)
        density += power * np.float32(share / power.sum())
    real, imaginary = rng.standard_normal((2, len(audible_hz)), dtype=np.float32)
    noise: npt.NDArray[np.complex64] = (real + np.complex64(1j) * imaginary) * np.sqrt(density) * np.float32(size / 2)
    return noise


def _channel_gain(frequencies_hz: Float32Array, rng: np.random.Generator) -> Float32Array:
    """A gentle equaliser, smooth over log frequency, and the band that a microphone or a line lets through."""
    knots_hz = np.geomspace(100, 8000, 7)
    knots_db = rng.normal(0, 3, len(knots_hz))
    hz = np.maximum(frequencies_hz, 1.0)
    equaliser = 10 ** (np.interp(np.log(hz), np.log(knots_hz), knots_db) / 20)
    lowest_hz, highest_hz = rng.uniform(40, 250), rng.uniform(3400, 8000)
    attenuation = (1 + (lowest_hz / hz) ** 4) * (1 + (hz / highest_hz) ** 16)
    gain: Float32Array = (equaliser / np.sqrt(attenuation)).astype(np.float32)
    return gain

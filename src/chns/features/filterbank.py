"""Kaldi's log-mel filterbank in numpy: the matrices that `LogMel` is made of, and the whole where there is no torch.

Windowing, removal of the frame's mean, pre-emphasis and the Fourier transform are all linear, so they are folded into
one matrix: a frame costs one product with a 400 x 512 matrix, exports to any runtime, and needs no complex numbers.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from chns.core import Float32Array, Float64Array

Window = Literal["povey", "hamming"]

_PREEMPHASIS = 0.97  # Kaldi's; nothing that is imported has another
LOG_FLOOR = float(np.finfo(np.float32).eps)


def spectrum_matrix(frame_samples: int, points: int, window: Window) -> Float32Array:
    """Matrix M such that ``frame @ M`` is the real, then the imaginary part of the prepared frame's spectrum.

    Shape (frame_samples, 2 * (points // 2)): without the highest bin, which lies under no filter.
    """
    if window == "povey":
        cosine = np.cos(2 * math.pi * np.arange(frame_samples, dtype=np.float64) / (frame_samples - 1))
        weights = (0.5 - 0.5 * cosine) ** 0.85
    else:
        weights = hamming(frame_samples, period=frame_samples - 1)
    windowed = weights[:, None] * fourier_matrix(frame_samples, points)
    emphasised = windowed.copy()  # each sample less a share of the one before it, the first less a share of itself
    emphasised[:-1] -= _PREEMPHASIS * windowed[1:]
    emphasised[0] -= _PREEMPHASIS * windowed[0]
    scale_to_16_bits = 2.0**15
    matrix: Float32Array = (scale_to_16_bits * (emphasised - emphasised.mean(axis=0))).astype(np.float32)
    return matrix


def hamming(num_samples: int, *, period: int) -> Float64Array:
    """The Hamming window, shape (num_samples,)."""
    window: Float64Array = 0.54 - 0.46 * np.cos(2 * math.pi * np.arange(num_samples, dtype=np.float64) / period)
    return window


def fourier_matrix(num_samples: int, points: int) -> Float64Array:
    """Matrix M such that ``x @ M`` is the real, then the imaginary part of the spectrum of so many points.

    Shape (num_samples, 2 * (points // 2)): without the highest bin, which lies under no filter.
    """
    samples, bins = np.arange(num_samples, dtype=np.float64), np.arange(points // 2, dtype=np.float64)
    angles = 2 * math.pi / points * samples[:, None] * bins
    return np.concatenate([np.cos(angles), -np.sin(angles)], axis=1)


def mel_filters(num_mels: int, points: int, sample_rate_hz: int, low_hz: float, high_hz: float) -> Float32Array:
    """Triangular filters, equally wide on the mel scale, shape (points // 2, num_mels)."""
    low, high = _mel(np.array([low_hz, high_hz], np.float64))
    step = (high - low) / (num_mels + 1)
    left = low + step * np.arange(num_mels, dtype=np.float64)
    bins = _mel(np.arange(points // 2, dtype=np.float64) * sample_rate_hz / points)[:, None]
    filters = np.minimum((bins - left) / step, (left + 2 * step - bins) / step)
    kept: Float32Array = np.maximum(filters, 0.0).astype(np.float32)
    return kept


def _mel(hz: Float64Array) -> Float64Array:
    mels: Float64Array = 1127.0 * np.log1p(hz / 700.0)
    return mels


class Filterbank:
    """What `LogMel` computes with its defaults, for whole utterances and without torch.

    Args:
        num_mels: Number of mel filters, from 20 Hz to half the sample rate.
        sample_rate_hz: Rate of the waveforms.
        window: As of `LogMel`.
    """

    def __init__(self, *, num_mels: int, sample_rate_hz: int, window: Window) -> None:
        self.frame_samples = round(0.025 * sample_rate_hz)
        self.hop_samples = round(0.010 * sample_rate_hz)
        points = 2 ** math.ceil(math.log2(self.frame_samples))
        self._spectrum = spectrum_matrix(self.frame_samples, points, window)
        self._filters = mel_filters(num_mels, points, sample_rate_hz, 20.0, sample_rate_hz / 2)

    def __call__(self, waveforms: Float32Array) -> Float32Array:
        """Shape (batch, samples) in [-1, 1] to (batch, frames, num_mels), each mel less its mean over the frames."""
        windows = np.lib.stride_tricks.sliding_window_view(waveforms, self.frame_samples, axis=1)
        real, imaginary = np.split(windows[:, :: self.hop_samples] @ self._spectrum, 2, axis=2)
        power = (real**2 + imaginary**2) @ self._filters
        features: Float32Array = np.log(np.maximum(power, LOG_FLOOR)).astype(np.float32)
        centred: Float32Array = features - features.mean(axis=1, keepdims=True)
        return centred

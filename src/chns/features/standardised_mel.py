"""Log-mels of a waveform brought to mean 0 and variance 1, as ReDimNet2's models expect them; exported too."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from chns.features.log_mel import inside_utterance, require_batch, without_padding

_PREEMPHASIS = 0.97
_FLOOR = 1e-8
_POINTS = 512
_LOW_HZ, _HIGH_HZ = 20.0, 7_600.0


class StandardisedMel(nn.Module):
    """Waveforms to log-mel filterbank features, as ReDimNet2 computes them with TensorFlow's conventions.

    The utterance is brought to mean 0 and variance 1 and pre-emphasised by 0.97. Each frame of 25 ms: apply a Hamming
    window, take the power spectrum of 512 points, sum it in triangular mel filters from 20 to 7,600 Hz, take the
    logarithm. Then the mean over the utterance's frames is subtracted from each mel. Half a hop of zeros lies before
    and after the utterance. A filter sees the bins as if they reached half the sample rate evenly, as the original
    does, so that they lie up to a third of a percent higher than they are.

    Args:
        num_mels: Number of mel filters.
        sample_rate_hz: Rate of the waveforms; 16,000, which the filters are for.
        hop_seconds: Distance between frames.

    Raises:
        ValueError: If a setting is out of range.

    Source:
        What ReDimNet2's ``TFMelBanks`` computes with ``norm_signal`` and ``do_preemph``.
    """

    spectrum: Tensor
    filters: Tensor

    def __init__(self, *, num_mels: int = 72, sample_rate_hz: int = 16_000, hop_seconds: float = 0.010) -> None:
        super().__init__()
        if sample_rate_hz != 2 * (_HIGH_HZ + 400) or not 1 <= num_mels <= _POINTS // 2:
            raise ValueError(
                f"sample_rate_hz must be 16000 and num_mels between 1 and {_POINTS // 2}, got {sample_rate_hz} and "
                f"{num_mels}."
            )
        self.num_mels = num_mels
        self.sample_rate_hz = sample_rate_hz
        self.frame_samples = round(0.025 * sample_rate_hz)
        self.hop_samples = round(hop_seconds * sample_rate_hz)
        if not 2 <= self.hop_samples <= self.frame_samples:
            raise ValueError(f"hop_seconds must be between two samples and a frame, got {hop_seconds}.")
        self.register_buffer("spectrum", _spectrum_matrix(self.frame_samples), persistent=False)
        self.register_buffer("filters", _filters(num_mels, sample_rate_hz), persistent=False)

    def frame_lengths(self, lengths: Tensor) -> Tensor:
        """Number of frames of so many samples."""
        return (lengths + 2 * (self.hop_samples // 2) - self.frame_samples) // self.hop_samples + 1

    def forward(self, waveforms: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Features of a batch, computed in float32 whatever the autocast type.

        Args:
            waveforms: Samples, shape (batch, samples), at any level.
            lengths: Samples of each waveform that are not padding, shape (batch,); by default all.

        Returns:
            Shape (batch, frames, num_mels); frames of padding are zero.

        Raises:
            ValueError: If waveforms are not a batch, or shorter than a frame.
        """
        require_batch(waveforms, self.frame_samples)
        with torch.autocast(waveforms.device.type, enabled=False):
            waveforms = waveforms.to(self.spectrum.dtype)
            inside = None if lengths is None else inside_utterance(waveforms[:, :, None], lengths)[:, :, 0]
            signal = _standardised(waveforms, inside)
            signal = signal - _PREEMPHASIS * torch.cat([signal[:, 1:2], signal[:, :-1]], dim=1)
            if inside is not None:
                signal = signal * inside
            margin = self.hop_samples // 2
            frames = F.pad(signal, (margin, margin)).unfold(1, self.frame_samples, self.hop_samples)
            real, imaginary = (frames @ self.spectrum).chunk(2, dim=-1)
            power = (real.square() + imaginary.square()).clamp(_FLOOR, 1 / _FLOOR)
            features = ((power @ self.filters).clamp(_FLOOR, 1 / _FLOOR) + _FLOOR).log()
            num_frames = None if lengths is None else self.frame_lengths(lengths)
            return without_padding(features, num_frames, subtract_mean=True)


def _standardised(waveforms: Tensor, inside: Tensor | None) -> Tensor:
    if inside is None:
        centred = waveforms - waveforms.mean(1, keepdim=True)
        return centred / (centred.square().mean(1, keepdim=True).sqrt() + _FLOOR)
    count = inside.sum(1, keepdim=True)
    centred = (waveforms - (waveforms * inside).sum(1, keepdim=True) / count) * inside
    return centred / ((centred.square().sum(1, keepdim=True) / count).sqrt() + _FLOOR)


def _spectrum_matrix(frame_samples: int) -> Tensor:
    """Matrix M such that ``frame @ M`` is the real, then the imaginary part; shape (frame_samples, 512)."""
    n = torch.arange(frame_samples, dtype=torch.float64)
    window = 0.54 - 0.46 * torch.cos(2 * math.pi * n / (frame_samples - 1))
    angles = 2 * math.pi / _POINTS * n[:, None] * torch.arange(_POINTS // 2, dtype=torch.float64)
    return (window[:, None] * torch.cat([angles.cos(), -angles.sin()], dim=1)).float()


def _filters(num_mels: int, sample_rate_hz: int) -> Tensor:
    """Triangular filters on the mel scale, shape (256, num_mels); the lowest bin is under none."""

    def mel(hz: Tensor) -> Tensor:
        return 2595 * torch.log10(1 + hz / 700)

    low, high = mel(torch.tensor([_LOW_HZ, _HIGH_HZ], dtype=torch.float64)).tolist()
    edges = torch.linspace(low, high, num_mels + 2, dtype=torch.float64)
    bins = mel(torch.linspace(0, sample_rate_hz / 2, _POINTS // 2, dtype=torch.float64))[:, None]
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    filters = torch.minimum(rising, falling).clamp_min(0.0)
    filters[0] = 0.0
    return filters.float()

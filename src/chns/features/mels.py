"""Mel features as Kaldi, SpeechBrain and ReDimNet2 compute them: three modules that are part of the exported model."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from chns.core import Float32Array
from chns.features.filterbank import LOG_FLOOR, Window, fourier_matrix, hamming, mel_filters, spectrum_matrix

_POWER_FLOOR = 1e-10  # of `DecibelMel`

_PREEMPHASIS = 0.97  # the rest of `StandardisedMel`
_FLOOR = 1e-8
_POINTS = 512
_LOW_HZ, _HIGH_HZ = 20.0, 7_600.0


class _Mels(nn.Module):
    """What they have in common: the products of frames with the two matrices, and nothing of the padding."""

    spectrum: Tensor
    filters: Tensor
    num_mels: int
    sample_rate_hz: int
    frame_samples: int
    hop_samples: int
    subtract_mean: bool

    def _set_matrices(self, spectrum: Float32Array, filters: Tensor) -> None:
        self.register_buffer("spectrum", torch.from_numpy(spectrum), persistent=False)
        self.register_buffer("filters", filters, persistent=False)

    def frame_lengths(self, lengths: Tensor) -> Tensor:
        """Number of frames of so many samples."""
        raise NotImplementedError

    def _mels(self, waveforms: Tensor, lengths: Tensor | None) -> Tensor:
        raise NotImplementedError

    def forward(self, waveforms: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Features of a batch, computed in float32 whatever the autocast type.

        Args:
            waveforms: Samples in [-1, 1], shape (batch, samples).
            lengths: Samples of each waveform that are not padding, shape (batch,); by default all.

        Returns:
            Shape (batch, frames, num_mels); frames of padding are zero.

        Raises:
            ValueError: If waveforms are not a batch, or shorter than a frame.
        """
        if waveforms.ndim != 2 or waveforms.shape[1] < self.frame_samples:
            raise ValueError(
                f"waveforms must have shape (batch, samples) with at least {self.frame_samples} samples, one frame, "
                f"got {tuple(waveforms.shape)}."
            )
        with torch.autocast(waveforms.device.type, enabled=False):
            mels = self._mels(waveforms.to(self.spectrum.dtype), lengths)
            if lengths is None:
                return mels - mels.mean(1, keepdim=True) if self.subtract_mean else mels
            num_frames = self.frame_lengths(lengths)
            inside = _inside(mels, num_frames)[:, :, None]
            mels = mels * inside
            if not self.subtract_mean:
                return mels
            mean = mels.sum(1, keepdim=True) / num_frames[:, None, None]
            return (mels - mean) * inside

    def _power(self, signal: Tensor) -> Tensor:
        frames = signal.unfold(1, self.frame_samples, self.hop_samples)
        real, imaginary = (frames @ self.spectrum).chunk(2, dim=-1)
        return real.square() + imaginary.square()


def _inside(values: Tensor, lengths: Tensor) -> Tensor:
    """Whether a place along the second axis belongs to its utterance rather than to the padding, (batch, places)."""
    return torch.arange(values.shape[1], device=values.device) < lengths[:, None]


class LogMel(_Mels):
    """Waveforms to log-mel filterbank features, as Kaldi computes them (without dither).

    Each frame of 25 ms: subtract its mean, pre-emphasise by 0.97, apply a window, take the power spectrum of 512
    points, sum it in triangular mel filters, take the logarithm. Then the mean over the utterance's frames is
    subtracted from each mel. Only whole frames count (``snip_edges``); samples are scaled to 16 bits first, so the
    floor under the logarithm is never reached by speech.

    Args:
        num_mels: Number of mel filters.
        sample_rate_hz: Rate of the waveforms.
        frame_seconds: Length of a frame.
        hop_seconds: Distance between frames.
        low_hz: Lower edge of the lowest filter.
        high_hz: Upper edge of the highest filter; by default half the sample rate.
        window: "povey", Kaldi's default, or "hamming", which WeSpeaker's models are trained with.
        subtract_mean: Whether each utterance's mean is subtracted.

    Raises:
        ValueError: If a frequency or a length is out of range, or there is no such window.

    Source:
        Kaldi's ``compute-fbank-feats``: mel(f) = 1127 ln(1 + f / 700), windows (0.5 - 0.5 cos(2 pi n / (N - 1)))^0.85
        and 0.54 - 0.46 cos(2 pi n / (N - 1)).
    """

    def __init__(
        self,
        *,
        num_mels: int = 80,
        sample_rate_hz: int = 16_000,
        frame_seconds: float = 0.025,
        hop_seconds: float = 0.010,
        low_hz: float = 20.0,
        high_hz: float | None = None,
        window: Window = "povey",
        subtract_mean: bool = True,
    ) -> None:
        super().__init__()
        high_hz = sample_rate_hz / 2 if high_hz is None else high_hz
        if not 0 <= low_hz < high_hz <= sample_rate_hz / 2:
            raise ValueError(
                f"low_hz and high_hz must rise within 0 and {sample_rate_hz / 2}, got {low_hz} and {high_hz}."
            )
        if num_mels < 1 or hop_seconds <= 0 or frame_seconds <= 0:
            raise ValueError(
                "num_mels, frame_seconds and hop_seconds must be positive, "
                f"got {num_mels}, {frame_seconds} and {hop_seconds}."
            )
        points = 2 ** math.ceil(math.log2(frame_seconds * sample_rate_hz))
        if points > 2048 or num_mels > points // 2:
            raise ValueError(
                f"frame_seconds must give frames of at most 2048 samples and num_mels at most one mel a frequency, got "
                f"{frame_seconds} s at {sample_rate_hz} Hz and {num_mels} mels."
            )
        if window not in ("povey", "hamming"):
            raise ValueError(f"window must be 'povey' or 'hamming', got {window!r}.")
        self.num_mels = num_mels
        self.sample_rate_hz = sample_rate_hz
        self.frame_samples = round(frame_seconds * sample_rate_hz)
        self.hop_samples = round(hop_seconds * sample_rate_hz)
        self.window = window
        self.subtract_mean = subtract_mean
        filters = mel_filters(num_mels, points, sample_rate_hz, low_hz, high_hz)
        self._set_matrices(spectrum_matrix(self.frame_samples, points, window), torch.from_numpy(filters))

    def frame_lengths(self, lengths: Tensor) -> Tensor:
        """Number of whole frames in so many samples."""
        return (lengths - self.frame_samples) // self.hop_samples + 1

    def _mels(self, waveforms: Tensor, _: Tensor | None) -> Tensor:
        return (self._power(waveforms) @ self.filters).clamp_min(LOG_FLOOR).log()


class DecibelMel(_Mels):
    """Waveforms to mel filterbank features in decibels.

    Each frame of 25 ms: apply a Hamming window, take the power spectrum of as many points, sum it in mel filters,
    convert to decibels. Frame t is centred on sample t * hop, with zeros beyond both ends. What lies more than
    `range_db` under the loudest value of the utterance is raised to there; then the mean over the utterance's frames is
    subtracted from each mel. Differences to `LogMel`: no removal of a frame's mean, no pre-emphasis, no scaling to
    16 bits, and filters that are symmetric in Hz, each as wide as its distance to the one below.

    Args:
        num_mels: Number of mel filters.
        sample_rate_hz: Rate of the waveforms.
        frame_seconds: Length of a frame; an even number of samples.
        hop_seconds: Distance between frames.
        range_db: Range that is kept.
        subtract_mean: Whether each utterance's mean is subtracted.

    Raises:
        ValueError: If a setting is out of range.

    Source:
        What SpeechBrain's ``Fbank`` computes, followed by its normalisation of a sentence's mean.
    """

    def __init__(
        self,
        *,
        num_mels: int = 80,
        sample_rate_hz: int = 16_000,
        frame_seconds: float = 0.025,
        hop_seconds: float = 0.010,
        range_db: float = 80.0,
        subtract_mean: bool = True,
    ) -> None:
        super().__init__()
        self.num_mels = num_mels
        self.sample_rate_hz = sample_rate_hz
        self.frame_samples = round(frame_seconds * sample_rate_hz)
        self.hop_samples = round(hop_seconds * sample_rate_hz)
        self.range_db = range_db
        self.subtract_mean = subtract_mean
        if self.hop_samples < 1 or range_db <= 0:
            raise ValueError(f"hop_seconds and range_db must be positive, got {hop_seconds} and {range_db}.")
        if not 2 <= self.frame_samples <= 4096 or self.frame_samples % 2:
            raise ValueError(
                f"frame_seconds must give frames of an even number of samples up to 4096, got {frame_seconds} s at "
                f"{sample_rate_hz} Hz."
            )
        if not 1 <= num_mels <= self.frame_samples // 2:
            raise ValueError(
                f"num_mels must be between 1 and one mel a frequency, {self.frame_samples // 2}, got {num_mels}."
            )
        window = hamming(self.frame_samples, period=self.frame_samples)
        spectrum = window[:, None] * fourier_matrix(self.frame_samples, self.frame_samples)
        filters = _symmetric_filters(num_mels, self.frame_samples, sample_rate_hz)
        self._set_matrices(spectrum.astype(np.float32), filters)

    def frame_lengths(self, lengths: Tensor) -> Tensor:
        """Number of frames centred in so many samples."""
        return lengths // self.hop_samples + 1

    def _mels(self, waveforms: Tensor, lengths: Tensor | None) -> Tensor:
        if lengths is not None:
            waveforms = waveforms * _inside(waveforms, lengths)
        margin = self.frame_samples // 2
        power = self._power(F.pad(waveforms, (margin, margin))) @ self.filters
        decibels = counted = 10 * power.clamp_min(_POWER_FLOOR).log10()
        if lengths is not None:  # frames beyond the end still see the end
            counted = decibels.masked_fill(~_inside(decibels, self.frame_lengths(lengths))[:, :, None], -torch.inf)
        return torch.maximum(decibels, counted.amax(dim=(1, 2), keepdim=True) - self.range_db)


def _symmetric_filters(num_mels: int, frame_samples: int, sample_rate_hz: int) -> Tensor:
    """Triangular filters at equal distances on the mel scale, shape (frame_samples // 2, num_mels)."""
    highest_mel = 2595 * math.log10(1 + sample_rate_hz / 2 / 700)
    edges_hz = 700 * (10 ** (torch.linspace(0, highest_mel, num_mels + 2, dtype=torch.float64) / 2595) - 1)
    centres_hz, widths_hz = edges_hz[1:-1], edges_hz.diff()[:-1]
    bins_hz = torch.arange(frame_samples // 2, dtype=torch.float64)[:, None] * sample_rate_hz / frame_samples
    return (1 - (bins_hz - centres_hz).abs() / widths_hz).clamp_min(0.0).float()


class StandardisedMel(_Mels):
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
        self.subtract_mean = True
        window = hamming(self.frame_samples, period=self.frame_samples - 1)
        spectrum = window[:, None] * fourier_matrix(self.frame_samples, _POINTS)
        self._set_matrices(spectrum.astype(np.float32), _uneven_filters(num_mels, sample_rate_hz))

    def frame_lengths(self, lengths: Tensor) -> Tensor:
        """Number of frames of so many samples."""
        return (lengths + 2 * (self.hop_samples // 2) - self.frame_samples) // self.hop_samples + 1

    def _mels(self, waveforms: Tensor, lengths: Tensor | None) -> Tensor:
        inside = None if lengths is None else _inside(waveforms, lengths)
        signal = _standardised(waveforms, inside)
        signal = signal - _PREEMPHASIS * torch.cat([signal[:, 1:2], signal[:, :-1]], dim=1)
        if inside is not None:
            signal = signal * inside
        margin = self.hop_samples // 2
        power = self._power(F.pad(signal, (margin, margin))).clamp(_FLOOR, 1 / _FLOOR)
        return ((power @ self.filters).clamp(_FLOOR, 1 / _FLOOR) + _FLOOR).log()


def _standardised(waveforms: Tensor, inside: Tensor | None) -> Tensor:
    if inside is None:
        centred = waveforms - waveforms.mean(1, keepdim=True)
        return centred / (centred.square().mean(1, keepdim=True).sqrt() + _FLOOR)
    count = inside.sum(1, keepdim=True)
    centred = (waveforms - (waveforms * inside).sum(1, keepdim=True) / count) * inside
    return centred / ((centred.square().sum(1, keepdim=True) / count).sqrt() + _FLOOR)


def _uneven_filters(num_mels: int, sample_rate_hz: int) -> Tensor:
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

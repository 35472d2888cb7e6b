"""Log-mel features, and what all features of a padded batch have in common."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from chns.features.filterbank import LOG_FLOOR, Window, mel_filters, spectrum_matrix


def require_batch(waveforms: Tensor, frame_samples: int) -> None:
    """Refuse what is no batch of waveforms of at least a frame.

    Raises:
        ValueError: If waveforms do not have the shape (batch, samples), or are shorter than a frame.
    """
    if waveforms.ndim != 2 or waveforms.shape[1] < frame_samples:
        raise ValueError(
            f"waveforms must have shape (batch, samples) with at least {frame_samples} samples, one frame, "
            f"got {tuple(waveforms.shape)}."
        )


def inside_utterance(features: Tensor, num_frames: Tensor) -> Tensor:
    """Whether a frame belongs to its utterance rather than to the padding.

    Args:
        features: Shape (batch, frames, mels).
        num_frames: Frames of each utterance, shape (batch,).

    Returns:
        Booleans of shape (batch, frames, 1).
    """
    return (torch.arange(features.shape[1], device=features.device) < num_frames[:, None])[:, :, None]


def without_padding(features: Tensor, num_frames: Tensor | None, *, subtract_mean: bool) -> Tensor:
    """Set padding to zero, and subtract each utterance's mean from each mel if wished.

    Args:
        features: Finite, shape (batch, frames, mels).
        num_frames: Frames of each utterance, shape (batch,), or None if nothing is padding.
        subtract_mean: Whether to.
    """
    if num_frames is None:
        return features - features.mean(1, keepdim=True) if subtract_mean else features
    inside = inside_utterance(features, num_frames)
    features = features * inside
    if not subtract_mean:
        return features
    mean = features.sum(1, keepdim=True) / num_frames[:, None, None]
    return (features - mean) * inside


class LogMel(nn.Module):
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

    spectrum: Tensor
    filters: Tensor

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
        spectrum = torch.from_numpy(spectrum_matrix(self.frame_samples, points, window))
        filters = torch.from_numpy(mel_filters(num_mels, points, sample_rate_hz, low_hz, high_hz))
        self.register_buffer("spectrum", spectrum, persistent=False)
        self.register_buffer("filters", filters, persistent=False)

    def frame_lengths(self, lengths: Tensor) -> Tensor:
        """Number of whole frames in so many samples."""
        return (lengths - self.frame_samples) // self.hop_samples + 1

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
        require_batch(waveforms, self.frame_samples)
        with torch.autocast(waveforms.device.type, enabled=False):
            frames = waveforms.to(self.spectrum.dtype).unfold(1, self.frame_samples, self.hop_samples)
            real, imaginary = (frames @ self.spectrum).chunk(2, dim=-1)
            power = real.square() + imaginary.square()
            features = (power @ self.filters).clamp_min(LOG_FLOOR).log()
            num_frames = None if lengths is None else self.frame_lengths(lengths)
            return without_padding(features, num_frames, subtract_mean=self.subtract_mean)

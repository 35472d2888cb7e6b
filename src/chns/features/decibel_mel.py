"""Mel features in decibels, as SpeechBrain's speaker models expect them; part of the exported model like `LogMel`."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from chns.features.log_mel import inside_utterance, require_batch, without_padding

_POWER_FLOOR = 1e-10


class DecibelMel(nn.Module):
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

    spectrum: Tensor
    filters: Tensor

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
        self.register_buffer("spectrum", _spectrum_matrix(self.frame_samples), persistent=False)
        self.register_buffer("filters", _filters(num_mels, self.frame_samples, sample_rate_hz), persistent=False)

    def frame_lengths(self, lengths: Tensor) -> Tensor:
        """Number of frames centred in so many samples."""
        return lengths // self.hop_samples + 1

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
            waveforms = waveforms.to(self.spectrum.dtype)
            if lengths is not None:
                waveforms = waveforms * (torch.arange(waveforms.shape[1], device=waveforms.device) < lengths[:, None])
            margin = self.frame_samples // 2
            frames = F.pad(waveforms, (margin, margin)).unfold(1, self.frame_samples, self.hop_samples)
            real, imaginary = (frames @ self.spectrum).chunk(2, dim=-1)
            power = (real.square() + imaginary.square()) @ self.filters
            num_frames = None if lengths is None else self.frame_lengths(lengths)
            decibels = self._in_range(10 * power.clamp_min(_POWER_FLOOR).log10(), num_frames)
            return without_padding(decibels, num_frames, subtract_mean=self.subtract_mean)

    def _in_range(self, decibels: Tensor, num_frames: Tensor | None) -> Tensor:
        counted = decibels
        if num_frames is not None:  # frames beyond the end still see the end
            counted = decibels.masked_fill(~inside_utterance(decibels, num_frames), -torch.inf)
        return torch.maximum(decibels, counted.amax(dim=(1, 2), keepdim=True) - self.range_db)


def _spectrum_matrix(frame_samples: int) -> Tensor:
    """Matrix M such that ``frame @ M`` is the real, then the imaginary part of the windowed frame's spectrum.

    Shape (frame_samples, 2 * (frame_samples // 2)): without the highest bin, which lies under no filter.
    """
    n = torch.arange(frame_samples, dtype=torch.float64)
    window = 0.54 - 0.46 * torch.cos(2 * math.pi * n / frame_samples)
    angles = 2 * math.pi / frame_samples * n[:, None] * torch.arange(frame_samples // 2, dtype=torch.float64)
    return (window[:, None] * torch.cat([angles.cos(), -angles.sin()], dim=1)).float()


def _filters(num_mels: int, frame_samples: int, sample_rate_hz: int) -> Tensor:
    """Triangular filters at equal distances on the mel scale, shape (frame_samples // 2, num_mels)."""
    highest_mel = 2595 * math.log10(1 + sample_rate_hz / 2 / 700)
    edges_hz = 700 * (10 ** (torch.linspace(0, highest_mel, num_mels + 2, dtype=torch.float64) / 2595) - 1)
    centres_hz, widths_hz = edges_hz[1:-1], edges_hz.diff()[:-1]
    bins_hz = torch.arange(frame_samples // 2, dtype=torch.float64)[:, None] * sample_rate_hz / frame_samples
    return (1 - (bins_hz - centres_hz).abs() / widths_hz).clamp_min(0.0).float()

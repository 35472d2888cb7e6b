"""What the student hears around a clip beyond what its teacher heard: rooms, lines, noises and other voices.

On whole batches and in torch, because one core does everything here: 1 to 2 ms a clip.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from speech_material import SAMPLE_RATE_HZ
from torch import Tensor, nn

from chns.data.audio import read_audio
from chns.data.augmentation.background import coloured_noise, recordings_in

_RESPONSE_SAMPLES = SAMPLE_RATE_HZ // 2
_NOISE_SAMPLES = 5 * SAMPLE_RATE_HZ
_COLOURED = 100
_FILTERED_SHARE = 0.5
_BAND_SHARE = 0.35
_NOISY_SHARE = 0.65
_BABBLE_SHARE = 0.35
_MIN_SNR_DB, _MAX_SNR_DB = 0.0, 22.0
_LEVELLED_SHARE = 0.4
_LEVELLED_SAMPLES = 800


class Surroundings:
    """Puts a batch of crops into rooms and noise.

    Args:
        data: Folder with ``real-irs-101`` and ``esc-10``.
        seed: Of the coloured noises.
    """

    def __init__(self, data: Path, *, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self._responses = _responses(data / "real-irs-101")
        recorded = [_repeated(_read(data / "esc-10" / name)) for name in recordings_in(data / "esc-10")]
        made = [
            coloured_noise(_NOISE_SAMPLES, rng.uniform(0, 2), rng, sample_rate_hz=SAMPLE_RATE_HZ)
            for _ in range(_COLOURED)
        ]
        self._noises = torch.from_numpy(np.stack([noise for noise in (*recorded, *made) if np.abs(noise).max() > 0]))

    def __call__(self, crops: Tensor) -> Tensor:
        """Crops of shape (batch, samples), changed; randomness is torch's own."""
        filtered = torch.rand(len(crops)) < _FILTERED_SHARE
        heard = crops.clone()
        if filtered.any():
            heard[filtered] = self._filtered(crops[filtered])
        noisy = torch.rand(len(crops)) < _NOISY_SHARE
        if noisy.any():
            heard[noisy] += self._background(heard, noisy)
        levelled = torch.rand(len(crops)) < _LEVELLED_SHARE
        if levelled.any():
            heard[levelled] = _levelled(heard[levelled])
        return heard

    def _filtered(self, crops: Tensor) -> Tensor:
        """Through a room, a microphone or a loudspeaker each, some through a narrower band."""
        count, samples = crops.shape
        size = _fast_size(samples + _RESPONSE_SAMPLES)
        chosen = torch.randint(len(self._responses), (count,))
        gains = torch.fft.rfft(self._responses[chosen], size)
        gains *= _bands(count, gains.shape[1], size)
        wet = torch.fft.irfft(torch.fft.rfft(crops, size) * gains, size)[:, :samples]
        return wet * (_level(crops) / _level(wet))

    def _background(self, crops: Tensor, noisy: Tensor) -> Tensor:
        rows = noisy.nonzero()[:, 0]
        samples = crops.shape[1]
        chosen = torch.randint(len(self._noises), (len(rows),))
        starts = torch.randint(_NOISE_SAMPLES - samples + 1, (len(rows),))
        noise = torch.stack(
            [self._noises[n, s : s + samples] for n, s in zip(chosen.tolist(), starts.tolist(), strict=True)]
        )
        for place in (torch.rand(len(rows)) < _BABBLE_SHARE).nonzero()[:, 0].tolist():
            voices = int(torch.randint(1, 6, ()))
            shifts = torch.randint(1, len(crops) // 2, (voices,)) * 2  # an even distance: never the other of a pair
            others = (rows[place] + shifts) % len(crops)
            noise[place] = (crops[others] / _level(crops[others])).sum(dim=0)
        snr_db = torch.empty(len(rows), 1).uniform_(_MIN_SNR_DB, _MAX_SNR_DB)
        return noise * (_level(crops[rows]) / _level(noise)) * 10 ** (-snr_db / 20)


def _level(waveforms: Tensor) -> Tensor:
    return waveforms.square().mean(dim=1, keepdim=True).sqrt().clamp_min(1e-5)


def _levelled(crops: Tensor) -> Tensor:
    """As broadcasters and telephones do: what is soft is raised, by a share of what it is softer."""
    blocks = nn.functional.avg_pool1d(crops.abs()[:, None], _LEVELLED_SAMPLES, ceil_mode=True)
    smooth = nn.functional.avg_pool1d(blocks, 3, stride=1, padding=1, count_include_pad=False)
    loudness = nn.functional.interpolate(smooth, crops.shape[1], mode="linear", align_corners=False)[:, 0]
    floor = 0.02 * loudness.amax(dim=1, keepdim=True) + 1e-6
    share = torch.empty(len(crops), 1).uniform_(0.2, 0.8)
    return crops * (loudness + floor) ** -share


def _bands(count: int, bins: int, size: int) -> Tensor:
    """Gains of smooth high-pass and low-pass filters for some, ones for the others."""
    hz = torch.arange(bins) * (SAMPLE_RATE_HZ / size)
    low = torch.empty(count, 1).uniform_(50, 400)
    high = torch.empty(count, 1).uniform_(3_000, 8_000)
    gains = torch.sigmoid((hz - low) / (0.1 * low)) * torch.sigmoid((high - hz) / 100)
    return torch.where(torch.rand(count, 1) < _BAND_SHARE, gains, torch.ones(()))


def _fast_size(samples: int) -> int:
    """A product of small primes not below."""
    return min(2**a * b for a in range(8, 20) for b in (1, 3, 5, 9, 15) if 2**a * b >= samples)


def _responses(folder: Path) -> Tensor:
    responses = []
    for name in recordings_in(folder):
        response = _read(folder / name)
        response = response[max(0, int(np.abs(response).argmax()) - 16) :][:_RESPONSE_SAMPLES]
        fade = np.minimum(1, (len(response) - np.arange(len(response), dtype=np.float32)) / 800)
        responses.append(np.pad(response * fade, (0, _RESPONSE_SAMPLES - len(response))).astype(np.float32))
    return torch.from_numpy(np.stack(responses))


def _read(path: Path) -> np.ndarray:
    return read_audio(path, sample_rate_hz=SAMPLE_RATE_HZ)


def _repeated(noise: np.ndarray) -> np.ndarray:
    return np.resize(noise, _NOISE_SAMPLES).astype(np.float32)

"""Waveforms that an exported model is compared on: the user's recordings, or a built-in signal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from chns.data.audio import Waveform, read_audio
from chns.encoders import SpeakerEncoder
from chns.errors import AudioError

FloatArray = npt.NDArray[np.float32]

_LENGTHS_SECONDS = (0.5, 1.0, 2.7)
_LONGEST_SECONDS = 30.0
_BUILT_IN_SECONDS = 8.0


def check_recordings(paths: Sequence[Path], model: SpeakerEncoder) -> list[FloatArray]:
    """Batches of each recording: its first 0.5, 1 and 2.7 s where it is longer, and all of it up to 30 s.

    Returns:
        Waveforms, each of shape (2, samples): the utterance, and the same at half its level.

    Raises:
        FileNotFoundError: If there is no such recording.
        AudioError: If it cannot be decoded or is too short for the model.
    """
    shortest = model.features.frame_samples + model.features.hop_samples
    batches = []
    for path in paths:
        waveform = read_audio(path, sample_rate_hz=model.sample_rate_hz, duration_seconds=_LONGEST_SECONDS)
        if len(waveform) < shortest:
            raise AudioError(f"recording must hold at least {shortest} samples, got {len(waveform)} in {path}.")
        batches += _batches(waveform, model.sample_rate_hz)
    return batches


def built_in_signal(model: SpeakerEncoder) -> list[FloatArray]:
    """The same of a synthetic signal: gliding harmonics that come and go in noise, always the same."""
    return _batches(_gliding_harmonics(model.sample_rate_hz), model.sample_rate_hz)


def _batches(waveform: Waveform, sample_rate_hz: int) -> list[FloatArray]:
    lengths = [round(seconds * sample_rate_hz) for seconds in _LENGTHS_SECONDS]
    crops = [waveform[:length] for length in lengths if length < len(waveform)]
    return [np.stack([crop, 0.5 * crop]).astype(np.float32) for crop in (*crops, waveform)]


def _gliding_harmonics(sample_rate_hz: int) -> Waveform:
    rng = np.random.default_rng(0)
    times = np.arange(round(_BUILT_IN_SECONDS * sample_rate_hz)) / sample_rate_hz
    pitch_hz = 140 + 40 * np.sin(2 * np.pi * 0.4 * times)
    phase = 2 * np.pi * np.cumsum(pitch_hz) / sample_rate_hz
    harmonics = sum(np.sin(number * phase) / number for number in range(1, 20))
    syllables = np.square(np.sin(2 * np.pi * 2 * times))
    waveform: Waveform = (0.1 * syllables * harmonics + 0.003 * rng.normal(size=len(times))).astype(np.float32)
    return waveform

"""Recordings of the user that an exported model is compared on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from chns.bundle_graph import several_lengths
from chns.core.arrays import Float32Array
from chns.data.audio import read_audio
from chns.encoders import SpeakerEncoder
from chns.errors import AudioError

_LONGEST_SECONDS = 30.0


def check_recordings(paths: Sequence[Path], model: SpeakerEncoder) -> list[Float32Array]:
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
        batches += several_lengths(waveform, model.sample_rate_hz)
    return batches

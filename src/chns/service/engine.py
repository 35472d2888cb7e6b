"""What the service computes: uploads to embeddings on one model for all requests, and its voiceprints.

Requests decode in a few threads; the graph runs in as many as there are cores, each on one: a second core for the same
waveform saves little of its time and costs as much again. While all run, further waveforms wait; those of one length
are then run as one batch, which costs nobody time, for nothing waits in order to become a batch. Waveforms of
different lengths are not padded to one: that would be work for silence.

The store is used by one thread of its own. What `SpeakerEngine.enrol` has returned is on the disk.
"""

from __future__ import annotations

import json
import re
import tempfile
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar

import numpy as np

from chns.bundle import PACKAGED_MODEL, available_threads, load_graph_bundle
from chns.core import AudioError, Float32Array
from chns.data import proven_info
from chns.data.aac import AAC_EXTENSIONS
from chns.inference import (
    WINDOW_SECONDS,
    Decision,
    Embedding,
    ErrorRates,
    StreamingIdentifier,
    StreamingVerifier,
    Verifier,
    expected_error_rates,
    file_windows,
    measure_quality,
)
from chns.store import VoiceprintStore

_Answer = TypeVar("_Answer")
_Graph = Callable[[Float32Array], Float32Array]
_Call = tuple[Float32Array, Future[Float32Array]]

_MOST_VALUES = 2**25  # of one decoded upload, all channels: 128 MiB in float32
_DECODING_THREADS = 4
_COPIED_BYTES = 2**16


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one client may ask of the service.

    Attributes:
        body_bytes: Largest body of a request.
        audio_seconds: Longest recording.
        requests: Requests that are worked on or wait at once; the next is answered with 503.
        streams: WebSocket streams at once.
        stream_seconds: Longest stream.
        timeout_seconds: Longest time for a request's body to arrive, and for its answer to be computed.

    Raises:
        ValueError: If one of them is not positive.
    """

    body_bytes: int = 20_000_000
    audio_seconds: float = 120.0
    requests: int = 32
    streams: int = 4
    stream_seconds: float = 600.0
    timeout_seconds: float = 30.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise ValueError(f"{name} must be greater than 0, got {value}.")


class TooLongError(AudioError):
    """A recording is longer than the service hears."""


class Heard(NamedTuple):
    """An upload as the model hears it.

    Attributes:
        embedding: Of the parts that were used.
        used_seconds: Start and end of each of these parts.
    """

    embedding: Embedding
    used_seconds: list[tuple[float, float]]


class BatchedGraph:
    """A graph that many threads call at once, each with one waveform; calls that wait become batches.

    Args:
        run: Waveforms, shape (batch, samples), to embeddings, shape (batch, dim); the rows do not depend on each other.
            Called by several threads at once.
        largest_samples: Most samples of a batch of several, so that a batch takes no more memory than the longest
            waveform.
        num_threads: Batches that run at once.
    """

    def __init__(self, run: _Graph, *, largest_samples: int, num_threads: int = 1) -> None:
        self._run = run
        self._largest_samples = largest_samples
        self._waiting: deque[_Call] = deque()
        self._changed = threading.Condition()
        self._is_open = True
        self.batch_sizes: deque[int] = deque(maxlen=1_000)
        self._threads = [
            threading.Thread(target=self._work, name=f"chns-graph-{number}", daemon=True)
            for number in range(num_threads)
        ]
        for thread in self._threads:
            thread.start()

    def __call__(self, waveforms: Float32Array) -> Float32Array:
        """Shape (1, samples) to (1, dim); waits for its turn."""
        answer: Future[Float32Array] = Future()
        with self._changed:
            self._waiting.append((waveforms, answer))
            self._changed.notify()
        return answer.result()

    def close(self) -> None:
        """Answer what waits, then stop."""
        with self._changed:
            self._is_open = False
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while batch := self._next_batch():
            self._answer(batch)

    def _next_batch(self) -> list[_Call]:
        """The oldest call and those of its length, in order, as many as leave the other threads their share."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or not self._is_open)
            if not self._waiting:
                return []
            shape = self._waiting[0][0].shape
            alike = [call for call in self._waiting if call[0].shape == shape]
            share = -(-len(alike) // len(self._threads))
            batch = alike[: min(share, max(1, self._largest_samples // shape[1]))]
            taken = {id(answer) for _, answer in batch}
            self._waiting = deque(call for call in self._waiting if id(call[1]) not in taken)
            return batch

    def _answer(self, batch: list[_Call]) -> None:
        self.batch_sizes.append(len(batch))
        try:
            embeddings = self._run(np.concatenate([waveforms for waveforms, _ in batch]))
        except Exception as error:  # noqa: BLE001 - each caller gets it, and the thread lives on
            for _, answer in batch:
                answer.set_exception(error)
            return
        for row, (_, answer) in enumerate(batch):
            answer.set_result(embeddings[row : row + 1])


class SpeakerEngine:
    """A model and its voiceprints, for any number of threads; close it.

    Args:
        model: The bundle's folder, or ``hf://owner/name``; by default the package's small model.
        store: File of the voiceprints, made if there is none; by default a temporary one that is deleted by `close`.
        key: Of an encrypted store.
        threshold: As `Verifier`.
        limits: Of an upload.

    Raises:
        ValueError: If the model has no graph or no threshold; further ones as `VoiceprintStore.open`.
        ModelFileError, FileNotFoundError, ChnsError: As `load_graph_bundle` and `VoiceprintStore.open`.
    """

    def __init__(
        self,
        model: str | None = None,
        *,
        store: Path | None = None,
        key: bytes | None = None,
        threshold: float | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.limits = limits or Limits()
        path = str(PACKAGED_MODEL) if model is None else model
        bundle = load_graph_bundle(path, num_threads=1)
        if bundle is None:
            raise ValueError(
                f"model must have a graph to be served, got none in {path}. `chns export {path} --into-bundle` "
                f"writes one."
            )
        self._metrics = bundle.metrics
        largest = round(WINDOW_SECONDS * bundle.sample_rate_hz)
        self._closing = ExitStack()
        with ExitStack() as opened:
            self.graph = BatchedGraph(bundle.run, largest_samples=largest, num_threads=available_threads())
            opened.callback(self.graph.close)
            self.verifier = Verifier(bundle._replace(run=self.graph), threshold=threshold)
            _ = self.verifier.threshold  # raises where there is none
            folder = opened.enter_context(tempfile.TemporaryDirectory(prefix="chns-serve-"))
            self.keeps_voiceprints = store is not None
            self._store_thread = ThreadPoolExecutor(1, thread_name_prefix="chns-store")
            opened.callback(self._store_thread.shutdown)
            path_of_store = store or Path(folder) / "people.store"
            dim = self.verifier.dim
            digest = self.verifier.model_digest
            self._store = self._store_thread.submit(
                lambda: VoiceprintStore.open(path_of_store, model_digest=digest, dim=dim, key=key)
            ).result()
            opened.callback(lambda: self._store_thread.submit(self._store.close).result())
            self._uploads = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="chns-serve-")))
            self.threads = ThreadPoolExecutor(_DECODING_THREADS, thread_name_prefix="chns-decode")
            opened.callback(self.threads.shutdown)
            self._closing = opened.pop_all()

    def close(self) -> None:
        """Finish what is being computed, and delete what is temporary."""
        self._closing.close()

    def hear(self, upload: BinaryIO, *, file_name: str, label: str) -> Heard:
        """Embed an upload; nothing of it is kept.

        Args:
            upload: Its content, from where it stands.
            file_name: What the client calls it; only an ending of AAC counts.
            label: What an error calls it.

        Raises:
            TooLongError: If it is too long.
            AudioError: As `Verifier.embed`.
        """
        ending = Path(file_name).suffix.lower()
        with tempfile.NamedTemporaryFile(
            dir=self._uploads, suffix=ending if ending in AAC_EXTENSIONS else "", buffering=0
        ) as file:
            while block := upload.read(_COPIED_BYTES):
                file.write(block)
            path = Path(file.name)
            try:
                self._require_short(path, label)
                embedding = self.verifier.embed(path)
                return Heard(embedding, self._used(path, embedding.quality.duration_seconds))
            except AudioError as error:
                raise type(error)(str(error).replace(str(path), f"the recording {label!r}")) from None

    def error_rates(self, decision: Decision) -> ErrorRates | None:
        """How often the model errs at the decision's threshold, as far as its calibration tells."""
        seconds = min(quality.duration_seconds for quality in decision.quality)
        return expected_error_rates(self._metrics, decision, seconds=seconds)

    def with_store(self, work: Callable[[VoiceprintStore], _Answer]) -> Future[_Answer]:
        """Do something with the store, in its thread."""
        return self._store_thread.submit(lambda: work(self._store))

    def _require_short(self, path: Path, label: str) -> None:
        info = proven_info(path)
        longest = self.limits.audio_seconds
        if info.duration_seconds > longest:
            raise TooLongError(
                f"recording must be at most {longest:g} s long, got {info.duration_seconds:.1f} s in {label!r}. "
                f"Send a part of it."
            )
        if info.num_frames * info.num_channels > _MOST_VALUES:
            raise TooLongError(
                f"recording must hold at most {_MOST_VALUES:,} samples in all channels, got "
                f"{info.num_frames * info.num_channels:,} in {label!r}. Send a part, or fewer channels."
            )

    def _used(self, path: Path, seconds: float) -> list[tuple[float, float]]:
        """The windows that were not silent; a recording of one window is used whole."""
        if seconds <= WINDOW_SECONDS:
            return [(0.0, seconds)]
        rate_hz = self.verifier.sample_rate_hz
        spans, start = [], 0.0
        for window in file_windows(path, sample_rate_hz=rate_hz):
            end = start + len(window) / rate_hz
            if not measure_quality(window, sample_rate_hz=rate_hz).is_silent:
                spans.append((start, end))
            start = end
        return spans


def without_path(error: ValueError) -> str:
    """What an error of the store says, without where the store is: that is no client's business."""
    text = re.sub(r"(who is enrolled in|for) [^ ].*?\. ", r"\1 the store. ", str(error))
    return text.partition(" `chns store list`")[0].partition(" Use --add")[0]


def voice_of(store: VoiceprintStore, name: str | None) -> dict[str, Any]:
    """The voiceprint of one person, or of all where no name is given, by name."""
    people = store.voiceprints() if name is None else [store.show(name)]
    return {person.name: person.vector for person in people}


def stream_request(text: str) -> dict[str, Any]:
    """The first message of a stream.

    Raises:
        ValueError: If it is no JSON object.
    """
    try:
        asked = json.loads(text[:10_000])
    except (ValueError, RecursionError):
        asked = None
    if not isinstance(asked, dict):
        raise ValueError("first message must be a JSON object, got something else.")
    return asked


def stream_feed(
    engine: SpeakerEngine, voices: dict[str, Float32Array], name: str | None, rate_hz: int
) -> Callable[[Any], dict[str, Any] | None]:
    """What hears a chunk of a stream, int16, and answers if it has news; errors as `StreamingVerifier`."""
    threshold = engine.verifier.threshold
    if name is None:
        identifier = StreamingIdentifier(engine.verifier, voices, sample_rate_hz=rate_hz)

        def who(samples: Any) -> dict[str, Any] | None:
            heard = identifier.feed(samples)
            if not heard:
                return None
            matches = [match._asdict() for match in heard[-1].matches]
            return {"speaker": heard[-1].speaker, "matches": matches, "threshold": threshold}

        return who
    verifier = StreamingVerifier(engine.verifier, next(iter(voices.values())), sample_rate_hz=rate_hz)
    last: float | None = None

    def score(samples: Any) -> dict[str, Any] | None:
        nonlocal last
        before, last = last, verifier.feed(samples)
        if last is None or last == before:
            return None
        return {"score": last, "threshold": threshold, "same_speaker": last >= threshold}

    return score

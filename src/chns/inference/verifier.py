"""Use a trained model: tell whether two recordings are of one speaker.

    verifier = Verifier.load("runs/chns/model")
    verifier.verify("a.wav", "b.wav").accepted

A recording of up to 30 s is embedded whole, as ``chns evaluate`` does. Of a longer one the unit-length embeddings of
its windows are averaged, without the silent ones; so an hour takes no more memory than half a minute.

A bundle's graph runs on onnxruntime; torch is imported only for a bundle without one, or if it is asked for. Neither
the training nor faiss nor pyarrow is, for the first answer is what a user waits for.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from chns.bundle import PACKAGED_MODEL, Bundle, GraphBundle, load_bundle, load_graph_bundle
from chns.core import AudioError, Float32Array, IntArray, ModelFileError
from chns.data import Channel, channel_number
from chns.inference.decision_rule import DecisionRule
from chns.inference.listening import (
    MIN_SECONDS,
    Quality,
    array_windows,
    file_windows,
    holds_several_sounds,
    joint_quality,
    measured_windows,
    source_name,
)

if TYPE_CHECKING:
    from chns.store import Match, VoiceprintStore

AudioPath = str | os.PathLike[str]
AudioArray = npt.NDArray[np.int16] | npt.NDArray[np.floating]
Backend = Literal["auto", "onnx", "torch"]

PACKAGED_MODEL_IN_WORDS = (
    "the small model of the package (CAM++ in four bits; 4.98 % EER on VoxCeleb2 excerpts across videos, 40 speakers). "
    "Name another as MODEL, such as one made by `chns train` or `chns import`"
)


@dataclass(frozen=True, eq=False)
class Embedding:
    """A recording, as the model sees it.

    Attributes:
        vector: Unit length, shape (dim,), float32.
        magnitude: Length of what the model gave, before it was made unit length; the mean over a recording's windows.
        quality: How good the recording is.
    """

    vector: Float32Array
    magnitude: float
    quality: Quality


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The answer to whether two recordings are of one speaker.

    Attributes:
        score: Cosine of the two embeddings, in [-1, 1].
        log_likelihood_ratio: Natural logarithm of how much likelier this score is from one speaker than from two; None
            if the model has no calibration.
        threshold: The lowest score that is accepted. With a calibration for the quality of the recordings it is these
            recordings' own, and may lie beyond what a cosine can be.
        accepted: Whether the score says that the speaker is the same.
        quality: Of the first and of the second recording; their `warnings` say why the decision may be wrong.
        warnings: Why the model's rule itself may be, in words; see `DecisionRule.warnings`.
    """

    score: float
    log_likelihood_ratio: float | None
    threshold: float
    accepted: bool
    quality: tuple[Quality, Quality]
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        """All of it as JSON values."""
        return {**asdict(self), "quality": [quality.to_json() for quality in self.quality]}


class EmbeddedFiles(NamedTuple):
    """What became of many files; each is in one of the two.

    Attributes:
        embeddings: Those that could be embedded.
        failures: Why the others could not.
    """

    embeddings: dict[Path, Embedding]
    failures: dict[Path, AudioError | OSError]


class Verifier:
    """A trained model, ready for use.

    Args:
        bundle: The model, or its graph.
        device: Where it runs; a graph on the CPU only.
        threshold: The lowest score that is accepted, whatever the quality of the recordings. By default what the bundle
            states: the threshold of its calibration (`chns calibrate`); without one, that of its validation.

    Raises:
        ValueError: If there is no such device, or the threshold is not a cosine.
        ModelFileError: If the bundle's threshold or calibration is not one.

    Examples:
        >>> from chns import Verifier
        >>> verifier = Verifier.load()  # the package's own model; or a folder, or hf://owner/name
        >>> decision = verifier.verify("a.wav", "b.wav")
        >>> decision.accepted, decision.score > decision.threshold
        (True, True)
        >>> verifier.embed("a.wav").vector.shape
        (192,)
    """

    def __init__(self, bundle: Bundle | GraphBundle, *, device: str = "cpu", threshold: float | None = None) -> None:
        if threshold is not None and not -1 <= threshold <= 1:
            raise ValueError(f"threshold must be a cosine, between -1 and 1, got {threshold}.")
        self._rule = DecisionRule.of_bundle(bundle.metrics, threshold=threshold)
        self._run_padded: Callable[[Float32Array, IntArray], Float32Array] | None = None
        if isinstance(bundle, GraphBundle):
            if device != "cpu":
                raise ValueError(f"device must be cpu for a graph, got {device!r}. Use the backend torch.")
            self._run, self._sample_rate_hz, frame_samples = bundle.run, bundle.sample_rate_hz, bundle.frame_samples
        else:
            self._run = self._run_padded = _on_device(bundle, device)
            self._sample_rate_hz, frame_samples = bundle.model.sample_rate_hz, bundle.model.features.frame_samples
        self.min_samples = max(round(MIN_SECONDS * self.sample_rate_hz), frame_samples)
        self.model_digest = bundle.digest

    @classmethod
    def load(
        cls,
        model: str | os.PathLike[str] | None = None,
        *,
        device: str = "cpu",
        threshold: float | None = None,
        backend: Backend = "auto",
        trusted_packages: Collection[str] = (),
    ) -> Verifier:
        """Read a bundle.

        Args:
            model: A folder, or ``hf://owner/name[@revision]``; by default the small model that comes with the package.
            device: Where it runs; see the class.
            threshold: See the class.
            backend: "onnx" runs the bundle's graph, "torch" its weights; "auto" the graph if there is one and the
                device is the CPU.
            trusted_packages: Packages whose encoders may be built too, which runs their code; a graph needs none.

        Raises:
            ValueError: If there is no such backend, or the backend is "onnx" and the bundle has no graph; further ones
                as the class.
            ModelFileError, FileNotFoundError, ChnsError, HubError: As `chns.bundle.bundle_graph.load_graph_bundle` and
                `chns.bundle.bundle.load_bundle`.
            ModuleNotFoundError: If torch is needed and missing.
        """
        if backend not in get_args(Backend):
            raise ValueError(f"backend must be one of {', '.join(get_args(Backend))}, got {backend!r}.")
        model = PACKAGED_MODEL if model is None else model
        bundle: Bundle | GraphBundle | None = None
        if backend == "onnx" or (backend == "auto" and device == "cpu"):
            bundle = load_graph_bundle(os.fspath(model))
        if bundle is None and backend == "onnx":
            raise ValueError(
                f"model must have a graph for the backend onnx, got none in {os.fspath(model)}. "
                f"`chns export {os.fspath(model)} --into-bundle` writes one."
            )
        if bundle is None:
            bundle = load_bundle(os.fspath(model), trusted_packages=trusted_packages)
        return cls(bundle, device=device, threshold=threshold)

    from_pretrained = load  # as other libraries call it

    @property
    def sample_rate_hz(self) -> int:
        """Rate at which the model hears; other rates are resampled to it."""
        return self._sample_rate_hz

    @cached_property
    def dim(self) -> int:
        """Size of an embedding, found by making one: the encoder may be a user's own."""
        return len(self._raw_embedding(np.zeros(self.min_samples, np.float32)))

    @property
    def threshold(self) -> float:
        """The lowest score that is accepted where only the score is known, as in `identify`.

        Raises:
            ValueError: If none was given and the model states none.
        """
        threshold = self._rule.score_threshold
        if threshold is None:
            raise ValueError(
                "threshold must be given for a model without one, whose training had no validation, got None. "
                "Choose one (--threshold T), or let `chns calibrate MODEL M.parquet --trials TRIALS` find it."
            )
        return threshold

    @property
    def warnings(self) -> tuple[str, ...]:
        """Why the model's own threshold or calibration may let nearly everybody pass; mostly empty."""
        return () if self._rule.score_threshold is None else self._rule.warnings(self._rule.score_threshold)

    def embed(
        self, audio: AudioPath | AudioArray, sample_rate_hz: int | None = None, *, channel: Channel | None = None
    ) -> Embedding:
        """Embed a recording of any length.

        Args:
            audio: A file; or samples, int16 or floating point in [-1, 1], of shape (samples,) or (samples, channels),
                which are averaged.
            sample_rate_hz: Rate of the samples; a file knows its own.
            channel: The channel to hear, ``left``, ``right`` or a number from 0. By default the mean of all, with a
                warning if they hold different sounds; ``mix`` leaves the warning out.

        Raises:
            ValueError: If the channel is none of these, the rate is missing, not sensible or given for a file, or the
                array is not audio.
            FileNotFoundError: If there is no such file.
            AudioError: If the file cannot be decoded, or there is too little sound to embed: less than 0.1 s, or
                nothing above -60 dBFS.
            ModelFileError: If the model gives nonsense.
        """
        source, windows = self._windows(audio, sample_rate_hz, channel_number(channel))
        embedding = self.embed_windows(windows, source=source)
        if channel is not None:
            return embedding
        quality = replace(embedding.quality, channels_differ=holds_several_sounds(audio))
        return replace(embedding, quality=quality)

    def embed_windows(self, windows: Iterable[Float32Array], *, source: str) -> Embedding:
        """Embed a recording that was cut into windows, see `chns.inference.listening`; errors as `embed`."""
        raw, qualities = [], []
        for window, quality in measured_windows(
            windows, sample_rate_hz=self.sample_rate_hz, min_samples=self.min_samples, source=source
        ):
            qualities.append(quality)
            if not quality.is_silent:
                raw.append(self._raw_embedding(window))
        return joint_embedding(raw, joint_quality(qualities), source=source)

    def raw_embeddings(self, waveforms: Sequence[Float32Array]) -> list[Float32Array]:
        """What the model gives for each of several waveforms, shape (dim,), not normalised.

        With torch they are one batch, padded, which changes no embedding; a graph takes one at a time.

        Args:
            waveforms: Each of shape (samples,), at least `min_samples` long.

        Raises:
            ModelFileError: If the model fails.
        """
        if self._run_padded is None or len(waveforms) == 1:
            return [self._raw_embedding(waveform) for waveform in waveforms]
        lengths = np.array([len(waveform) for waveform in waveforms])
        padded = np.zeros((len(waveforms), lengths.max()), np.float32)
        for row, waveform in zip(padded, waveforms, strict=True):
            row[: len(waveform)] = waveform
        with _plain_model_errors(f"{len(waveforms)} waveforms of {lengths.max()} samples"):
            return list(self._run_padded(padded, lengths))

    def embed_files(self, paths: Iterable[AudioPath], *, channel: Channel | None = None) -> EmbeddedFiles:
        """Embed many files, with a progress bar on a terminal; one that fails does not keep the others from it.

        Raises:
            ValueError: If the channel is none; see `embed`.
        """
        from tqdm import tqdm

        channel_number(channel)
        result = EmbeddedFiles({}, {})
        for path in tqdm(list(map(Path, paths)), desc="embedding", unit="file", leave=False, disable=None):
            try:
                result.embeddings[path] = self.embed(path, channel=channel)
            except (AudioError, OSError) as error:
                result.failures[path] = error
        return result

    def verify(
        self,
        first: AudioPath | Embedding,
        second: AudioPath | Embedding,
        *,
        channel: Channel | tuple[Channel | None, Channel | None] | None = None,
    ) -> Decision:
        """Decide whether two recordings are of one speaker.

        Args:
            first: A file, or what `embed` made of one or of an array.
            second: The same; which is which does not matter.
            channel: Of both files, or of the first and of the second; see `embed`.

        Raises:
            ValueError: If there is no threshold; further errors as `embed`.
        """
        default = self.threshold
        of_first, of_second = channel if isinstance(channel, tuple) else (channel, channel)
        one, other = self._embedded(first, of_first), self._embedded(second, of_second)
        score = float(np.clip(one.vector @ other.vector, -1, 1))
        measures = {
            "duration": (one.quality.duration_seconds, other.quality.duration_seconds),
            "magnitude": (one.magnitude, other.magnitude),
        }
        threshold = self._rule.lowest_accepted(measures, default=default)
        return Decision(
            score=score,
            log_likelihood_ratio=self._rule.log_likelihood_ratio(score, measures),
            threshold=threshold,
            accepted=score >= threshold,
            quality=(one.quality, other.quality),
            warnings=self._rule.warnings(threshold, measures),
        )

    def enrol(
        self,
        store: VoiceprintStore,
        name: str,
        utterances: Sequence[AudioPath | Embedding],
        *,
        note: str | None = None,
        add: bool = False,
        channel: Channel | None = None,
    ) -> list[Embedding]:
        """Store a speaker's voiceprint, made of all utterances; see `VoiceprintStore.enrol` for arguments and errors.

        ``channel`` is that of the files, as in `embed`. Where all utterances are files, the store keeps their paths.

        Returns:
            What was enrolled; the quality of each utterance is worth a look.
        """
        embeddings = [self._embedded(utterance, channel) for utterance in utterances]
        vectors = np.stack([embedding.vector for embedding in embeddings])
        files = [Path(one) for one in utterances if not isinstance(one, Embedding)]
        named = [source_name(file, None, channel_number(channel)) for file in files]
        sources = named if len(named) == len(vectors) else None
        store.enrol(name, vectors, note=note, add=add, sources=sources)
        return embeddings

    def identify(
        self,
        store: VoiceprintStore,
        utterance: AudioPath | Embedding,
        *,
        top: int = 5,
        score_by: str = "voiceprint",
        channel: Channel | None = None,
    ) -> list[Match]:
        """The enrolled speakers who sound most like an utterance, the best first; see `VoiceprintStore.identify`."""
        return store.identify(self._embedded(utterance, channel).vector, top=top, score_by=score_by)

    def _embedded(self, recording: AudioPath | Embedding, channel: Channel | None) -> Embedding:
        if isinstance(recording, np.ndarray):
            raise ValueError("recording must be a file or an Embedding, got an array. Call `embed` on it first.")
        return recording if isinstance(recording, Embedding) else self.embed(recording, channel=channel)

    def _windows(
        self, audio: AudioPath | AudioArray, sample_rate_hz: int | None, channel: int | None
    ) -> tuple[str, Iterator[Float32Array]]:
        """What to call the recording in an error, and its windows at the model's rate."""
        if isinstance(audio, (str, os.PathLike)):
            if sample_rate_hz is not None:
                raise ValueError(f"sample_rate_hz must be left out for a file, got {sample_rate_hz} for {audio}.")
            return str(audio), file_windows(Path(audio), sample_rate_hz=self.sample_rate_hz, channel=channel)
        if sample_rate_hz is None:
            raise ValueError("sample_rate_hz must be given for an array, got None.")
        samples = np.asarray(audio)
        rate_hz = self.sample_rate_hz
        return "an array", array_windows(samples, sample_rate_hz, wanted_rate_hz=rate_hz, channel=channel)

    def _raw_embedding(self, waveform: Float32Array) -> Float32Array:
        with _plain_model_errors(f"{len(waveform)} samples"):
            output = self._run(waveform[None])
        if output.ndim != 2 or len(output) != 1:
            raise ModelFileError(f"model must give one embedding a recording, got an array of shape {output.shape}.")
        embedding: Float32Array = output[0]
        return embedding


def _on_device(bundle: Bundle, device: str) -> Callable[..., Float32Array]:
    """The model itself as a function of waveforms and, where they are padded, their lengths, on a device."""
    import torch

    try:
        model = bundle.model.to(device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device must be one that this machine has, got {device!r} ({error}).") from error

    def run(waveforms: Float32Array, lengths: IntArray | None = None) -> Float32Array:
        with torch.inference_mode():
            there = None if lengths is None else torch.from_numpy(lengths).to(device)
            embeddings: Float32Array = model(torch.from_numpy(waveforms).to(device), there).float().cpu().numpy()
        return embeddings

    return run


@contextmanager
def _plain_model_errors(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # torch's, of settings that no weights show to be wrong, and onnxruntime's
        reason = str(error).partition("\n")[0]
        raise ModelFileError(
            f"model must be able to embed {what}, got an error ({reason}). It may be damaged, or "
            f"need more memory than there is."
        ) from error


def joint_embedding(raw: Sequence[Float32Array], quality: Quality, *, source: str) -> Embedding:
    """The embedding of a recording from what the model gave for its windows that hold sound.

    Args:
        raw: Each of shape (dim,), not normalised.
        quality: Of the whole recording.
        source: What an error calls it.

    Raises:
        AudioError: If no window holds sound.
        ModelFileError: If the model gave nonsense.
    """
    if not raw:
        raise AudioError(f"recording must hold sound, got silence ({quality.level_dbfs:.0f} dBFS) in {source}.")
    vectors, magnitudes = zip(*map(_unit, raw), strict=True)
    return Embedding(_unit(np.mean(vectors, axis=0))[0], float(np.mean(magnitudes)), quality)


def _unit(vector: Float32Array) -> tuple[Float32Array, float]:
    """The vector at unit length, and the length that it had."""
    norm = float(np.linalg.norm(vector.astype(np.float64)))
    if not 0 < norm < np.inf:
        raise ModelFileError(f"embedding must be finite and not zero, got length {norm}. The model may be damaged.")
    unit: Float32Array = (vector / norm).astype(np.float32)
    return unit, norm

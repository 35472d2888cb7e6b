"""Write a trained model as one graph for other runtimes, and measure what that costs.

A file appears only if what it computes was checked: it is loaded again and must agree with the model on speech of
several lengths. From waveform to embedding the features are inside, so nothing can be computed differently elsewhere;
batch and length are free.

Convolutions and matrix products get 8-bit weights; what flows between them is quantised anew for every input
("dynamic"), so no calibration data is needed. Weights are unsigned: with signed ones ONNX Runtime's integer convolution
is three to four times slower on x86. The features stay in float, because their matrix spans too large a range (a cosine
distance of 0.98 otherwise). What it brings is in ``docs/decisions/0008-export.md``.

sherpa-onnx takes a speaker model whose input is log-mel features, and its own differ from ours in three ways:

- 80 mels reach from 20 Hz to 400 Hz below half the sample rate; ours to half the sample rate unless a model was trained
  with another ``high_hz``. The graph interpolates between sherpa's mels to get those that the model knows.
- Frames are centred at multiples of the hop and mirror the signal at its ends, ours start at its beginning. The graph
  drops the first and the last frame, the mirrored ones; there remain as many as we have, 2.5 ms later.
- The mean over time is subtracted or not; the graph takes them as they are and does it itself.

Only the first matters if left alone, together with the mirrored ends: ``docs/decisions/0008-export.md`` has how far
apart embeddings are. Training with ``high_hz: 7600`` makes the interpolation exact.
"""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from chns.bundle import (
    LARGEST_DISTANCE,
    MADE_BY,
    OPSET,
    Architecture,
    Graph,
    checked_distance,
    largest_distance,
    model_graph,
    onnx_graph,
    require_export_packages,
    several_lengths,
    torch_export_graph,
    write_onnx,
    write_waveform_graph,
)
from chns.core import AudioError, BoolArray, ConfigError, Float32Array, IntArray, atomic_path
from chns.data import Manifest, WholeUtterances, read_audio
from chns.encoders import SpeakerEncoder
from chns.evaluation import VerificationMetrics, cosine_scores, verification_metrics
from chns.features import LogMel

LARGEST_INT8_DISTANCE = 0.02

_LONGEST_SECONDS = 30.0
_MAX_SECONDS = 180.0  # as `chns.evaluation.embedder.Embedder.utterances`
_FEATURES_PREFIX = "features"

# What sherpa-onnx's features are, beside their edges.
_NUM_MELS = 80
_LOW_HZ = 20.0
_BELOW_HALF_RATE_HZ = 400.0
_FEATURES = "chns.features.LogMel"
_FIXED_SETTINGS = {"num_mels": _NUM_MELS, "frame_seconds": 0.025, "hop_seconds": 0.010, "window": "povey"}


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


@dataclass(frozen=True, kw_only=True)
class GraphResult:
    """One graph on a trial list.

    Attributes:
        metrics: Its error rates.
        real_time_factor: Seconds it computes for a second of speech, one utterance at a time.
    """

    metrics: VerificationMetrics
    real_time_factor: float


def evaluate_graphs(
    graphs: Mapping[str, Graph],
    model: SpeakerEncoder,
    manifest: Manifest,
    enrolment: IntArray,
    test: IntArray,
    is_target: BoolArray,
) -> dict[str, GraphResult]:
    """Embed the utterances of the trials with every graph, one by one, and score by cosine.

    Args:
        graphs: By name.
        model: Says at which rate, and how short, the waveforms may be.
        manifest: Where the utterances are.
        enrolment: Row of each trial's enrolment utterance, shape (trials,).
        test: Row of each trial's test utterance, shape (trials,).
        is_target: Whether both are one speaker, shape (trials,).

    Raises:
        FileNotFoundError: If a recording is gone.
        AudioError: If a recording cannot be decoded or is too short.
    """
    used, rows = np.unique(np.concatenate((enrolment, test)), return_inverse=True)
    utterances = WholeUtterances(
        manifest.take(used),
        max_seconds=_MAX_SECONDS,
        sample_rate_hz=model.sample_rate_hz,
        min_samples=model.features.frame_samples + model.features.hop_samples,
    )
    embeddings: dict[str, list[Float32Array]] = {name: [] for name in graphs}
    seconds = dict.fromkeys(graphs, 0.0)
    speech_seconds = 0.0
    for index in range(len(utterances)):
        waveform = utterances[index].numpy()[None]
        speech_seconds += waveform.shape[1] / model.sample_rate_hz
        for name, graph in graphs.items():
            started = time.perf_counter()
            embeddings[name].append(graph(waveform)[0])
            seconds[name] += time.perf_counter() - started
    results = {}
    for name, vectors in embeddings.items():
        scores = cosine_scores(np.stack(vectors), rows[: len(enrolment)], rows[len(enrolment) :])
        results[name] = GraphResult(
            metrics=verification_metrics(scores, is_target), real_time_factor=seconds[name] / speech_seconds
        )
    return results


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A file that was written and checked.

    Attributes:
        path: The file.
        num_bytes: Its size.
        opset: Of ONNX; None for torch's own formats.
        distance: Largest cosine distance to the model on the speech it was checked with.
    """

    path: Path
    num_bytes: int
    opset: int | None
    distance: float


class _Form(NamedTuple):
    suffix: str
    write: Callable[[SpeakerEncoder, Path], None]
    load: Callable[[Path], Graph]
    opset: int | None = None


def export_model(model: SpeakerEncoder, path: Path, *, form: str, check: Sequence[Float32Array]) -> Exported:
    """Write a model, and check the file before it gets its name.

    Args:
        model: Waveforms to embeddings; put on the CPU and into evaluation mode.
        path: The file. One that exists is replaced, but not if the check fails.
        form: One of `FORMS`: "onnx" (a file in .onnx) or "torch-export" (.pt2).
        check: Waveforms to compare on, each of shape (batch, samples), such as
            `chns.bundle.bundle_graph.built_in_signal` gives.

    Raises:
        ValueError: If there is no such form, the path ends otherwise, or there is nothing to check on.
        ChnsError: If the packages for ONNX are missing.
        ExportError: If an embedding is further than `LARGEST_DISTANCE` from the model's.
    """
    if form not in FORMS:
        raise ValueError(f"form must be one of {', '.join(FORMS)}, got {form!r}.")
    chosen = FORMS[form]
    _require_suffix(path, chosen.suffix)
    model.cpu().eval()
    with atomic_path(path) as temporary:
        chosen.write(model, temporary)
        distance = checked_distance(chosen.load(temporary), model_graph(model), check, limit=LARGEST_DISTANCE)
    return Exported(path=path, num_bytes=path.stat().st_size, opset=chosen.opset, distance=distance)


def _require_suffix(path: Path, suffix: str) -> None:
    """Make sure that a file will be taken for what it is.

    Raises:
        ValueError: If its name ends in another suffix.
    """
    if path.suffix != suffix:
        raise ValueError(f"name of the exported file must end in {suffix}, got {path}.")


def _write_torch_export(model: SpeakerEncoder, path: Path) -> None:
    """Two frames at least: with a single one torch would special-case sizes of one. More where the encoder asks so."""
    from torch._dynamo.exc import UserError
    from torch.export.dynamic_shapes import refine_dynamic_shapes_from_suggested_fixes

    shortest = model.features.frame_samples + model.features.hop_samples
    shapes = {"waveforms": {0: torch.export.Dim("batch"), 1: torch.export.Dim("samples", min=shortest)}}
    try:
        program = _traced(model, shapes)
    except UserError as error:  # says how long waveforms must be
        program = _traced(model, refine_dynamic_shapes_from_suggested_fixes(error.msg, shapes))
    torch.export.save(program, path)


def _contiguous(model: SpeakerEncoder) -> SpeakerEncoder:
    """A copy with weights as torch's own files want them; convolutions over images have theirs in another order."""
    copied: nn.Module = copy.deepcopy(model)
    return copied.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload, no-any-return]


def _traced(model: SpeakerEncoder, shapes: Any) -> torch.export.ExportedProgram:
    return torch.export.export(
        _contiguous(model),
        (torch.zeros(2, model.sample_rate_hz),),
        dynamic_shapes=shapes,
        prefer_deferred_runtime_asserts_over_guards=True,  # else every way unfold might be laid out becomes a condition
    )


FORMS = {
    "onnx": _Form(".onnx", write_waveform_graph, onnx_graph, OPSET),
    "torch-export": _Form(".pt2", _write_torch_export, torch_export_graph),
}


def export_int8(source: Path, path: Path, *, load: Callable[[Path], Graph], check: Sequence[Float32Array]) -> Exported:
    """Write an ONNX file again with 8-bit weights, and check the file before it gets its name.

    Args:
        source: Written by `export_model` or `export_for_sherpa`.
        path: The new file.
        load: Reads such files: `chns.bundle.graph.onnx_graph`, say.
        check: Waveforms to compare on, each of shape (batch, samples).

    Returns:
        What was written, with the distance to the source.

    Raises:
        ValueError: If the path does not end in .onnx.
        ChnsError: If a package is missing.
        ExportError: If an embedding is further than `LARGEST_INT8_DISTANCE` from the source's.
    """
    _require_suffix(path, ".onnx")
    with atomic_path(path) as temporary:
        _quantise(source, temporary)
        distance = checked_distance(load(temporary), load(source), check, limit=LARGEST_INT8_DISTANCE)
    return Exported(path=path, num_bytes=path.stat().st_size, opset=OPSET, distance=distance)


def _quantise(source: Path, path: Path) -> None:
    require_export_packages()
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    nodes = onnx.load(source).graph.node
    of_features = [node.name for node in nodes if any(name.startswith(_FEATURES_PREFIX) for name in node.input)]
    root = logging.getLogger()
    root.addFilter(_not_from_onnxruntime)
    try:
        quantize_dynamic(source, path, weight_type=QuantType.QUInt8, nodes_to_exclude=of_features)
    finally:
        root.removeFilter(_not_from_onnxruntime)


def _not_from_onnxruntime(record: logging.LogRecord) -> bool:
    """Drop its advice to prepare the graph, which the exporter has done, and what it says about single tensors."""
    return "onnxruntime" not in record.pathname


class SherpaEncoder(nn.Module):
    """sherpa-onnx's features to embeddings: (batch, frames, 80) -> (batch, embedding_dim).

    Args:
        model: Whose encoder it is.
        low_hz: Lower edge of the lowest filter that the model was trained with.
        high_hz: Upper edge of the highest.
    """

    features_from_theirs: Tensor

    def __init__(self, model: SpeakerEncoder, *, low_hz: float, high_hz: float) -> None:
        super().__init__()
        self.encoder = model.encoder
        self.subtract_mean = model.features.subtract_mean
        theirs = (_LOW_HZ, model.sample_rate_hz / 2 - _BELOW_HALF_RATE_HZ)
        mels = _interpolation(_centres(*theirs), _centres(low_hz, high_hz))
        self.register_buffer("features_from_theirs", mels, persistent=False)

    def forward(self, frames: Tensor) -> Tensor:
        """Embed a batch; of fewer than three frames nothing remains."""
        features = frames[:, 1:-1] @ self.features_from_theirs
        if self.subtract_mean:
            features = features - features.mean(1, keepdim=True)
        embeddings: Tensor = self.encoder(features)
        return embeddings


def export_for_sherpa(
    model: SpeakerEncoder, architecture: Architecture, path: Path, *, check: Sequence[Float32Array], comment: str = ""
) -> tuple[Exported, float]:
    """Write a model for sherpa-onnx, and check the file before it gets its name.

    Args:
        model: Put on the CPU and into evaluation mode.
        architecture: How it was built.
        path: The file.
        check: Waveforms to compare on, each of shape (batch, samples).
        comment: Goes into the file's metadata.

    Returns:
        What was written, with the distance to the same computed by torch; and the largest cosine distance to the
        model on its own features, which sherpa-onnx's way of framing makes larger.

    Raises:
        ValueError: If the path does not end in .onnx.
        ConfigError: If the model's features are too far from sherpa-onnx's.
        ChnsError: If a package is missing.
        ExportError: If the file does not compute what torch does.
    """
    _require_suffix(path, ".onnx")
    if architecture.features != _FEATURES:
        raise ConfigError(f"features must be {_FEATURES} for sherpa-onnx, got {architecture.features}. Export as onnx.")
    model.cpu().eval()
    encoder = SherpaEncoder(model, **_mel_range(architecture.feature_settings, model)).eval()
    example = torch.zeros(2, 100, _NUM_MELS)
    with torch.inference_mode():
        dim = encoder(example).shape[1]
    metadata = {
        "framework": "wespeaker",
        "language": "unspecified",
        "url": "",
        "comment": comment,
        "sample_rate": str(model.sample_rate_hz),
        "output_dim": str(dim),
        "normalize_samples": "0",  # samples times 32768, as in our features
        MADE_BY: "chns",
    }
    with atomic_path(path) as temporary:
        write_onnx(
            encoder, example, temporary, input_name="x", axes={0: ("batch", 1), 1: ("frames", 1)}, metadata=metadata
        )
        graph = sherpa_graph(temporary, model.sample_rate_hz)
        reference = _in_front_of(model_graph(encoder), model.sample_rate_hz)
        distance = checked_distance(graph, reference, check, limit=LARGEST_DISTANCE)
        to_own_features = largest_distance(graph, model_graph(model), check)
    exported = Exported(path=path, num_bytes=path.stat().st_size, opset=OPSET, distance=distance)
    return exported, to_own_features


def sherpa_graph(path: Path, sample_rate_hz: int) -> Graph:
    """A file for sherpa-onnx, from waveforms on: with the features that sherpa-onnx would compute."""
    return _in_front_of(onnx_graph(path), sample_rate_hz)


def sherpa_features(sample_rate_hz: int) -> nn.Module:
    """Waveforms (batch, samples) to the features (batch, frames, 80) that sherpa-onnx computes.

    As many frames as there are hops in the waveform, rounded; each is centred in its hop, and at the ends the waveform
    is mirrored. No mean is subtracted.
    """
    return _MirroredLogMel(
        LogMel(sample_rate_hz=sample_rate_hz, high_hz=sample_rate_hz / 2 - _BELOW_HALF_RATE_HZ, subtract_mean=False)
    )


class _MirroredLogMel(nn.Module):
    def __init__(self, features: LogMel) -> None:
        super().__init__()
        self.features = features

    def forward(self, waveforms: Tensor) -> Tensor:
        frame, hop = self.features.frame_samples, self.features.hop_samples
        num_samples = waveforms.shape[1]
        num_frames = (num_samples + hop // 2) // hop
        before = (frame - hop) // 2
        after = max(0, (num_frames - 1) * hop + frame - before - num_samples)
        start, end = waveforms[:, :before].flip(1), waveforms[:, num_samples - after :].flip(1)
        features: Tensor = self.features(torch.cat([start, waveforms, end], dim=1))
        return features[:, :num_frames]


def _in_front_of(graph: Graph, sample_rate_hz: int) -> Graph:
    features = sherpa_features(sample_rate_hz)

    def run(waveforms: Float32Array) -> Float32Array:
        with torch.inference_mode():
            frames: Float32Array = features(torch.from_numpy(waveforms)).numpy()
        return graph(frames)

    return run


def _mel_range(settings: Mapping[str, Any], model: SpeakerEncoder) -> dict[str, float]:
    for name, wanted in _FIXED_SETTINGS.items():
        if settings.get(name, wanted) != wanted:
            raise ConfigError(f"{name} must be {wanted}, as sherpa-onnx has it, got {settings[name]}. Export as onnx.")
    high_hz = settings.get("high_hz")
    return {
        "low_hz": settings.get("low_hz", _LOW_HZ),
        "high_hz": model.sample_rate_hz / 2 if high_hz is None else high_hz,
    }


def _centres(low_hz: float, high_hz: float) -> Tensor:
    """Centres of the filters on the mel scale, shape (80,)."""
    low, high = (1127.0 * np.log1p(hz / 700.0) for hz in (low_hz, high_hz))
    return torch.linspace(low, high, _NUM_MELS + 2, dtype=torch.float64)[1:-1]


def _interpolation(given: Tensor, wanted: Tensor) -> Tensor:
    """Matrix M such that ``x @ M`` is x, known at the rising places ``given``, at the places ``wanted``.

    Linear between two places; beyond the ends the last value. Shape (given, wanted).
    """
    columns = [np.interp(wanted.numpy(), given.numpy(), row) for row in np.eye(len(given))]
    return torch.from_numpy(np.stack(columns)).float()

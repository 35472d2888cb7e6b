"""Recordings of the user that an exported model is compared on.

What an export costs: error rates and speed of several graphs on the same trials.

Write a trained model as one graph from waveform to embedding, for runtimes that do not have this package.

The features are inside, so nothing can be computed differently elsewhere; batch and length are free. A file appears
only if what it computes was checked: it is loaded again and must agree with the model on speech of several lengths.

Weights of an ONNX file as 8-bit integers.

Convolutions and matrix products get 8-bit weights; what flows between them is quantised anew for every input
("dynamic"), so no calibration data is needed. Weights are unsigned: with signed ones ONNX Runtime's integer convolution
is three to four times slower on x86. The features stay in float, because their matrix spans too large a range (a cosine
distance of 0.98 otherwise). What it brings is in ``docs/decisions/0008-export.md``.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from chns.bundle.bundle_graph import LARGEST_DISTANCE, checked_distance, several_lengths
from chns.bundle.graph import Graph, model_graph, onnx_graph, torch_export_graph
from chns.bundle.onnx_file import OPSET, require_export_packages, write_waveform_graph
from chns.core.arrays import BoolArray, Float32Array, IntArray
from chns.core.errors import AudioError
from chns.core.files import atomic_path
from chns.data.audio import read_audio
from chns.data.dataset import WholeUtterances
from chns.data.manifest import Manifest
from chns.encoders import SpeakerEncoder
from chns.evaluation.metrics import VerificationMetrics, verification_metrics
from chns.evaluation.scoring import cosine_scores

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


_MAX_SECONDS = 180.0  # as `chns.evaluation.embedder.embed_utterances`


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
        check: Waveforms to compare on, each of shape (batch, samples); `chns.bundle.bundle_graph.built_in_signal` gives some.

    Raises:
        ValueError: If there is no such form, the path ends otherwise, or there is nothing to check on.
        ChnsError: If the packages for ONNX are missing.
        ExportError: If an embedding is further than `LARGEST_DISTANCE` from the model's.
    """
    if form not in FORMS:
        raise ValueError(f"form must be one of {', '.join(FORMS)}, got {form!r}.")
    chosen = FORMS[form]
    require_suffix(path, chosen.suffix)
    model.cpu().eval()
    with atomic_path(path) as temporary:
        chosen.write(model, temporary)
        distance = checked_distance(chosen.load(temporary), model_graph(model), check, limit=LARGEST_DISTANCE)
    return Exported(path=path, num_bytes=path.stat().st_size, opset=chosen.opset, distance=distance)


def require_suffix(path: Path, suffix: str) -> None:
    """Make sure that a file will be taken for what it is.

    Raises:
        ValueError: If its name ends in another suffix.
    """
    if path.suffix != suffix:
        raise ValueError(f"name of the exported file must end in {suffix}, got {path}.")


def _write_torch_export(model: SpeakerEncoder, path: Path) -> None:
    """Two frames at least: with a single one torch would special-case sizes of one."""
    shortest = model.features.frame_samples + model.features.hop_samples
    dimensions = {0: torch.export.Dim("batch"), 1: torch.export.Dim("samples", min=shortest)}
    program = torch.export.export(
        model,
        (torch.zeros(2, model.sample_rate_hz),),
        dynamic_shapes={"waveforms": dimensions},
        prefer_deferred_runtime_asserts_over_guards=True,  # else every way unfold might be laid out becomes a condition
    )
    torch.export.save(program, path)


FORMS = {
    "onnx": _Form(".onnx", write_waveform_graph, onnx_graph, OPSET),
    "torch-export": _Form(".pt2", _write_torch_export, torch_export_graph),
}


LARGEST_INT8_DISTANCE = 0.02

_FEATURES_PREFIX = "features"


def export_int8(source: Path, path: Path, *, load: Callable[[Path], Graph], check: Sequence[Float32Array]) -> Exported:
    """Write an ONNX file again with 8-bit weights, and check the file before it gets its name.

    Args:
        source: Written by `chns.inference.export` or `chns.inference.export_sherpa`.
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
    require_suffix(path, ".onnx")
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

"""What an export costs: error rates and speed of several graphs on the same trials."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from chns.core.arrays import BoolArray, Float32Array, IntArray
from chns.data.dataset import WholeUtterances
from chns.data.manifest import Manifest
from chns.encoders import SpeakerEncoder
from chns.evaluation.metrics import VerificationMetrics, verification_metrics
from chns.evaluation.scoring import cosine_scores
from chns.graph import Graph

_MAX_SECONDS = 180.0  # as `chns.embedding.embed_utterances`


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

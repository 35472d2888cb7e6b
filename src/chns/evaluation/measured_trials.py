"""Scores of trials together with the quality of their recordings, for calibration."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from chns.core.arrays import Float32Array, Float64Array, IntArray
from chns.data.manifest import Manifest
from chns.embedding import embed_utterances
from chns.encoders import SpeakerEncoder
from chns.evaluation.scoring import cosine_scores


class MeasuredTrials(NamedTuple):
    """What is known of trials beside their labels.

    Attributes:
        scores: Cosines, shape (trials,).
        quality: Values of the enrolment and the test utterance, shape (trials, 2), by measure: ``duration`` in seconds,
            ``magnitude``, the length of the raw embedding.
    """

    scores: Float32Array
    quality: dict[str, Float64Array]


def measure_trials(
    model: SpeakerEncoder,
    manifest: Manifest,
    enrolment: IntArray,
    test: IntArray,
    *,
    num_workers: int = 0,
    device: torch.device | str = "cpu",
) -> MeasuredTrials:
    """Score trials as `chns.evaluation.verification.score_trials`, see there for the arguments, and measure quality."""
    used, rows = np.unique(np.stack((enrolment, test), axis=1), return_inverse=True)
    rows = rows.reshape(-1, 2)
    utterances = manifest.take(used)
    embeddings = embed_utterances(model, utterances, num_workers=num_workers, device=device)
    magnitudes = np.linalg.norm(embeddings.astype(np.float64), axis=1)
    return MeasuredTrials(
        cosine_scores(embeddings, rows[:, 0], rows[:, 1]),
        {"duration": utterances.durations_seconds[rows], "magnitude": magnitudes[rows]},
    )

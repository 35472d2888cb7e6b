"""Score trials with a model. Kept apart from `chns.evaluation.scoring`, which does not import torch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from chns.data.manifest import Manifest
from chns.embedding import embed_utterances
from chns.encoders import SpeakerEncoder
from chns.evaluation.scoring import cosine_scores

IntArray = npt.NDArray[np.int64]


def score_trials(
    model: SpeakerEncoder,
    manifest: Manifest,
    enrolment: IntArray,
    test: IntArray,
    *,
    num_workers: int = 0,
    device: torch.device | str = "cpu",
    sharded: bool = False,
) -> npt.NDArray[np.float32]:
    """Cosine of the whole utterances of each trial; an utterance of several trials is embedded once.

    Args:
        model: Waveforms to embeddings.
        manifest: Where the utterances are.
        enrolment: Row of each trial's enrolment utterance, shape (trials,).
        test: Row of each trial's test utterance, shape (trials,).
        num_workers: Processes that decode.
        device: Where the model is.
        sharded: Whether the processes of a run, which all call this, share the embedding.

    Returns:
        Scores in [-1, 1], shape (trials,).
    """
    used, rows = np.unique(np.concatenate((enrolment, test)), return_inverse=True)
    embeddings = embed_utterances(model, manifest.take(used), num_workers=num_workers, device=device, sharded=sharded)
    return cosine_scores(embeddings, rows[: len(enrolment)], rows[len(enrolment) :])

"""Score trials with a model, also together with the quality of their recordings."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from chns.core import Float32Array, Float64Array, IntArray
from chns.data import Manifest
from chns.evaluation.conditions import Condition
from chns.evaluation.embedder import Embedder
from chns.evaluation.enrolment import Averaged, EnrolmentModels, score_enrolment
from chns.evaluation.normalisation import CohortNormalisation, normalise
from chns.evaluation.pairs import unit_embeddings
from chns.evaluation.scoring import cosine_scores
from chns.sampling import centroids_of


def score_trials(
    embedder: Embedder,
    manifest: Manifest,
    enrolment: IntArray,
    test: IntArray,
    *,
    enrolment_models: EnrolmentModels | None = None,
    averaged: Averaged = "embeddings",
    normalisation: CohortNormalisation | None = None,
) -> Float32Array:
    """Cosine of the whole utterances of each trial; an utterance of several trials is embedded once.

    Args:
        embedder: The model, where it is, and who decodes for it.
        manifest: Where the utterances are.
        enrolment: Row of each trial's enrolment utterance, or number of its enrolment model, shape (trials,).
        test: Row of each trial's test utterance, shape (trials,).
        enrolment_models: The rows of each model, where enrolment is from several utterances.
        averaged: How those are put together; see `chns.evaluation.enrolment.score_enrolment`.
        normalisation: The cohort to embed as well, and what to do to the scores with it; by default they stay as they
            are.

    Returns:
        Scores, shape (trials,); in [-1, 1] unless they are normalised.

    Raises:
        FileNotFoundError: If a recording is gone.
        AudioError: If a recording cannot be decoded or is too short.
        ManifestError: If the cohort has a speaker of the trials.
        ValueError: If ``averaged`` is neither way, or the embeddings do not permit a score.
    """
    only_recorded: Float32Array = score_conditions(
        embedder,
        manifest,
        enrolment,
        test,
        (),
        enrolment_models=enrolment_models,
        averaged=averaged,
        normalisation=normalisation,
    )[0]
    return only_recorded


def score_conditions(
    embedder: Embedder,
    manifest: Manifest,
    enrolment: IntArray,
    test: IntArray,
    conditions: Sequence[Condition],
    *,
    enrolment_models: EnrolmentModels | None = None,
    averaged: Averaged = "embeddings",
    normalisation: CohortNormalisation | None = None,
) -> Float32Array:
    """Scores as recorded, then with the test utterances changed, which are embedded anew under each condition.

    The other arguments and the errors are those of `score_trials`.

    Args:
        embedder: The model.
        manifest: Where the utterances are.
        enrolment: Shape (trials,).
        test: Shape (trials,).
        conditions: What is done to the test utterances; the enrolment and the cohort stay as they are.
        enrolment_models: The rows of each model.
        averaged: How those are put together.
        normalisation: The cohort.

    Returns:
        Shape (1 + conditions, trials).

    Raises:
        AudioError: Also if an utterance is too short under a condition.
    """
    utterances = enrolment if enrolment_models is None else enrolment_models.rows
    used, rows = np.unique(np.concatenate((utterances, test)), return_inverse=True)
    if normalisation is not None:
        normalisation.require_other_speakers(manifest, used)
    as_recorded, score = embedder.utterances(manifest.take(used)), cosine_scores
    mean = np.zeros(as_recorded.shape[1], np.float32)
    if normalisation is not None:
        cohort = _cohort(embedder.utterances(normalisation.cohort), normalisation)
        mean = cohort.mean
        score = partial(_normalised_scores, cohort=cohort.embeddings, normalisation=normalisation)
    utterance_rows, test_rows = rows[: len(utterances)], rows[len(utterances) :]

    def scores(embeddings: Float32Array, test_rows: IntArray) -> Float32Array:
        if enrolment_models is None:
            return score(embeddings - mean, utterance_rows, test_rows)
        models = enrolment_models._replace(rows=utterance_rows)
        return score_enrolment(embeddings - mean, models, enrolment, test_rows, score=score, averaged=averaged)

    found = [scores(as_recorded, test_rows)]
    tested, places = np.unique(test, return_inverse=True)
    for condition in conditions:
        changed = embedder.utterances(manifest.take(tested), change=condition, purpose=condition.name)
        found.append(scores(np.concatenate((as_recorded, changed)), len(as_recorded) + places))
    return np.stack(found)


class _Cohort(NamedTuple):
    """Embeddings of the cohort, shape (cohort, dim), and what is to be subtracted from all others, shape (dim,)."""

    embeddings: Float32Array
    mean: Float32Array


def _cohort(embeddings: Float32Array, normalisation: CohortNormalisation) -> _Cohort:
    """The mean is that of the embeddings as the encoder gives them, over utterances, as in WeSpeaker."""
    mean = np.zeros(embeddings.shape[1], np.float32)
    if normalisation.subtract_mean:
        mean = embeddings.mean(axis=0, dtype=np.float64).astype(np.float32)
    unit = unit_embeddings(embeddings - mean)
    if normalisation.cohort_of == "speakers":
        unit = centroids_of(unit, normalisation.cohort.speaker_labels, normalisation.size)
    return _Cohort(unit, mean)


def _normalised_scores(
    embeddings: Float32Array,
    enrolment_rows: IntArray,
    test_rows: IntArray,
    *,
    cohort: Float32Array,
    normalisation: CohortNormalisation,
) -> Float32Array:
    scores = cosine_scores(embeddings, enrolment_rows, test_rows)
    return normalise(
        scores, enrolment_rows, test_rows, embeddings, cohort, kind=normalisation.kind, top_k=normalisation.top_k
    )


class MeasuredTrials(NamedTuple):
    """What is known of trials beside their labels.

    Attributes:
        scores: Cosines, shape (trials,).
        quality: Values of the enrolment and the test utterance, shape (trials, 2), by measure: ``duration`` in seconds,
            ``magnitude``, the length of the raw embedding.
    """

    scores: Float32Array
    quality: dict[str, Float64Array]


def measure_trials(embedder: Embedder, manifest: Manifest, enrolment: IntArray, test: IntArray) -> MeasuredTrials:
    """Score trials as `chns.evaluation.verification.score_trials`, see there for the arguments, and measure quality."""
    used, rows = np.unique(np.stack((enrolment, test), axis=1), return_inverse=True)
    rows = rows.reshape(-1, 2)
    utterances = manifest.take(used)
    embeddings = embedder.utterances(utterances)
    magnitudes = np.linalg.norm(embeddings.astype(np.float64), axis=1)
    return MeasuredTrials(
        cosine_scores(embeddings, rows[:, 0], rows[:, 1]),
        {"duration": utterances.durations_seconds[rows], "magnitude": magnitudes[rows]},
    )

"""Enrolment from several utterances: trials name a model, and a map names the utterances of each.

A map is a text file with a line `MODEL UTTERANCE UTTERANCE ...` a model: CN-Celeb's ``enroll.map``, and also its
``enroll.lst`` and Kaldi's ``spk2utt``, which have the same layout.

Two ways to score a model. Averaged embeddings: its length-normalised embeddings are averaged, and the average is
compared as if it were that of one utterance. Averaged scores: each of its utterances is compared, and the scores
are averaged. Of plain cosines, the second is the first times the length of the average, so models of
utterances that disagree get lower scores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from chns.core import Float32Array, Float64Array, IntArray, TrialError, quoted
from chns.evaluation.pairs import unit_embeddings
from chns.evaluation.trials import FieldLines, Trials, find_utterances

if TYPE_CHECKING:
    from chns.data import Manifest

Scorer = Callable[[Float32Array, IntArray, IntArray], Float32Array]
Averaged = Literal["embeddings", "scores"]


@dataclass(frozen=True, eq=False)
class EnrolmentMap:
    """The names of enrolment models and of the utterances that each is made of.

    Attributes:
        models: Name of each model, no two the same.
        utterances: Names of the utterances of all models, one model after the other.
        counts: How many of them each model has, shape (models,), at least 1.
        source: File that the map came from, for error messages.
        lines: Line of each model in that file, counted from 1, shape (models,).
    """

    models: Sequence[str]
    utterances: Sequence[str]
    counts: IntArray
    source: str
    lines: IntArray

    def place(self, model: int) -> str:
        """Where a model stands, as ``file:line``."""
        return f"{self.source}:{self.lines[model]}"


class EnrolmentModels(NamedTuple):
    """Which rows each enrolment model is made of.

    Attributes:
        rows: Rows of the utterances of all models, one model after the other.
        counts: How many of them each model has, shape (models,), at least 1.
    """

    rows: IntArray
    counts: IntArray

    @property
    def starts(self) -> IntArray:
        """Where each model's rows begin, shape (models,)."""
        starts: IntArray = np.cumsum(self.counts) - self.counts
        return starts


class ResolvedEnrolment(NamedTuple):
    """Trials against enrolment models, as numbers.

    Attributes:
        models: Those that the trials name, as rows of a manifest.
        enrolment: Number of each trial's model among them, shape (trials,).
        test: Row of its test utterance in the manifest, shape (trials,).
    """

    models: EnrolmentModels
    enrolment: IntArray
    test: IntArray


def read_enrolment_map(path: Path | str) -> EnrolmentMap:
    """Read which utterances each enrolment model is made of.

    Args:
        path: A text file in UTF-8 with lines `MODEL UTTERANCE UTTERANCE ...`; blank lines are skipped, any white space
            separates.

    Raises:
        FileNotFoundError: If there is no such file.
        TrialError: If it is empty or not UTF-8, a line has a model without utterances, or a model has two lines.
    """
    content = FieldLines.read(path, "enrolment map")
    bare = np.flatnonzero(content.counts < 2)
    if len(bare):
        raise TrialError(
            f"enrolment map must have lines like `MODEL UTTERANCE UTTERANCE ...`, got {content.quote(int(bare[0]))}."
        )
    is_model = np.zeros(len(content.fields), np.bool_)
    is_model[np.cumsum(content.counts) - content.counts] = True
    models = [name for name, first in zip(content.fields, is_model.tolist(), strict=True) if first]
    utterances = [name for name, first in zip(content.fields, is_model.tolist(), strict=True) if not first]
    enrolment_map = EnrolmentMap(models, utterances, content.counts - 1, content.source, content.numbers)
    _require_distinct_models(enrolment_map)
    return enrolment_map


def _require_distinct_models(enrolment_map: EnrolmentMap) -> None:
    first_of: dict[str, int] = {}
    for number, name in enumerate(enrolment_map.models):
        first = first_of.setdefault(name, number)
        if first != number:
            raise TrialError(
                f"enrolment model must have one line with all its utterances, got {quoted(name)} in "
                f"{enrolment_map.place(number)} and again in line {enrolment_map.lines[first]}."
            )


def resolve_enrolment(trials: Trials, enrolment_map: EnrolmentMap, manifest: Manifest) -> ResolvedEnrolment:
    """Find the models of the trials in a map, and the utterances of both in a manifest.

    Utterances are found by name as `chns.evaluation.trials.find_utterances` does. Models that no trial names
    are left out, so their utterances may be missing.

    Raises:
        TrialError: If a trial's model is not in the map, or a test utterance or one of a model matches no utterance of
            the manifest or several. Names file and line.
    """
    number_of = {name: number for number, name in enumerate(enrolment_map.models)}
    unknown = next((trial for trial, name in enumerate(trials.enrolment) if name not in number_of), None)
    if unknown is not None:
        count = len(set(trials.enrolment) - number_of.keys())
        raise TrialError(
            f"enrolment must be a model of {enrolment_map.source}, got {quoted(trials.enrolment[unknown])} in "
            f"{trials.place(unknown)} ({count} such names). Check that trials and enrolment map belong together."
        )
    numbers = np.fromiter(map(number_of.__getitem__, trials.enrolment), np.int64, len(trials))
    used, enrolment = np.unique(numbers, return_inverse=True)
    everything = EnrolmentModels(np.arange(len(enrolment_map.utterances)), enrolment_map.counts)
    positions, owners = _members(everything, used)
    rows = find_utterances(
        [enrolment_map.utterances[position] for position in positions.tolist()],
        manifest,
        listed="enrolment map",
        place=lambda position: enrolment_map.place(int(used[owners[position]])),
    )
    test = find_utterances(trials.test, manifest, listed="trials", place=trials.place)
    return ResolvedEnrolment(EnrolmentModels(rows, enrolment_map.counts[used]), enrolment, test)


def score_enrolment(
    embeddings: npt.ArrayLike,
    models: EnrolmentModels,
    enrolment: IntArray,
    test_rows: IntArray,
    *,
    score: Scorer,
    averaged: Averaged = "embeddings",
) -> Float32Array:
    """Score trials against enrolment models.

    Args:
        embeddings: Of all utterances, shape (utterances, dim); need not be normalised.
        models: The rows of each.
        enrolment: Number of each trial's model, shape (trials,).
        test_rows: Row of its test utterance, shape (trials,).
        score: From embeddings, rows of enrolments and rows of test utterances to scores: `cosine_scores` of
            `chns.evaluation.scoring`, or that with a normalisation after it.
        averaged: ``embeddings``: the average of a model's length-normalised embeddings is scored, and normalised, like
            an utterance. ``scores``: every utterance of the model is scored, and normalised by its own cohort scores,
            and then the average is taken. This takes memory for every pair of trial and enrolment utterance, 40 bytes
            or so.

    Returns:
        Shape (trials,).

    Raises:
        ValueError: If averaged is neither, an embedding is zero or not finite, or the embeddings of a model cancel
            each other out.
    """
    if averaged not in get_args(Averaged):
        raise ValueError(f"averaged must be embeddings or scores, got {averaged!r}.")
    if averaged == "embeddings":
        unit = unit_embeddings(embeddings)
        return score(np.concatenate((unit, _mean_embeddings(unit, models))), enrolment + len(unit), test_rows)
    enrolment_rows, trials = _members(models, enrolment)
    counts = models.counts[enrolment]
    scores = score(np.asarray(embeddings, np.float32), enrolment_rows, test_rows[trials])
    means: Float64Array = np.add.reduceat(scores, np.cumsum(counts) - counts, dtype=np.float64) / counts
    return means.astype(np.float32)


def _mean_embeddings(unit: Float32Array, models: EnrolmentModels) -> Float32Array:
    """Average of each model's embeddings, shape (models, dim)."""
    sums: Float32Array = np.add.reduceat(unit[models.rows], models.starts)
    cancelled = np.flatnonzero(np.linalg.norm(sums, axis=1) < 1e-6 * models.counts)
    if len(cancelled):
        raise ValueError(
            f"embeddings of an enrolment model must not cancel each other out, got model {cancelled[0]}. "
            f"Check its recordings, or average scores."
        )
    sums /= models.counts[:, None]
    return sums


def _members(models: EnrolmentModels, chosen: IntArray) -> tuple[IntArray, IntArray]:
    """The rows of the chosen models, one after the other, and the place in ``chosen`` that each belongs to."""
    counts = models.counts[chosen]
    places = np.repeat(np.arange(len(chosen)), counts)
    within = np.arange(len(places)) - np.repeat(np.cumsum(counts) - counts, counts)
    return models.rows[np.repeat(models.starts[chosen], counts) + within], places

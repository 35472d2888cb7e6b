"""Score normalisation: what a score is worth beside the scores that both recordings get against strangers.

    normalised = normalise(scores, enrolment_rows, test_rows, embeddings, cohort, kind="as", top_k=300)

Some recordings score high against everybody. A cohort of speakers that are in no trial shows by how much: each score
is measured in standard deviations from the mean of the cohort's. The result depends on the cohort, so error rates
are comparable only where kind, cohort, its size and top-k are stated.

Cohort scores are computed for some recordings at a time, and of each only mean and deviation are kept, so the memory
does not grow with recordings times cohort: 50,000 trials among 10,000 recordings against 1,000 cohort speakers, top
300, take 17 MB and 0.4 s on one core of a busy machine, where keeping and sorting all cohort scores takes 84 MB and as
long. VoxCeleb1-E's size (580,000 trials, 145,000 recordings) against VoxCeleb2's 5,994 speakers is 10 s of computing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from chns.core.arrays import Float32Array, Float64Array, IntArray
from chns.core.errors import ManifestError
from chns.evaluation.pairs import unit_embeddings
from chns.evaluation.scoring import require_rows

if TYPE_CHECKING:
    from chns.data.manifest import Manifest

Kind = Literal["z", "t", "s", "as"]
CohortOf = Literal["speakers", "utterances"]

KINDS: tuple[Kind, ...] = get_args(Kind)

_NAMES = {"z": "Z-norm", "t": "T-norm", "s": "S-norm", "as": "AS-norm"}
_SCORES_AT_ONCE = 2**20
_FEWEST_ROWS_AT_ONCE = 64  # with a very large cohort: their scores take less memory than the cohort itself
_SMALLEST_DEVIATION = 1e-6  # the rounding of equal cosines in float32 deviates by less


def normalise(
    scores: npt.ArrayLike,
    enrolment_rows: IntArray,
    test_rows: IntArray,
    embeddings: npt.ArrayLike,
    cohort: npt.ArrayLike,
    *,
    kind: Kind = "as",
    top_k: int | None = None,
) -> Float32Array:
    """Normalise cosine scores by those of a cohort.

    ``z`` subtracts the mean of the enrolment's scores against the cohort and divides by their standard deviation,
    ``t`` does so with the test utterance's. ``s`` is the average of the two. ``as`` is ``s`` with the ``top_k`` highest
    cohort scores of each side only: those of the speakers most like it.

    Args:
        scores: What `chns.evaluation.scoring.cosine_scores` gives for the same rows, shape (trials,).
        enrolment_rows: Row of each trial's enrolment, shape (trials,).
        test_rows: Row of its test utterance, shape (trials,).
        embeddings: Shape (utterances, dim); need not be normalised. Rows that no trial uses cost nothing.
        cohort: Embeddings of speakers, or utterances of speakers, that are in no trial, shape (cohort, dim).
        kind: One of the four.
        top_k: For ``as`` only: between 2 and the size of the cohort.

    Returns:
        Shape (trials,), in standard deviations, not limited to [-1, 1].

    Raises:
        ValueError: If kind is none of these, top_k is not as said, an embedding is zero or not finite, shapes do not
            match, or the cohort scores of a row are all the same.

    Source:
        Z-norm and T-norm: Auckenthaler, Carey and Lloyd-Thomas 2000, "Score normalization for text-independent speaker
        verification systems". S-norm: Kenny 2010, "Bayesian speaker verification with heavy-tailed priors". AS-norm:
        the variant that Matejka et al. 2017, "Analysis of score normalization in multilingual speaker recognition",
        call adaptive S-norm 1, where each side's top cohort is chosen by its own scores; WeSpeaker computes the same.
        Variant 2 takes the other side's choice, so its statistics belong to the pair and have to be computed for each
        trial. Deviations are those of the population (divided by k, not k - 1), as in WeSpeaker.
    """
    unit_cohort = unit_embeddings(cohort)
    require_top_k(kind, top_k, len(unit_cohort))
    embeddings = np.asarray(embeddings)
    if embeddings.ndim != 2 or embeddings.shape[1] != unit_cohort.shape[1]:
        raise ValueError(
            f"embeddings and cohort must have the same dimensions, got {embeddings.shape} and {unit_cohort.shape}."
        )
    require_rows(len(embeddings), enrolment_rows, test_rows)
    scores = np.asarray(scores, np.float64)
    if scores.shape != (len(enrolment_rows),):
        raise ValueError(f"scores must have shape ({len(enrolment_rows)},), one a trial, got {scores.shape}.")
    sides = [rows for rows, letter in ((enrolment_rows, "z"), (test_rows, "t")) if kind in (letter, "s", "as")]
    used = np.unique(np.concatenate(sides))
    statistics = _cohort_statistics(unit_embeddings(embeddings[used]), unit_cohort, top_k)
    statistics.require_deviations(used)
    by_side = [statistics.standardised(scores, np.searchsorted(used, rows)) for rows in sides]
    normalised: Float64Array = np.mean(by_side, axis=0)
    return normalised.astype(np.float32)


def require_top_k(kind: Kind, top_k: int | None, cohort_size: int) -> None:
    """Check the settings of a normalisation before anything is computed.

    Raises:
        ValueError: If kind is unknown, or top_k is not between 2 and the size of the cohort for ``as``, or not None for
            the others.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}.")
    if kind != "as" and top_k is not None:
        raise ValueError(f"top_k must be None unless kind is as, which alone chooses from the cohort, got {top_k}.")
    if kind == "as" and (top_k is None or not 2 <= top_k <= cohort_size):
        raise ValueError(
            f"top_k must be between 2 and the size of the cohort, {cohort_size}, got {top_k}. "
            f"Choose a smaller one or a larger cohort, and state it with the results."
        )


class _CohortStatistics(NamedTuple):
    """Mean and standard deviation of each embedding's scores against the cohort, shape (embeddings,)."""

    mean: Float64Array
    deviation: Float64Array

    def require_deviations(self, rows: IntArray) -> None:
        flat = np.flatnonzero(self.deviation < _SMALLEST_DEVIATION)
        if len(flat):
            raise ValueError(
                f"cohort scores must differ from each other, got a standard deviation of 0 for row {rows[flat[0]]} "
                f"({len(flat)} such rows). The cohort must hold more than one voice."
            )

    def standardised(self, scores: Float64Array, positions: IntArray) -> Float64Array:
        return (scores - self.mean[positions]) / self.deviation[positions]


def _cohort_statistics(unit: Float32Array, unit_cohort: Float32Array, top_k: int | None) -> _CohortStatistics:
    mean, deviation = np.empty((2, len(unit)))
    at_once = max(_FEWEST_ROWS_AT_ONCE, _SCORES_AT_ONCE // len(unit_cohort))
    for start in range(0, len(unit), at_once):
        some = slice(start, start + at_once)
        scores = unit[some] @ unit_cohort.T
        if top_k is not None:
            others = scores.shape[1] - top_k
            scores.partition(others, axis=1)
            scores = scores[:, others:]
        mean[some] = scores.mean(axis=1, dtype=np.float64)
        deviation[some] = scores.std(axis=1, dtype=np.float64)
    return _CohortStatistics(mean, deviation)


@dataclass(frozen=True, kw_only=True, eq=False)
class CohortNormalisation:
    """How the scores of a trial list are to be normalised, and with which cohort.

    Attributes:
        cohort: Utterances of speakers that are in no trial.
        kind: As in `normalise`.
        top_k: As in `normalise`.
        cohort_of: Whether each speaker counts once, by the mean of the length-normalised embeddings, or each utterance.
        subtract_mean: Whether the mean of the cohort's embeddings is subtracted from all embeddings before any score
            is computed.

    Raises:
        ValueError: If cohort_of is neither, or kind and top_k are not as in `normalise`.
    """

    cohort: Manifest
    kind: Kind
    top_k: int | None = None
    cohort_of: CohortOf = "speakers"
    subtract_mean: bool = False

    def __post_init__(self) -> None:
        if self.cohort_of not in get_args(CohortOf):
            raise ValueError(f"cohort_of must be speakers or utterances, got {self.cohort_of!r}.")
        require_top_k(self.kind, self.top_k, self.size)

    @property
    def size(self) -> int:
        """Number of speakers or utterances that scores are compared with."""
        return len(self.cohort.speakers) if self.cohort_of == "speakers" else len(self.cohort)

    def require_other_speakers(self, manifest: Manifest, rows: IntArray) -> None:
        """Refuse a cohort that knows a speaker of the trials: the own voice among the strangers hides target trials.

        Args:
            manifest: Where the utterances of the trials are.
            rows: Those of the trials.

        Raises:
            ManifestError: If a speaker's name is on both sides; how many are, and the first of them.
        """
        of_trials = {manifest.speakers[label] for label in np.unique(manifest.speaker_labels[rows]).tolist()}
        shared = sorted(of_trials.intersection(self.cohort.speakers))
        if shared:
            shown = ", ".join(map(repr, shared[:3]))
            raise ManifestError(
                f"cohort must have no speaker of the trials, got {len(shared)} of {len(of_trials)} in both: "
                f"{shown}{', ...' if len(shared) > 3 else ''}. Take other speakers (`chns split`); if only the names "
                f"are the same, tell them apart with `chns merge --prefix`."
            )

    def to_json(self) -> dict[str, object]:
        """What error rates have to be stated with, as JSON values."""
        return {
            "kind": self.kind,
            "cohort_of": self.cohort_of,
            "cohort_size": self.size,
            "top_k": self.top_k,
            "mean_subtracted": self.subtract_mean,
        }

    def __str__(self) -> str:
        chosen = f"top {self.top_k:,} of " if self.top_k is not None else ""
        centred = ", mean subtracted" if self.subtract_mean else ""
        return f"{_NAMES[self.kind]}, {chosen}{self.size:,} cohort {self.cohort_of}{centred}"

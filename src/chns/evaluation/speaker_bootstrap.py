"""EER and minDCF on resampled speakers: what the same systems would have scored on other speakers.

Trials are not independent: a speaker is in hundreds of them, and one whom a system finds difficult spoils all of these.
So speakers are drawn with replacement, and each trial counts as often as its speakers were drawn. Drawing trials
instead makes intervals far too narrow; `interval` has the coverage of both in a simulation.

A resample changes the weight of a trial, never its score. The scores of a system are sorted once, and what a resample
costs is a cumulative sum of the weights; rates are only looked up at the corners of the curve, between which nothing
new can happen. One core, 1,251 speakers, 580,000 trials, 1,000 resamples: 3 s a system. Sorting the trials of each
resample anew takes fifty times as long (`benchmarks/intervals.py`). Resamples are made one after the other, so memory
does not grow with their number: 75 MB here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from chns.core import BoolArray, Float64Array, IntArray
from chns.evaluation.metrics import REPORTED_P_TARGETS, ErrorRates, as_labels, checked_trials, error_rates


@dataclass(frozen=True, eq=False)
class BootstrapMetrics:
    """Error rates of several systems on the same trials, and on the same resamples of their speakers.

    The names of the metrics are ``eer`` (a fraction) and, for each p_target, ``min_dcf_0.01``.

    Attributes:
        estimate: By metric, its value on the trials as they are, shape (systems,), float64.
        resampled: By metric, its value on each resample, shape (systems, resamples), float64. A column is one resample
            for all systems, so differences between rows are paired.
    """

    estimate: Mapping[str, Float64Array]
    resampled: Mapping[str, Float64Array]


def bootstrap_metrics(
    scores: npt.ArrayLike,
    is_target: npt.ArrayLike,
    enrolment_speakers: npt.ArrayLike,
    test_speakers: npt.ArrayLike,
    *,
    num_resamples: int = 1000,
    seed: int = 0,
    p_targets: Sequence[float] = REPORTED_P_TARGETS,
) -> BootstrapMetrics:
    """EER and minDCF of each system, on the trials and on resamples of their speakers.

    Each resample draws as many speakers as there are, with replacement, whichever side of a trial they are on. A target
    trial counts as often as its speaker was drawn, a non-target trial the product of both. A resample that leaves no
    target or no non-target trial is drawn again, which only matters where there are a handful of speakers.

    Args:
        scores: Higher means more likely the same speaker, shape (systems, trials), finite.
        is_target: Whether each trial is one speaker, shape (trials,), bool.
        enrolment_speakers: Speaker of each trial's enrolment, shape (trials,), integers or strings.
        test_speakers: Speaker of its test utterance, in the same form.
        num_resamples: 1,000 are enough for the ends of a 95 % interval.
        seed: Makes the draw reproducible. It depends on nothing else but the number of speakers (and on the trials
            where resamples are drawn again), so runs with different systems are paired as well.
        p_targets: Priors of the minDCF.

    Raises:
        ValueError: If shapes or types are not these, a score is not finite, one kind of trial is missing, a target
            trial has two speakers or a non-target trial one, fewer than two speakers have target trials, num_resamples
            is not positive, or a p_target not between 0 and 1.

    Source:
        Bolle, Ratha and Pankanti 2004, "Error analysis of pattern recognition systems: the subsets bootstrap", draw
        people with all their trials; Poh and Bengio 2007, "Performance generalization in biometric authentication
        using joint user-specific and sample bootstraps", show how much error curves depend on who is in the list.
        A non-target trial has two people. The product of their counts is the pigeonhole bootstrap (Owen 2007, "The
        pigeonhole bootstrap"; for pairs from one set, Snijders and Borgatti 1999): variance that comes from speakers
        is right, that of a pair or a trial alone counts three times instead of once, so intervals err on the wide
        side where speakers have few non-target trials. For target trials the count itself is the ordinary cluster
        bootstrap, which is right for both; its square, as if copies of a speaker met each other in target trials, would
        count all of it nearly three times.
    """
    is_target = as_labels(is_target)
    speakers = _trial_speakers(enrolment_speakers, test_speakers, is_target)
    system_scores = np.asarray(scores, dtype=np.float64)
    if system_scores.ndim != 2 or not len(system_scores) or system_scores.shape[1:] != is_target.shape:
        raise ValueError(
            f"scores must have the shape (systems, trials) for {len(is_target)} trials, got {system_scores.shape}."
        )
    if num_resamples < 1:
        raise ValueError(f"num_resamples must be positive, got {num_resamples}.")
    on_trials = [_metrics(error_rates(one, is_target), p_targets) for one in system_scores]
    resamples = _draw(speakers, num_resamples=num_resamples, seed=seed)
    curves = [_Curve.of(one, is_target) for one in system_scores]
    on_resamples = [[_metrics(curve.reweighted(weights), p_targets) for curve in curves] for weights in resamples]
    names = ("eer", *(f"min_dcf_{p_target}" for p_target in p_targets))
    return BootstrapMetrics(
        estimate=dict(zip(names, np.array(on_trials).T, strict=True)),
        resampled=dict(zip(names, np.array(on_resamples).T, strict=True)),
    )


def bootstrap_groups(
    scores: npt.ArrayLike,
    is_target: npt.ArrayLike,
    enrolment_speakers: npt.ArrayLike,
    test_speakers: npt.ArrayLike,
    *,
    trials_of: Sequence[BoolArray],
    num_resamples: int = 1000,
    p_targets: Sequence[float] = REPORTED_P_TARGETS,
    llr: bool = False,
) -> BootstrapMetrics:
    """The same for one system on several parts of a trial list, and Cllr.

    A resample is of the speakers of the whole list and the same for all parts, so differences between parts are paired,
    also where a speaker is in several. The draw is that of seed 0.

    Args:
        scores: Shape (trials,), finite.
        is_target: This and the speakers as for `bootstrap_metrics`.
        enrolment_speakers: Shape (trials,).
        test_speakers: Shape (trials,).
        trials_of: Which trials each part has, each of shape (trials,), bool, with targets and non-targets.
        num_resamples: Resamples of the speakers.
        p_targets: Priors of the minDCF.
        llr: Whether scores are log-likelihood ratios, which have a Cllr.

    Returns:
        Parts in the place of systems; beside the metrics there, ``min_cllr`` and, of ratios, ``cllr``. NaN on a
        resample that left a part without targets or without non-targets.

    Raises:
        ValueError: As `bootstrap_metrics`, or if a part lacks a kind of trial.
    """
    is_target = as_labels(is_target)
    speakers = _trial_speakers(enrolment_speakers, test_speakers, is_target)
    values = np.asarray(scores, dtype=np.float64)
    parts = [_Part.of(values, is_target, chosen, llr=llr) for chosen in trials_of]
    ones = _Weights(np.ones(is_target.sum(), np.int64), np.ones((~is_target).sum(), np.int64))
    on_trials = [part.metrics(ones, p_targets) for part in parts]
    draws = _draw(speakers, num_resamples=num_resamples, seed=0)
    on_resamples = [[part.metrics(weights, p_targets) for part in parts] for weights in draws]
    names = ("eer", *(f"min_dcf_{p_target}" for p_target in p_targets), "min_cllr", *(("cllr",) if llr else ()))
    return BootstrapMetrics(
        estimate=dict(zip(names, np.array(on_trials).T, strict=True)),
        resampled=dict(zip(names, np.array(on_resamples).T, strict=True)),
    )


def _metrics(rates: ErrorRates, p_targets: Sequence[float]) -> list[float]:
    return [rates.equal_error_rate(), *(rates.min_dcf(p_target=p_target) for p_target in p_targets)]


class _Weights(NamedTuple):
    """How often each target and each non-target trial counts, in the order of the list."""

    target: IntArray
    nontarget: IntArray


class _TrialSpeakers(NamedTuple):
    """Number of the speaker of each target trial, and of both speakers of each non-target trial."""

    num_speakers: int
    target: IntArray
    nontarget_enrolment: IntArray
    nontarget_test: IntArray

    def weights(self, multiplicities: IntArray) -> _Weights:
        pairs = multiplicities.take(self.nontarget_enrolment)
        pairs *= multiplicities.take(self.nontarget_test)
        return _Weights(multiplicities.take(self.target), pairs)


def _trial_speakers(
    enrolment_speakers: npt.ArrayLike, test_speakers: npt.ArrayLike, is_target: BoolArray
) -> _TrialSpeakers:
    enrolment, test = np.asarray(enrolment_speakers), np.asarray(test_speakers)
    if not (is_target.ndim == 1 and enrolment.shape == test.shape == is_target.shape):
        raise ValueError(
            f"is_target, enrolment_speakers and test_speakers must have one shape (trials,), got {is_target.shape}, "
            f"{enrolment.shape}, {test.shape}."
        )
    if enrolment.dtype.kind != test.dtype.kind or test.dtype.kind not in "iuU":
        raise ValueError(
            "enrolment_speakers and test_speakers must both be integers or both strings, got "
            f"{enrolment.dtype} and {test.dtype}."
        )
    mismatches = np.flatnonzero((enrolment == test) != is_target)
    if len(mismatches):
        trial = int(mismatches[0])
        raise ValueError(
            f"is_target must be true where both speakers are the same, got {is_target[trial]} for trial {trial} of "
            f"speakers {enrolment[trial]} and {test[trial]}. Check that labels and speakers are of one corpus."
        )
    names, numbers = np.unique(np.concatenate((enrolment, test)), return_inverse=True)
    first, second = np.split(numbers, 2)
    of_targets = first[is_target]
    num_target_speakers = len(np.unique(of_targets))
    if num_target_speakers < 2:
        raise ValueError(
            f"target trials must be of two speakers or more, got {num_target_speakers}. "
            "How much error rates vary between speakers cannot be told from one."
        )
    return _TrialSpeakers(len(names), of_targets, first[~is_target], second[~is_target])


def _draw(speakers: _TrialSpeakers, *, num_resamples: int, seed: int) -> Iterator[_Weights]:
    rng = np.random.default_rng(seed)
    drawn = 0
    while drawn < num_resamples:
        chosen = rng.integers(speakers.num_speakers, size=speakers.num_speakers)
        weights = speakers.weights(np.bincount(chosen, minlength=speakers.num_speakers))
        if weights.target.any() and weights.nontarget.any():
            drawn += 1
            yield weights


@dataclass(frozen=True, eq=False)
class _Curve:
    """The corners of a system's error rates, whatever its trials weigh.

    Between two corners only targets or only non-targets are rejected, or several trials of equal score at once: one
    rate stands still, or both move on a straight line. Neither minDCF nor the interpolated EER can be missed there.
    At an EER of 2 % a thirtieth of the thresholds are corners.

    Attributes:
        target_order: The target trials by ascending score, shape (targets,); likewise nontarget_order.
        targets_before: How many targets score below each corner, shape (corners,); likewise nontargets_before.
        thresholds: The score at each corner; infinity at the last.
    """

    target_order: IntArray
    nontarget_order: IntArray
    targets_before: IntArray
    nontargets_before: IntArray
    thresholds: Float64Array

    @classmethod
    def of(cls, scores: Float64Array, is_target: BoolArray) -> _Curve:
        order = np.argsort(scores)
        ascending, targets = scores[order], is_target[order]
        ends = np.concatenate(([0], np.flatnonzero(ascending[1:] != ascending[:-1]) + 1, [len(ascending)]))
        targets_before = np.concatenate(([0], np.cumsum(targets)))[ends]
        nontargets_before = ends - targets_before
        straight = _stands_still(targets_before) | _stands_still(nontargets_before)
        corners = np.flatnonzero(np.concatenate(([True], ~straight, [True])))
        place = np.cumsum(is_target) - 1  # of a target among the targets
        return cls(
            target_order=place[order[targets]],
            nontarget_order=(np.arange(len(scores)) - 1 - place)[order[~targets]],
            targets_before=targets_before[corners],
            nontargets_before=nontargets_before[corners],
            thresholds=np.append(ascending, np.inf)[ends[corners]],
        )

    def reweighted(self, weights: _Weights) -> ErrorRates:
        rejected_targets, num_targets = _sums_before(self.targets_before, weights.target, self.target_order)
        rejected_nontargets, num_nontargets = _sums_before(
            self.nontargets_before, weights.nontarget, self.nontarget_order
        )
        return ErrorRates(
            thresholds=self.thresholds,
            miss=rejected_targets / num_targets,
            false_alarm=(num_nontargets - rejected_nontargets) / num_nontargets,
        )


class _Part(NamedTuple):
    """Some of the trials of a list.

    Attributes:
        targets: Which of the target trials these are, shape (targets of the list,); likewise nontargets.
        curve: Of these trials.
        bits: What each target and each non-target trial of them adds to Cllr; None where scores are no ratios.
    """

    targets: BoolArray
    nontargets: BoolArray
    curve: _Curve
    bits: tuple[Float64Array, Float64Array] | None

    @classmethod
    def of(cls, scores: Float64Array, is_target: BoolArray, chosen: BoolArray, *, llr: bool) -> _Part:
        some, labels = checked_trials(scores[chosen], is_target[chosen])
        signed = np.logaddexp(0, np.where(labels, -some, some)) / np.log(2)
        bits = (signed[labels], signed[~labels]) if llr else None
        return cls(chosen[is_target], chosen[~is_target], _Curve.of(some, labels), bits)

    def metrics(self, weights: _Weights, p_targets: Sequence[float]) -> list[float]:
        own = _Weights(weights.target[self.targets], weights.nontarget[self.nontargets])
        if not (own.target.any() and own.nontarget.any()):
            return [np.nan] * (2 + len(p_targets) + (self.bits is not None))
        rates = self.curve.reweighted(own)
        values = [*_metrics(rates, p_targets), rates.min_cllr()]
        if self.bits is not None:
            values.append(sum(float(w @ b / w.sum()) for w, b in zip(own, self.bits, strict=True)) / 2)
        return values


def _stands_still(before: IntArray) -> BoolArray:
    """Whether a count is the same before, at and after each place between the first and the last."""
    steady: BoolArray = before[1:] == before[:-1]
    return steady[1:] & steady[:-1]


def _sums_before(places: IntArray, weights: IntArray, order: IntArray) -> tuple[IntArray, int]:
    """Sum of the weights that come before each place in an order, and the sum of all."""
    sums = np.zeros(len(order) + 1, np.int64)
    np.cumsum(weights.take(order), out=sums[1:])
    return sums.take(places), int(sums[-1])

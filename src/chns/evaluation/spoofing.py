"""Error rates where some trials are spoofed: SASV-EER, a-DCF, and, with a countermeasure's scores, the t-EER.

A spoof trial claims to be the enrolled speaker with synthetic, converted or replayed speech; it is to be rejected, as a
non-target trial is. A system may hold one score against one threshold (SASV-EER, a-DCF look at those), or ask a
countermeasure first whether the speech is genuine and then verify (t-EER looks at both thresholds together).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from chns.core import BoolArray, Float64Array, IntArray, TrialError, counted, number
from chns.evaluation.intervals import Interval, interval
from chns.evaluation.metrics import ErrorRates, metric_line
from chns.evaluation.trials import FieldLines, Trials

NONTARGET, TARGET, SPOOF = 0, 1, 2
_KINDS = {"nontarget": NONTARGET, "target": TARGET, "spoof": SPOOF}


class SpoofCosts(NamedTuple):
    """Priors and costs of the a-DCF; the defaults are the paper's first setting (a-DCF1), which its package has too."""

    p_target: float = 0.9
    p_nontarget: float = 0.05
    p_spoof: float = 0.05
    c_miss: float = 1.0
    c_fa_nontarget: float = 10.0
    c_fa_spoof: float = 20.0


A_DCF_1 = SpoofCosts()


class SpoofTrials(NamedTuple):
    """Scored trials of three kinds.

    Attributes:
        trials: Their names and places; without labels, which would be of two kinds.
        scores: Shape (trials,).
        kinds: `TARGET`, `NONTARGET` or `SPOOF`, shape (trials,).
    """

    trials: Trials
    scores: Float64Array
    kinds: IntArray

    @property
    def without_spoofs(self) -> tuple[Float64Array, BoolArray]:
        """Scores of the other trials, and whether they are targets."""
        genuine = self.kinds != SPOOF
        return self.scores[genuine], self.kinds[genuine] == TARGET


def read_spoof_scores(path: Path | str) -> SpoofTrials:
    """Read a score file with lines of ``ENROL TEST SCORE LABEL`` whose label is target, nontarget or spoof.

    Raises:
        FileNotFoundError: If there is no such file.
        TrialError: If a line does not read so, a score is not a finite number, or a kind of trial is missing.
    """
    content = FieldLines.read(path, "score file")
    _require_fields(content, 4, "ENROL TEST SCORE LABEL")
    enrolment, test, texts, words = content.columns(4)
    unknown = next((line for line, word in enumerate(words) if word not in _KINDS), None)
    if unknown is not None:
        raise TrialError(f"label must be one of {', '.join(_KINDS)}, got {content.quote(unknown)}.")
    kinds = np.fromiter(map(_KINDS.__getitem__, words), np.int64, len(words))
    for name, kind in _KINDS.items():
        if not (kinds == kind).any():
            raise TrialError(
                f"trials with spoofs must be of the kinds {', '.join(_KINDS)}, got no {name} in {content.source}."
            )
    trials = Trials(enrolment, test, None, source=content.source, lines=content.numbers)
    return SpoofTrials(trials, _scores(texts, content), kinds)


def read_countermeasure(path: Path | str, trials: Trials) -> Float64Array:
    """Scores of a countermeasure, which says whether speech is genuine: lines of ``TEST SCORE``, higher is genuine.

    Args:
        path: Each test utterance of the trials once; others are not looked at.
        trials: In this order come the results.

    Returns:
        Score of each trial's test utterance, shape (trials,).

    Raises:
        FileNotFoundError: If there is no such file.
        TrialError: If a line does not read so, an utterance is there twice, or one of the trials is missing.
    """
    content = FieldLines.read(path, "countermeasure's score file")
    _require_fields(content, 2, "TEST SCORE")
    names, texts = content.columns(2)
    scores = _scores(texts, content)
    found: dict[str, float] = {}
    for line, (name, score) in enumerate(zip(names, scores.tolist(), strict=True)):
        if name in found:
            raise TrialError(f"countermeasure must have one score an utterance, got a second in {content.quote(line)}.")
        found[name] = score
    missing = next((place for place, name in enumerate(trials.test) if name not in found), None)
    if missing is not None:
        raise TrialError(
            f"countermeasure must have a score for each test utterance, got none for that of {trials.place(missing)} "
            f"in {content.source}."
        )
    return np.fromiter(map(found.__getitem__, trials.test), np.float64, len(trials))


def _require_fields(content: FieldLines, num_fields: int, layout: str) -> None:
    fitting = content.num_leading(num_fields)
    if fitting < len(content.counts):
        raise TrialError(f"score file must have lines like `{layout}`, got {content.quote(fitting)}.")


def _scores(texts: list[str], content: FieldLines) -> Float64Array:
    scores = np.full(len(texts), np.nan)
    for line, text in enumerate(texts):
        try:
            scores[line] = number(text)
        except ValueError:
            break
    wrong = np.flatnonzero(~np.isfinite(scores))
    if len(wrong):
        raise TrialError(f"score must be a finite number, got {content.quote(int(wrong[0]))}.")
    return scores


class SpoofRates(NamedTuple):
    """Error rates at every threshold that tells trials apart, from the laxest to the strictest.

    Attributes:
        miss: Share of the targets that score below it.
        false_alarm: Share of the non-targets at or above it.
        spoof_alarm: Share of the spoofs at or above it.
        pooled: Share of both, every trial counting the same.
    """

    miss: Float64Array
    false_alarm: Float64Array
    spoof_alarm: Float64Array
    pooled: Float64Array

    def equal_error_rate(self, alarm: Float64Array) -> float:
        """Where the misses are as frequent as one kind of false alarm, interpolated as in `ErrorRates`."""
        return ErrorRates(self.miss, self.miss, alarm).equal_error_rate()

    def min_a_dcf(self, costs: SpoofCosts = A_DCF_1) -> float:
        """The lowest a-DCF over all thresholds, normalised; 1 is what accepting or rejecting everything costs.

        Returns:
            min over t of (c_miss * p_target * miss(t) + c_fa_nontarget * p_nontarget * false_alarm(t) +
            c_fa_spoof * p_spoof * spoof_alarm(t)), divided by the smaller of c_miss * p_target and
            c_fa_nontarget * p_nontarget + c_fa_spoof * p_spoof.

        Source:
            Shim, Jung, Kinnunen, Evans, Bonastre and Lapidot, "a-DCF: an architecture agnostic metric with application
            to spoofing-robust speaker verification", Odyssey 2024: the a-DCF and its normalisation.
        """
        weights = (
            costs.c_miss * costs.p_target,
            costs.c_fa_nontarget * costs.p_nontarget,
            costs.c_fa_spoof * costs.p_spoof,
        )
        cost = weights[0] * self.miss + weights[1] * self.false_alarm + weights[2] * self.spoof_alarm
        return float(cost.min() / min(weights[0], weights[1] + weights[2]))


class _Sorted(NamedTuple):
    """Scores in ascending order, and where a threshold may lie between them."""

    order: IntArray
    places: IntArray

    @classmethod
    def of(cls, scores: Float64Array) -> _Sorted:
        order = np.argsort(scores, kind="stable")
        ascending = scores[order]
        steps = np.flatnonzero(ascending[1:] != ascending[:-1]) + 1
        return cls(order, np.concatenate(([0], steps, [len(scores)])))

    def below(self, weights: Float64Array) -> Float64Array:
        """Share of the weight that scores below each threshold."""
        sums: Float64Array = np.concatenate(([0.0], np.cumsum(weights[self.order])))[self.places]
        return sums / float(sums[-1])


def spoof_rates(scores: npt.ArrayLike, kinds: IntArray, weights: npt.ArrayLike | None = None) -> SpoofRates:
    """The three error rates, with trials of equal score accepted or rejected together.

    Args:
        scores: Higher means more likely the genuine enrolled speaker, shape (trials,).
        kinds: `TARGET`, `NONTARGET` or `SPOOF`, shape (trials,); each must be there.
        weights: How often each trial counts, shape (trials,); by default once.
    """
    values = np.asarray(scores, np.float64)
    return _rates(_Sorted.of(values), kinds, np.ones(len(values)) if weights is None else np.asarray(weights, float))


def _rates(scores: _Sorted, kinds: IntArray, weights: Float64Array) -> SpoofRates:
    below = [scores.below(weights * (kinds == kind)) for kind in (TARGET, NONTARGET, SPOOF)]
    return SpoofRates(below[0], 1 - below[1], 1 - below[2], 1 - scores.below(weights * (kinds != TARGET)))


def concurrent_t_eer(
    scores: npt.ArrayLike, countermeasure: npt.ArrayLike, kinds: IntArray, weights: npt.ArrayLike | None = None
) -> float:
    """The error rate of countermeasure and verification in tandem where all three kinds of error are equally frequent.

    A trial is accepted if both accept it. With the rates of both, their decisions taken as independent within a kind of
    trial::

        miss     = 1 - (1 - miss_cm) (1 - miss_asv)
        alarm    = (1 - miss_cm) alarm_asv
        spoofed  = alarm_cm spoofed_asv

    The first two are equal where 1 - miss_cm = 1 / (1 + alarm_asv - miss_asv), so each threshold of the verification
    has one of the countermeasure, and one search along the former finds where the third is equal too. Between
    thresholds all rates are interpolated. The point does not depend on how often spoofs occur: the t-EER of every
    prevalence goes through it.

    Args:
        scores: Of the verification, shape (trials,).
        countermeasure: Higher is more likely genuine speech, shape (trials,).
        kinds: `TARGET`, `NONTARGET` or `SPOOF`, shape (trials,).
        weights: How often each trial counts, shape (trials,); by default once.

    Returns:
        A fraction; NaN where there is no such point: the verification alone rejects spoofs better than non-targets, or
        the countermeasure is worse than none.

    Source:
        Kinnunen, Lee, Tak, Evans and Nautsch, "t-EER: parameter-free tandem evaluation of countermeasures and biometric
        comparators", IEEE TPAMI 2023: tandem error rates and the concurrent t-EER.
    """
    values, genuine = np.asarray(scores, np.float64), np.asarray(countermeasure, np.float64)
    counted = np.ones(len(values)) if weights is None else np.asarray(weights, np.float64)
    return _t_eer(_Sorted.of(values), _Sorted.of(genuine), kinds, counted)


def _t_eer(scores: _Sorted, countermeasure: _Sorted, kinds: IntArray, weights: Float64Array) -> float:
    asv = _rates(scores, kinds, weights)
    miss_cm = countermeasure.below(weights * (kinds != SPOOF))
    alarm_cm = 1 - countermeasure.below(weights * (kinds == SPOOF))
    lax = asv.false_alarm >= asv.miss
    last = int(np.flatnonzero(lax)[-1])
    miss, alarm, spoofed = (one[: last + 2] for one in asv[:3])  # and the first point beyond the EER
    if miss[-1] > alarm[-1]:  # end at the EER itself, by interpolation
        gap = (miss - alarm)[-2:]
        share = -gap[0] / (gap[1] - gap[0])
        miss, alarm, spoofed = (
            np.append(one[:-1], one[-2] + share * (one[-1] - one[-2])) for one in (miss, alarm, spoofed)
        )
    passed = 1 / (1 + alarm - miss)
    equal = passed * alarm
    difference = equal - np.interp(1 - passed, miss_cm, alarm_cm) * spoofed
    negative = np.flatnonzero(difference < 0)
    if not len(negative):
        return float(equal[-1]) if spoofed[-1] >= equal[-1] else np.nan  # the countermeasure needs no miss for it
    after = int(negative[0])
    if after == 0:
        return np.nan
    share = difference[after - 1] / (difference[after - 1] - difference[after])
    return float(equal[after - 1] + share * (equal[after] - equal[after - 1]))


@dataclass(frozen=True, kw_only=True)
class SpoofMetrics:
    """What is reported of a list with spoofs.

    Attributes:
        counts: Trials by kind.
        rates: ``sasv_eer`` (targets against everything else), ``spf_eer`` (against spoofs), ``min_a_dcf`` and, with a
            countermeasure, ``cm_eer`` (genuine against spoofed trials) and ``t_eer``. Ends are NaN without a manifest.
        costs: Of the a-DCF.
    """

    counts: Mapping[str, int]
    rates: Mapping[str, Interval]
    costs: SpoofCosts

    def to_json(self) -> dict[str, object]:
        """All of it, under one key."""
        rates = {
            name: {key: value if np.isfinite(value) else None for key, value in one.to_json().items()}
            for name, one in self.rates.items()
        }
        return {"spoofing": {"trials": dict(self.counts), "rates": rates, "costs": self.costs._asdict()}}

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield f"with {counted(self.counts['spoof'], 'spoof trial')}"
        for name, one in self.rates.items():
            number_format = ".4f" if name == "min_a_dcf" else ".3%"
            text = format(one, number_format)
            if not np.isfinite(one.low):
                text = text.partition(" [")[0]
            if np.isnan(one.estimate):
                text = "none: the three errors are nowhere equally frequent"
            yield metric_line(_TITLES[name], text)
        yield "a-DCF: " + ", ".join(f"{name} {value:g}" for name, value in self.costs._asdict().items())


_TITLES = {
    "sasv_eer": "SASV-EER",
    "spf_eer": "SPF-EER",
    "min_a_dcf": "min a-DCF",
    "cm_eer": "EER, countermeasure",
    "t_eer": "t-EER, concurrent",
}


def spoof_metrics(
    scores: npt.ArrayLike,
    kinds: IntArray,
    *,
    countermeasure: npt.ArrayLike | None = None,
    speakers: tuple[IntArray, IntArray] | None = None,
    costs: SpoofCosts = A_DCF_1,
    num_resamples: int = 1000,
) -> SpoofMetrics:
    """SASV-EER, SPF-EER, a-DCF and, with a countermeasure's scores, its EER and the concurrent t-EER.

    Args:
        scores: Higher means more likely the genuine enrolled speaker, shape (trials,).
        kinds: `TARGET`, `NONTARGET` or `SPOOF`, shape (trials,); each must be there.
        countermeasure: Higher means more likely genuine speech, shape (trials,).
        speakers: Number of the speaker of each trial's enrolment, and of its test utterance, from 0, each of shape
            (trials,): adds 95 % intervals. Speakers are drawn as for `chns.evaluation.speaker_bootstrap`; a spoof trial
            counts as often as the speaker that it claims to be.
        costs: Of the a-DCF.
        num_resamples: Resamples of the speakers.

    Source:
        SASV-EER and SPF-EER: Jung et al., "SASV 2022: the first spoofing-aware speaker verification challenge",
        Interspeech 2022. For the others see `SpoofRates.min_a_dcf` and `concurrent_t_eer`.
    """
    sorted_scores = _Sorted.of(np.asarray(scores, np.float64))
    sorted_genuine = None if countermeasure is None else _Sorted.of(np.asarray(countermeasure, np.float64))

    def rates(weights: Float64Array) -> dict[str, float]:
        found = _rates(sorted_scores, kinds, weights)
        values = {
            "sasv_eer": found.equal_error_rate(found.pooled),
            "spf_eer": found.equal_error_rate(found.spoof_alarm),
            "min_a_dcf": found.min_a_dcf(costs),
        }
        if sorted_genuine is not None:
            miss = sorted_genuine.below(weights * (kinds != SPOOF))
            alarm = 1 - sorted_genuine.below(weights * (kinds == SPOOF))
            values["cm_eer"] = ErrorRates(miss, miss, alarm).equal_error_rate()
            values["t_eer"] = _t_eer(sorted_scores, sorted_genuine, kinds, weights)
        return values

    estimate = rates(np.ones(len(kinds)))
    drawn = [] if speakers is None else [rates(weights) for weights in _draws(speakers, kinds, num_resamples)]
    intervals = {}
    for name, value in estimate.items():
        resampled = np.array([one[name] for one in drawn])
        known = resampled[np.isfinite(resampled)]
        has_ends = len(known) > 0 and np.isfinite(value)
        intervals[name] = interval(value, known) if has_ends else Interval(value, np.nan, np.nan)
    counts = {name: int((kinds == kind).sum()) for name, kind in _KINDS.items()}
    return SpoofMetrics(counts=counts, rates=intervals, costs=costs)


def _draws(speakers: tuple[IntArray, IntArray], kinds: IntArray, num_resamples: int) -> Iterator[Float64Array]:
    """How often each trial counts on each resample that has all kinds of trial."""
    enrolment, test = speakers
    num_speakers = int(max(enrolment.max(), test.max())) + 1
    present = np.unique(np.concatenate(speakers))
    if len(present) < 2:
        raise ValueError(f"trials must be of two speakers or more, got {len(present)}.")
    rng = np.random.default_rng(0)
    drawn = 0
    while drawn < num_resamples:
        times = np.bincount(rng.choice(present, len(present)), minlength=num_speakers).astype(np.float64)
        weights = np.where(kinds == NONTARGET, times[enrolment] * times[test], times[enrolment])
        if all((weights[kinds == kind] > 0).any() for kind in _KINDS.values()):
            drawn += 1
            yield weights

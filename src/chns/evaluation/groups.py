"""Error rates by group: by gender, language, device, or whatever column a manifest has.

A trial belongs to a group if both of its utterances do (a same-group trial); where they differ it is a cross-group
trial. Non-targets of one group are harder than those across groups wherever the group is something that one hears, so
both are counted, and mixing them would make groups look better the more cross-group trials a list has.

Two questions have two answers. How well a model separates the speakers of a group is the group's own EER, minDCF and
Cllr, with any threshold. Whom a product treats worse is what happens at one threshold for all: the misses and false
alarms of each group at the threshold of the EER of all trials.

With many small groups the worst is partly chance: it is chosen on the same trials. Its interval does not know that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from chns.core import BoolArray, Float64Array, counted, percent
from chns.evaluation.intervals import Interval, interval
from chns.evaluation.metrics import REPORTED_P_TARGETS, error_rates, metric_line
from chns.evaluation.speaker_bootstrap import bootstrap_groups

MOST_GROUPS = 100
CROSS_GROUP = "cross-group"


@dataclass(frozen=True, kw_only=True)
class GroupRates:
    """One group's trials and error rates.

    Attributes:
        name: The value of the column.
        speakers: How many speakers its trials have.
        target_trials: Number of target trials.
        nontarget_trials: Number of non-target trials.
        rates: ``eer`` (a fraction), ``min_dcf_0.01``, ..., ``min_cllr`` and, of log-likelihood ratios, ``cllr``; empty
            if it lacks one kind of trial. Without an interval (both ends NaN) if only one speaker has target trials.
        miss: Share of its target trials below the threshold of all trials; NaN if it has none.
        false_alarm: Share of its non-target trials at or above that threshold; NaN if it has none.
    """

    name: str
    speakers: int
    target_trials: int
    nontarget_trials: int
    rates: Mapping[str, Interval]
    miss: float
    false_alarm: float

    def to_json(self) -> dict[str, object]:
        """All of it; what is not known is null."""
        return {
            "name": self.name,
            "speakers": self.speakers,
            "target_trials": self.target_trials,
            "nontarget_trials": self.nontarget_trials,
            "rates": {name: _interval_json(one) for name, one in self.rates.items()},
            "miss": _known(self.miss),
            "false_alarm": _known(self.false_alarm),
        }


class Extremes(NamedTuple):
    """The groups with the highest and the lowest EER, and the difference of the two on the same resamples."""

    worst: str
    best: str
    difference: Interval

    def to_json(self) -> dict[str, object]:
        """All of it."""
        return {"worst": self.worst, "best": self.best, "difference": _interval_json(self.difference)}


@dataclass(frozen=True, kw_only=True)
class GroupedRates:
    """Error rates by the values of one column.

    Attributes:
        column: Its name.
        threshold: Of the EER of all trials.
        groups: By name.
        cross: The trials between groups.
        without_group: Trials of an utterance whose column is empty; they are in no group.
        extremes: The worst and the best group; None if fewer than two have an EER.
    """

    column: str
    threshold: float
    groups: Sequence[GroupRates]
    cross: GroupRates
    without_group: int
    extremes: Extremes | None

    def to_json(self) -> dict[str, object]:
        """All of it."""
        return {
            "threshold": self.threshold,
            "groups": [group.to_json() for group in self.groups],
            "cross": self.cross.to_json(),
            "without_group": self.without_group,
            "extremes": None if self.extremes is None else self.extremes.to_json(),
        }

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield f"by {self.column}: trials within a group, 95 % intervals over speakers"
        for group in self.groups:
            yield f"  {group.name}: {_counted(group)}"
            for name, value in group.rates.items():
                yield "    " + _rate_line(name, value)
            yield "    " + _shares(group)
        yield f"  {CROSS_GROUP}: {_counted(self.cross)}"
        yield "    " + _shares(self.cross)
        yield f"  miss and false alarm: at one threshold for all, {self.threshold:.4f}, that of the EER of all trials"
        if self.without_group:
            yield f"  left out: {counted(self.without_group, 'trial')} of utterances without {self.column}"
        if self.extremes is not None:
            worst, best, difference = self.extremes
            yield f"  worst: {worst}; best: {best}; difference of the EER {difference.in_points()}"


def group_rates(
    scores: npt.ArrayLike,
    is_target: BoolArray,
    speakers: tuple[npt.NDArray[np.generic], npt.NDArray[np.generic]],
    values: tuple[npt.ArrayLike, npt.ArrayLike],
    *,
    column: str,
    num_resamples: int = 1000,
    p_targets: Sequence[float] = REPORTED_P_TARGETS,
    llr: bool = False,
) -> GroupedRates:
    """Error rates of each group of trials, with 95 % intervals over resamples of the speakers of all trials.

    Args:
        scores: Higher means more likely the same speaker, shape (trials,), finite.
        is_target: Whether each trial is one speaker, shape (trials,).
        speakers: Speaker of each trial's enrolment, and of its test utterance, each of shape (trials,).
        values: What the column says of each trial's enrolment, and of its test utterance; empty where it says nothing.
        column: Its name.
        num_resamples: Resamples of the speakers.
        p_targets: Priors of the minDCF.
        llr: Whether scores are log-likelihood ratios.

    Raises:
        ValueError: As `chns.evaluation.speaker_bootstrap.bootstrap_metrics`; or if no trial is within a group, or there
            are more than 100 groups.

    Source:
        Rates by group at the threshold of all trials: Toussaint and Ding 2022, "Bias in automated speaker recognition".
    """
    scores = np.asarray(scores, np.float64)
    threshold = error_rates(scores, is_target).equal_error_threshold()
    enrolment, test = (np.asarray(side, object) for side in values)
    known = (enrolment != "") & (test != "")
    within = known & (enrolment == test)
    names = sorted(set(enrolment[within].tolist()))
    if not names:
        raise ValueError(f"{column} must agree on both sides of some trials, got none that does.")
    if len(names) > MOST_GROUPS:
        raise ValueError(
            f"{column} must have at most {MOST_GROUPS} values, got {len(names)}: their groups would be too small to "
            "compare. Choose a coarser column."
        )
    chosen = [within & (enrolment == name) for name in names]
    rated = [place for place, one in enumerate(chosen) if 0 < is_target[one].sum() < one.sum()]
    rates: dict[int, dict[str, Interval]] = {}
    resampled: dict[int, Float64Array] = {}
    if rated:
        metrics = bootstrap_groups(
            scores,
            is_target,
            *speakers,
            trials_of=[chosen[place] for place in rated],
            num_resamples=num_resamples,
            p_targets=p_targets,
            llr=llr,
        )
        for row, place in enumerate(rated):
            several = len(np.unique(speakers[0][chosen[place] & is_target])) > 1
            rates[place] = {
                name: _interval(float(metrics.estimate[name][row]), drawn[row] if several else drawn[row][:0])
                for name, drawn in metrics.resampled.items()
            }
            resampled[place] = metrics.resampled["eer"][row]
    groups = [
        _group(name, one, scores >= threshold, is_target, speakers, rates.get(place, {}))
        for place, (name, one) in enumerate(zip(names, chosen, strict=True))
    ]
    cross = _group(CROSS_GROUP, known & ~within, scores >= threshold, is_target, speakers, {})
    return GroupedRates(
        column=column,
        threshold=threshold,
        groups=groups,
        cross=cross,
        without_group=int((~known).sum()),
        extremes=_extremes(names, rates, resampled),
    )


def _extremes(
    names: Sequence[str], rates: Mapping[int, Mapping[str, Interval]], resampled: Mapping[int, Float64Array]
) -> Extremes | None:
    if len(rates) < 2:
        return None
    ordered = sorted(rates, key=lambda place: rates[place]["eer"].estimate)
    best, worst = ordered[0], ordered[-1]
    estimate = rates[worst]["eer"].estimate - rates[best]["eer"].estimate
    return Extremes(names[worst], names[best], _interval(estimate, resampled[worst] - resampled[best]))


def _group(
    name: str,
    chosen: BoolArray,
    accepted: BoolArray,
    is_target: BoolArray,
    speakers: tuple[npt.NDArray[np.generic], npt.NDArray[np.generic]],
    rates: Mapping[str, Interval],
) -> GroupRates:
    targets, nontargets = accepted[chosen & is_target], accepted[chosen & ~is_target]
    return GroupRates(
        name=name,
        speakers=len(np.union1d(*(side[chosen] for side in speakers))),
        target_trials=len(targets),
        nontarget_trials=len(nontargets),
        rates=rates,
        miss=float(1 - targets.mean()) if len(targets) else np.nan,
        false_alarm=float(nontargets.mean()) if len(nontargets) else np.nan,
    )


def _interval(estimate: float, resampled: Float64Array) -> Interval:
    """Over the resamples that have a value; without ends if none has."""
    there = resampled[np.isfinite(resampled)]
    return interval(estimate, there) if len(there) else Interval(estimate, np.nan, np.nan)


def _counted(group: GroupRates) -> str:
    return (
        f"{counted(group.speakers, 'speaker')}, {group.target_trials:,} target and "
        f"{counted(group.nontarget_trials, 'non-target trial')}"
    )


def _shares(group: GroupRates) -> str:
    shares = [percent(share, 3) if np.isfinite(share) else "-" for share in (group.miss, group.false_alarm)]
    return metric_line("miss / false alarm", " / ".join(shares))


def _rate_line(name: str, value: Interval) -> str:
    number_format = ".3%" if name == "eer" else ".4f"
    text = format(value, number_format)
    if not np.isfinite(value.low):
        text = f"{text.partition(' [')[0]}, one speaker"
    titles = {"eer": "EER", "min_cllr": "minCllr", "cllr": "Cllr"}
    return metric_line(titles.get(name, f"minDCF (p_target {name.removeprefix('min_dcf_')})"), text)


def _interval_json(one: Interval) -> dict[str, float | None]:
    return {name: _known(value) for name, value in one.to_json().items()}


def _known(value: float) -> float | None:
    return value if np.isfinite(value) else None

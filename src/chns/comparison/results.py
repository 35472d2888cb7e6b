"""Error rates of strategies: means over seeds, and intervals of them and of their differences.

All systems of a trial list are evaluated on the same resamples of its speakers, so every difference is paired.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from chns.comparison.trial_lists import TrialList
from chns.core.arrays import Float64Array
from chns.evaluation.intervals import BootstrapMetrics, Interval, bootstrap_metrics, mean_over_seeds
from chns.verdict import Change

METRICS = {"eer": "EER", "min_dcf_0.05": "minDCF (0.05)", "min_dcf_0.01": "minDCF (0.01)"}
_P_TARGETS = (0.05, 0.01)
_NUM_RESAMPLES = 1000


@dataclass(frozen=True, eq=False, kw_only=True)
class ListResults:
    """What all strategies came to on one trial list.

    Attributes:
        trial_list: The trials.
        metrics: One system a run: those of the first strategy by seed, then those of the second, ...
        rows: Which systems are of each strategy.
    """

    trial_list: TrialList
    metrics: BootstrapMetrics
    rows: Mapping[str, slice]

    def per_seed(self, strategy: str, metric: str) -> Float64Array:
        """Value of each run of a strategy, shape (seeds,)."""
        values: Float64Array = self.metrics.estimate[metric][self.rows[strategy]]
        return values

    def mean(self, strategy: str, metric: str) -> Interval:
        """Mean over the seeds."""
        rows = self.rows[strategy]
        return mean_over_seeds(self.metrics.estimate[metric][rows], self.metrics.resampled[metric][rows])

    def difference(self, strategy: str, baseline: str, metric: str) -> Interval:
        """Mean over the seeds of a strategy's value minus the baseline's; negative: the strategy makes fewer errors."""
        own, other = self.rows[strategy], self.rows[baseline]
        estimate, resampled = self.metrics.estimate[metric], self.metrics.resampled[metric]
        return mean_over_seeds(estimate[own] - estimate[other], resampled[own] - resampled[other])

    def changes(self, strategy: str, baseline: str) -> list[Change]:
        """What the strategy changes against another, by metric."""
        return [
            Change(
                trial_list=self.trial_list.name,
                metric=metric,
                before=self.mean(baseline, metric).estimate,
                difference=self.difference(strategy, baseline, metric),
            )
            for metric in METRICS
        ]


def evaluate(trial_list: TrialList, scores: Mapping[str, Sequence[Float64Array]], *, seed: int = 0) -> ListResults:
    """Error rates of all runs on one trial list, and on resamples of its speakers.

    Args:
        trial_list: The trials.
        scores: Of each strategy, one array of shape (trials,) a seed, in the same order of seeds.
        seed: Of the resamples.
    """
    metrics = bootstrap_metrics(
        np.stack([one for of_strategy in scores.values() for one in of_strategy]),
        trial_list.is_target,
        *trial_list.speakers,
        num_resamples=_NUM_RESAMPLES,
        seed=seed,
        p_targets=_P_TARGETS,
    )
    ends = np.cumsum([len(of_strategy) for of_strategy in scores.values()])
    rows = {name: slice(end - len(scores[name]), end) for name, end in zip(scores, ends.tolist(), strict=True)}
    return ListResults(trial_list=trial_list, metrics=metrics, rows=rows)

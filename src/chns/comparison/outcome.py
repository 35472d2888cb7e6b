"""What a comparison came to, as one object and as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from chns.comparison.plan import Comparison, Length
from chns.comparison.results import METRICS, ListResults
from chns.verdict import Verdict


@dataclass(frozen=True, eq=False, kw_only=True)
class Outcome:
    """What a comparison came to.

    Attributes:
        comparison: Its settings.
        length: Of every run.
        results: By trial list, in the order of the settings.
        verdicts: On each strategy with hard batches that has a twin with random ones.
    """

    comparison: Comparison
    length: Length
    results: list[ListResults]
    verdicts: list[Verdict]

    def to_json(self) -> dict[str, Any]:
        """All numbers, of each seed too."""
        comparison = self.comparison
        return {
            "baseline": comparison.baseline,
            "seeds": list(comparison.seeds),
            "steps": self.length.num_steps,
            "segments_per_step": self.length.segments_per_step,
            "strategies": {
                name: {key: value for key, value in asdict(settings).items() if key != "seed"}
                for name, settings in comparison.strategies.items()
            },
            "trial_lists": {
                results.trial_list.name: {
                    **asdict(comparison.trial_lists[results.trial_list.name]),
                    "speakers": results.trial_list.num_speakers,
                    "target_trials": int(results.trial_list.is_target.sum()),
                    "nontarget_trials": int((~results.trial_list.is_target).sum()),
                    "results": {name: _numbers(results, name, comparison.baseline) for name in comparison.strategies},
                }
                for results in self.results
            },
            "verdicts": [verdict.to_json() for verdict in self.verdicts],
        }


def _numbers(results: ListResults, strategy: str, baseline: str) -> dict[str, Any]:
    return {
        metric: {
            "per_seed": results.per_seed(strategy, metric).tolist(),
            "mean": results.mean(strategy, metric).to_json(),
            "difference": None if strategy == baseline else results.difference(strategy, baseline, metric).to_json(),
        }
        for metric in METRICS
    }

"""A run's score files: error rates, and the trials that it gets most wrong."""

from __future__ import annotations

import logging

import numpy as np

from chns.core.arrays import Float64Array
from chns.evaluation.metrics import verification_metrics
from chns.evaluation.scoring import read_scores
from chns.evaluation.trials import Trials
from chns.report.findings import ScoredTrials
from chns.training.folder import RunFolder

_log = logging.getLogger(__name__)


def scored_trials(run: RunFolder, *, most_errors: int = 20) -> dict[str, ScoredTrials]:
    """What the score files of a run say, by trial list.

    A file without labels, or with targets or non-targets only, has no error rates; it is left out and named in the log.

    Args:
        run: Its folder ``scores`` holds files as `chns.evaluation.scoring.write_scores` makes them.
        most_errors: Most false accepts, and most false rejects, that are kept of each file.

    Raises:
        TrialError: If a file is not a score file.
    """
    found = {}
    for name, path in run.scores().items():
        trials, scores = read_scores(path)
        if trials.is_target is None or trials.is_target.all() or not trials.is_target.any():
            _log.warning("%s has not both targets and non-targets, so no error rates; it is left out.", path)
            continue
        found[name] = judged_trials(name, trials, scores, most_errors=most_errors)
    return found


def judged_trials(name: str, trials: Trials, scores: Float64Array, *, most_errors: int = 20) -> ScoredTrials:
    """Error rates of scored trials, and the worst errors at the threshold where misses and false alarms are equal.

    Args:
        name: Of the trial list.
        trials: With labels, both targets and non-targets.
        scores: One a trial, shape (trials,).
        most_errors: Most false accepts, and most false rejects, that are kept.

    Returns:
        Among its errors, equal scores keep the order of the list.
    """
    assert trials.is_target is not None
    metrics = verification_metrics(scores, trials.is_target)
    accepted = scores >= metrics.threshold
    accepts = np.flatnonzero(accepted & ~trials.is_target)
    rejects = np.flatnonzero(~accepted & trials.is_target)
    return ScoredTrials(
        name=name,
        trials=trials,
        scores=scores,
        metrics=metrics,
        false_accepts=accepts[np.argsort(-scores[accepts], kind="stable")][:most_errors],
        false_rejects=rejects[np.argsort(scores[rejects], kind="stable")][:most_errors],
    )

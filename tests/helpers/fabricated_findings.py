"""Findings of trainings that never were, for tests of the report."""

from pathlib import Path

import numpy as np

from chns.evaluation.trials import Trials
from chns.report.collect import judged_trials
from chns.report.run_findings import (
    BatchHardness,
    ClusterShapes,
    RunFindings,
    ScoredTrials,
    SpeakerMap,
    SuspectedDuplicate,
)

STRATEGIES = {
    "supcon": "SupCon, random batches",
    "chns": "SupCon, clustered batches, hard ratio 1.0",
    "chns_hscl": "H-SCL, clustered batches, hard ratio 0.5",
}


def fabricated_run(
    name="supcon",
    *,
    strategy=None,
    seed=0,
    separation=2.6,
    num_speakers=60,
    num_clusters=6,
    num_trials=400,
    trial_lists=("random", "hard"),
    speaker="speaker-{:04d}",
):
    """A run with everything; which of `STRATEGIES` it is of follows from the beginning of its name."""
    rng = np.random.default_rng(seed)
    strategy = strategy or STRATEGIES[name.partition("/")[0]]
    clustered = "clustered" in strategy
    neighbours = "neighbours" in strategy
    speakers = [speaker.format(number) for number in range(num_speakers)]
    clusters = rng.integers(num_clusters, size=num_speakers)
    centres = rng.normal(size=(num_clusters, 2))
    sizes = np.bincount(clusters, minlength=num_clusters)
    return RunFindings(
        name=name,
        path=Path("runs") / "x",
        strategy=strategy,
        log=_log(rng, clustered or neighbours),
        scored={n: _scored(rng, n, separation - 0.7 * i, num_trials, speakers) for i, n in enumerate(trial_lists)},
        speaker_map=SpeakerMap(
            speakers=speakers,
            points=centres[clusters] + 0.25 * rng.normal(size=(num_speakers, 2)),
            clusters=clusters if clustered else None,
            explained=0.23,
        ),
        cluster_shapes=ClusterShapes(
            sizes=sizes, tightness=np.where(sizes > 0, rng.uniform(0.5, 0.9, num_clusters), np.nan)
        )
        if clustered
        else None,
        batch_hardness=BatchHardness(
            kind="neighbours" if neighbours else "clustered",
            random=rng.normal(0.12, 0.15, 3_000),
            hard=rng.normal(0.22, 0.16, 3_000),
            random_closest=0.61,
            hard_closest=0.74,
        ),
        duplicates=[
            SuspectedDuplicate(speakers=(speakers[i], speakers[i + 1]), similarity=0.9 - 0.01 * i, own_similarity=0.85)
            for i in range(25)
        ],
        batches="neighbours" if neighbours else "clustered" if clustered else "random",
        num_training_speakers=num_speakers,
    )


def fabricated_runs(**settings):
    """Three runs, each of another strategy."""
    return [
        fabricated_run(name, seed=seed, separation=2.6 + 0.3 * seed, **settings) for seed, name in enumerate(STRATEGIES)
    ]


def _scored(rng, name, separation, num_trials, speakers) -> ScoredTrials:
    is_target = rng.random(num_trials) < 0.5
    scores = np.where(
        is_target, rng.normal(0.1 + 0.17 * separation, 0.15, num_trials), rng.normal(0.1, 0.16, num_trials)
    )
    first, second = rng.integers(len(speakers), size=(2, num_trials))
    second[is_target] = first[is_target]
    enrolment, test = (
        [f"{speakers[i]}/enrol/00001.wav" for i in first],
        [f"{speakers[i]}/test/00002.wav" for i in second],
    )
    return judged_trials(name, Trials(enrolment, test, is_target), np.clip(scores, -1, 1))


def _log(rng, clustered):
    steps = np.arange(50, 2_001, 50)
    progress = steps / 2_000
    hard = np.where(progress > 0.3, 1.0, 0.0) if clustered else np.zeros(len(steps))
    validated = np.arange(len(steps)) % 8 == 7
    return {
        "step": steps.astype(float),
        "loss": 3 * np.exp(-3 * progress) + 0.4 + 0.5 * hard + 0.05 * rng.normal(size=len(steps)),
        "hard_ratio": hard,
        "negative_similarity_mean": 0.1 * (1 - progress) + 0.1 * hard + 0.005 * rng.normal(size=len(steps)),
        "negative_similarity_p95": 0.4 + 0.1 * hard + 0.005 * rng.normal(size=len(steps)),
        "validation_eer": np.where(validated, rng.uniform(0.1, 0.13) * np.exp(-2 * progress) + 0.02, np.nan),
    }

"""Logs of trainings that never were, and verdicts on them."""

import math
from dataclasses import replace

import numpy as np

from chns.comparison.run_evidence import TwinEvidence
from chns.comparison.verdict import Change, Twin, judge
from chns.evaluation.intervals import Interval
from chns.training.settings import BatchSettings, ClusterSettings, TrainingSettings, TrainSettings

SETTINGS = TrainSettings(
    batches=BatchSettings(kind="clustered", speakers_per_batch=32),
    clusters=ClusterSettings(start_epoch=2, num_clusters=50),
    train=TrainingSettings(epochs=10),
)
GUESSING = math.log(63)


def log(
    *,
    loss=(1.0, 0.1),
    hard_loss=None,
    p95=0.4,
    temperature=(0.1, 0.07),
    hard_from=None,
    hard_to=math.inf,
    easy=None,
    steps=1000,
):
    """A fabricated log of 100 rows: loss and temperature fall on a straight line, within the hard phase on another."""
    step = np.linspace(steps / 100, steps, 100)
    hard = np.zeros(100, bool) if hard_from is None else (step > hard_from) & (step <= hard_to)
    losses = np.linspace(*loss, 100)
    if hard_loss is not None:
        losses[hard] = np.linspace(*hard_loss, hard.sum())
    return {
        "step": step,
        "loss": losses,
        "hard_ratio": hard.astype(float),
        "negative_similarity_p95": np.where(hard, p95, 0.4),
        "temperature": np.linspace(*temperature, 100),
        "easy_anchor_share": np.full(100, np.nan if easy is None else easy),
    }


def evidence(*, random=None, hard=None, settings=SETTINGS, **known):
    """Evidence in which no rule of `EXPLAIN_NO_HELP` fires but those that say how easy random batches were."""
    facts = {"num_training_speakers": 1000, "utterances_per_speaker": 20.0} | known
    return TwinEvidence(
        settings=settings,
        random_logs=[log(**(random or {}))],
        hard_logs=[log(**({"hard_from": 200, "hard_loss": (1.5, 0.4), "p95": 0.6} | (hard or {})))],
        **facts,
    )


def change(low, high, *, metric="eer", before=0.06):
    return Change(trial_list="hard", metric=metric, before=before, difference=Interval((low + high) / 2, low, high))


LOWER, HIGHER, SAME = change(-0.02, -0.01), change(0.01, 0.02), change(-0.01, 0.02)


def verdict(*changes, num_seeds=3, differing=(), **of_evidence):
    return judge(
        "chns", Twin("supcon", differing), changes=changes, num_seeds=num_seeds, evidence=evidence(**of_evidence)
    )


def rules_of(one):
    return [finding.rule for finding in one.findings]


def of_kind(kind, **clusters):
    return replace(
        SETTINGS, batches=replace(SETTINGS.batches, kind=kind), clusters=replace(SETTINGS.clusters, **clusters)
    )

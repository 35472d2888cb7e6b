"""The whole job on synthetic speech: corpus, three trainings of equal steps, evaluation on other speakers, a report."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from chns.comparison.compare import Outcome, compare
from chns.comparison.runs import ComparisonSettings, TrialListSettings, checked
from chns.core import available_cores, cpu_has_bfloat16
from chns.data import prepare_synthetic
from chns.evaluation import make_trials, write_trials
from chns.report.collect import collect_findings
from chns.report.drawing import require_libraries
from chns.report.page import Recordings, Report, write_report
from chns.report.run_findings import read_comparison
from chns.training.settings import (
    BatchSettings,
    ClusterSettings,
    DataSettings,
    ObjectSettings,
    OptimizerSettings,
    TrainingSettings,
    TrainSettings,
)

_log = logging.getLogger(__name__)

_NUM_SPEAKERS = 360
_NUM_TEST_SPEAKERS = 100
_NUM_FAMILIES = 36
_NUM_UTTERANCES = 6
_NUM_NONTARGETS = 3_000
_STRATEGIES = {"supcon": "random", "chns": "clustered", "auto": "auto"}
_TRIALS = {"random": None, "same_family": "family"}


@dataclass(frozen=True, eq=False, kw_only=True)
class Demo:
    """What the demonstration came to.

    Attributes:
        outcome: Of the comparison.
        report: Its page.
    """

    outcome: Outcome
    report: Report


def run_demo(folder: Path, *, seed: int = 0) -> Demo:
    """Train with random, clustered and ``auto`` batches, evaluate all three, and draw the report.

    Args:
        folder: Gets the corpus, what `chns.comparison.compare.compare` writes, and ``report``; calling again goes on
            where it stopped.
        seed: Of everything.

    Raises:
        ChnsError: If ``espeakng-loader``, or what draws the report, is not installed.
    """
    require_libraries()  # before minutes of training
    _log.info("1/3 synthesising %d speakers in %d families of similar voices", _NUM_SPEAKERS, _NUM_FAMILIES)
    corpus = prepare_synthetic(
        folder / "corpus",
        num_speakers=_NUM_SPEAKERS,
        num_utterances=_NUM_UTTERANCES,
        num_families=_NUM_FAMILIES,
        seed=seed,
    )
    training, test = corpus.split_speakers(_NUM_TEST_SPEAKERS, seed=seed)
    training.write(folder / "train.parquet")
    test.write(folder / "test.parquet")
    lists = {}
    for name, same_column in _TRIALS.items():
        path = folder / f"{name}_trials.txt"
        trials = make_trials(
            test, targets_per_speaker=15, num_nontargets=_NUM_NONTARGETS, same_column=same_column, seed=seed
        )
        if not path.is_file():  # scores are of a list as old as the model or older
            write_trials(path, trials)
        lists[name] = TrialListSettings(manifest=str(folder / "test.parquet"), trials=str(path))
    _log.info(
        "2/3 training three models on equally many segments, and evaluating them on %d other speakers",
        _NUM_TEST_SPEAKERS,
    )
    outcome = compare(
        checked(
            ComparisonSettings(
                base=_settings(folder / "train.parquet"),
                strategies={name: {"batches": {"kind": kind}} for name, kind in _STRATEGIES.items()},
                seeds=[seed],
                trial_lists=lists,
                baseline="supcon",
            )
        ),
        folder,
        jobs=min(len(_STRATEGIES), available_cores()),
    )
    _log.info("3/3 drawing the report")
    comparison = read_comparison(folder)
    return Demo(
        outcome=outcome,
        report=write_report(
            folder / "report",
            collect_findings(comparison.runs),
            comparison=comparison,
            recordings=Recordings(dict.fromkeys(lists, test), with_clips=True),
        ),
    )


def _settings(manifest: Path) -> TrainSettings:
    encoder = ObjectSettings(
        factory="chns.encoders.EcapaTdnn",
        settings={
            "channels": 64,
            "aggregation_channels": 192,
            "res2net_scale": 4,
            "se_bottleneck": 32,
            "attention_channels": 32,
        },
    )
    precision: Literal["bf16-mixed", "32-true"] = "bf16-mixed" if cpu_has_bfloat16() else "32-true"
    return TrainSettings(
        data=DataSettings(train=str(manifest), held_out_speakers=0, crop_seconds=1.5, num_workers=1),
        features={"hop_seconds": 0.02},
        encoder=encoder,
        batches=BatchSettings(speakers_per_batch=20, steps_per_epoch=50),
        clusters=ClusterSettings(start_epoch=2, hard_ratio=1.0, crop_seconds=1.5),
        optimizer=OptimizerSettings(learning_rate=0.005),
        train=TrainingSettings(epochs=6, device="cpu", precision=precision, log_every_steps=50),
    )

"""The whole job on synthetic speech: corpus, two trainings with equal steps, evaluation on speakers of neither."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from chns.bundle.bundle import load_model
from chns.data import Manifest, prepare_synthetic
from chns.evaluation import (
    Embedder,
    VerificationMetrics,
    make_trials,
    resolve,
    score_trials,
    verification_metrics,
    write_scores,
    write_trials,
)
from chns.training.run import train
from chns.training.settings import (
    BatchKind,
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
_NUM_NONTARGETS = 3_000
_STRATEGIES: dict[str, BatchKind] = {"supcon": "random", "chns": "clustered"}
_TRIALS = {"random trials": None, "same-family trials": "family"}

Results = Mapping[str, Mapping[str, VerificationMetrics]]


def run_demo(folder: Path, *, seed: int = 0) -> Results:
    """Train with random and with clustered batches, and evaluate both.

    Args:
        folder: Gets the corpus, both runs, the trial lists and the scores; calling again goes on where it stopped.
        seed: Of everything.

    Returns:
        Metrics by strategy ("supcon", "chns") and kind of trials.

    Raises:
        ChnsError: If ``espeakng-loader`` is not installed.
    """
    _log.info("1/3 synthesising %d speakers in %d families of similar voices", _NUM_SPEAKERS, _NUM_FAMILIES)
    corpus = prepare_synthetic(
        folder / "corpus", num_speakers=_NUM_SPEAKERS, num_utterances=12, num_families=_NUM_FAMILIES, seed=seed
    )
    training, test = corpus.split_speakers(_NUM_TEST_SPEAKERS, seed=seed)
    training.write(folder / "train.parquet")
    test.write(folder / "test.parquet")
    for strategy, kind in _STRATEGIES.items():
        _log.info("2/3 training %s: %s batches", strategy, kind)
        train(_settings(folder / "train.parquet", kind, seed), folder / strategy)
    _log.info("3/3 evaluating both on %d other speakers", _NUM_TEST_SPEAKERS)
    return {strategy: _evaluate(folder, strategy, test, seed) for strategy in _STRATEGIES}


def describe(results: Results) -> str:
    """A small table, and what it means, whatever came out."""
    supcon, chns = results["supcon"], results["chns"]
    width = max(map(len, _TRIALS))
    lines = [f"{'':<{width}}  {'EER':^17}  {'minDCF (p_target 0.05)':^23}"]
    lines.append(f"{'':<{width}}  {'random':>8} {'clustered':>8}  {'random':>11} {'clustered':>11}")
    for kind in _TRIALS:
        a, b = supcon[kind], chns[kind]
        lines.append(f"{kind:<{width}}  {a.eer:>8.2%} {b.eer:>9.2%}  {a.min_dcf[0.05]:>11.3f} {b.min_dcf[0.05]:>11.3f}")
    hard = list(_TRIALS)[-1]
    change = chns[hard].eer / supcon[hard].eer - 1 if supcon[hard].eer else 0.0
    if abs(change) < 0.1:
        verdict = "made no difference worth the name"
    else:
        verdict = f"{'lowered' if change < 0 else 'raised'} the EER by {abs(change):.0%} of its value"
    lines += [
        "",
        f"Same model, same number of steps, same size of batches: only their composition differs. On {hard},",
        f"where non-targets are voices of one family, clustered batches {verdict}.",
        "One seed, one small model, a few minutes: a change below a tenth is chance, and a larger one may be.",
        "Clustered batches pay when random ones have become easy; docs/hard_phase.md says what to tune on yours.",
    ]
    return "\n".join(lines)


def _settings(manifest: Path, kind: BatchKind, seed: int) -> TrainSettings:
    encoder = ObjectSettings(
        factory="chns.encoders.EcapaTdnn",
        settings={"channels": 96, "aggregation_channels": 288, "se_bottleneck": 48, "attention_channels": 48},
    )
    return TrainSettings(
        data=DataSettings(train=str(manifest), held_out_speakers=0, crop_seconds=2.0, num_workers=1),
        encoder=encoder,
        batches=BatchSettings(kind=kind, speakers_per_batch=32, steps_per_epoch=50),
        clusters=ClusterSettings(start_epoch=2, num_clusters=16, hard_ratio=1.0, crop_seconds=2.0),
        optimizer=OptimizerSettings(learning_rate=0.003),
        train=TrainingSettings(epochs=9, device="cpu", precision="bf16-mixed", log_every_steps=50),
        seed=seed,
    )


def _evaluate(folder: Path, strategy: str, test: Manifest, seed: int) -> dict[str, VerificationMetrics]:
    model = load_model(folder / strategy / "model")
    results = {}
    for kind, same_column in _TRIALS.items():
        trials = make_trials(
            test, targets_per_speaker=20, num_nontargets=_NUM_NONTARGETS, same_column=same_column, seed=seed
        )
        name = kind.replace(" ", "_")
        write_trials(folder / f"{name}.txt", trials)
        enrolment, others = resolve(trials, test)
        scores = score_trials(Embedder(model=model), test, enrolment, others)
        write_scores(folder / f"{strategy}_{name}_scores.txt", trials, scores)
        assert trials.is_target is not None
        results[kind] = verification_metrics(scores, trials.is_target)
    return results

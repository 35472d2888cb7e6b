"""The first words of the report, and what it says where there is nothing to show."""

from dataclasses import replace

import pytest
from fabricated_findings import STRATEGIES, fabricated_run, fabricated_runs

from chns.core import percent
from chns.report.curve_figures import by_trial_list
from chns.report.drawing import run_groups
from chns.report.first_screen import differing_settings, dot_figures, first_words, what_was_run
from chns.report.page import harder_batches, missing_reasons
from chns.report.run_findings import (
    ComparedChange,
    ComparedList,
    ComparedRuns,
    ComparedStrategy,
    ComparedValue,
    Difference,
    VerdictWords,
)

LOWER, HIGHER, NEITHER = (
    Difference(-0.01, -0.015, -0.005),
    Difference(0.008, 0.001, 0.02),
    Difference(-0.01, -0.02, 0.001),
)


def verdict(strategy, effect, *changes):
    return VerdictWords(
        strategy=strategy,
        twin="supcon",
        effect=effect,
        changes=[ComparedChange(trial_list, metric, 0.05, difference) for trial_list, metric, difference in changes],
        headline="",
        caveats=["Three seeds."],
        findings=[],
        next_steps=[],
    )


def comparison(*verdicts):
    value = {metric: ComparedValue([0.05], 0.05, None) for metric in ("eer", "min_dcf_0.05", "min_dcf_0.01")}
    lists = [
        ComparedList(name=n, speakers=20, targets=50, nontargets=70, strategies=[ComparedStrategy("supcon", value)])
        for n in ("same_family", "vox1-h")
    ]
    return ComparedRuns(
        baseline="supcon", seeds=[0, 1, 2], steps=10, segments_per_step=4, lists=lists, verdicts=verdicts, runs=[]
    )


def words_of(*verdicts):
    words = first_words(run_groups(fabricated_runs()), {}, comparison(*verdicts))
    plain = [text.replace("\N{NO-BREAK SPACE}", " ") for text in (words.title, words.quote, *words.notes)]
    return plain[0], plain[1], plain[2:]


@pytest.mark.parametrize(
    ("effect", "changes", "title"),
    [
        ("helped", [("same_family", "eer", LOWER)], "Hard batches made 20 % fewer errors on same-family trials"),
        ("hurt", [("vox1-h", "eer", HIGHER)], "Hard batches made 16 % more errors on vox1-h"),
        (
            "mixed",
            [("same_family", "eer", LOWER), ("vox1-h", "eer", HIGHER)],
            "Hard batches made 20 % fewer errors on same-family trials but made 16 % more errors on vox1-h",
        ),
        (
            "helped",
            [("vox1-h", "eer", NEITHER), ("vox1-h", "min_dcf_0.05", LOWER)],
            "Hard batches lowered minDCF 0.05 by 20 % on vox1-h",
        ),
        ("none", [("vox1-h", "eer", NEITHER)], "Hard batches made no measurable difference"),
    ],
)
def test_the_verdict_is_the_title(effect, changes, title):
    assert words_of(verdict("chns", effect, *changes))[0] == title


@pytest.mark.parametrize(
    ("difference", "title"),
    [
        (LOWER, "In one training, hard batches made 20 % fewer errors on vox1-h"),
        (NEITHER, "Hard batches made no measurable difference"),
    ],
)
def test_a_title_says_that_one_training_is_one(difference, title):
    of_one = replace(comparison(verdict("chns", "helped", ("vox1-h", "eer", difference))), seeds=[0])
    words = first_words(run_groups(fabricated_runs()), {}, of_one)
    assert words.title.replace("\N{NO-BREAK SPACE}", " ") == title


def test_the_sentence_to_quote_has_all_numbers_and_the_notes_the_caveats_and_the_other_strategies():
    helped = verdict("chns", "helped", ("same_family", "eer", LOWER))
    title, quote, notes = words_of(verdict("auto", "none", ("vox1-h", "eer", NEITHER)), helped)
    assert title.startswith("Hard batches (chns) made 20 % fewer errors")
    assert quote == (
        "chns has EER 4.00 % on same-family trials against 5.00 % of supcon: \N{MINUS SIGN}1.00 points "
        "[\N{MINUS SIGN}1.50, \N{MINUS SIGN}0.50] (95 % interval, paired, over speakers and 3 seeds; 50 targets, "
        "70 non-targets of 20 speakers)."
    )
    assert notes == ["auto against supcon: no measurable difference.", "Three seeds."]


def test_without_a_comparison_the_best_strategy_is_the_title():
    runs = fabricated_runs(trial_lists=("a",))
    words = first_words(run_groups(runs), by_trial_list(runs), None)
    ordered = sorted(runs, key=lambda run: run.scored["a"].metrics.eer)
    assert words.title == f"Lowest EER on a trials: {percent(ordered[0].scored['a'].metrics.eer)}, by {ordered[0].name}"
    assert f"of {ordered[0].name} (" in words.quote
    assert f"of {ordered[-1].name}." in words.quote
    alone = first_words(run_groups(runs[:1]), by_trial_list(runs[:1]), None)
    assert alone.title == f"EER {percent(runs[0].scored['a'].metrics.eer)} on a trials"


def test_what_was_run_is_told_with_the_settings_that_differ():
    def run(name, kind, seed):
        settings = {
            "encoder.factory": "chns.encoders.EcapaTdnn", "batches.kind": kind, "train.epochs": 3, "seed": seed,
            "batches.steps_per_epoch": 50, "batches.speakers_per_batch": 32, "batches.utterances_per_speaker": 2,
            "data.crop_seconds": 2.0, "train.device": "cpu", "train.precision": "bf16-mixed",
        }  # fmt: skip
        told = {
            "manifest": "train.parquet",
            "speakers": 1_100,
            "utterances": 13_200,
            "hours": 11.25,
            "version": "0.0.9",
        }
        return replace(
            fabricated_run(name, strategy=kind), settings=settings, trained_on=told, num_parameters=2_053_120
        )

    groups = run_groups([run(f"{kind}/seed-{seed}", kind, seed) for kind in ("random", "auto") for seed in (0, 1)])
    facts = dict(what_was_run(groups, None))
    assert facts["Trained on"] == "train.parquet, 11.2 hours, 1,100 speakers, 13,200 utterances"
    assert facts["Encoder"] == "EcapaTdnn, 2.05 M parameters"
    assert facts["Length"] == "150 steps of 32 speakers x 2 crops of 2 s"
    assert (facts["Seeds"], facts["Computed in"]) == ("0, 1", "cpu, bf16-mixed")
    assert facts["Version"].startswith("chns 0.0.9; report: ")
    assert list(differing_settings(groups)) == [("batches.kind", "random (random); auto (auto)")]


def test_a_dot_figure_has_a_row_a_strategy_and_a_single_run_has_none(tmp_path):
    runs = [fabricated_run(f"{name}/{seed}", seed=seed) for name in STRATEGIES for seed in range(2)]
    figures = dot_figures(tmp_path, run_groups(runs), by_trial_list(runs), None)
    assert [figure.name for figure in figures] == ["dots-1", "dots-2"]
    for name in STRATEGIES:
        assert all(f"{name} " in figure.alt for figure in figures)
    assert dot_figures(tmp_path, run_groups(runs[:1]), by_trial_list(runs[:1]), None) == []


def test_nothing_is_said_of_harder_batches_where_none_were_trained_on():
    clustered, random = fabricated_run("chns"), fabricated_run("supcon")
    shift = clustered.batch_hardness.hard.mean() - clustered.batch_hardness.random.mean()
    (sentence,) = harder_batches(run_groups([clustered, random]))
    assert f"chns: hard batches change the mean cosine of different speakers of a batch by {shift:+.3f}" in sentence
    assert "with the closest of them by +0.130" in sentence


def test_reasons_name_the_runs_that_share_them():
    runs = [fabricated_run("supcon/0"), fabricated_run("supcon/1"), fabricated_run("chns")]
    assert missing_reasons(runs)["clusters"] == ["supcon/0, supcon/1: random batches, so no clusters."]
    other = [replace(runs[2], cluster_shapes=None, batches=kind) for kind in ("clustered", "neighbours", "auto")]
    assert [missing_reasons([run])["clusters"] for run in other] == [
        ["chns: it has not clustered yet."],
        ["chns: batches of neighbours, so no clusters."],
        ["chns: batches of neighbours, so no clusters."],
    ]
    assert missing_reasons(runs)["training"] == []
    drawn = replace(runs[2], num_training_speakers=70_000)
    assert missing_reasons([drawn])["map"] == ["chns: of 70,000 training speakers, 60 drawn at random were looked at."]
    alone = replace(runs[2], batch_hardness=None)
    assert "fewer than two speakers" in missing_reasons([alone])["hardness"][0]

"""Verdicts: what is said follows from the numbers, each rule fires on its log and is silent otherwise."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from fabricated_evidence import (
    GUESSING,
    HIGHER,
    LOWER,
    SAME,
    SETTINGS,
    change,
    evidence,
    log,
    of_kind,
    rules_of,
    verdict,
)

from chns.comparison import rules
from chns.comparison.run_evidence import TwinEvidence, condition_mixing
from chns.comparison.verdict import Twin, find_twins, in_words
from chns.training.settings import ClusterSettings, ObjectSettings, OptimizerSettings


@pytest.mark.parametrize(
    ("changes", "effect", "said"),
    [
        ([LOWER, SAME, LOWER], "helped", "helped: 2 of 3 error rates are measurably lower, none is higher"),
        ([HIGHER, SAME], "hurt", "hurt: 1 of 2 error rates are measurably higher, none is lower"),
        ([LOWER, HIGHER], "mixed", "helped here, hurt there: 1 of 2 error rates are measurably lower, 1 higher"),
        ([SAME, SAME], "none", "made no measurable difference: none of 2 intervals leaves out zero"),
    ],
)
def test_the_effect_follows_from_the_intervals(changes, effect, said):
    one = verdict(*changes)
    assert one.effect == effect
    assert one.headline == f"Hard sampling (chns against supcon) {said}."
    assert str(one).startswith(one.headline)


def test_a_verdict_needs_an_error_rate():
    with pytest.raises(ValueError, match="changes must hold at least one error rate, got none"):
        verdict()


@pytest.mark.parametrize(
    ("one", "text"),
    [
        (LOWER, "hard, EER: 6.00 % to 4.50 %, -1.50 [-2.00, -1.00]: 25 % lower"),
        (HIGHER, "hard, EER: 6.00 % to 7.50 %, +1.50 [+1.00, +2.00]: 25 % higher"),
        (SAME, "hard, EER: 6.00 % to 6.50 %, +0.50 [-1.00, +2.00]: no measurable difference"),
        (
            change(-0.2, -0.1, metric="min_dcf_0.05", before=0.6),
            "hard, minDCF (0.05): 0.600 to 0.450, -0.150 [-0.200, -0.100]: 25 % lower",
        ),
        (change(0.01, 0.02, before=0.0), "hard, EER: 0.00 % to 1.50 %, +1.50 [+1.00, +2.00]: higher"),
    ],
)
def test_a_change_is_said_with_its_interval_and_called_nothing_if_that_holds_zero(one, text):
    assert str(one) == text


def test_one_seed_is_said_to_be_one():
    assert "One seed: the intervals hold for other speakers, not for another training" in str(
        verdict(LOWER, num_seeds=1)
    )
    assert "2 seeds: how much trainings differ by chance is known only roughly" in str(verdict(LOWER, num_seeds=2))
    assert "seed" not in " ".join(verdict(LOWER, num_seeds=3).caveats)
    assert verdict(LOWER, num_seeds=1).next_steps[0] == "seeds: [0, 1, 2]"


def test_what_neighbouring_verdicts_have_in_common_is_said_once_after_them():
    one, other = verdict(LOWER), replace(verdict(LOWER), strategy="auto")
    said = in_words([one, other, verdict(SAME)])
    assert said.startswith(f"{one.headline}\n\n- {LOWER}\n\n{other.headline}\n\n- {LOWER}\n\n{one.remarks}\n\n")
    assert said.endswith(str(verdict(SAME)))
    assert said.count(one.remarks) == 1
    assert in_words([one]) == str(one)


def test_what_chance_alone_would_give_is_said():
    assert "of 6 looked at, 0.3 would leave out zero by chance alone" in str(verdict(*[LOWER] * 6))
    assert "not the same as no difference" in str(verdict(SAME))


def test_other_differences_of_twins_are_said():
    one = verdict(LOWER, differing=("optimizer.learning_rate",))
    assert "Both also differ in optimizer.learning_rate, so it is not the batches alone." in str(one)


def test_help_is_explained_by_easy_random_batches_and_by_nothing_else():
    one = verdict(LOWER, utterances_per_speaker=2.0, random={"loss": (1.0, 0.05)})
    assert rules_of(one) == ["random_batches_easy"]
    end = np.linspace(1.0, 0.05, 100)[-10:].mean()
    assert f"their loss ended at {end:.2f}, {100 * end / GUESSING:.0f} % of that of guessing" in one.findings[0].text
    assert verdict(LOWER, random={"loss": (1.0, 0.5)}).findings == ()


def test_without_findings_it_says_so_and_still_gives_something_to_try():
    settings = replace(SETTINGS, loss=ObjectSettings(factory="own.Loss"))
    one = verdict(HIGHER, settings=settings)
    assert one.findings == ()
    assert "Nothing in the logs stands out" in str(one)
    assert one.next_steps == (
        "clusters: {hard_ratio: 0.5}",
        "batches: {kind: auto} (begins, grows and ends the hard phase by what it observes)",
    )


@pytest.mark.parametrize(
    ("rule", "fires", "silent"),
    [
        ("random_batches_not_easy", {"random": {"loss": (1, 0.3)}}, {"random": {"loss": (1, 0.1)}}),
        ("everything_learnt", {"hard": {"hard_loss": (1.0, 0.05)}}, {"hard": {"hard_loss": (1.0, 0.3)}}),
        ("near_duplicates", {"hard": {"p95": 0.95}}, {"hard": {"p95": 0.85}}),
        ("near_duplicates", {"suspected_duplicates": 10}, {"suspected_duplicates": 9}),
        ("few_utterances", {"utterances_per_speaker": 4.0}, {"utterances_per_speaker": 5.0}),
        ("stuck_hard_loss", {"hard": {"hard_loss": (1.5, 1.4)}}, {"hard": {"hard_loss": (1.5, 1.0)}}),
        ("risen_temperature", {"hard": {"temperature": (0.1, 0.1)}}, {"hard": {"temperature": (0.1, 0.08)}}),
        ("hardly_harder", {"hard": {"hard_loss": None, "p95": 0.4}}, {"hard": {"hard_loss": None, "p95": 0.5}}),
        ("hardly_harder", {"hard": {"hard_loss": None, "p95": 0.4}}, {"hard": {"p95": 0.4}}),
        (
            "hardly_harder",
            {"hard": {"hard_loss": None, "p95": 0.4, "easy": 0.95}, "random": {"easy": 0.96}},
            {"hard": {"hard_loss": None, "p95": 0.4, "easy": 0.95}, "random": {"easy": 0.98}},
        ),
        (
            "hardly_harder",
            {"hard": {"hard_loss": None, "p95": 0.4, "easy": 0.9}},
            {"hard": {"hard_loss": None, "p95": 0.4, "easy": 0.9}, "random": {"easy": 0.97}},
        ),
        (
            "stuck_hard_loss",
            {"hard": {"hard_loss": (1.5, 1.4), "hard_from": 790}},
            {"hard": {"hard_loss": (1.5, 1.4), "hard_from": 810}},
        ),
        ("short_hard_phase", {"hard": {"hard_from": 810}}, {"hard": {"hard_from": 740}}),
        ("short_hard_phase", {"hard": {"steps": 240, "hard_from": 50}}, {"hard": {"steps": 260, "hard_from": 50}}),
        (
            "separated_conditions",
            {"conditions": condition_mixing(["a", "a", "b", "b"], np.array([0, 0, 1, 1]))},
            {"conditions": condition_mixing(["a", "a", "b", "b"], np.array([0, 1, 0, 1]))},
        ),
    ],
)
def test_a_rule_fires_beyond_its_threshold_only(rule, fires, silent):
    assert rule in rules_of(verdict(SAME, **fires))
    assert rule not in rules_of(verdict(SAME, **silent))


def test_without_anything_odd_only_the_ease_of_random_batches_is_told():
    assert rules_of(verdict(SAME)) == ["random_batches_easy"]


def test_what_to_try_next_is_settings_that_differ_from_those_tried():
    one = verdict(SAME, hard={"hard_loss": None, "p95": 0.4, "hard_from": 900})
    assert "clusters: {num_clusters: 100}" in one.next_steps
    assert "train: {epochs: 20}" in one.next_steps
    assert "clusters: {start_epoch: 1}" in one.next_steps
    assert len(set(one.next_steps)) == len(one.next_steps)
    half = replace(SETTINGS, clusters=replace(SETTINGS.clusters, hard_ratio=0.5))
    assert "clusters: {hard_ratio: 0.25}" in verdict(HIGHER, settings=half, utterances_per_speaker=2.0).next_steps
    assert "clusters: {hard_ratio: 1}" in verdict(LOWER, settings=half).next_steps
    hardly = verdict(SAME, settings=half, hard={"hard_loss": None, "p95": 0.4})
    assert "clusters: {hard_ratio: 1.0}" in hardly.next_steps
    assert "seeds: [0, 1, 2, 3, 4, 5], or more speakers in the trials: narrower intervals" in verdict(SAME).next_steps
    measured_to_be_no_use = ("nearest", "refresh_every")  # docs/results/ablation.md
    for change_of_all in (LOWER, SAME, HIGHER):
        steps = verdict(change_of_all).next_steps
        assert not any(word in step for word in measured_to_be_no_use for step in steps)


def test_a_large_hard_ratio_that_an_adaptive_phase_left_again_counts_while_it_lasted():
    left = evidence(settings=of_kind("auto"), hard={"hard_from": 200, "hard_to": 500, "hard_loss": (1.5, 0.9)})
    assert left.hard_steps == pytest.approx(300)
    assert left.hard_phase("loss", hard=True) == pytest.approx(1.2)
    assert left.hard_phase("loss", hard=False) == pytest.approx(np.linspace(1.0, 0.1, 100)[20:50].mean())
    start, end = left.hardest("loss")
    assert start == pytest.approx(np.linspace(1.5, 0.9, 30)[:3].mean())
    assert end == pytest.approx(np.linspace(1.5, 0.9, 30)[-3:].mean())


def test_a_loss_that_rose_while_the_hard_ratio_did_is_not_stuck():
    ramped = evidence()
    rows = ramped.hard_logs[0]
    rows["hard_ratio"][20:60], rows["loss"][20:60] = 0.5, 0.2
    rows["loss"][60:] = np.linspace(1.0, 0.5, 40)
    assert ramped.hardest_steps == pytest.approx(400)
    assert rules.stuck_hard_loss(ramped) is None
    rows["loss"][60:] = 1.0
    assert "1.00 when they had become as hard as they would be" in rules.stuck_hard_loss(ramped).text


def test_an_adaptive_phase_that_never_began_is_told_with_where_to_look():
    one = verdict(SAME, settings=of_kind("auto"), hard={"hard_from": None})
    (short,) = (finding for finding in one.findings if finding.rule == "short_hard_phase")
    assert short.text.startswith("The hard phase was short: 0 of 1,000 steps. It begins when random batches are easy;")
    assert "clusters: {start_easy_share: 0.65}" in short.try_next


def test_an_earlier_start_is_no_advice_where_random_batches_still_taught():
    hard = {"hard_from": None}
    easy = verdict(SAME, settings=of_kind("auto"), random={"loss": (1.0, 0.01)}, hard=hard)
    assert "clusters: {start_easy_share: 0.65}" in easy.next_steps
    taught = verdict(SAME, settings=of_kind("auto"), random={"loss": (3.0, 2.0)}, hard=hard)
    assert {"short_hard_phase", "random_batches_not_easy"} <= set(rules_of(taught))
    assert [step for step in taught.next_steps if "start_easy_share" in step] == ["clusters: {start_easy_share: 0.9}"]


def test_a_log_of_an_older_version_is_judged_without_easy_anchors():
    older = evidence(hard={"hard_loss": None, "p95": 0.4})
    for rows in (*older.random_logs, *older.hard_logs):
        del rows["easy_anchor_share"]
    assert rules.hardly_harder(older) is not None


def test_every_rule_is_used_and_states_its_threshold():
    used = {*rules.EXPLAIN_HELP, *rules.EXPLAIN_NO_HELP}
    defined = {
        value
        for name, value in vars(rules).items()
        if callable(value)
        and getattr(value, "__module__", "") == rules.__name__
        and value.__doc__
        and name != "Explanation"
    }
    assert used == {rule for rule in defined if not rule.__name__.startswith("_")}


def test_seeds_are_averaged_and_validation_rows_left_out():
    one, other = log(loss=(1.0, 0.2)), log(loss=(1.0, 0.4))
    with_validation = {name: np.append(values, np.nan) for name, values in one.items()}
    with_validation["step"][-1] = 1000
    both = TwinEvidence(
        settings=SETTINGS,
        random_logs=[with_validation, other],
        hard_logs=[log(hard_from=200), log(hard_from=400)],
        num_training_speakers=10,
        utterances_per_speaker=9.0,
    )
    expected = np.mean([one["loss"][-10:].mean(), other["loss"][-10:].mean()])
    assert both.final("loss", hard=False) == pytest.approx(expected)
    assert both.hard_steps == pytest.approx(700)
    assert both.all_steps == pytest.approx(1000)


def test_a_log_without_temperatures_or_hard_phase_says_nothing():
    known = evidence(hard={"hard_from": None})
    assert known.hard_steps == 0
    assert math.isnan(known.hard_phase("loss", hard=True))
    assert rules.hardly_harder(known) is None
    assert rules.stuck_hard_loss(known) is None
    without = evidence()
    without.random_logs[0]["temperature"][:] = np.nan
    assert rules.risen_temperature(without) is None


def test_mixing_of_conditions_is_counted_in_pairs():
    mixing = condition_mixing(["a", "a", "a", "b", "b", "b"], np.array([0, 0, 1, 1, 1, 0]))
    # clusters {a, a, b} and {a, b, b}: 2 of 6 pairs are alike; of all 15 pairs 6 are
    assert mixing.within == pytest.approx(2 / 6)
    assert mixing.chance == pytest.approx(6 / 15)
    assert condition_mixing(["a", "a"], np.array([0, 0])) is None
    assert condition_mixing(["a", "b"], np.array([0, 1])) is None


def test_the_twin_has_random_batches_and_the_same_loss():
    hscl = ObjectSettings(factory="chns.losses.HSCLLoss")
    random = replace(SETTINGS, batches=replace(SETTINGS.batches, kind="random"))
    slower = replace(random, optimizer=OptimizerSettings(learning_rate=0.5))
    strategies = {
        "slower": slower,
        "supcon": replace(random, clusters=ClusterSettings(start_epoch=7)),
        "hscl": replace(random, loss=hscl, optimizer=OptimizerSettings(learning_rate=0.5)),
        "chns": SETTINGS,
        "half": replace(SETTINGS, clusters=ClusterSettings(hard_ratio=0.5)),
        "chns_hscl": replace(SETTINGS, loss=hscl),
        "alone": replace(SETTINGS, loss=ObjectSettings(factory="own.Loss")),
    }
    assert find_twins(strategies) == {
        "chns": Twin("supcon"),
        "half": Twin("supcon"),
        "chns_hscl": Twin("hscl", ("optimizer.learning_rate",)),
    }


def test_json_holds_numbers_and_words():
    one = verdict(LOWER, SAME)
    content = json.loads(json.dumps(one.to_json()))
    assert content["effect"] == "helped"
    assert content["headline"] == one.headline
    assert content["twin"] == {"name": "supcon", "other_differences": []}
    assert content["changes"][0]["difference"] == {"estimate": -0.015, "low": -0.02, "high": -0.01, "level": 0.95}
    assert [change["direction"] for change in content["changes"]] == ["lower", "no measurable difference"]
    assert content["next_steps"] == list(one.next_steps)
    assert [finding["rule"] for finding in content["findings"]] == rules_of(one)

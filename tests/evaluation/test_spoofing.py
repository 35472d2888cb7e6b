"""Error rates with spoofs against cases worked by hand, scikit-learn, and grids of thresholds."""

import numpy as np
import pytest
from scipy.optimize import brentq
from sklearn.metrics import roc_curve

from chns.core import TrialError
from chns.evaluation.metrics import equal_error_rate
from chns.evaluation.spoofing import (
    NONTARGET,
    SPOOF,
    TARGET,
    SpoofCosts,
    concurrent_t_eer,
    read_countermeasure,
    read_spoof_scores,
    spoof_metrics,
    spoof_rates,
)

KINDS = np.array([TARGET] * 4 + [NONTARGET] * 4 + [SPOOF] * 2)
SCORES = np.array([0.9, 0.8, 0.7, 0.2, 0.6, 0.3, 0.1, 0.0, 0.75, 0.4])


def simulated(rng, size=(300, 500, 400), spoof_gap=2.5, cm_gap=2.0):
    kinds = np.repeat([TARGET, NONTARGET, SPOOF], size)
    scores = rng.normal(size=len(kinds)) + np.choose(kinds, [0.0, 3.0, spoof_gap])
    return scores, rng.normal(size=len(kinds)) + cm_gap * (kinds != SPOOF), kinds


def test_a_list_worked_by_hand():
    found = spoof_metrics(SCORES, KINDS)
    rates = {name: one.estimate for name, one in found.rates.items()}
    # Against spoofs: above .4 and at most .7, one of four targets is missed and one of two spoofs accepted; at .75 two
    # of four and one of two.
    assert rates["spf_eer"] == pytest.approx(0.5)
    # Against all six others: at .7 one of four is missed, and .75 alone is accepted (1/6); at .6 also .6 (2/6): the
    # misses stay at 1/4 between them, so that the rates cross there.
    assert rates["sasv_eer"] == pytest.approx(0.25)
    # At .8: half of the targets missed, no false alarm: .9 x .5 = .45. At .7: .9 / 4 + 20 x .05 / 2 = .725. Normalised
    # by .9, which rejecting everything costs (accepting everything: .5 + 1).
    assert rates["min_a_dcf"] == pytest.approx(0.5)
    cheap = SpoofCosts(p_target=0.5, p_nontarget=0.25, p_spoof=0.25, c_fa_nontarget=1, c_fa_spoof=1)
    # At .7: .5 / 4 + .25 / 2 = .25; normalised by .5.
    assert spoof_rates(SCORES, KINDS).min_a_dcf(cheap) == pytest.approx(0.5)
    assert found.counts == {"nontarget": 4, "target": 4, "spoof": 2}


def test_equal_error_rates_are_those_of_scikit_learns_curve_and_a_root_finder(rng):
    scores, genuine, kinds = simulated(rng)
    rates = {name: one.estimate for name, one in spoof_metrics(scores, kinds, countermeasure=genuine).rates.items()}
    parts = {"sasv_eer": (scores, kinds >= 0), "spf_eer": (scores, kinds != NONTARGET), "cm_eer": (genuine, kinds >= 0)}
    for name, (values, some) in parts.items():
        positive = kinds[some] != SPOOF if name == "cm_eer" else kinds[some] == TARGET
        false_alarm, hit, _ = roc_curve(positive, values[some], drop_intermediate=False)
        by_root = brentq(lambda x, f=false_alarm, h=hit: 1 - x - np.interp(x, f, h), 0, 1)
        assert rates[name] == pytest.approx(by_root, abs=3e-3)
        assert rates[name] == pytest.approx(equal_error_rate(values[some], positive))


def test_the_a_dcf_is_the_lowest_cost_of_all_thresholds_tried_one_by_one(rng):
    scores, _, kinds = simulated(rng, (40, 50, 30))
    scores = scores.round(1)  # ties
    costs = SpoofCosts()
    tried = []
    for threshold in (*np.unique(scores), np.inf):
        accepted = scores >= threshold
        miss, alarm, spoofed = (~accepted)[kinds == TARGET], accepted[kinds == NONTARGET], accepted[kinds == SPOOF]
        tried.append(0.9 * miss.mean() + 10 * 0.05 * alarm.mean() + 20 * 0.05 * spoofed.mean())
    assert spoof_rates(scores, kinds).min_a_dcf(costs) == pytest.approx(min(tried) / 0.9)


def closest_on_a_grid(scores, genuine, kinds):
    """The point of all pairs of thresholds where the three tandem errors differ least, and by how much."""
    asv, cm = np.unique(scores), np.unique(genuine)
    miss_asv = (scores[kinds == TARGET] < asv[:, None]).mean(axis=1)
    alarm_asv = (scores[kinds == NONTARGET] >= asv[:, None]).mean(axis=1)
    spoofed_asv = (scores[kinds == SPOOF] >= asv[:, None]).mean(axis=1)
    miss_cm = (genuine[kinds != SPOOF] < cm[:, None]).mean(axis=1)
    alarm_cm = (genuine[kinds == SPOOF] >= cm[:, None]).mean(axis=1)
    miss = miss_cm + (1 - miss_cm) * miss_asv[:, None]
    errors = np.stack((miss, (1 - miss_cm) * alarm_asv[:, None], alarm_cm * spoofed_asv[:, None]))
    spread = errors.max(axis=0) - errors.min(axis=0)
    best = np.unravel_index(spread.argmin(), spread.shape)
    return errors[:, best[0], best[1]].mean(), spread[best]


@pytest.mark.parametrize(("spoof_gap", "cm_gap"), [(2.5, 2.0), (3.0, 0.5), (1.0, 1.0), (4.0, 3.0)])
def test_the_concurrent_t_eer_is_where_all_three_errors_agree_on_a_grid_of_thresholds(rng, spoof_gap, cm_gap):
    scores, genuine, kinds = simulated(rng, spoof_gap=spoof_gap, cm_gap=cm_gap)
    on_grid, spread = closest_on_a_grid(scores, genuine, kinds)
    assert spread < 0.01
    assert concurrent_t_eer(scores, genuine, kinds) == pytest.approx(on_grid, abs=0.01)


def test_special_cases_of_the_t_eer(rng):
    scores, genuine, kinds = simulated(rng)
    perfect = (kinds != SPOOF).astype(float)
    genuine_only = kinds != SPOOF
    alone = equal_error_rate(scores[genuine_only], kinds[genuine_only] == TARGET)
    # A countermeasure without errors leaves those of the verification.
    assert concurrent_t_eer(scores, perfect, kinds) == pytest.approx(alone, abs=2e-3)
    # A verification that takes every spoof for the target and errs nowhere else leaves those of the countermeasure.
    certain = np.where(kinds == NONTARGET, rng.normal(size=len(kinds)), 10.0 + rng.normal(size=len(kinds)))
    assert concurrent_t_eer(certain, genuine, kinds) == pytest.approx(
        equal_error_rate(genuine, kinds != SPOOF), abs=5e-3
    )
    # Spoofs that verification rejects better than non-targets have no such point.
    harmless = scores - 20 * (kinds == SPOOF)
    assert np.isnan(concurrent_t_eer(harmless, genuine, kinds))
    found = spoof_metrics(harmless, kinds, countermeasure=genuine)
    assert "t-EER, concurrent       none" in str(found)
    assert found.to_json()["spoofing"]["rates"]["t_eer"]["estimate"] is None


def test_a_weight_is_the_same_as_having_the_trial_that_often(rng):
    scores, genuine, kinds = simulated(rng, (30, 40, 20))
    weights = rng.integers(0, 3, len(kinds))
    rows = np.repeat(np.arange(len(kinds)), weights)
    weighted, written = spoof_rates(scores, kinds, weights), spoof_rates(scores[rows], kinds[rows])
    assert weighted.min_a_dcf() == pytest.approx(written.min_a_dcf())
    assert weighted.equal_error_rate(weighted.pooled) == pytest.approx(written.equal_error_rate(written.pooled))
    t_eers = (
        concurrent_t_eer(scores, genuine, kinds, weights),
        concurrent_t_eer(scores[rows], genuine[rows], kinds[rows]),
    )
    assert t_eers[0] == pytest.approx(t_eers[1])


def test_intervals_draw_speakers_with_the_spoofs_that_claim_to_be_them(rng):
    scores, genuine, kinds = simulated(rng)
    enrolment = rng.integers(20, size=len(kinds))
    test = np.where(kinds == NONTARGET, (enrolment + 1 + rng.integers(19, size=len(kinds))) % 20, enrolment)
    options = {"countermeasure": genuine, "num_resamples": 200}
    found = spoof_metrics(scores, kinds, speakers=(enrolment, test), **options)
    for one in found.rates.values():
        assert one.low < one.estimate < one.high
    # A spoofed speaker whom everything goes wrong for widens the interval.
    worse = scores + 5 * ((kinds == SPOOF) & (enrolment < 3))
    wider = spoof_metrics(worse, kinds, speakers=(enrolment, test), **options).rates["spf_eer"]
    assert wider.high - wider.low > found.rates["spf_eer"].high - found.rates["spf_eer"].low
    with pytest.raises(ValueError, match="trials must be of two speakers or more, got 1"):
        spoof_metrics(scores, kinds, speakers=(enrolment * 0, test * 0))


LINES = [
    f"m{row % 3} u{row} {score} {('nontarget', 'target', 'spoof')[kind]}"
    for row, (score, kind) in enumerate(zip(SCORES, KINDS, strict=True))
]


def test_files_are_read_as_they_are_written(tmp_path):
    (tmp_path / "s.txt").write_text("\n".join(LINES))
    read = read_spoof_scores(tmp_path / "s.txt")
    assert read.scores.tolist() == SCORES.tolist()
    assert read.kinds.tolist() == KINDS.tolist()
    assert read.without_spoofs[1].tolist() == [True] * 4 + [False] * 4
    (tmp_path / "cm.txt").write_text("\n".join(f"u{row} {-row}" for row in range(12)))
    assert read_countermeasure(tmp_path / "cm.txt", read.trials).tolist() == [float(-row) for row in range(10)]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([*LINES, "m u 0.5"], r"must have lines like `ENROL TEST SCORE LABEL`, got 'm u 0.5' in .*s.txt:11"),
        ([*LINES, "m u 0.5 fake"], "label must be one of nontarget, target, spoof, got 'm u 0.5 fake'"),
        ([*LINES, "m u nan spoof"], "score must be a finite number, got 'm u nan spoof'"),
        ([*LINES, "m u 1_0 spoof"], "score must be a finite number, got 'm u 1_0 spoof'"),
        (LINES[:8], "must be of the kinds nontarget, target, spoof, got no spoof in"),
    ],
)
def test_lists_that_are_not_of_this_form_are_refused(tmp_path, lines, message):
    (tmp_path / "s.txt").write_text("\n".join(lines))
    with pytest.raises(TrialError, match=message):
        read_spoof_scores(tmp_path / "s.txt")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["u0 1 2"], "must have lines like `TEST SCORE`, got 'u0 1 2' in"),
        (["u0 1", "u0 1"], "must have one score an utterance, got a second in 'u0 1' in .*cm.txt:2"),
        (["u0 1"], "must have a score for each test utterance, got none for that of .*s.txt:2"),
    ],
)
def test_countermeasures_that_do_not_fit_the_trials_are_refused(tmp_path, lines, message):
    (tmp_path / "s.txt").write_text("\n".join(LINES))
    (tmp_path / "cm.txt").write_text("\n".join(lines))
    with pytest.raises(TrialError, match=message):
        read_countermeasure(tmp_path / "cm.txt", read_spoof_scores(tmp_path / "s.txt").trials)

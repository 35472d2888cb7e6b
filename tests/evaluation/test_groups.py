"""Error rates by group against a list worked by hand, scikit-learn and a naive loop over the resamples."""

import numpy as np
import pytest
from scipy.optimize import brentq
from sklearn.metrics import roc_curve

from chns.evaluation.calibration_metrics import cllr, min_cllr
from chns.evaluation.groups import CROSS_GROUP, group_rates
from chns.evaluation.metrics import equal_error_rate, error_rates, min_dcf


def by_hand(scores, is_target, one, other, groups, **options):
    values = [groups[speaker] for speaker in one], [groups[speaker] for speaker in other]
    speakers = np.array(one), np.array(other)
    return group_rates(scores, np.array(is_target), speakers, values, column="gender", num_resamples=200, **options)


# Two women (0, 1) and two men (2, 3). All trials: 4 targets, 6 non-targets.
SCORES = [0.9, 0.3, 0.8, 0.7, 0.5, 0.2, 0.6, 0.1, 0.0, 0.4]
TARGET = [True, True, True, True, False, False, False, False, False, False]
ONE = [0, 1, 2, 3, 0, 1, 2, 2, 0, 3]
OTHER = [0, 1, 2, 3, 1, 0, 3, 3, 2, 1]
GENDER = {0: "f", 1: "f", 2: "m", 3: "m"}


def test_a_list_worked_by_hand():
    rated = by_hand(SCORES, TARGET, ONE, OTHER, GENDER)
    women, men = rated.groups
    # Of women: targets .9, .3; others .5, .2. At .5 one of two is missed and one of two accepted.
    assert women.rates["eer"].estimate == pytest.approx(0.5)
    # Of men: targets .8, .7; others .6, .1: all apart.
    assert men.rates["eer"].estimate == men.rates["min_dcf_0.05"].estimate == men.rates["min_cllr"].estimate == 0
    assert (women.target_trials, women.nontarget_trials, women.speakers) == (2, 2, 2)
    # All trials: at .6 one of four targets is missed, one of six others accepted.
    assert rated.threshold == 0.6
    assert (women.miss, women.false_alarm, men.miss, men.false_alarm) == (0.5, 0, 0, 0.5)
    assert (rated.cross.target_trials, rated.cross.nontarget_trials, rated.cross.speakers) == (0, 2, 4)
    assert np.isnan(rated.cross.miss)
    assert rated.cross.false_alarm == 0
    assert rated.extremes[:2] == ("f", "m")
    assert rated.extremes.difference.estimate == pytest.approx(0.5)


@pytest.fixture(scope="module")
def corpus():
    """Ten women whom the system hears less well than ten men."""
    rng = np.random.default_rng(1)
    one, other = rng.integers(20, size=(2, 4000))
    other[:1000] = one[:1000]
    is_target = one == other
    gap = np.where(one % 2, 3.0, 1.2)
    return rng.normal(size=4000) + gap * is_target, is_target, one, other


def of(corpus, **options):
    scores, is_target, one, other = corpus
    return by_hand(scores, is_target, one, other, {n: "m" if n % 2 else "f" for n in range(20)}, **options)


def test_each_group_has_the_rates_of_its_own_trials_alone(corpus):
    scores, is_target, one, other = corpus
    rated = of(corpus, llr=True)
    for parity, group in enumerate(rated.groups):
        own = (one % 2 == parity) & (other % 2 == parity)
        some, labels = scores[own], is_target[own]
        rates = {name: value.estimate for name, value in group.rates.items()}
        false_alarm, hit, _ = roc_curve(labels, some, drop_intermediate=False)
        by_sklearn = brentq(lambda x, f=false_alarm, h=hit: 1 - x - np.interp(x, f, h), 0, 1)
        assert rates["eer"] == pytest.approx(by_sklearn, abs=2e-3)  # it breaks ties of steps otherwise
        assert rates["eer"] == pytest.approx(equal_error_rate(some, labels))
        assert rates["min_dcf_0.01"] == pytest.approx(min_dcf(some, labels, p_target=0.01))
        assert rates["min_cllr"] == pytest.approx(min_cllr(some, labels))
        assert rates["cllr"] == pytest.approx(cllr(some, labels))
        accepted = some >= error_rates(scores, is_target).equal_error_threshold()
        assert group.miss == pytest.approx(1 - accepted[labels].mean())
        assert group.false_alarm == pytest.approx(accepted[~labels].mean())
    assert sum(g.target_trials for g in (*rated.groups, rated.cross)) == is_target.sum()
    assert sum(g.nontarget_trials for g in (*rated.groups, rated.cross)) == (~is_target).sum()
    assert rated.cross.name == CROSS_GROUP
    assert rated.extremes.worst == "f"
    assert rated.extremes.difference.low > 0


def test_intervals_are_those_of_trials_written_out_as_often_as_their_speakers_are_drawn(corpus):
    """The naive way: repeat the trials of a resample of all speakers, then compute each group's rates from scratch."""
    from chns.evaluation.speaker_bootstrap import bootstrap_groups

    scores, is_target, one, other = (column[:1500] for column in corpus)
    parts = [(one % 2 == parity) & (other % 2 == parity) for parity in (0, 1)]
    drawn = bootstrap_groups(scores, is_target, one, other, trials_of=parts, num_resamples=5, llr=True).resampled
    rng = np.random.default_rng(0)
    for resample in range(5):
        times = np.bincount(rng.integers(20, size=20), minlength=20)
        weights = np.where(is_target, times[one], times[one] * times[other])
        for row, part in enumerate(parts):
            rows = np.repeat(np.flatnonzero(part), weights[part])
            naive = {
                "eer": equal_error_rate(scores[rows], is_target[rows]),
                "min_dcf_0.05": min_dcf(scores[rows], is_target[rows], p_target=0.05),
                "min_cllr": min_cllr(scores[rows], is_target[rows]),
                "cllr": cllr(scores[rows], is_target[rows]),
            }
            assert {name: drawn[name][row, resample] for name in naive} == pytest.approx(naive)


def test_a_group_of_one_kind_of_trial_has_counts_and_shares_but_no_rates():
    rated = by_hand(SCORES, TARGET, ONE, OTHER, GENDER | {3: "x"})
    women, men, other = rated.groups
    assert women.rates
    assert not men.rates
    assert not other.rates
    assert (men.target_trials, men.nontarget_trials, men.miss) == (1, 0, 0)
    assert np.isnan(men.false_alarm)
    assert rated.extremes is None
    assert "difference" not in str(rated)


def test_one_speaker_gives_a_rate_without_an_interval():
    scores, one, other = [0.9, 0.1, 0.4, *SCORES], [4, 4, 5, *ONE], [4, 5, 4, *OTHER]
    groups = {**GENDER, 4: "x", 5: "x"}
    rated = by_hand(scores, [True, False, False, *TARGET], one, other, groups)
    assert rated.groups[2].rates["eer"].estimate == 0
    assert np.isnan(rated.groups[2].rates["eer"].low)
    assert "0.000 %, one speaker" in str(rated)
    assert rated.groups[2].to_json()["rates"]["eer"] == {"estimate": 0, "low": None, "high": None, "level": 0.95}


def test_trials_of_an_utterance_without_a_value_are_in_no_group():
    rated = by_hand(SCORES, TARGET, ONE, OTHER, GENDER | {0: ""})
    assert rated.without_group == 4
    assert "left out: 4 trials of utterances without gender" in str(rated)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (dict.fromkeys(range(4), ""), "gender must agree on both sides of some trials, got none that does"),
        (None, "gender must have at most 100 values, got 101"),
    ],
)
def test_columns_that_make_no_groups_are_refused(groups, message):
    one = np.arange(101) if groups is None else np.array(ONE)
    scores, is_target = (np.arange(102.0), np.ones(102, bool)) if groups is None else (SCORES, TARGET)
    other = one
    if groups is None:
        is_target[-1] = False
        one, other = np.append(one, 0), np.append(one, 1)
        groups = {n: str(n) for n in range(101)}
    else:
        other = OTHER
    with pytest.raises(ValueError, match=message):
        by_hand(scores, is_target, list(one), list(other), groups)

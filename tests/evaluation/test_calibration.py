"""Calibration against hand-worked cases, a known truth, scikit-learn, and what must hold for any data."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from chns.core.errors import ModelFileError
from chns.evaluation.calibration import Calibration, QualityTerm, fit_calibration
from chns.evaluation.calibration_metrics import cllr, min_cllr

P_TARGETS = [0.01, 0.05, 0.5, 0.9]


def gaussian_trials(num_trials, *, seed=0, means=(0.1, 0.5), deviation=0.2):
    """Scores whose true log-likelihood ratio is affine: two normal distributions of one width."""
    rng = np.random.default_rng(seed)
    is_target = np.arange(num_trials) % 2 == 0
    return rng.normal(np.take(means, is_target.astype(int)), deviation), is_target


def random_quality(num_trials, *, seed=1):
    rng = np.random.default_rng(seed)
    return {"duration": rng.uniform(1, 20, (num_trials, 2)), "magnitude": rng.uniform(5, 9, (num_trials, 2))}


@pytest.mark.parametrize("p_target", P_TARGETS)
def test_two_score_values_get_the_ratio_of_their_frequencies_whatever_the_prior(p_target):
    """Of the targets 3 in 4 score 1, of the non-targets 1 in 4: the ratios are 3 and 1/3."""
    scores = [1, 1, 1, 0, 1, 0, 0, 0]
    calibration = fit_calibration(scores, [True] * 4 + [False] * 4, p_target=p_target)
    np.testing.assert_allclose(calibration.apply([0.0, 1.0]), [-np.log(3), np.log(3)], rtol=1e-4)
    assert calibration.scale == pytest.approx(2 * np.log(3), rel=1e-4)


@pytest.mark.parametrize("p_target", P_TARGETS)
def test_the_true_calibration_is_found(p_target):
    scores, is_target = gaussian_trials(200_000)
    calibration = fit_calibration(scores, is_target, p_target=p_target)
    true_scale = (0.5 - 0.1) / 0.2**2
    assert calibration.scale == pytest.approx(true_scale, rel=0.03)
    assert calibration.offset == pytest.approx(-true_scale * 0.3, rel=0.03)
    assert calibration.quality == {}


def test_the_true_weight_of_a_duration_is_found():
    """Both means rise by 0.05 with each unit of the logarithm of the shorter duration, so it has to be taken off."""
    quality = {"duration": random_quality(200_000)["duration"]}
    scores, is_target = gaussian_trials(200_000)
    scores += 0.05 * np.log(quality["duration"].min(axis=1))
    calibration = fit_calibration(scores, is_target, p_target=0.5, quality=quality)
    assert calibration.scale == pytest.approx(10, rel=0.03)
    term = calibration.quality["duration"]
    assert term.smaller == pytest.approx(-0.5, abs=0.03)
    assert term.larger == pytest.approx(0, abs=0.03)
    assert (term.lowest, term.highest) == (quality["duration"].min(), quality["duration"].max())
    plain = fit_calibration(scores, is_target, p_target=0.5)
    assert cllr(calibration.apply(scores, quality), is_target) < cllr(plain.apply(scores), is_target)


@pytest.mark.parametrize("p_target", P_TARGETS)
@pytest.mark.parametrize("with_quality", [False, True])
def test_ratios_are_those_of_scikit_learn(p_target, with_quality):
    scores, is_target = gaussian_trials(3_000)
    quality = random_quality(3_000) if with_quality else {}
    ours = fit_calibration(scores, is_target, p_target=p_target, quality=quality).apply(scores, quality)

    shorter, longer = (f(np.log(quality["duration"]), axis=1) for f in (np.min, np.max)) if with_quality else ((), ())
    smaller, larger = (f(quality["magnitude"], axis=1) for f in (np.min, np.max)) if with_quality else ((), ())
    features = np.column_stack([scores, *([shorter, longer, smaller, larger] if with_quality else [])])
    features = (features - features.mean(axis=0)) / features.std(axis=0)
    weights = np.where(is_target, p_target / is_target.sum(), (1 - p_target) / (~is_target).sum())
    weights /= min(p_target, 1 - p_target)
    reference = LogisticRegression(C=1e6, tol=1e-12, solver="newton-cholesky", max_iter=1_000)
    reference.fit(features, is_target, sample_weight=weights)
    log_odds = reference.decision_function(features) - np.log(p_target / (1 - p_target))
    np.testing.assert_allclose(ours, log_odds, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("p_target", [1e-6, 0.05, 0.5, 1 - 1e-6])
def test_scores_without_an_error_get_finite_ratios(p_target):
    scores, is_target = np.r_[np.linspace(-0.2, 0.2, 50), np.linspace(0.5, 0.9, 50)], np.arange(100) >= 50
    calibration = fit_calibration(scores, is_target, p_target=p_target)
    llrs = calibration.apply(scores)
    assert 5 < calibration.scale < 1_000
    assert llrs[~is_target].max() < llrs[is_target].min()
    smallest = fit_calibration([0.0, 1.0], [False, True], p_target=p_target)
    assert 1 < smallest.scale < 1_000


def test_a_calibrated_list_has_nearly_the_lowest_cllr_and_no_other_line_a_lower_one():
    scores, is_target = gaussian_trials(20_000)
    calibration = fit_calibration(scores, is_target, p_target=0.5)
    lowest = cllr(calibration.apply(scores), is_target)
    assert min_cllr(scores, is_target) <= lowest < min_cllr(scores, is_target) + 0.01
    assert cllr(scores, is_target) > lowest + 0.3
    for factor, shift in ((1.02, 0), (0.98, 0), (1, 0.05), (1, -0.05)):
        assert cllr(factor * calibration.apply(scores) + shift, is_target) > lowest


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32), st.floats(0.1, 100), st.floats(-10, 10), st.sampled_from(P_TARGETS))
def test_ratios_do_not_depend_on_the_scores_unit_nor_the_trials_order_or_repetition(seed, factor, shift, p_target):
    scores, is_target = gaussian_trials(200, seed=seed)
    quality = random_quality(200, seed=seed)
    llrs = fit_calibration(scores, is_target, p_target=p_target, quality=quality).apply(scores, quality)
    moved = factor * scores + shift
    again = fit_calibration(moved, is_target, p_target=p_target, quality=quality).apply(moved, quality)
    np.testing.assert_allclose(again, llrs, rtol=1e-5, atol=1e-5)
    twice = np.random.default_rng(seed).permutation(np.r_[np.arange(200), np.arange(200)])
    some = {name: values[twice] for name, values in quality.items()}
    again = fit_calibration(scores[twice], is_target[twice], p_target=p_target, quality=some)
    np.testing.assert_allclose(again.apply(scores, quality), llrs, rtol=1e-5, atol=1e-5)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32))
def test_swapping_the_recordings_changes_nothing(seed):
    scores, is_target = gaussian_trials(100, seed=seed)
    quality = random_quality(100, seed=seed)
    swapped = {name: values[:, ::-1] for name, values in quality.items()}
    one, other = (fit_calibration(scores, is_target, p_target=0.05, quality=some) for some in (quality, swapped))
    assert one == other
    np.testing.assert_array_equal(one.apply(scores, quality), one.apply(scores, swapped))


def test_quality_beyond_what_was_fitted_counts_as_the_nearest_that_was():
    term = QualityTerm(smaller=2.0, larger=-1.0, lowest=1.0, highest=10.0)
    calibration = Calibration(scale=3.0, offset=0.5, quality={"duration": term})
    llrs = calibration.apply([0.1, 0.1, 0.1], {"duration": [[1, 10], [3_600, 0.2], [2, 5]]})
    expected = 0.8 + np.array([-np.log(10), -np.log(10), 2 * np.log(2) - np.log(5)])
    np.testing.assert_allclose(llrs, expected)
    magnitude = Calibration(scale=1.0, offset=0.0, quality={"magnitude": term})
    np.testing.assert_allclose(magnitude.apply([0.0], {"magnitude": [[5, 4]], "duration": [[1, 1]]}), [2 * 4 - 5])


@settings(deadline=None)
@given(st.floats(1e-3, 1e3), st.floats(-100, 100), st.floats(-100, 100))
def test_scores_at_is_the_inverse_of_apply(scale, offset, llr):
    term = QualityTerm(smaller=0.3, larger=-0.2, lowest=0.5, highest=30.0)
    calibration = Calibration(scale=scale, offset=offset, quality={"duration": term})
    quality = {"duration": [[1.0, 3.0], [2.0, 40.0]]}
    scores = calibration.scores_at(llr, quality, 2)
    np.testing.assert_allclose(calibration.apply(scores, quality), [llr, llr], atol=1e-9)


def test_recordings_whose_shorter_one_is_always_the_same_still_calibrate():
    quality = {"duration": np.column_stack((np.full(400, 3.0), np.linspace(3, 20, 400)))}
    scores, is_target = gaussian_trials(400)
    term = fit_calibration(scores, is_target, p_target=0.5, quality=quality).quality["duration"]
    assert term.smaller == pytest.approx(0, abs=1e-9)
    assert abs(term.larger) < 1


def test_json_gives_the_calibration_back():
    scores, is_target = gaussian_trials(500)
    calibration = fit_calibration(scores, is_target, p_target=0.05, quality=random_quality(500))
    stated = json.loads(json.dumps({**calibration.to_json(), "threshold": 1.5, "trials": "dev.txt"}, allow_nan=False))
    assert Calibration.from_json(stated) == calibration
    assert Calibration.from_json({"scale": 2, "offset": -1}) == Calibration(scale=2, offset=-1)


TERM = {"smaller": 0.1, "larger": 0.2, "lowest": 1.0, "highest": 2.0}


@pytest.mark.parametrize(
    "stated",
    [
        None,
        [],
        "scale",
        {"scale": True, "offset": 0},
        {"scale": 0.0, "offset": 0},
        {"scale": 1, "offset": float("inf")},
        {"scale": 1, "offset": 0, "quality": []},
        {"scale": 1, "offset": 0, "quality": {"duration": 3}},
        {"scale": 1, "offset": 0, "quality": {"duration": {}}},
        {"scale": 1, "offset": 0, "quality": {"duration": {**TERM, "more": 1}}},
        {"scale": 1, "offset": 0, "quality": {"duration": {**TERM, "smaller": float("nan")}}},
        {"scale": 1, "offset": 0, "quality": {"duration": {**TERM, "larger": 10**400}}},
        {"scale": 1, "offset": 0, "quality": {"duration": {**TERM, "lowest": 0}}},
        {"scale": 1, "offset": 0, "quality": {"duration": {**TERM, "lowest": 3}}},
        {"scale": 1, "offset": 0, "quality": {"loudness": TERM}},
    ],
)
def test_what_is_no_calibration_is_refused(stated):
    with pytest.raises(
        ModelFileError, match="calibration must have a positive scale and an offset, and may have quality"
    ):
        Calibration.from_json(stated)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda children: (
        st.lists(children, max_size=3)
        | st.dictionaries(
            st.sampled_from(["scale", "offset", "quality", "duration", "smaller", "larger", "lowest", "highest"]),
            children,
        )
    ),
    max_leaves=10,
)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["scale", "offset", "quality"]), ANYTHING))
def test_any_json_is_a_usable_calibration_or_a_clear_error(stated):
    try:
        calibration = Calibration.from_json(stated)
    except ModelFileError:
        return
    quality = {name: [[1.0, 2.0]] for name in calibration.quality}
    assert np.isfinite(calibration.apply([0.5], quality)).all()
    assert calibration.apply([0.6], quality) >= calibration.apply([0.5], quality)


def test_a_calibration_made_by_hand_obeys_the_same_rules():
    term = QualityTerm(**TERM)
    with pytest.raises(ValueError, match=r"calibration must have a positive scale and an offset, got -1.0 and 0.0"):
        Calibration(scale=-1.0, offset=0.0)
    with pytest.raises(ValueError, match="quality measure must be one of duration, magnitude, got 'loudness'"):
        Calibration(scale=1.0, offset=0.0, quality={"loudness": term})
    with pytest.raises(ValueError, match=r"quality term must be two weights and a positive range, got .* for duration"):
        Calibration(scale=1.0, offset=0.0, quality={"duration": QualityTerm(**{**TERM, "highest": 0.5})})


def test_scores_that_do_not_rise_with_being_a_target_are_refused():
    scores, is_target = gaussian_trials(500)
    with pytest.raises(ValueError, match=r"scores must separate targets from non-targets, .* got a scale of -"):
        fit_calibration(-scores, is_target, p_target=0.5)
    with pytest.raises(ValueError, match="scores must separate targets from non-targets"):
        fit_calibration([0, 1, 0, 1], [True, True, False, False], p_target=0.5)


@pytest.mark.parametrize("p_target", [0, 1, -0.1, float("nan")])
def test_a_prior_that_is_none_is_refused(p_target):
    with pytest.raises(ValueError, match="p_target must be between 0 and 1, both excluded"):
        fit_calibration(*gaussian_trials(10), p_target=p_target)


@pytest.mark.parametrize("scores", [[0.5, 0.5, 0.5], [0, 1e-9, 0], [0, 1e300, -1e300], [0, 1e9, 3]])
def test_scores_that_do_not_differ_sensibly_are_refused(scores):
    with pytest.raises(ValueError, match="scores must differ, by a standard deviation between 1e-06 and 1e\\+06, got"):
        fit_calibration(scores, [True, False, True], p_target=0.5)


def test_what_is_no_scored_trial_list_is_refused():
    with pytest.raises(ValueError, match="is_target must hold both targets and non-targets"):
        fit_calibration([0.1, 0.2], [True, True], p_target=0.5)
    with pytest.raises(ValueError, match="scores must be finite"):
        fit_calibration([0.1, np.nan], [True, False], p_target=0.5)


@pytest.mark.parametrize(
    ("quality", "message"),
    [
        ({"loudness": np.ones((10, 2))}, "quality measure must be one of duration, magnitude, got 'loudness'"),
        ({"duration": np.ones(10)}, r"duration must have shape \(10, 2\), two recordings a trial, got \(10,\)"),
        ({"duration": np.full((10, 2), 3.0)}, "duration must differ between recordings, got 3 for all. Leave it out"),
        ({"duration": np.zeros((10, 2))}, "duration must be a positive number, got 0.0"),
        ({"magnitude": np.full((10, 2), np.nan)}, "magnitude must be a positive number, got nan"),
        ({"magnitude": np.full((10, 2), np.inf)}, "magnitude must be a positive number, got inf"),
    ],
)
def test_quality_that_is_none_is_refused(quality, message):
    with pytest.raises(ValueError, match=message):
        fit_calibration(*gaussian_trials(10), p_target=0.5, quality=quality)


def test_quality_that_was_calibrated_for_has_to_be_given():
    calibration = Calibration(scale=1.0, offset=0.0, quality={"duration": QualityTerm(**TERM)})
    for quality in (None, {}, {"magnitude": [[1, 2]]}):
        with pytest.raises(ValueError, match=r"quality must have the duration of both recordings, .* got none"):
            calibration.apply([0.5], quality)

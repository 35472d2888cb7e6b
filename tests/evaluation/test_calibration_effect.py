"""The table of a trial list before and after calibration."""

import numpy as np
import pytest

from chns.core import percent
from chns.evaluation.calibration import fit_calibration
from chns.evaluation.calibration_metrics import actual_dcf, calibration_effect, cllr, min_cllr
from chns.evaluation.metrics import equal_error_rate, min_dcf


@pytest.fixture(scope="module")
def effect():
    rng = np.random.default_rng(0)
    is_target = np.arange(4_000) % 2 == 0
    scores = rng.normal(np.where(is_target, 0.5, 0.1), 0.15)
    llrs = fit_calibration(scores, is_target, p_target=0.1).apply(scores)
    return scores, llrs, is_target, calibration_effect(scores, llrs, is_target, p_target=0.1, threshold=1.0)


def test_every_number_is_that_of_its_function(effect):
    scores, llrs, is_target, made = effect
    pair = (scores, llrs)
    expected = {
        "EER": [equal_error_rate(values, is_target) for values in pair],
        "Cllr": [cllr(values, is_target) for values in pair],
        "minCllr": [min_cllr(values, is_target) for values in pair],
    }
    for p in (0.01, 0.05, 0.1):
        expected[f"actDCF (p_target {p})"] = [actual_dcf(values, is_target, p_target=p) for values in pair]
        expected[f"minDCF (p_target {p})"] = [min_dcf(values, is_target, p_target=p) for values in pair]
    assert set(made.rows) == set(expected)
    for name, values in expected.items():
        assert made.rows[name] == pytest.approx(values), name
    assert made.miss == np.mean(llrs[is_target] < 1)
    assert made.false_alarm == np.mean(llrs[~is_target] >= 1)


def test_calibration_lowers_the_actual_costs_and_leaves_the_lowest_possible_ones(effect):
    rows = effect[-1].rows
    for name, (before, after) in rows.items():
        if name.startswith(("EER", "min")):
            assert after == pytest.approx(before)
        else:
            assert after < before, name
    assert rows["actDCF (p_target 0.05)"][1] < rows["minDCF (p_target 0.05)"][1] + 0.05


def test_the_table_has_a_line_for_each_metric(effect):
    lines = str(effect[-1]).splitlines()
    assert lines[0] == "2,000 target and 2,000 non-target trials"
    assert lines[1].split() == ["scores", "calibrated"]
    assert len(lines) == 2 + len(effect[-1].rows) + 1
    assert lines[2].split() == [
        "EER",
        *(part for value in effect[-1].rows["EER"] for part in (f"{100 * value:.3f}", "%")),
    ]
    assert lines[3].split() == ["Cllr", *(f"{value:.4f}" for value in effect[-1].rows["Cllr"])]
    assert (
        lines[-1]
        == f"at the threshold {percent(effect[-1].miss)} misses and {percent(effect[-1].false_alarm)} false alarms"
    )

"""Means and paired differences over seeds, on scores made for the purpose, and which corpora speakers come from."""

import numpy as np
import pytest

from chns.comparison.results import METRICS, TrialList, evaluate
from chns.data import corpora_of
from chns.data.manifest import Manifest
from chns.evaluation.metrics import verification_metrics
from chns.evaluation.trials import Trials


@pytest.fixture(scope="module")
def trial_list(tmp_path_factory):
    """All pairs of 12 speakers x 3 utterances that do not exist as files."""
    rows = [
        {
            "utterance": f"{speaker}/{number}",
            "speaker": f"{speaker:02d}",
            "path": f"{speaker}/{number}.wav",
            "offset_seconds": 0.0,
            "duration_seconds": 1.0,
            "sample_rate_hz": 16_000,
        }
        for speaker in range(12)
        for number in range(3)
    ]
    manifest = Manifest.from_rows(rows, root=tmp_path_factory.mktemp("none"))
    enrolment, test = np.triu_indices(len(manifest), 1)
    names = manifest.column("utterance")
    is_target = manifest.speaker_labels[enrolment] == manifest.speaker_labels[test]
    trials = Trials([names[row] for row in enrolment], [names[row] for row in test], is_target)
    return TrialList(name="all", trials=trials, is_target=is_target, manifest=manifest, enrolment=enrolment, test=test)


def scores_of(trial_list, *, gap, seed):
    rng = np.random.default_rng(seed)
    return gap * trial_list.is_target + rng.normal(size=len(trial_list.is_target))


def test_a_strategy_that_is_better_is_measurably_better_and_itself_is_not(trial_list):
    scores = {
        name: [scores_of(trial_list, gap=gap, seed=10 * number + seed) for seed in range(3)]
        for number, (name, gap) in enumerate({"weak": 1.0, "strong": 4.0, "also_weak": 1.0}.items())
    }
    results = evaluate(trial_list, scores)
    for name, of_strategy in scores.items():
        expected = [verification_metrics(one, trial_list.is_target) for one in of_strategy]
        np.testing.assert_allclose(results.per_seed(name, "eer"), [one.eer for one in expected])
        np.testing.assert_allclose(results.per_seed(name, "min_dcf_0.05"), [one.min_dcf[0.05] for one in expected])
        assert results.mean(name, "eer").estimate == pytest.approx(np.mean([one.eer for one in expected]))
    strong = results.difference("strong", "weak", "eer")
    assert strong.estimate == pytest.approx(
        results.mean("strong", "eer").estimate - results.mean("weak", "eer").estimate
    )
    assert strong.high < 0
    assert not results.difference("also_weak", "weak", "eer").excludes_zero
    assert [change.direction for change in results.changes("strong", "weak")] == ["lower"] * 3
    assert [change.metric for change in results.changes("strong", "weak")] == list(METRICS)
    assert results.changes("weak", "strong")[0].before == results.mean("strong", "eer").estimate


def test_equal_scores_do_not_differ_at_all(trial_list):
    one = [scores_of(trial_list, gap=2.0, seed=0)]
    difference = evaluate(trial_list, {"a": one, "b": one}).difference("b", "a", "eer")
    assert (difference.estimate, difference.low, difference.high) == (0, 0, 0)


def test_speakers_are_counted_from_the_trials(trial_list):
    assert trial_list.num_speakers == 12


@pytest.mark.parametrize(
    ("speakers", "corpora"),
    [
        (["vox/a", "vox/b", "own/a"], ["vox", "vox", "own"]),
        (["vox/a", "b"], None),
        (["vox/a", "vox/b"], None),
        ([f"family{number}/a" for number in range(11)], None),
        ([*(f"vox/{number}" for number in range(99)), "own/a"], None),
    ],
)
def test_a_corpus_is_the_prefix_of_merged_manifests_and_no_other(speakers, corpora):
    assert corpora_of(speakers) == corpora

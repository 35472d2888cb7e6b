"""Score normalisation: the formulas, their invariants, and what a cohort must be."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chns.core import ManifestError
from chns.data.manifest import Manifest
from chns.evaluation import normalisation
from chns.evaluation.normalisation import KINDS, CohortNormalisation, normalise
from chns.evaluation.scoring import cosine_scores

TOP_K = {"z": None, "t": None, "s": None, "as": 5}


def case(seed=0, num_trials=60, num_utterances=12, cohort_size=20, dim=6):
    rng = np.random.default_rng(seed)
    embeddings = rng.normal(size=(num_utterances, dim)).astype(np.float32)
    cohort = rng.normal(size=(cohort_size, dim)).astype(np.float32)
    enrolment, test = rng.integers(0, num_utterances, (2, num_trials))
    return embeddings, cohort, enrolment, test


def normalised(embeddings, cohort, enrolment, test, kind, top_k=None):
    scores = cosine_scores(embeddings, enrolment, test)
    return normalise(scores, enrolment, test, embeddings, cohort, kind=kind, top_k=top_k)


def cosine(a, b):
    return float(np.dot(a, b) / np.sqrt(np.dot(a, a) * np.dot(b, b)))


def one_by_one(embeddings, cohort, enrolment, test, kind, top_k):
    embeddings, cohort = embeddings.astype(np.float64), cohort.astype(np.float64)
    results = []
    for a, b in zip(enrolment, test, strict=True):
        sides = []
        for row, letter in ((a, "z"), (b, "t")):
            against = sorted((cosine(embeddings[row], voice) for voice in cohort), reverse=True)[:top_k]
            mean = sum(against) / len(against)
            deviation = (sum((score - mean) ** 2 for score in against) / len(against)) ** 0.5
            if kind in (letter, "s", "as"):
                sides.append((cosine(embeddings[a], embeddings[b]) - mean) / deviation)
        results.append(sum(sides) / len(sides))
    return np.array(results)


# Formulas


@pytest.mark.parametrize(
    ("kind", "top_k", "expected"),
    [
        ("z", None, 0.0),
        ("t", None, -6.5 * 2**0.5),
        ("s", None, -3.25 * 2**0.5),
        ("as", 3, -3.25 * 2**0.5),
        ("as", 2, -5),
    ],
)
def test_worked_by_hand(kind, top_k, expected):
    """Against the cohort (1, 0) scores .6, 0, -.6 and (0, 1) scores .8, 1, .8; against each other they score 0."""
    embeddings = np.array([[2.0, 0.0], [0.0, 3.0]])
    cohort = np.array([[0.6, 0.8], [0.0, 1.0], [-0.6, 0.8]])
    scores = normalised(embeddings, cohort, np.array([0]), np.array([1]), kind, top_k)
    assert scores == pytest.approx([expected], rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows_at_once", [1, 5, 1000])
def test_normalised_scores_are_those_of_a_loop(monkeypatch, kind, rows_at_once):
    monkeypatch.setattr(normalisation, "_SCORES_AT_ONCE", 1)
    monkeypatch.setattr(normalisation, "_FEWEST_ROWS_AT_ONCE", rows_at_once)
    scores = normalised(*case(), kind, TOP_K[kind])
    assert scores.dtype == np.float32
    assert scores == pytest.approx(one_by_one(*case(), kind, TOP_K[kind]), abs=2e-5)


@pytest.mark.parametrize("top_k", [2, 3, 19, 20])
def test_any_top_k_is_that_of_a_loop(top_k):
    assert normalised(*case(), "as", top_k) == pytest.approx(one_by_one(*case(), "as", top_k), abs=2e-4, rel=1e-4)


def test_rows_that_no_side_uses_do_not_matter():
    embeddings, cohort, enrolment, test = case()
    unusable = np.concatenate((np.full((1, embeddings.shape[1]), np.nan), embeddings))
    scores = cosine_scores(embeddings, enrolment, test)
    moved = normalise(scores, enrolment + 1, test + 1, unusable, cohort, kind="s")
    assert (moved == normalised(embeddings, cohort, enrolment, test, "s")).all()


def test_memory_does_not_grow_with_utterances_times_cohort(monkeypatch):
    monkeypatch.setattr(normalisation, "_SCORES_AT_ONCE", 2**16)
    embeddings, cohort, enrolment, test = case(num_trials=100, num_utterances=4000, cohort_size=1000, dim=8)
    enrolment, test = np.arange(4000), np.arange(4000)[::-1]
    scores = cosine_scores(embeddings, enrolment, test)
    tracemalloc.start()
    normalise(scores, enrolment, test, embeddings, cohort, kind="as", top_k=100)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4000 * 1000 * 4 / 8  # all cohort scores in float32 would take eight times this


# Invariants


@given(st.integers(0, 10_000))
def test_z_norm_ranks_the_trials_of_an_enrolment_as_before_and_t_norm_those_of_a_test_utterance(seed):
    embeddings, cohort, enrolment, test = case(seed)
    scores = cosine_scores(embeddings, enrolment, test)
    for kind, rows in (("z", enrolment), ("t", test)):
        after = normalised(embeddings, cohort, enrolment, test, kind)
        for row in np.unique(rows):
            order = np.argsort(scores[rows == row], kind="stable")
            assert (np.diff(after[rows == row][order]) >= 0).all()


def test_the_cohort_itself_gets_z_scores_of_mean_0_and_deviation_1():
    embeddings, cohort, _, _ = case()
    both = np.concatenate((embeddings, cohort))
    enrolment = np.repeat(np.arange(12), 20)
    test = np.tile(np.arange(12, 32), 12)
    scores = normalised(both, cohort, enrolment, test, "z").reshape(12, 20)
    assert scores.mean(axis=1) == pytest.approx(0, abs=1e-5)
    assert scores.std(axis=1) == pytest.approx(1, abs=1e-5)


@pytest.mark.slow
@given(st.integers(0, 10_000))
def test_s_norm_is_the_average_of_both_sides_and_symmetric(seed):
    embeddings, cohort, enrolment, test = case(seed)
    z, t, s = (normalised(embeddings, cohort, enrolment, test, kind) for kind in ("z", "t", "s"))
    assert s == pytest.approx((z + t) / 2, abs=1e-4)
    assert normalised(embeddings, cohort, test, enrolment, "t") == pytest.approx(z, abs=1e-6)
    for kind, top_k in (("s", None), ("as", 7)):
        there = normalised(embeddings, cohort, enrolment, test, kind, top_k)
        assert normalised(embeddings, cohort, test, enrolment, kind, top_k) == pytest.approx(there, abs=1e-6)


@given(st.integers(0, 10_000))
def test_as_norm_with_the_whole_cohort_is_s_norm(seed):
    assert normalised(*case(seed), "as", 20) == pytest.approx(normalised(*case(seed), "s"), abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@given(seed=st.integers(0, 10_000))
def test_order_of_the_cohort_and_lengths_of_embeddings_do_not_matter(kind, seed):
    embeddings, cohort, enrolment, test = case(seed)
    rng = np.random.default_rng(seed)
    lengths = [rng.uniform(0.1, 10, (len(rows), 1)).astype(np.float32) for rows in (embeddings, cohort)]
    shuffled = rng.permutation(cohort * lengths[1])
    expected = normalised(embeddings, cohort, enrolment, test, kind, TOP_K[kind])
    changed = normalised(embeddings * lengths[0], shuffled, enrolment, test, kind, TOP_K[kind])
    assert changed == pytest.approx(expected, rel=1e-3, abs=1e-3)


# Refusals


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "x"}, "kind must be one of z, t, s, as, got 'x'"),
        ({"kind": "as"}, "top_k must be between 2 and the size of the cohort, 20, got None"),
        ({"kind": "as", "top_k": 21}, "top_k must be between 2 and the size of the cohort, 20, got 21"),
        ({"kind": "as", "top_k": 1}, "top_k must be between 2 and the size of the cohort, 20, got 1"),
        ({"kind": "s", "top_k": 5}, "top_k must be None unless kind is as, which alone chooses from the cohort, got 5"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        normalised(*case(), **settings)
    with pytest.raises(ValueError, match=message):
        CohortNormalisation(cohort=manifest_of(*(f"s{number}" for number in range(20))), **settings)


@pytest.mark.parametrize("kind", ["z", "s"])
def test_a_cohort_of_one_voice_is_refused(kind):
    embeddings, cohort, enrolment, test = case()
    with pytest.raises(ValueError, match=r"cohort scores must differ .* deviation of 0 for row 0 \(12 such rows\)"):
        normalised(embeddings, np.repeat(cohort[:1], 20, axis=0), enrolment, test, kind)


def test_the_row_without_deviation_is_named():
    cohort = np.array([[1.0, 1.0, 0.0], [-1.0, 1.0, 0.0]])
    embeddings = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    assert normalised(embeddings, cohort, np.array([0]), np.array([1]), "z") == pytest.approx([0])
    with pytest.raises(ValueError, match=r"deviation of 0 for row 1 \(1 such rows\)"):
        normalised(embeddings, cohort, np.array([0]), np.array([1]), "t")


def test_shapes_that_do_not_match_are_refused():
    embeddings, cohort, enrolment, test = case()
    scores = cosine_scores(embeddings, enrolment, test)
    with pytest.raises(ValueError, match=r"embeddings and cohort must have the same dimensions, got \(12, 6\) and"):
        normalise(scores, enrolment, test, embeddings, cohort[:, :3], kind="s")
    with pytest.raises(ValueError, match=r"embeddings and cohort must have the same dimensions, got \(6,\) and"):
        normalise(scores, enrolment, test, embeddings[0], cohort, kind="s")
    with pytest.raises(ValueError, match=r"scores must have shape \(60,\), one a trial, got \(59,\)"):
        normalise(scores[1:], enrolment, test, embeddings, cohort, kind="s")
    with pytest.raises(ValueError, match="enrolment_rows and test_rows must be equally many"):
        normalise(scores, enrolment, test[1:], embeddings, cohort, kind="s")
    with pytest.raises(ValueError, match="test_rows must be between 0 and 11, the rows of embeddings, got -"):
        normalise(scores, enrolment, -1 - test, embeddings, cohort, kind="s")


@pytest.mark.parametrize("side", [0, 1])
def test_embeddings_without_direction_are_refused(side):
    arrays = list(case())
    arrays[side] = arrays[side].copy()
    arrays[side][3] = 0
    with pytest.raises(ValueError, match="embeddings must be finite and not zero, got row"):
        normalise(np.zeros(60), arrays[2], arrays[3], arrays[0], arrays[1], kind="s")


# The cohort of a list


def manifest_of(*speakers):
    return Manifest.from_rows(
        [
            {
                "utterance": f"u{number}",
                "speaker": speaker,
                "path": f"u{number}.flac",
                "offset_seconds": 0.0,
                "duration_seconds": 3.0,
                "sample_rate_hz": 16000,
            }
            for number, speaker in enumerate(speakers)
        ],
        root=Path(),
    )


def test_what_is_stated_is_what_scores_depend_on():
    by_speakers = CohortNormalisation(cohort=manifest_of("a", "a", "b", "c"), kind="as", top_k=2, subtract_mean=True)
    assert str(by_speakers) == "AS-norm, top 2 of 3 cohort speakers, mean subtracted"
    assert by_speakers.to_json() == {
        "kind": "as",
        "cohort_of": "speakers",
        "cohort_size": 3,
        "top_k": 2,
        "mean_subtracted": True,
    }
    by_utterances = CohortNormalisation(cohort=manifest_of("a", "a", "b", "c"), kind="z", cohort_of="utterances")
    assert str(by_utterances) == "Z-norm, 4 cohort utterances"
    assert by_utterances.to_json()["top_k"] is None


def test_top_k_counts_what_the_cohort_is_made_of():
    cohort = manifest_of("a", "a", "b", "c")
    CohortNormalisation(cohort=cohort, kind="as", top_k=4, cohort_of="utterances")
    with pytest.raises(ValueError, match="top_k must be between 2 and the size of the cohort, 3, got 4"):
        CohortNormalisation(cohort=cohort, kind="as", top_k=4)
    with pytest.raises(ValueError, match="cohort_of must be speakers or utterances, got 'sessions'"):
        CohortNormalisation(cohort=cohort, kind="s", cohort_of="sessions")


def test_a_cohort_with_speakers_of_the_trials_is_refused_and_they_are_named():
    chosen = CohortNormalisation(cohort=manifest_of("a", "b", "c", "d", "e"), kind="s")
    trials = manifest_of("e", "x", "a", "c", "d", "y")
    message = r"cohort must have no speaker of the trials, got 4 of 6 in both: 'a', 'c', 'd', \.{4} Take other"
    with pytest.raises(ManifestError, match=message):
        chosen.require_other_speakers(trials, np.arange(6))
    with pytest.raises(ManifestError, match=r"got 1 of 2 in both: 'e'\. Take other speakers"):
        chosen.require_other_speakers(trials, np.array([0, 1]))
    chosen.require_other_speakers(trials, np.array([1, 5]))  # the rest of the manifest is in no trial

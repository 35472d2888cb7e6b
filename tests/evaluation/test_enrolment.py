"""Enrolment from several utterances: maps, names, and both ways to average."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chns.core import TrialError
from chns.data.manifest import Manifest
from chns.evaluation.enrolment import EnrolmentModels, read_enrolment_map, resolve_enrolment, score_enrolment
from chns.evaluation.normalisation import normalise
from chns.evaluation.scoring import cosine_scores
from chns.evaluation.trials import Trials, read_trials


def manifest_of(*paths):
    return Manifest.from_rows(
        [
            {
                "utterance": Path(path).stem,
                "speaker": Path(path).stem[0],
                "path": path,
                "offset_seconds": 0.0,
                "duration_seconds": 3.0,
                "sample_rate_hz": 16000,
            }
            for path in paths
        ],
        root=Path(),
    )


def map_of(tmp_path, content):
    path = tmp_path / "enroll.map"
    path.write_text(content)
    return read_enrolment_map(path)


# Maps


def test_a_line_is_a_model_and_its_utterances(tmp_path):
    read = map_of(tmp_path, "anna a1 a2 a3\n\n  ben\tb1\r\ncarl c1   c2\n")
    assert read.models == ["anna", "ben", "carl"]
    assert read.utterances == ["a1", "a2", "a3", "b1", "c1", "c2"]
    assert read.counts.tolist() == [3, 1, 2]
    assert [read.place(model) for model in range(3)] == [f"{tmp_path / 'enroll.map'}:{line}" for line in (1, 3, 4)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("anna a1\n\nben\n", r"lines like `MODEL UTTERANCE UTTERANCE \.\.\.`, got 'ben' in .*enroll\.map:3"),
        (
            "anna a1\nben b1\n\nanna a2\n",
            r"one line with all its utterances, got 'anna' in .*enroll\.map:4 and again in line 1",
        ),
        ("\n \n", "enrolment map must have at least one line, got none in"),
    ],
)
def test_a_malformed_map_is_named_with_its_line(tmp_path, content, message):
    with pytest.raises(TrialError, match=message):
        map_of(tmp_path, content)


def test_a_missing_map_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"enrolment map must be a file, got .*absent\.map"):
        read_enrolment_map(tmp_path / "absent.map")


# Names


def test_trials_become_models_and_rows(tmp_path):
    manifest = manifest_of("wav/a1.flac", "wav/b1.flac", "wav/a2.flac", "wav/c1.flac", "wav/c2.flac")
    enrolment_map = map_of(tmp_path, "unused x1 x2\ncarl wav/c2.wav c1\nanna a1 a2.wav\n")
    trials = Trials(["anna", "carl", "anna"], ["b1", "b1.wav", "c1"], None)
    models, enrolment, test = resolve_enrolment(trials, enrolment_map, manifest)
    assert models.rows.tolist() == [4, 3, 0, 2]
    assert models.counts.tolist() == [2, 2]
    assert models.starts.tolist() == [0, 2]
    assert enrolment.tolist() == [1, 0, 1]
    assert test.tolist() == [1, 1, 3]


def test_an_unknown_model_is_named_with_its_trial(tmp_path):
    (tmp_path / "trials.txt").write_text("anna b1 1\n\nben b1 0\nbob b1 0\nben a1 0\n")
    trials = read_trials(tmp_path / "trials.txt")
    message = r"must be a model of .*enroll\.map, got 'ben' in .*trials\.txt:3 \(2 such names\)"
    with pytest.raises(TrialError, match=message):
        resolve_enrolment(trials, map_of(tmp_path, "anna a1\n"), manifest_of("a1.wav", "b1.wav"))


def test_an_unknown_utterance_of_a_model_is_named_with_its_line(tmp_path):
    enrolment_map = map_of(tmp_path, "unused x1\n\nanna a1 a2\nben a1 b9 b8 b9\n")
    trials = Trials(["ben", "anna"], ["a1", "a1"], None)
    message = (
        r"enrolment map must name one utterance .* got 3 names .*: 'a2' in .*map:3, 'b9' in .*map:4, 'b8' in .*map:4"
    )
    with pytest.raises(TrialError, match=message):
        resolve_enrolment(trials, enrolment_map, manifest_of("a1.wav", "b1.wav"))


def test_an_unknown_test_utterance_is_named_with_its_line(tmp_path):
    (tmp_path / "trials.txt").write_text("anna b1 1\nanna b2 0\n")
    trials = read_trials(tmp_path / "trials.txt")
    with pytest.raises(TrialError, match=r"trials must name one utterance .* got 1 names .*: 'b2' in .*trials\.txt:2"):
        resolve_enrolment(trials, map_of(tmp_path, "anna a1\n"), manifest_of("a1.wav", "b1.wav"))


# Scores


MODELS = EnrolmentModels(rows=np.array([0, 1, 2]), counts=np.array([2, 1]))
EMBEDDINGS = np.array([[2.0, 0.0], [0.0, 5.0], [-3.0, 0.0], [0.6, 0.8]], np.float32)


@pytest.mark.parametrize(
    ("averaged", "expected"), [("embeddings", [1.4 / 2**0.5, -0.6, 1 / 2**0.5]), ("scores", [0.7, -0.6, 0.5])]
)
def test_worked_by_hand(averaged, expected):
    """A model of (1, 0) and (0, 1), whose lengths do not count, and one of (-1, 0), against (.6, .8) and (1, 0)."""
    enrolment, test = np.array([0, 1, 0]), np.array([3, 3, 0])
    scores = score_enrolment(EMBEDDINGS, MODELS, enrolment, test, score=cosine_scores, averaged=averaged)
    assert scores.dtype == np.float32
    assert scores == pytest.approx(expected, abs=1e-6)


def random_case(seed):
    rng = np.random.default_rng(seed)
    embeddings = rng.normal(size=(15, 5)).astype(np.float32)
    counts = rng.integers(1, 5, 6)
    models = EnrolmentModels(rows=rng.integers(0, 15, counts.sum()), counts=counts)
    enrolment, test = rng.integers(0, 6, 40), rng.integers(0, 15, 40)
    return embeddings, models, enrolment, test, rng.normal(size=(12, 5)).astype(np.float32)


def normalising_with(cohort):
    def score(embeddings, enrolment_rows, test_rows):
        scores = cosine_scores(embeddings, enrolment_rows, test_rows)
        return normalise(scores, enrolment_rows, test_rows, embeddings, cohort, kind="as", top_k=4)

    return score


@pytest.mark.slow
@pytest.mark.parametrize("normalised", [False, True])
@settings(max_examples=20)
@given(seed=st.integers(0, 10_000))
def test_each_trial_is_what_a_loop_over_its_utterances_gives(normalised, seed):
    embeddings, models, enrolment, test, cohort = random_case(seed)
    score = normalising_with(cohort) if normalised else cosine_scores
    by_embeddings, by_scores = [], []
    for model, row in zip(enrolment.tolist(), test.tolist(), strict=True):
        rows = models.rows[models.starts[model] :][: models.counts[model]]
        by_scores.append(np.mean([score(embeddings, np.array([one]), np.array([row]))[0] for one in rows]))
        unit = embeddings[rows] / np.linalg.norm(embeddings[rows], axis=1, keepdims=True)
        pair = np.stack((unit.mean(axis=0), embeddings[row]))
        by_embeddings.append(score(pair, np.array([0]), np.array([1]))[0])
    for averaged, expected in (("embeddings", by_embeddings), ("scores", by_scores)):
        scores = score_enrolment(embeddings, models, enrolment, test, score=score, averaged=averaged)
        assert scores == pytest.approx(expected, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("averaged", ["embeddings", "scores"])
@pytest.mark.parametrize("normalised", [False, True])
def test_models_of_one_utterance_score_like_the_utterance(averaged, normalised):
    embeddings, _, enrolment, test, cohort = random_case(0)
    score = normalising_with(cohort) if normalised else cosine_scores
    models = EnrolmentModels(rows=np.arange(15)[::-1], counts=np.ones(15, np.int64))
    scores = score_enrolment(embeddings, models, enrolment, test, score=score, averaged=averaged)
    assert scores == pytest.approx(score(embeddings, 14 - enrolment, test), abs=1e-5)


@pytest.mark.parametrize("averaged", ["embeddings", "scores"])
def test_order_within_a_model_and_lengths_of_embeddings_do_not_matter(averaged):
    embeddings, models, enrolment, test, _ = random_case(1)
    by_model = partial(score_enrolment, enrolment=enrolment, test_rows=test, score=cosine_scores, averaged=averaged)
    rows = np.split(models.rows, models.starts[1:])
    turned = models._replace(rows=np.concatenate([part[::-1] for part in rows]))
    lengths = np.random.default_rng(2).uniform(0.1, 10, (15, 1)).astype(np.float32)
    assert by_model(embeddings * lengths, turned) == pytest.approx(by_model(embeddings, models), abs=1e-5)


def test_embeddings_that_cancel_each_other_out_have_no_average():
    opposite = EnrolmentModels(rows=np.array([1, 0, 2]), counts=np.array([1, 2]))
    trials = (np.array([0, 1]), np.array([3, 3]))
    with pytest.raises(ValueError, match="must not cancel each other out, got model 1"):
        score_enrolment(EMBEDDINGS, opposite, *trials, score=cosine_scores)
    assert score_enrolment(EMBEDDINGS, opposite, *trials, score=cosine_scores, averaged="scores") == pytest.approx(
        [0.8, 0]
    )


def test_what_cannot_be_averaged_is_refused():
    with pytest.raises(ValueError, match="averaged must be embeddings or scores, got 'medians'"):
        score_enrolment(EMBEDDINGS, MODELS, np.array([0]), np.array([3]), score=cosine_scores, averaged="medians")

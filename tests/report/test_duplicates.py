"""Speakers who may be one person."""

import csv

import numpy as np
import pytest

from chns.report.duplicates import nearest_pairs, own_similarities, suspected_duplicates, write_duplicates
from chns.report.findings import SuspectedDuplicate
from chns.report.training_speakers import TrainingSpeakers


def speakers_of(embeddings, labels):
    count = int(labels.max()) + 1
    return TrainingSpeakers(
        names=[f"s{number}" for number in range(count)],
        places=np.arange(count),
        num_training_speakers=count,
        labels=labels,
        embeddings=embeddings.astype(np.float32),
    )


def corpus_with_split_speakers(*, noise, num_split=40, num_people=600, family=10, dim=96):
    """People in families of similar voices, ten utterances each; some people go by two names."""
    rng = np.random.default_rng(0)
    own, families = rng.normal(size=(num_people, dim)), rng.normal(size=(num_people // family, dim))
    voices = np.sqrt(0.5) * own + np.sqrt(0.5) * np.repeat(families, family, axis=0)
    people = np.repeat(np.arange(num_people), 10)
    embeddings = voices[people] + noise * rng.normal(size=(len(people), dim))
    split = rng.choice(num_people, num_split, replace=False)
    labels = people.copy()
    for new, person in enumerate(split, num_people):
        labels[rng.permutation(np.flatnonzero(people == person))[:5]] = new
    truth = {(f"s{person}", f"s{new}") for new, person in enumerate(split, num_people)}
    return speakers_of(embeddings * rng.uniform(0.5, 2, size=(len(people), 1)), labels), truth


@pytest.mark.parametrize("noise", [0.3, 1.0])  # utterances agree with their own centroid at 0.95 and at 0.67
def test_people_with_two_names_are_found_among_similar_voices_and_hardly_anybody_else(noise):
    speakers, truth = corpus_with_split_speakers(noise=noise)
    found = [duplicate.speakers for duplicate in suspected_duplicates(speakers)]
    assert len(set(found)) == len(found)
    true = truth & set(found)
    assert len(true) >= 0.95 * len(truth)
    assert len(true) >= 0.9 * len(found)
    assert len(truth & set(found[:20])) == 20


def test_a_duplicate_says_how_similar_both_are_to_each_other_and_to_themselves():
    speakers, _ = corpus_with_split_speakers(noise=0.3, num_split=5, num_people=100)
    duplicate = suspected_duplicates(speakers)[0]
    first, second = (int(name[1:]) for name in duplicate.speakers)
    unit = speakers.embeddings / np.linalg.norm(speakers.embeddings, axis=1, keepdims=True)
    cross = [
        (unit[speakers.labels == one] @ speakers.centroids[other]).mean()
        for one, other in ((first, second), (second, first))
    ]
    assert duplicate.similarity == pytest.approx(np.mean(cross), abs=1e-5)
    own = own_similarities(speakers.embeddings, speakers.labels)
    assert duplicate.own_similarity == pytest.approx((own[first] + own[second]) / 2)


def test_no_more_than_asked_for_are_returned_and_the_most_suspicious_first():
    speakers, _ = corpus_with_split_speakers(noise=0.3)
    everything = suspected_duplicates(speakers)
    ratios = [duplicate.similarity / duplicate.own_similarity for duplicate in everything]
    assert ratios == sorted(ratios, reverse=True)
    assert suspected_duplicates(speakers, most=3) == everything[:3]


def test_own_similarity_leaves_the_utterance_out():
    rng = np.random.default_rng(1)
    labels = rng.permutation(np.array([0] * 4 + [1] * 2 + [2]))
    embeddings = rng.normal(size=(7, 5)).astype(np.float32)
    expected = []
    for speaker in range(3):
        own = embeddings[labels == speaker].astype(np.float64)
        cosines = [
            one @ rest / np.linalg.norm(one) / np.linalg.norm(rest)
            for place, one in enumerate(own)
            for rest in [np.delete(own, place, axis=0).sum(axis=0)]
            if len(own) > 1
        ]
        expected.append(np.mean(cosines) if cosines else np.nan)
    np.testing.assert_allclose(own_similarities(embeddings, labels), expected)


def test_a_speaker_of_one_utterance_is_judged_by_the_other():
    embeddings = np.array([[1, 0.1], [1, -0.1], [1, 0], [0, 1]])
    (found,) = suspected_duplicates(speakers_of(embeddings, np.array([0, 0, 1, 2])))
    assert found.speakers == ("s0", "s1")
    assert suspected_duplicates(speakers_of(embeddings[:2], np.array([0, 1]))) == []


def test_a_single_speaker_has_no_duplicates():
    assert suspected_duplicates(speakers_of(np.ones((3, 4)), np.zeros(3, np.int64))) == []


def test_nearest_pairs_are_those_of_all_comparisons():
    rng = np.random.default_rng(2)
    centroids = rng.normal(size=(60, 8)).astype(np.float32)
    centroids /= np.linalg.norm(centroids, axis=1, keepdims=True)
    cosines = centroids @ centroids.T
    np.fill_diagonal(cosines, -2)
    expected = {tuple(sorted((a, int(b)))) for a in range(60) for b in np.argsort(-cosines[a])[:4]}
    pairs = nearest_pairs(centroids, num_neighbours=4)
    assert set(map(tuple, pairs.tolist())) == expected
    assert len(pairs) == len(expected)


def duplicate_of(first, second):
    return SuspectedDuplicate(speakers=(first, second), similarity=-0.12345, own_similarity=0.5)


def test_written_duplicates_read_back(tmp_path):
    write_duplicates(tmp_path / "new" / "d.csv", [duplicate_of('a "b", c', "d;e"), duplicate_of("f", "g")])
    with (tmp_path / "new" / "d.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["speaker_a", "speaker_b", "similarity", "own_similarity"],
        ['a "b", c', "d;e", "-0.1235", "0.5"],
        ["f", "g", "-0.1235", "0.5"],
    ]


@pytest.mark.parametrize("name", ["=1+2", "+1", "-1", "@SUM(A1)"])
def test_a_name_that_a_spreadsheet_would_run_is_disarmed(tmp_path, name):
    write_duplicates(tmp_path / "d.csv", [duplicate_of(name, "x;=1")])
    line = (tmp_path / "d.csv").read_text().splitlines()[1]
    assert line.startswith(f'"\'{name}","x;=1",')


def test_no_duplicates_are_a_table_without_rows(tmp_path):
    write_duplicates(tmp_path / "d.csv", [])
    assert len((tmp_path / "d.csv").read_text().splitlines()) == 1

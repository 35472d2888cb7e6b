"""The list of speakers who may be one person."""

import csv

import numpy as np
import pytest

from chns.report.collect import suspected_duplicates, write_duplicates
from chns.report.run_findings import SuspectedDuplicate
from chns.report.speakers import TrainingSpeakers
from chns.sampling.same_person import suspected_pairs


def speakers_with_doubles(*, num_people=60, num_doubles=5, dim=32):
    """Ten utterances a person; the last people are the first ones under another name."""
    rng = np.random.default_rng(0)
    voices = rng.normal(size=(num_people, dim))
    voices = np.concatenate((voices, voices[:num_doubles]))
    labels = np.repeat(np.arange(len(voices)), 10)
    return TrainingSpeakers(
        names=[f"s{number}" for number in range(len(voices))],
        places=np.arange(len(voices)),
        num_training_speakers=len(voices),
        labels=labels,
        embeddings=(voices[labels] + 0.3 * rng.normal(size=(len(labels), dim))).astype(np.float32),
    )


def test_suspected_pairs_are_listed_by_name_most_suspicious_first():
    speakers = speakers_with_doubles()
    found = suspected_duplicates(speakers)
    pairs = suspected_pairs(speakers.embeddings, speakers.labels)
    assert {duplicate.speakers for duplicate in found} == {(f"s{number}", f"s{60 + number}") for number in range(5)}
    assert [duplicate.speakers for duplicate in found] == [
        (f"s{first}", f"s{second}") for first, second in zip(pairs.first, pairs.second, strict=True)
    ]
    assert [duplicate.similarity for duplicate in found] == pairs.similarity.tolist()
    assert [duplicate.own_similarity for duplicate in found] == pairs.own_similarity.tolist()


def test_no_more_than_asked_for_are_listed_and_the_most_suspicious_of_them():
    speakers = speakers_with_doubles()
    assert suspected_duplicates(speakers, most=3) == suspected_duplicates(speakers)[:3]


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

"""Cosine scores, and score files that give back what was written."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chns.core import TrialError
from chns.evaluation import scoring
from chns.evaluation.scoring import cosine_scores, read_labelled_scores, read_scores, write_scores
from chns.evaluation.trials import Trials


def trials_of(count, *, labels=True):
    is_target = np.arange(count) % 2 == 0
    return Trials([f"a{n}" for n in range(count)], [f"b{n}" for n in range(count)], is_target if labels else None)


# Cosine


@pytest.mark.parametrize("at_once", [1, 7, 8192])
def test_scores_are_the_cosine_of_each_pair(monkeypatch, at_once):
    monkeypatch.setattr(scoring, "_TRIALS_AT_ONCE", at_once)
    rng = np.random.default_rng(0)
    embeddings = (rng.normal(size=(20, 16)) * 100).astype(np.float32)
    enrolment, test = rng.integers(0, 20, (2, 50))
    expected = [
        np.dot(embeddings[a], embeddings[b]) / np.linalg.norm(embeddings[a]) / np.linalg.norm(embeddings[b])
        for a, b in zip(enrolment, test, strict=True)
    ]
    assert cosine_scores(embeddings, enrolment, test) == pytest.approx(np.array(expected), abs=1e-6)


def test_scores_lie_between_minus_1_and_1():
    embeddings = np.random.default_rng(0).normal(size=(500, 192)).astype(np.float32)
    rows = np.arange(500)
    both = cosine_scores(np.concatenate((embeddings, -embeddings)), np.tile(rows, 2), np.arange(1000))
    assert both[:500] == pytest.approx(1, abs=1e-6)
    assert both[500:] == pytest.approx(-1, abs=1e-6)
    assert np.abs(both).max() <= 1


def test_enrolment_and_test_are_interchangeable_and_length_does_not_matter():
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(10, 8)).astype(np.float32)
    a, b = rng.integers(0, 10, (2, 30))
    scores = cosine_scores(embeddings, a, b)
    assert (cosine_scores(embeddings, b, a) == scores).all()
    assert (cosine_scores(embeddings * 4, a, b) == scores).all()


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_embeddings_without_direction_are_refused(value):
    embeddings = np.ones((4, 3))
    embeddings[2] = value
    with pytest.raises(ValueError, match=r"embeddings must be finite and not zero, got row 2 \(1 such rows\)"):
        cosine_scores(embeddings, np.array([0]), np.array([1]))


@pytest.mark.parametrize(
    ("enrolment", "test", "message"),
    [
        ([0, 1], [0], "enrolment_rows and test_rows must be equally many, got 2 and 1"),
        ([4], [0], "enrolment_rows must be between 0 and 3, the rows of embeddings, got 4 to 4"),
        ([0, 0], [2, -1], "test_rows must be between 0 and 3, the rows of embeddings, got -1 to 2"),
    ],
)
def test_rows_that_are_not_there_are_refused(enrolment, test, message):
    with pytest.raises(ValueError, match=message):
        cosine_scores(np.ones((4, 3)), np.array(enrolment), np.array(test))


def test_embeddings_have_one_row_an_utterance():
    with pytest.raises(ValueError, match=r"embeddings must have shape \(utterances, dim\), got \(4,\)"):
        cosine_scores(np.ones(4), np.array([0]), np.array([0]))


# Score files


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@settings(deadline=None)
@given(data=st.data())
def test_scores_read_back_bit_for_bit(tmp_path_factory, dtype, data):
    width = np.dtype(dtype).itemsize * 8
    values = data.draw(st.lists(st.floats(allow_nan=False, allow_infinity=False, width=width), min_size=1, max_size=9))
    scores = np.array(values, dtype)
    path = tmp_path_factory.mktemp("scores") / "scores.txt"
    write_scores(path, trials_of(len(scores)), scores)
    assert read_scores(path)[1].astype(dtype).tobytes() == scores.tobytes()


def test_a_score_file_is_one_line_a_trial(tmp_path):
    path = tmp_path / "scores.txt"
    write_scores(path, trials_of(2), np.array([0.1, -0.25], np.float32))
    assert path.read_text() == "a0 b0 0.1 target\na1 b1 -0.25 nontarget\n"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("labels", [True, False])
def test_written_trials_read_back_equal(tmp_path, labels):
    trials = trials_of(5, labels=labels)
    write_scores(tmp_path / "scores.txt", trials, np.linspace(0, 1, 5))
    back, scores = read_scores(tmp_path / "scores.txt")
    assert (back.enrolment, back.test) == (trials.enrolment, trials.test)
    assert scores.tolist() == np.linspace(0, 1, 5).tolist()
    assert (back.is_target is None) if not labels else (back.is_target.tolist() == trials.is_target.tolist())


def test_labels_are_words_or_digits(tmp_path):
    (tmp_path / "scores.txt").write_text("a b 1 1\r\n\r\na c 0 0\r\na d 1e-3 target\r\na e -.5 nontarget\r\n")
    trials, scores = read_scores(tmp_path / "scores.txt")
    assert trials.is_target.tolist() == [True, False, True, False]
    assert scores.tolist() == [1, 0, 1e-3, -0.5]
    assert trials.place(3).endswith("scores.txt:5")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a b 0.5 target\n\na b 0.5\n", "lines like `ENROL TEST SCORE LABEL`, got 'a b 0.5' in .*scores.txt:3"),
        ("a b 0.5\na b 0.5 1\n", "lines like `ENROL TEST SCORE`, got 'a b 0.5 1' in .*scores.txt:2"),
        ("a b\n", "lines like `ENROL TEST SCORE LABEL`, got 'a b' in .*scores.txt:1"),
        ("a b 0.5 1\na b high 1\n", "score must be a finite number, got 'a b high 1' in .*scores.txt:2"),
        ("a b nan 1\n", "score must be a finite number, got 'a b nan 1' in .*scores.txt:1"),
        ("a b inf 1\n", "score must be a finite number, got 'a b inf 1' in .*scores.txt:1"),
        (
            "a b 0.5 1\na b 0.5 yes\n",
            "label must be one of nontarget, 0, target, 1, got 'a b 0.5 yes' in .*scores.txt:2",
        ),
        ("", "score file must have at least one line"),
    ],
)
def test_a_malformed_line_is_named(tmp_path, content, message):
    (tmp_path / "scores.txt").write_text(content)
    with pytest.raises(TrialError, match=message):
        read_scores(tmp_path / "scores.txt")


LINES = [f"a{n % 7} b{n} {n / 8} {'target' if n % 3 else 'nontarget'}" for n in range(120)]
ODD = {
    "plain": LINES,
    "tabs and blanks": [line.replace(" ", " \t ", 1) + " " for line in LINES],
    "label before score": [" ".join((*line.split()[:2], *line.split()[:1:-1])) for line in LINES],
    "blank lines": ["", *LINES[:100], "", " ", *LINES[100:], ""],
    "a plus": [line.replace(" 5.0 ", " +5.0 ") for line in LINES],
    "other spaces": [line.replace(" ", "\u3000", 1) for line in LINES],
    "names with quotes": [line.replace("a", '"a', 1) for line in LINES],
    "names of no language": [line.replace("a", "\u00e9", 1) for line in LINES],
    "digits": [line.replace("nontarget", "0").replace("target", "1") for line in LINES],
}


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("kind", ODD)
def test_a_file_reads_the_same_in_blocks_of_any_size(tmp_path, monkeypatch, kind, end):
    path = tmp_path / "scores.txt"
    path.write_text("\ufeff" + end.join(ODD[kind]), encoding="utf-8", newline="")
    expected = [line.split() for line in ODD[kind] if line.strip()]
    numbers = [number for number, line in enumerate(ODD[kind], start=1) if line.strip()]
    for size in (2**22, 1000, 7):
        monkeypatch.setattr("chns.evaluation.scoring._BLOCK_BYTES", size)
        trials, scores = read_scores(path)
        assert trials.enrolment == [fields[0] for fields in expected]
        assert trials.test == [fields[1] for fields in expected]
        assert scores.tolist() == [n / 8 for n in range(len(LINES))]
        assert trials.is_target.tolist() == [bool(n % 3) for n in range(len(LINES))]
        assert trials.lines.tolist() == numbers
        without_names = read_labelled_scores(path)
        assert np.array_equal(without_names[0], scores)
        assert np.array_equal(without_names[1], trials.is_target)


@pytest.mark.parametrize("size", [2**22, 500])
@pytest.mark.parametrize("line", ["a b 1_0 1", "a b \u0663 1", "a b 1e999 1", "a b 0x1 1", "a b 1", "a b 1 1 1"])
def test_a_bad_line_far_down_is_named_in_either_order(tmp_path, monkeypatch, size, line):
    monkeypatch.setattr("chns.evaluation.scoring._BLOCK_BYTES", size)
    path = tmp_path / "scores.txt"
    for kind in ("plain", "label before score"):
        bad = line if kind == "plain" or line.count(" ") != 3 else " ".join((*line.split()[:2], *line.split()[:1:-1]))
        path.write_text("\n".join([*ODD[kind], bad, *ODD[kind]]), encoding="utf-8")
        for read in (read_scores, read_labelled_scores):
            with pytest.raises(TrialError, match=rf"must .*, got '{bad}' in .*scores\.txt:121"):
                read(path)


def test_text_that_is_not_utf_8_is_named_though_names_are_not_kept(tmp_path):
    (tmp_path / "scores.txt").write_bytes(b"a b 1 1\n\nc \xff 0 0\n")
    with pytest.raises(TrialError, match=r"score file must be UTF-8 text, got invalid start byte in .*scores\.txt:3"):
        read_labelled_scores(tmp_path / "scores.txt")


def test_scores_that_are_read_for_their_labels_need_them(tmp_path):
    (tmp_path / "scores.txt").write_text("\na b 1\n")
    with pytest.raises(TrialError, match=r"must have a label on each line, .* in .*scores\.txt:2\. Add target"):
        read_labelled_scores(tmp_path / "scores.txt")


PEAK = """
import re, sys
import numpy as np
from chns.evaluation.scoring import read_labelled_scores, read_scores
def peak():
    return int(re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())[1]) * 1024
read = {"names": read_scores, "none": read_labelled_scores}[sys.argv[2]]
read(sys.argv[1] + ".small")
before = peak()
read(sys.argv[1])
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
@pytest.mark.parametrize(("kept", "bytes_a_trial"), [("none", 60), ("names", 120)])
def test_reading_scores_takes_little_more_than_the_scores(tmp_path, kept, bytes_a_trial):
    num_trials, path = 500_000, tmp_path / "scores.txt"
    name = "a-name-of-an-utterance-that-is-quite-long-"
    lines = [
        f"{name}{n % 997} {name}{n % 991} {n / 8} {'target' if n % 2 else 'nontarget'}\n" for n in range(num_trials)
    ]
    path.write_text("".join(lines))
    (tmp_path / "scores.txt.small").write_text("".join(lines[:70_000]))
    done = subprocess.run([sys.executable, "-c", PEAK, path, kept], capture_output=True, text=True, check=True)
    assert int(done.stdout) < bytes_a_trial * num_trials


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"score file must be a file, got .*absent\.txt"):
        read_scores(tmp_path / "absent.txt")


def test_there_is_one_score_a_trial(tmp_path):
    with pytest.raises(ValueError, match=r"scores must have shape \(3,\), one a trial, got \(2,\)"):
        write_scores(tmp_path / "scores.txt", trials_of(3), np.zeros(2))


def test_names_that_a_score_file_cannot_hold_are_refused(tmp_path):
    with pytest.raises(TrialError, match="utterance name must not be empty or contain white space, got 'two words'"):
        write_scores(tmp_path / "scores.txt", Trials(["two words"], ["b"], None), np.zeros(1))
    assert not list(tmp_path.iterdir())

"""``chns metrics --intervals`` and ``--against`` as a user runs them."""

import json
import re

import numpy as np
import pytest

from chns.cli import main
from chns.data.manifest import Manifest, with_columns
from chns.evaluation.intervals import paired_difference, speaker_intervals
from chns.evaluation.scoring import write_scores
from chns.evaluation.trials import Trials


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A manifest of 12 speakers x 4 utterances, and score files of two systems on the same trials."""
    folder = tmp_path_factory.mktemp("scores")
    rows = [
        {
            "utterance": f"s{speaker:02d}/{number}",
            "speaker": f"s{speaker:02d}",
            "path": f"s{speaker:02d}/{number}.flac",
            "offset_seconds": 0.0,
            "duration_seconds": 2.0,
            "sample_rate_hz": 16_000,
        }
        for speaker in range(12)
        for number in range(4)
    ]
    Manifest.from_rows(rows, root=folder).write(folder / "manifest.parquet")
    rng = np.random.default_rng(0)
    pairs = [(one, other) for one in range(48) for other in range(one) if one // 4 == other // 4 or rng.random() < 0.1]
    is_target = np.array([one // 4 == other // 4 for one, other in pairs])
    trials = Trials(*([rows[row]["utterance"] for row in column] for column in zip(*pairs, strict=True)), is_target)
    worse = rng.normal(size=len(pairs)) + 1.5 * is_target
    write_scores(folder / "worse.txt", trials, worse)
    write_scores(folder / "better.txt", trials, worse + 1.5 * is_target)
    one, other = (np.array(column) // 4 for column in zip(*pairs, strict=True))
    np.savez(folder / "trials.npz", worse=worse, is_target=is_target, one=one, other=other)
    return folder


def run(folder, *options):
    return main(["metrics", str(folder / "better.txt"), "--intervals", str(folder / "manifest.parquet"), *options])


def as_json(intervals):
    return {name: interval.to_json() for name, interval in intervals.items()}


def test_json_adds_the_intervals_of_the_manifests_speakers(folder, capsys):
    known = np.load(folder / "trials.npz")
    columns = known["is_target"], known["one"], known["other"]
    better = known["worse"] + 1.5 * known["is_target"]
    assert run(folder, "--against", str(folder / "worse.txt"), "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["intervals"] == as_json(speaker_intervals(better, *columns))
    assert printed["difference"] == as_json(paired_difference((known["worse"], better), *columns))
    assert printed["difference"]["eer"]["high"] < 0
    assert printed["eer"] == printed["intervals"]["eer"]["estimate"]


def test_text_gives_each_number_with_its_range(folder, capsys):
    assert run(folder, "--p-target", "0.1", "--against", str(folder / "worse.txt")) == 0
    *_, title, eer, cost, difference_title, difference_eer, difference_cost = capsys.readouterr().out.splitlines()
    number = r"-?\d+\.\d+"
    assert title == "95 % intervals, 12 speakers"
    assert difference_title == f"{folder / 'better.txt'} minus {folder / 'worse.txt'}"
    assert re.fullmatch(rf"EER +{number} % \[{number} %, {number} %\]", eer)
    assert re.fullmatch(rf"EER +[-+]?{number} \[[-+]?{number}, [-+]?{number}\] points", difference_eer)
    for line in (cost, difference_cost):
        assert re.fullmatch(rf"minDCF \(p_target 0\.1\) +{number} \[{number}, {number}\]", line)


def changed(folder, name, change):
    """A copy of the other system's scores with its lines changed."""
    lines = (folder / "worse.txt").read_text().splitlines()
    (folder / name).write_text("\n".join(change(lines)) + "\n")
    return str(folder / name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines[1:], "must have the same trials, got 169 in"),
        (lambda lines: lines[1::-1] + lines[2:], "same order, got 's00/2 s00/0 target' in"),
        (lambda lines: [line.replace("nontarget", "0") for line in lines], None),
        (lambda lines: [line.replace("nontarget", "target") for line in lines], "target' in"),
        (lambda lines: [line.rpartition(" ")[0] for line in lines], "got 's00/1 s00/0' in"),
    ],
)
def test_two_systems_are_compared_on_the_same_trials_only(folder, capsys, change, message):
    other = changed(folder, "other.txt", change)
    code = run(folder, "--against", other)
    error = capsys.readouterr().err
    assert code == (2 if message else 0)
    assert (message or "") in error
    assert error.count("\n") == (1 if message else 0)


def test_a_manifest_of_another_corpus_is_one_line_and_exit_code_2(folder, capsys):
    rows = [{"utterance": "x", "speaker": "y", "path": "z", "offset_seconds": 0.0, "duration_seconds": 1.0}]
    manifest = Manifest.from_rows([rows[0] | {"sample_rate_hz": 16_000}], root=folder)
    manifest.write(folder / "other.parquet")
    assert main(["metrics", str(folder / "better.txt"), "--intervals", str(folder / "other.parquet")]) == 2
    assert "trials must name one utterance of the manifest each time, got 48 names" in capsys.readouterr().err


def test_against_alone_is_an_error_that_asks_for_the_manifest(folder, capsys):
    assert main(["metrics", str(folder / "better.txt"), "--against", str(folder / "worse.txt")]) == 2
    assert "--against must come with --intervals" in capsys.readouterr().err


def test_trials_that_are_there_twice_are_said(folder, tmp_path, capsys):
    lines = (folder / "better.txt").read_text().splitlines()
    (tmp_path / "scores.txt").write_text("\n".join([*lines, lines[0], lines[1]]))
    command = ["metrics", str(tmp_path / "scores.txt"), "--intervals", str(folder / "manifest.parquet")]
    assert main(command) == 0
    pair = " ".join(lines[0].split()[:2])
    assert capsys.readouterr().err == (
        f"warning: 2 trials were there before, the first in {tmp_path / 'scores.txt'}:{len(lines) + 1}: {pair!r}\n"
    )
    assert main(command[:2]) == 0
    assert not capsys.readouterr().err


def test_labels_against_the_manifest_are_counted_before_they_are_refused(folder, tmp_path, capsys):
    lines = (folder / "better.txt").read_text().splitlines()
    other = lines[0].replace(" target", " nontarget")
    (tmp_path / "scores.txt").write_text("\n".join([*lines, other]))
    assert main(["metrics", str(tmp_path / "scores.txt"), "--intervals", str(folder / "manifest.parquet")]) == 2
    said = capsys.readouterr().err.splitlines()
    place = f"the first in {tmp_path / 'scores.txt'}:{len(lines) + 1}: {' '.join(other.split()[:2])!r}"
    assert said[:2] == [
        f"warning: 1 trials are labelled otherwise than the manifest's speakers, {place}",
        f"warning: 1 trials name their pair as target and as non-target, {place}",
    ]
    assert "is_target must be true where both speakers are the same" in said[2]


@pytest.mark.slow
def test_rates_by_a_column_of_the_manifest(folder, capsys):
    manifest = Manifest.read(folder / "manifest.parquet")
    gender = ["f" if int(name[1:3]) % 2 else "m" for name in manifest.column("utterance")]
    with_columns(manifest, {"gender": gender}).write(folder / "gender.parquet")
    command = ["metrics", str(folder / "better.txt"), "--intervals", str(folder / "gender.parquet"), "--by", "gender"]
    assert main([*command, "--json"]) == 0
    by = json.loads(capsys.readouterr().out)["by"]["gender"]
    known = np.load(folder / "trials.npz")
    both = known["one"] % 2 == known["other"] % 2
    assert [group["name"] for group in by["groups"]] == ["f", "m"]
    assert sum(group["nontarget_trials"] for group in by["groups"]) == (both & ~known["is_target"]).sum()
    assert by["cross"]["nontarget_trials"] == (~both).sum()
    assert main([*command, "--by", "speaker"]) == 0
    out = capsys.readouterr().out
    assert "by gender: trials within a group, 95 % intervals over speakers\n  f: 6 speakers, 36 target" in out
    assert "by speaker" in out
    assert main([*command[:-1], "language"]) == 2
    assert "column must be one of" in capsys.readouterr().err
    assert main([*command[:2], "--by", "gender"]) == 2
    assert "--by must come with --intervals, got gender alone" in capsys.readouterr().err

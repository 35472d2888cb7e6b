"""``chns metrics`` as a user runs it."""

import json

import pytest

from chns.cli import main

SCORES = "a b 4 target\na c 3 1\na d 1 target\na e 2 nontarget\na f 0 0\n"


def test_json_is_exactly_the_metrics(tmp_path, capsys):
    (tmp_path / "scores.txt").write_text(SCORES)
    assert main(["metrics", str(tmp_path / "scores.txt"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "eer": pytest.approx(1 / 3),
        "min_dcf": {"0.01": pytest.approx(1 / 3), "0.05": pytest.approx(1 / 3)},
        "target_trials": 3,
        "nontarget_trials": 2,
    }


def test_text_gives_the_eer_in_percent_and_each_min_dcf_with_its_prior(tmp_path, capsys):
    (tmp_path / "scores.txt").write_text(SCORES)
    assert main(["metrics", str(tmp_path / "scores.txt")]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "3 target and 2 non-target trials",
        "EER                     33.333%, at the threshold 3.0000",
        "minDCF (p_target 0.01)  0.3333",
        "minDCF (p_target 0.05)  0.3333",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a b 0.5\n", "score file must have a label on each line"),
        ("a b 0.5 target\n", "is_target must hold both targets and non-targets, got 1 targets and 0"),
        ("a b 0.5 target\na b x target\n", "scores.txt:2"),
    ],
)
def test_an_unusable_file_is_one_line_and_exit_code_2(tmp_path, capsys, content, message):
    (tmp_path / "scores.txt").write_text(content)
    assert main(["metrics", str(tmp_path / "scores.txt"), "--json"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("chns: error: ")
    assert message in captured.err
    assert captured.err.count("\n") == 1


def test_a_missing_file_is_one_line_and_exit_code_2(tmp_path, capsys):
    assert main(["metrics", str(tmp_path / "absent.txt")]) == 2
    assert "score file must be a file" in capsys.readouterr().err

"""``chns metrics`` as a user runs it."""

import json

import numpy as np
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
        "EER                     33.333 %, at the threshold 3.0000",
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


def test_costs_are_printed_at_the_wished_priors_in_place_of_the_usual(tmp_path, capsys):
    (tmp_path / "scores.txt").write_text(SCORES)
    assert main(["metrics", str(tmp_path / "scores.txt"), "--p-target", "0.9", "--p-target", "0.001"]) == 0
    assert capsys.readouterr().out.splitlines()[2:] == [
        "minDCF (p_target 0.9)   0.5000",
        "minDCF (p_target 0.001) 0.3333",
    ]
    assert main(["metrics", str(tmp_path / "scores.txt"), "--p-target", "0.9", "--llr", "--json"]) == 0
    metrics = json.loads(capsys.readouterr().out)
    assert metrics["min_dcf"].keys() == metrics["actual_dcf"].keys() == {"0.9"}


def test_all_adds_what_other_toolkits_report(tmp_path, capsys):
    (tmp_path / "scores.txt").write_text(SCORES)
    assert main(["metrics", str(tmp_path / "scores.txt"), "--all"]) == 0
    assert capsys.readouterr().out.splitlines()[4:] == [
        "EER, convex hull        20.000 %",
        "EER, nearest threshold  50.000 %",
        "minCllr                 0.4046",
    ]
    assert main(["metrics", str(tmp_path / "scores.txt"), "--all", "--json"]) == 0
    metrics = json.loads(capsys.readouterr().out)
    assert metrics["eer"] == pytest.approx(1 / 3)
    assert metrics["rocch_eer"] == pytest.approx(1 / 5)
    assert metrics["nearest_eer"] == pytest.approx(1 / 2)
    assert metrics["min_cllr"] == pytest.approx(0.4046, abs=1e-4)


def test_log_likelihood_ratios_are_also_judged_by_their_values(tmp_path, capsys):
    (tmp_path / "scores.txt").write_text(SCORES)
    assert main(["metrics", str(tmp_path / "scores.txt"), "--llr"]) == 0
    # Thresholds log 99 = 4.6 and log 19 = 2.9: nothing accepted; then one target of three missed.
    # Targets at 4, 3 and 1 cost 0.026, 0.070 and 0.452 bits, non-targets at 2 and 0 cost 3.069 and 1.
    assert capsys.readouterr().out.splitlines()[4:] == [
        "actDCF (p_target 0.01)  1.0000",
        "actDCF (p_target 0.05)  0.3333",
        "Cllr                    1.1085, at best 0.4046 (minCllr)",
    ]


def test_det_points_are_written_beside_the_metrics(tmp_path, capsys):
    (tmp_path / "scores.txt").write_text(SCORES)
    assert main(["metrics", str(tmp_path / "scores.txt"), "--json", "--det", str(tmp_path / "new" / "det.csv")]) == 0
    assert json.loads(capsys.readouterr().out)["target_trials"] == 3
    header, *points = (tmp_path / "new" / "det.csv").read_text().splitlines()
    assert header == "thresholds,miss,false_alarm,probit_miss,probit_false_alarm"
    assert len(points) == 6
    assert points[0].startswith("0.0,0.0,1.0,-0.967")


def test_an_impossible_prior_is_one_line_and_exit_code_2(tmp_path, capsys):
    (tmp_path / "scores.txt").write_text(SCORES)
    assert main(["metrics", str(tmp_path / "scores.txt"), "--p-target", "5"]) == 2
    assert capsys.readouterr().err == "chns: error: p_target must be between 0 and 1, both excluded, got 5.0.\n"


def test_lists_with_spoofs_and_a_countermeasure(tmp_path, capsys):
    rng = np.random.default_rng(0)
    kinds = ["target"] * 40 + ["nontarget"] * 60 + ["spoof"] * 50
    scores = rng.normal(size=150) + np.repeat([3, 0, 2.5], (40, 60, 50))
    lines = [f"m{row % 5} u{row} {score} {kind}" for row, (score, kind) in enumerate(zip(scores, kinds, strict=True))]
    (tmp_path / "s.txt").write_text("\n".join(lines))
    genuine = rng.normal(size=150) + 2 * (np.array(kinds) != "spoof")
    (tmp_path / "cm.txt").write_text("\n".join(f"u{row} {score}" for row, score in enumerate(genuine)))
    words = ["metrics", str(tmp_path / "s.txt"), "--spoofing", "--countermeasure", str(tmp_path / "cm.txt")]
    assert main([*words, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["target_trials"], printed["nontarget_trials"]) == (40, 60)
    assert printed["spoofing"]["trials"] == {"nontarget": 60, "target": 40, "spoof": 50}
    assert list(printed["spoofing"]["rates"]) == ["sasv_eer", "spf_eer", "min_a_dcf", "cm_eer", "t_eer"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "with 50 spoof trials\nSASV-EER" in out
    assert "c_fa_spoof 20" in out
    assert main(words[:2]) == 2
    assert "label must be one of" in capsys.readouterr().err
    assert main([*words[:2], *words[3:]]) == 2
    assert "--countermeasure must come with --spoofing" in capsys.readouterr().err
    assert main([*words, "--intervals", "m.parquet", "--by", "gender"]) == 2
    assert "--against and --by must come without --spoofing" in capsys.readouterr().err

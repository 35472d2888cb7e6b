"""``chns trials`` as a user runs it, and the help of the commands around it."""

import json

import pytest

from chns.cli import main, parser_of
from chns.data.manifest import Manifest
from chns.evaluation.trials import FORMS, read_trials


@pytest.fixture
def manifest(tmp_path):
    """Six speakers in two families, four utterances each, two sessions."""
    rows = [
        {
            "utterance": f"s{speaker}/{number}",
            "speaker": f"s{speaker}",
            "path": f"s{speaker}/{number}.wav",
            "offset_seconds": 0.0,
            "duration_seconds": 3.0,
            "sample_rate_hz": 16000,
            "family": f"family{speaker % 2}",
            "session": f"session{number % 2}",
        }
        for speaker in range(6)
        for number in range(4)
    ]
    path = tmp_path / "m.parquet"
    Manifest.from_rows(rows, root=tmp_path).write(path)
    return path


def test_all_targets_and_as_many_nontargets_by_default(manifest, tmp_path, capsys):
    out = tmp_path / "trials.txt"
    assert main(["trials", str(manifest), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}: 36 target and 36 non-target trials\n"
    trials = read_trials(out, form="kaldi")
    assert len(trials) == 72
    assert trials.is_target.sum() == 36


def test_the_options_reach_the_list(manifest, tmp_path, capsys):
    out = tmp_path / "trials.txt"
    words = ["--targets", "2", "--nontargets", "30", "--same", "family", "--cross-session", "--format", "voxceleb"]
    assert main(["trials", str(manifest), "--out", str(out), "--json", *words]) == 0
    assert json.loads(capsys.readouterr().out) == {"trials": str(out), "target_trials": 12, "nontarget_trials": 30}
    trials = read_trials(out, form="voxceleb")
    for enrolment, test, is_target in zip(trials.enrolment, trials.test, trials.is_target, strict=True):
        if is_target:
            assert (int(enrolment[-1]) - int(test[-1])) % 2 == 1
        else:
            assert (int(enrolment[1]) - int(test[1])) % 2 == 0


def test_the_seed_decides_the_file(manifest, tmp_path):
    files = [tmp_path / name for name in ("a", "b", "c")]
    for path, seed in zip(files, ("1", "1", "2"), strict=True):
        words = ["--targets", "all", "--nontargets", "20", "--seed", seed]
        assert main(["trials", str(manifest), "--out", str(path), *words]) == 0
    first, again, other = (path.read_bytes() for path in files)
    assert first == again
    assert first != other


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--nontargets", "1000"], "num_nontargets must be at most 240"),
        (["--same", "accent"], "got 'accent'"),
        (["--targets", "0"], "targets_per_speaker must be at least 1, got 0"),
        (["--hardest-under", "absent"], "absent"),
    ],
)
def test_an_impossible_list_is_one_line_exit_code_2_and_no_file(manifest, tmp_path, capsys, words, message):
    assert main(["trials", str(manifest), "--out", str(tmp_path / "trials.txt"), *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "trials.txt").exists()


def test_targets_are_all_or_a_number(capsys):
    with pytest.raises(SystemExit, match="2"):
        parser_of("trials").parse_args(["m.parquet", "--out", "t", "--targets", "some"])
    assert "argument --targets: must be `all` or a number, got 'some'" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["trials", "evaluate", "embed", "metrics"])
def test_help_ends_with_examples(command, capsys):
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    text = capsys.readouterr().out
    assert f"usage: chns {command}" in text
    assert f"examples:\n  chns {command} " in text
    assert "--json" in text


def test_the_formats_offered_are_those_of_the_library():
    offered = {action.dest: action.choices for action in parser_of("evaluate")._actions}
    assert set(offered["format"]) == {"auto", *FORMS}
    made = {action.dest: action.choices for action in parser_of("trials")._actions}
    assert set(made["format"]) == FORMS.keys() - {"unlabelled"}


def test_evaluate_and_embed_need_their_outputs(capsys):
    for parser, words in ((parser_of("evaluate"), ["--trials", "t"]), (parser_of("embed"), [])):
        with pytest.raises(SystemExit, match="2"):
            parser.parse_args(["model", "m.parquet", *words])
        assert "the following arguments are required: --" in capsys.readouterr().err

"""The command as a whole: help, version, errors, and how little it imports."""

import re
import shlex
import subprocess
import sys

import pytest

from chns import __version__
from chns.cli import COMMANDS, main, parser_of

HEAVY = {"torch", "lightning_fabric", "faiss", "pyarrow", "numpy", "soundfile"}


def imported_by(statement):
    code = f"import sys\n{statement}\nprint(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(result.stdout.splitlines()[-1].split())


def test_importing_the_package_imports_nothing_heavy():
    assert not imported_by("import chns") & HEAVY


def test_help_imports_nothing_heavy():
    assert not imported_by("from chns.cli import main; main([])") & HEAVY


def test_sampling_needs_no_torch():
    assert "torch" not in imported_by("import chns.sampling")


def test_metrics_need_no_torch():
    assert "torch" not in imported_by("import chns.evaluation.metrics, chns.evaluation.scoring, chns.evaluation.pairs")


def test_without_words_the_help_lists_every_command(capsys):
    assert main([]) == 0
    printed = capsys.readouterr().out
    for name, purpose in COMMANDS.items():
        assert name in printed
        assert purpose in printed


def test_the_version_is_printed(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert __version__ in capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_examples(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    assert "examples:" in printed
    assert f"chns {command}" in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("verfiy", "COMMAND must be one of prepare, .*, got 'verfiy'. Did you mean verify?"),
        ("train --data.tran M.parquet", "got --data.tran. Did you mean --data.train?"),
        ("train --epochs 3", "got --epochs. Did you mean --train.epochs?"),
        ("train --train.epoch 3", "got --train.epoch. Did you mean --train.epochs?"),  # no abbreviation is taken
        ("train --train.start-fron m", "got --train.start-fron. Did you mean --train.start_from?"),
        ("train --batches.kind clusterd", "batches.kind must be one of .*, got 'clusterd'. Did you mean clustered?"),
        ("train --seed x", "error: seed must be a whole number, got 'x'.\n"),
        ("train --batches.speakers_per_batch x", "speakers_per_batch must be a whole number or null, got 'x'.\n"),
        ("train --optimizer.learning_rate x", "error: optimizer.learning_rate must be a number or null, got 'x'.\n"),
        ("train --clusters.separate_same_person x", "separate_same_person must be true or false, got 'x'.\n"),
        ("demo runs/demo --seed x", "error: --seed must be a whole number, got 'x'.\n"),
        ("train --config {batches:{speakers:3}}", "accept option 'speakers'. Did you mean batches.speakers_per_batch?"),
        ("train --config {sed:3}", "Option 'sed' is not accepted. Did you mean seed?"),
        ("train stray", "arguments must be those of `chns train --help`, got 'stray' besides."),
        ("train --out", "argument --out: expected one argument. `chns train --help` explains."),
        ("evaluate m v.parquet --trial t --out s", "got --trial. Did you mean --trials?"),
        ("evaluate m v.parquet --out s", "--trials --gallery is required. `chns evaluate --help` explains."),
        ("trials t.parquet --out x --format kadli", "--format must be one of .*, got 'kadli'. Did you mean kaldi?"),
        ("train --encoder.settings.embedding-dim 3 --train.epoch 3", "got --train.epoch. Did you mean --train.epochs?"),
        (
            "enroll m s --manfest M.parquet",
            "option must be one of `chns enrol --help`, got --manfest. Did you mean --man",
        ),
        ("verify m a.wav b.wav --treshold 1", "got --treshold. Did you mean --threshold?"),
        ("verify m a.wav b.wav --jso", "got --jso. Did you mean --json?"),
        ("prepare foldr x --out y", "must be one of .*, got 'foldr'. Did you mean folder?"),
        ("prepare folder x --out y --worker 3", "option must be one of .*, got --worker. Did you mean --workers?"),
    ],
)
def test_a_typo_is_one_line_with_what_was_meant(words, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([word.replace(":", ": ") for word in words.split()])
    assert stopped.value.code == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert re.search(re.escape(message).replace(r"\.\*", ".*"), printed), printed


def test_options_of_settings_are_taken_with_hyphens_too():
    from chns.cli.training_commands import train_parser

    words = ["--train.start-from=a-b", "--batches.speakers-per-batch", "7", "--encoder.settings.embedding-dim", "3"]
    made = train_parser().parse_args(words)
    assert (made.train.start_from, made.batches.speakers_per_batch) == ("a-b", 7)
    assert dict(made.encoder.settings) == {"embedding_dim": 3}


def test_enroll_is_enrol(capsys):
    assert main(["enroll", "no-model", "people.store", "anna", "a.wav"]) == 2
    assert "no-model" in capsys.readouterr().err
    words = ["evaluate", "no-model", "m.parquet", "--trials", "t", "--out", "s", "--enrollment-map", "map.txt"]
    assert main(words) == 2
    assert "enrollment" not in capsys.readouterr().err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_commands_options_and_values(shell, capsys):
    pytest.importorskip("shtab")
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for word in ("verify", "train.start_from", "clustered", "voxceleb", "score-by"):
        assert word in script


def test_debug_shows_the_trace(capsys):
    assert main(["split", "none.parquet", "--held-out", "1", "--out", "a.parquet", "b.parquet", "--debug"]) == 2
    printed = capsys.readouterr().err
    assert "Traceback" in printed
    assert printed.splitlines()[-1].startswith("chns: error: manifest must be a file, got none.parquet")


def test_an_error_of_no_kind_that_is_foreseen_shows_its_trace_and_is_no_answer_of_verify(monkeypatch, capsys):
    def fail(arguments):
        raise RuntimeError("surprise")

    monkeypatch.setattr("chns.cli.recognition_commands.run_verify", fail)
    assert main(["verify", "model", "a.wav", "b.wav"]) == 2
    printed = capsys.readouterr().err
    assert "Traceback" in printed
    assert printed.splitlines()[-1] == "chns: error: surprise"


def test_a_missing_extra_is_named_in_one_line(monkeypatch, capsys):
    def fail(arguments):
        raise ModuleNotFoundError("No module named 'pyarrow.parquet'", name="pyarrow.parquet")

    monkeypatch.setattr("chns.cli.recognition_commands.run_verify", fail)
    assert main(["verify", "model", "a.wav", "b.wav"]) == 2
    assert capsys.readouterr().err == (
        "chns: error: pyarrow must be installed for `chns verify`, got no such package. "
        "Run `pip install 'chns[train]'`.\n"
    )


@pytest.mark.parametrize(("command", "extras"), [("report", "report"), ("demo", "train,synthetic,report")])
def test_all_that_a_command_needs_is_named_at_once(monkeypatch, capsys, command, extras):
    def fail(arguments):
        raise ModuleNotFoundError("No module named 'pyarrow'", name="pyarrow")

    module = {"report": "report_command", "demo": "training_commands"}[command]
    monkeypatch.setattr(f"chns.cli.{module}.run_{command}", fail)
    assert main([command, "runs/one"]) == 2
    assert f"Run `pip install 'chns[{extras}]'`." in capsys.readouterr().err


def test_ctrl_c_ends_without_a_trace(monkeypatch, capsys):
    def interrupt(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("chns.cli.metrics_command.run_metrics", interrupt)
    assert main(["metrics", "scores.txt"]) == 130
    assert capsys.readouterr().err.strip().endswith("chns: stopped")


def test_the_module_runs_as_the_command():
    result = subprocess.run([sys.executable, "-m", "chns", "--version"], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == f"chns {__version__}"


def examples_of(parser):
    """The commands of a help text, those over several lines put together."""
    text = re.sub(r"\\\n\s*", "", parser.epilog)
    return [line.strip() for line in text.splitlines() if line.startswith("  chns ")]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_example_of_the_help_can_be_pasted(command):
    parser = parser_of(command)
    examples = examples_of(parser)
    assert examples
    for example in examples:
        _, name, *words = shlex.split(example, comments=True)
        if "--print_config" in words:
            words.remove("--print_config")
        assert parser_of(name).parse_args(words)

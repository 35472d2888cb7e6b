"""Names and numbers that a screen, a spreadsheet or another reader takes for something else."""

import csv
import os
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from chns.cli import main
from chns.comparison.runs import _COMMAND
from chns.core import ManifestError, TrialError, in_short, no_formula, number, plain_text, quoted, shown, table_cell
from chns.data.manifest import Manifest
from chns.evaluation.scoring import read_scores

OBEYED = ["\x1b[2J", "\x9b2J", "\x85", "\u2028", "\u2029", "\u202e", "\u2066", "\x07"]


@pytest.mark.parametrize("mark", OBEYED)
def test_what_a_screen_obeys_is_escaped_where_text_is_shown(mark, capsys):
    for text in (shown(f"a{mark}b"), quoted(f"a{mark}b"), in_short(f"a{mark}b"), table_cell(f"a{mark}b")):
        assert text.isprintable()
    assert main(["metrics", f"a{mark}b.txt"]) == 2
    assert capsys.readouterr().err.rstrip("\n").isprintable()
    assert shown("Zoë 王 \u0645") == "Zoë 王 \u0645"


@pytest.mark.parametrize("column", ["utterance", "speaker", "path"])
@pytest.mark.parametrize("mark", OBEYED)
def test_names_with_such_marks_are_refused_in_a_manifest(mark, column, tmp_path):
    row = {"utterance": "a", "speaker": "s", "path": "a.wav", "offset_seconds": 0.0, "duration_seconds": 1.0}
    with pytest.raises(ManifestError, match=f"{column} must hold no line break or other control character"):
        Manifest.from_rows([{**row, "sample_rate_hz": 16_000, column: f"a{mark}b"}], root=tmp_path)


FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", " =1", "\uff1d1", "'=1", "''-1"]


@pytest.mark.parametrize("text", [*FORMULAS, "\t=1", "\r=1", "\n=1"])
def test_a_formula_is_text_in_a_table_for_people(text):
    for cell in (table_cell(text), no_formula(text)):
        assert cell.startswith(("'", "\\"))
    assert plain_text(no_formula(text)) == text


@pytest.mark.parametrize("text", ["a=1", "", "'a'", "a-b", "\u00e9"])
def test_other_text_stays_as_it_is(text):
    assert table_cell(text) == no_formula(text) == plain_text(text) == text


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    """Speakers, sessions and files whose names are formulas, and a file that is refused."""
    monkeypatch.chdir(tmp_path)
    rows = [("path", "speaker", "remark")]
    for index, text in enumerate(FORMULAS):
        rows.append((f"-f{index}.wav", f"s{text}" if text == " =1" else text, text.strip()))
        soundfile.write(tmp_path / rows[-1][0], 0.1 * np.random.default_rng(index).standard_normal(16_000), 16_000)
    (tmp_path / "=bad.wav").write_bytes(b"no audio")
    with (tmp_path / "list.tsv").open("w", encoding="utf-8") as file:
        file.writelines("\t".join(row) + "\n" for row in [*rows, ("=bad.wav", "x", "y")])
    assert main(["prepare", "csv", "list.tsv", "--delimiter", "\t", "--out", "m.csv"]) == 0
    return tmp_path


def cells(path):
    with path.open(encoding="utf-8", newline="") as file:
        return [cell for row in csv.reader(file) for cell in row]


def test_no_table_that_is_written_has_a_formula_and_names_are_kept(corpus):
    said = ["m.csv", "m.rejected.csv", "c.csv", "again.csv"]
    assert main(["convert", "m.csv", "--to", "csv", "--out", "c.csv"]) == 0
    assert main(["prepare", "csv", "c.csv", "--out", "again.csv"]) == 0
    for name in said:
        assert not [cell for cell in cells(corpus / name) if cell.lstrip().startswith(("=", "+", "-", "@", "\uff1d"))]
    assert "'=bad.wav" in cells(corpus / "m.rejected.csv")
    first, again = Manifest.read("m.csv"), Manifest.read("again.csv")
    for column in ("utterance", "speaker", "path", "remark"):
        assert first.column(column) == again.column(column)
    assert set(first.column("remark")) == {text.strip() for text in FORMULAS}
    first.write(corpus / "m.parquet")
    assert Manifest.read("m.parquet").column("remark") == first.column("remark")


@pytest.mark.parametrize("mark", OBEYED)
def test_a_file_name_with_such_marks_is_escaped_on_the_screen(mark, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / f"a{mark}b.txt").write_text("a b 1 target\nc d 0 nontarget\n")
    assert main(["metrics", f"a{mark}b.txt", "--det", f"a{mark}b.csv"]) == 0
    soundfile.write(tmp_path / "a.wav", 0.1 * np.ones(16_000), 16_000)
    (tmp_path / "list.csv").write_text("path,speaker\na.wav,s\n")
    assert main(["prepare", "csv", "list.csv", "--out", f"a{mark}b.parquet"]) == 0
    captured = capsys.readouterr().out
    assert shown(f"a{mark}b.parquet") in captured
    assert all(line.isprintable() for line in captured.split("\n"))


def test_what_is_logged_is_escaped(tmp_path):
    code = "import logging\nfrom chns.cli import main\nmain([])\nlogging.getLogger('x').warning('a\\x1bb\\nc')"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert told.stderr.endswith("a\\x1bb\nc\n")


def test_no_module_is_taken_from_the_current_folder(tmp_path):
    for name in ("numpy", "jsonargparse", "torch", "faiss"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('code of a stranger')\n")
    (tmp_path / "s.txt").write_text("a b 1 target\nc d 0 nontarget\n")
    environment = {**os.environ, "CHNS_COMPARE_PID": str(os.getpid())}
    for words in ((sys.executable, "-m", "chns", "metrics", "s.txt"), (*_COMMAND, "--help")):
        told = subprocess.run(
            words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
        )
        assert told.returncode == 0, told.stderr


@pytest.mark.parametrize("text", ["1_000", "٣", "\uff11", "0.1_5", "", "x"])
def test_only_ascii_digits_are_numbers(text, tmp_path):
    with pytest.raises(ValueError, match=r"number must be written|could not convert"):
        number(text)
    (tmp_path / "scores.txt").write_text(f"a b {text or 'none'} target\n", encoding="utf-8")
    with pytest.raises(TrialError, match="score must be a finite number"):
        read_scores(tmp_path / "scores.txt")


def test_numbers_stay_numbers():
    assert [number(text) for text in ("1", "-0.5", "1e-3", ".5")] == [1.0, -0.5, 0.001, 0.5]


def test_an_error_quotes_only_the_beginning_of_a_value():
    assert len(quoted("x" * 10**6)) < 300
    assert len(quoted({"x" * 10**5: ["y" * 10**5] * 100})) < 300
    assert len(in_short("x" * 10**6)) < 600

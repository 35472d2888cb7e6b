"""Names and numbers that a screen, a spreadsheet or another reader takes for something else."""

import pytest

from chns.cli import main
from chns.core.errors import ManifestError, TrialError, in_short, quoted, shown
from chns.core.files import number, table_cell
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


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", " =1", "\t=1", "\r=1"])
def test_a_formula_is_text_in_a_table_for_people(text):
    assert not table_cell(text).lstrip().startswith(("=", "+", "-", "@"))
    assert table_cell("a=1") == "a=1"


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

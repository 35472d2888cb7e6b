"""Lists, names and numbers as users have them: nothing is lost, mistaken or counted by its size without a word."""

import numpy as np
import pytest
import soundfile

from chns.cli import main
from chns.data.manifest import Manifest
from chns.errors import ManifestError


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def record(path, seconds=0.6):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.1 * np.random.default_rng(0).standard_normal(int(16_000 * seconds)), 16_000)


def table(folder, content, *options, name="t.csv", expect=0):
    for number in range(6):
        record(folder / f"u{number}.wav")
    (folder / name).write_bytes(content.encode())
    assert main(["prepare", "csv", name, "--out", "m.parquet", *options]) == expect
    if not expect:
        manifest = Manifest.read("m.parquet")
        return list(zip(manifest.column("utterance"), manifest.column("speaker"), strict=True))
    return None


# Rows

SENTENCES = ["Hello.", '"two open', "a", "b", 'close"', '"Yes," she said, "no" twice']


def test_a_quote_in_a_table_between_tabs_is_a_character(here):
    rows = "".join(f"u{n}.wav\ts{n % 2}\t{sentence}\n" for n, sentence in enumerate(SENTENCES))
    assert len(table(here, "path\tspeaker\tsentence\n" + rows, "--delimiter", "\t")) == 6
    assert Manifest.read("m.parquet").column("sentence") == SENTENCES
    assert (here / "m.rejected.csv").read_text().splitlines() == ["path,reason"]


def test_a_quote_that_swallows_rows_of_a_csv_is_refused_by_its_line(here, capsys):
    content = 'path,text,speaker\nu0.wav,x,a\nu1.wav,"two,a\nu2.wav,b,a\nu3.wav,two",a\n'
    table(here, content, expect=2)
    assert "t.csv:4 within the field that a quote opens in t.csv:3" in capsys.readouterr().err


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_ends_of_lines_marks_and_blank_lines_are_no_rows(here, end, mark):
    lines = ["", "path,speaker", "u0.wav,a", "", "u1.wav,b", "  ", ",", ""]
    assert table(here, mark + end.join(lines) + end) == [("u0", "a"), ("u1", "b")]


def test_a_quoted_line_break_is_text_and_places_name_the_first_line(here, capsys):
    content = 'path,text,speaker\nu0.wav,"one\n\ntwo",a\nu1.wav,x,b\n'
    assert table(here, content) == [("u0", "a"), ("u1", "b")]
    assert Manifest.read("m.parquet").column("text") == ["one  two", "x"]
    table(here, content + 'u2.wav,"y\nz"\n', expect=2)
    assert "line must have 3 fields as the header, got 2 in t.csv:6" in capsys.readouterr().err


HEADER = "utterance,speaker,path,offset_seconds,duration_seconds,sample_rate_hz"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_manifest_in_csv_may_have_blank_lines_and_errors_name_the_right_one(here, end):
    lines = [HEADER, "a,s,a.wav,0,1,16000", "", "b,s,b.wav,0,1,16000", "", ""]
    (here / "m.csv").write_text("\ufeff" + end.join(lines), newline="")
    assert Manifest.read("m.csv").column("utterance") == ["a", "b"]
    (here / "m.csv").write_text(end.join([*lines, "c,,c.wav,0,1,16000", ""]), newline="")
    with pytest.raises(ManifestError, match=r"speaker must not be empty, got None in m\.csv:7"):
        Manifest.read("m.csv")


def test_blank_lines_of_a_kaldi_directory_are_nothing(here):
    record(here / "k/a.wav")
    (here / "k/wav.scp").write_text("\ufeffu1 a.wav\r\n\r\n \r\n")
    (here / "k/utt2spk").write_text("u1 s\n\n")
    assert main(["prepare", "kaldi", "k", "--out", "m.parquet"]) == 0
    assert Manifest.read("m.parquet").column("utterance") == ["u1"]

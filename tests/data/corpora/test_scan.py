"""The engine that all corpora share."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from chns.core import ManifestError
from chns.data.corpora import scan
from chns.data.corpora.scan import Candidate, Rejected, ScanResult, find_recordings, scan_recordings
from chns.data.manifest import Manifest


def record(path: Path, seconds: float = 1.0, rate: int = 16_000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(os.fsencode(path), np.zeros(round(seconds * rate), np.int16), rate)
    return path


def candidate(path: str, **changes: str) -> Candidate:
    return Candidate(**{"utterance": path.rpartition(".")[0], "speaker": path.split("/")[0], "path": path, **changes})


def scanned(root: Path, *names: str, **settings: object) -> ScanResult:
    return scan_recordings([candidate(name) for name in names], root=root, **settings)


def lines_of(report: Path) -> list[list[str]]:
    with report.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


# ----- finding files


def test_recordings_are_found_by_suffix_in_any_case_and_sorted(tmp_path):
    for name in ["b/2.WAV", "b/10.wav", "a/x.flac", "a/deep/er/y.Ogg", "z.opus", "c/m.mp3", "c/readme.txt", "c/n.m4a"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    expected = ["a/deep/er/y.Ogg", "a/x.flac", "b/10.wav", "b/2.WAV", "c/m.mp3", "c/n.m4a", "z.opus"]
    assert find_recordings(tmp_path) == expected


def test_hidden_files_and_folders_are_left_out(tmp_path):
    record(tmp_path / ".hidden" / "a.wav")
    record(tmp_path / "a" / ".b.wav")
    record(tmp_path / "a" / "b.wav")
    assert find_recordings(tmp_path) == ["a/b.wav"]


def test_loops_of_links_end(tmp_path):
    record(tmp_path / "a" / "b" / "1.wav")
    (tmp_path / "a" / "b" / "up").symlink_to(tmp_path)
    (tmp_path / "a" / "self").symlink_to("self")
    (tmp_path / "a" / "self.wav").symlink_to("self.wav")
    assert find_recordings(tmp_path) == ["a/b/1.wav", "a/self.wav"]


def test_a_linked_folder_is_entered_once_and_under_its_own_name_if_it_has_one_here(tmp_path):
    record(tmp_path / "corpus" / "z" / "1.wav")
    record(tmp_path / "elsewhere" / "2.wav")
    (tmp_path / "corpus" / "a").symlink_to("z")
    (tmp_path / "corpus" / "b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "corpus" / "c").symlink_to(tmp_path / "elsewhere")
    assert find_recordings(tmp_path / "corpus") == ["b/2.wav", "z/1.wav"]


def test_a_corpus_must_be_a_folder(tmp_path):
    for path in (tmp_path / "none", record(tmp_path / "a.wav")):
        with pytest.raises(FileNotFoundError, match="corpus must be a folder, got"):
            find_recordings(path)


# ----- reading headers


def test_a_row_says_what_the_header_says(tmp_path):
    record(tmp_path / "a" / "1.wav", 1.25, 22_050)
    result = scanned(tmp_path, "a/1.wav")
    frames = round(1.25 * 22_050)
    assert list(result.manifest) == [("a/1", "a", tmp_path / "a" / "1.wav", 0.0, frames / 22_050, 22_050, None)]
    assert result.rejected == []
    assert "session" not in result.manifest.column_names


def test_bad_files_are_listed_with_reasons_and_the_rest_goes_on(tmp_path):
    record(tmp_path / "a" / "good.wav", 0.5)
    record(tmp_path / "a" / "short.wav", 0.499)
    record(tmp_path / "a" / "none.wav", 0)
    (tmp_path / "a" / "empty.wav").touch()
    (tmp_path / "a" / "text.wav").write_text("hello\n" * 50)
    (tmp_path / "a" / "folder.wav").mkdir()
    names = [f"a/{name}.wav" for name in ["text", "short", "none", "missing", "good", "folder", "empty"]]
    result = scanned(tmp_path, *names)
    assert result.manifest.column("utterance") == ["a/good"]
    reasons = dict(result.rejected)
    assert list(reasons) == sorted(reasons)
    for name, reason in {
        "empty": "recording must hold samples, got an empty file",
        "folder": "recording must be a file",
        "missing": "recording must be a file",
        "none": "recording must hold samples, got none",
        "short": "recording must last at least 0.5 s, got 0.499 s",
        "text": "recording must be WAV, FLAC, Ogg, Opus or MP3 audio",
    }.items():
        assert reasons.pop(f"a/{name}.wav").startswith(reason)
    assert not reasons


def test_the_minimum_can_be_changed(tmp_path):
    record(tmp_path / "a" / "1.wav", 0.1)
    record(tmp_path / "a" / "2.wav", 2.0)
    assert len(scanned(tmp_path, "a/1.wav", "a/2.wav", min_duration_seconds=0).manifest) == 2
    assert len(scanned(tmp_path, "a/1.wav", "a/2.wav", min_duration_seconds=1.0).manifest) == 1


def test_of_two_files_for_one_utterance_the_first_usable_one_is_kept(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.flac").write_text("broken")
    record(tmp_path / "a" / "1.ogg")
    record(tmp_path / "a" / "1.wav")
    result = scanned(tmp_path, "a/1.wav", "a/1.ogg", "a/1.flac")
    assert result.manifest.column("path") == ["a/1.ogg"]
    assert [path for path, _ in result.rejected] == ["a/1.flac", "a/1.wav"]
    assert result.rejected[1].reason == "utterance must be unique, a/1.ogg has the same name"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a/b\\c.wav", "path must hold no backslash and stay inside the root"),
        ("a/b\nc.wav", "name must hold no line break or other control character"),
        (os.fsdecode(b"a/caf\xe9.wav"), "name must be UTF-8"),
    ],
)
def test_a_name_that_a_manifest_cannot_hold_is_rejected_and_reported(tmp_path, name, reason):
    record(tmp_path / "a" / "good.wav")
    record(tmp_path / name)
    result = scanned(tmp_path, *find_recordings(tmp_path))
    assert result.manifest.column("utterance") == ["a/good"]
    assert result.rejected == [Rejected(name, reason)]
    report = result.write(tmp_path / "m.parquet")
    assert len(lines_of(report)) == 2


def test_the_result_depends_neither_on_order_nor_on_jobs(tmp_path, monkeypatch):
    for number in range(8):
        record(tmp_path / f"s{number % 3}" / f"{number}.wav", 0.3 + 0.1 * number)
    names = find_recordings(tmp_path)
    alone = scanned(tmp_path, *names, jobs=1)
    monkeypatch.setattr(scan, "_FILES_PER_WORKER", 1)
    together = scanned(tmp_path, *reversed(names), jobs=2)
    assert list(together.manifest) == list(alone.manifest)
    assert together.rejected == alone.rejected
    assert [rejected.path for rejected in alone.rejected] == ["s0/0.wav", "s1/1.wav"]
    assert alone.manifest.column("utterance") == sorted(alone.manifest.column("utterance"))


def test_sessions_are_a_column_where_the_corpus_knows_them(tmp_path):
    record(tmp_path / "a" / "1.wav")
    record(tmp_path / "b" / "1.wav")
    result = scan_recordings([candidate("b/1.wav"), candidate("a/1.wav", session="x")], root=tmp_path)
    assert result.manifest.column("session") == ["x", ""]


def test_nothing_usable_is_an_error_that_says_why(tmp_path):
    record(tmp_path / "a" / "1.wav", 0.1)
    with pytest.raises(
        ManifestError, match=r"must hold a usable .* none of 2 .*the first is a/1\.wav: .*at least 0\.5 s"
    ):
        scanned(tmp_path, "a/1.wav", "a/2.wav")
    with pytest.raises(ManifestError, match=r"must hold a usable recording, got none of 0 .*there are no recordings"):
        scanned(tmp_path)


def test_settings_out_of_range_are_refused(tmp_path):
    with pytest.raises(ValueError, match="jobs must be at least 1, got 0"):
        scanned(tmp_path, jobs=0)
    for seconds in (-1.0, float("nan")):
        with pytest.raises(ValueError, match=f"min_duration_seconds must be a number from 0, got {seconds}"):
            scanned(tmp_path, min_duration_seconds=seconds)


# ----- the report


def test_the_report_lies_beside_the_manifest(tmp_path):
    record(tmp_path / "audio" / "a" / "1.wav")
    result = scanned(tmp_path / "audio", "a/1.wav", "a/2.wav")
    report = result.write(tmp_path / "out" / "m.parquet")
    assert report == tmp_path / "out" / "m.rejected.csv"
    header, line = lines_of(report)
    assert header == ["path", "reason"]
    assert line == list(result.rejected[0])
    assert Manifest.read(tmp_path / "out" / "m.parquet")[0].path == tmp_path / "audio" / "a" / "1.wav"


def test_a_report_of_an_earlier_run_does_not_survive(tmp_path):
    record(tmp_path / "a" / "1.wav")
    scanned(tmp_path, "a/1.wav", "a/2.wav").write(tmp_path / "m.csv")
    report = scanned(tmp_path, "a/1.wav").write(tmp_path / "m.csv")
    assert report.read_text().split() == ["path,reason"]

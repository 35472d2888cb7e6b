"""Kaldi data directories, some of them hostile."""

import re
from pathlib import Path

import numpy as np
import pytest
import soundfile

from chns.core import ManifestError
from chns.data.corpora.kaldi import prepare_kaldi


def directory(root: Path, recordings: str | bytes, speakers: str | bytes = "u1 a\nu2 b\n") -> Path:
    root.mkdir(exist_ok=True)
    for name, content in (("wav.scp", recordings), ("utt2spk", speakers)):
        (root / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def record(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.zeros(16_000, np.int16), 16_000)
    return path


def test_paths_are_relative_to_the_data_directory(tmp_path):
    record(tmp_path / "d" / "wav" / "1.wav")
    record(tmp_path / "d" / "wav" / "with space.wav")
    result = prepare_kaldi(directory(tmp_path / "d", "u2\twav/with space.wav\r\nu1  ./wav/1.wav \n", "u1 0001\nu2 b"))
    assert result.manifest.column("utterance") == ["u1", "u2"]
    assert result.manifest.column("speaker") == ["0001", "b"]
    assert result.manifest.column("path") == ["wav/1.wav", "wav/with space.wav"]


def test_absolute_and_relative_paths_start_at_the_root_if_there_is_one(tmp_path):
    first = record(tmp_path / "audio" / "1.wav")
    record(tmp_path / "audio" / "x" / "2.wav")
    data = directory(tmp_path / "d", f"u1 {first}\nu2 x/y/../2.wav\n")
    manifest = prepare_kaldi(data, root=tmp_path / "audio").manifest
    assert manifest.root == tmp_path / "audio"
    assert manifest.column("path") == ["1.wav", "x/2.wav"]


def test_a_linked_root_holds_the_paths_of_both_names(tmp_path):
    first = record(tmp_path / "audio" / "1.wav")
    (tmp_path / "link").symlink_to("audio")
    data = directory(tmp_path / "d", f"u1 {first}\nu2 {tmp_path / 'link' / '1.wav'}\n")
    assert prepare_kaldi(data, root=tmp_path / "link").manifest.column("path") == ["1.wav", "1.wav"]


@pytest.mark.parametrize("path", ["../1.wav", "/etc/passwd", "x/../../1.wav", ".", "../d-other/1.wav"])
def test_a_path_outside_the_root_is_refused(tmp_path, path):
    data = directory(tmp_path / "d", f"u1 a.wav\nu2 {path}\n")
    message = rf"path must stay inside .*, got '{re.escape(path)}' in .*wav\.scp:2\. .*--root"
    with pytest.raises(ManifestError, match=message):
        prepare_kaldi(data)


@pytest.mark.parametrize("command", ["touch {} |", "touch {}|", "cat a.wav | touch {} | \t"])
def test_a_command_is_refused_and_never_run(tmp_path, command):
    witness = tmp_path / "witness"
    data = directory(tmp_path / "d", f"u1 a.wav\nu2 {command.format(witness)}\n")
    with pytest.raises(
        ManifestError, match=r"recording must be a file, got the command 'c?.*' in .*wav\.scp:2\. .*never"
    ):
        prepare_kaldi(data)
    assert not witness.exists()


@pytest.mark.parametrize(
    ("recordings", "speakers", "message"),
    [
        ("u1 a.wav\nu2\n", "u1 a\n", r"line must be `UTTERANCE PATH`, got 'u2' in .*wav\.scp:2"),
        ("u1 a.wav\n", "u1\n", r"line must be `UTTERANCE SPEAKER`, got 'u1' in .*utt2spk:1"),
        ("u1 a.wav\n", "u1 a\nu2 b c\n", r"line must be `UTTERANCE SPEAKER`, got 'u2 b c' in .*utt2spk:2"),
        ("u1 a.wav\nu1 b.wav\n", "u1 a\n", r"utterance must be there once, got 'u1' again in .*wav\.scp:2"),
        ("u1 a.wav\n", "u1 a\nu2 a\nu1 b\n", r"utterance must be there once, got 'u1' again in .*utt2spk:3"),
        ("u1 a.wav\n", b"u1 a\nu2 \xff\n", r"line must be UTF-8, got .* in .*utt2spk:2"),
    ],
)
def test_a_malformed_line_is_named(tmp_path, recordings, speakers, message):
    with pytest.raises(ManifestError, match=message):
        prepare_kaldi(directory(tmp_path / "d", recordings, speakers))


def test_utterances_that_only_one_file_has_are_rejected(tmp_path):
    record(tmp_path / "d" / "1.wav")
    result = prepare_kaldi(directory(tmp_path / "d", "u1 1.wav\nu3 1.wav\n", "u1 a\nu2 a\n"))
    assert result.manifest.column("utterance") == ["u1"]
    assert result.rejected == [
        ("1.wav", "utterance u3 must have a speaker in utt2spk"),
        ("u2", "utterance of utt2spk must have a recording in wav.scp"),
    ]


def segmented(tmp_path: Path, *segments: str) -> Path:
    """Two recordings of a second, and segments of speaker a."""
    for name in ("1", "2"):
        record(tmp_path / "d" / f"{name}.wav")
    names = dict.fromkeys(line.split()[0] for line in segments)
    data = directory(tmp_path / "d", "r1 1.wav\nr2 2.wav\n", "".join(f"{name} a\n" for name in names))
    (data / "segments").write_text("".join(f"{line}\n" for line in segments))
    return data


def test_segments_are_parts_of_recordings(tmp_path):
    result = prepare_kaldi(segmented(tmp_path, "u1 r1 0 0.6", "u2 r1 0.3 1.0", "u3 r2 0.25 -1"), min_duration_seconds=0)
    assert result.rejected == []
    assert [(each.name, each.path.name, *each[3:5]) for each in result.manifest] == [
        ("u1", "1.wav", 0.0, 0.6),
        ("u2", "1.wav", 0.3, 0.7),  # 1.0 - 0.3 is 0.7 in decimal only
        ("u3", "2.wav", 0.25, 0.75),
    ]


def test_a_segment_beyond_the_end_is_rejected_with_its_line(tmp_path):
    data = segmented(tmp_path, "u1 r1 0.2 1.05", "u2 r2 0.5 1.6", "u3 r2 1.5 1.6")
    result = prepare_kaldi(data)
    assert [each[3:5] for each in result.manifest] == [(0.2, 0.8)]
    assert [path for path, _ in result.rejected] == ["2.wav", "2.wav"]
    reason = "utterance must lie within its recording of 1.000 s, got 0.500 to 1.600 s"
    assert result.rejected[0].reason == f"{reason} (listed in {data / 'segments'}:2)"


def test_segments_that_lack_a_recording_or_a_speaker_are_rejected(tmp_path):
    data = segmented(tmp_path, "u1 r1 0 1", "u2 r9 0 1", "u3 r2 0 1")
    (data / "utt2spk").write_text("u1 a\nu2 a\nu4 a\n")
    assert prepare_kaldi(data).rejected == [
        ("2.wav", "utterance u3 must have a speaker in utt2spk"),
        ("u2", f"recording r9 must be in wav.scp (listed in {data / 'segments'}:2)"),
        ("u4", "utterance of utt2spk must have a recording in segments"),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("u2 r1 0", r"line must be `UTTERANCE RECORDING START END`, got 'u2 r1 0' in .*segments:2"),
        ("u2 r1 0 1 A", r"line must be `UTTERANCE RECORDING START END`, got 'u2 r1 0 1 A' in .*segments:2"),
        ("u2 r1 zero 1", r"line must be `UTTERANCE RECORDING START END`, got 'u2 r1 zero 1' in .*segments:2"),
        ("u2 r1 0 inf", r"line must be `UTTERANCE RECORDING START END`, got 'u2 r1 0 inf' in .*segments:2"),
        ("u2 r1 0.5 0.5", r"segment must end behind its start, .* got 0\.5 to 0\.5 in .*segments:2"),
        ("u2 r1 -1 0.5", r"segment must end behind its start, .* got -1 to 0\.5 in .*segments:2"),
        ("u1 r2 0 1", r"utterance must be there once, got 'u1' again in .*segments:2"),
    ],
)
def test_a_malformed_segment_is_named(tmp_path, line, message):
    with pytest.raises(ManifestError, match=message):
        prepare_kaldi(segmented(tmp_path, "u1 r1 0 1", line))


def test_further_files_of_utterances_are_columns(tmp_path):
    data = directory(tmp_path / "d", "u1 1.wav\nu2 1.wav\n")
    record(data / "1.wav")
    (data / "utt2session").write_text("u1 first day\n")
    (data / "utt2lang").write_text("u1 en\nu2 de\nu9 fr\n")
    for name in ("utt2dur", "utt2path", "utt2odd-name"):
        (data / name).write_text("u1 1.0\n")
    manifest = prepare_kaldi(data).manifest
    assert manifest.column_names[6:] == ["session", "lang"]
    assert manifest.column("session") == ["first day", ""]
    assert manifest.column("lang") == ["en", "de"]


@pytest.mark.parametrize("missing", ["wav.scp", "utt2spk"])
def test_a_missing_file_is_named(tmp_path, missing):
    data = directory(tmp_path / "d", "u1 a.wav\n")
    (data / missing).unlink()
    with pytest.raises(FileNotFoundError, match=f"Kaldi data directory must have {missing}, got none at"):
        prepare_kaldi(data)


def test_a_missing_directory_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="Kaldi data directory must be a folder, got"):
        prepare_kaldi(tmp_path / "none")


@pytest.mark.slow
def test_the_shared_corpus_is_complete(shared_data):
    result = prepare_kaldi(shared_data / "speechocean762-train")
    assert (len(result.manifest.speakers), len(result.manifest), result.rejected) == (125, 2_500, [])
    assert result.manifest.speakers[0] == "0001"

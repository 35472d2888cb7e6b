"""The lists of WeSpeaker, SpeechBrain, NeMo and Lhotse, and tables."""

import json
from pathlib import Path

import lhotse
import numpy as np
import pytest
import soundfile

from chns.core import ManifestError
from chns.data.corpora.lhotse import read_lhotse
from chns.data.corpora.list_formats import ColumnNames, read_csv, read_nemo, read_speechbrain, read_wespeaker
from chns.data.corpora.listed import scan_list

READERS = {"wespeaker": read_wespeaker, "nemo": read_nemo, "speechbrain": read_speechbrain, "csv": read_csv,
           "lhotse": read_lhotse}  # fmt: skip


def record(path: Path, *, seconds: float = 2.0, channels: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.zeros((round(seconds * 8_000), channels), np.int16), 8_000)
    return path


@pytest.fixture
def audio(tmp_path):
    """The folder of three recordings of 2 s at 8 kHz."""
    for name in ("a/1.wav", "a/2.wav", "b/1.wav"):
        record(tmp_path / "audio" / name)
    return tmp_path / "audio"


def listed(audio: Path, *lines: object) -> Path:
    path = audio.parent / "list"
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return path


def rows(candidates, audio: Path) -> list[tuple]:
    manifest = scan_list(candidates, root=audio).manifest
    return [(each.name, each.speaker, str(each.path.relative_to(audio)), *each[3:6]) for each in manifest]


# ----- WeSpeaker


def test_wespeaker_lists_whole_recordings_and_further_keys_are_columns(audio):
    source = listed(
        audio,
        {"key": "u1", "spk": "a", "wav": str(audio / "a/1.wav"), "session": "x", "genre": "pop"},
        {"key": "u2", "spk": "b", "wav": "b/1.wav"},
    )
    manifest = scan_list(read_wespeaker(source, root=audio), root=audio).manifest
    assert [each[:2] for each in manifest] == [("u1", "a"), ("u2", "b")]
    assert manifest.column_names[-2:] == ["session", "genre"]
    assert manifest.column("genre") == ["pop", ""]
    assert manifest.durations_seconds.tolist() == [2.0, 2.0]


def test_a_missing_recording_is_rejected_with_its_line(audio):
    source = listed(audio, {"key": "u1", "spk": "a", "wav": "a/1.wav"}, {"key": "u2", "spk": "a", "wav": "a/none.wav"})
    result = scan_list(read_wespeaker(source, root=audio), root=audio)
    assert len(result.manifest) == 1
    (rejected,) = result.rejected
    assert rejected.path == "a/none.wav"
    assert rejected.reason.endswith(f"(listed in {source}:2)")


# ----- NeMo


def test_nemo_knows_parts_and_names_them_by_their_files(audio):
    source = listed(
        audio,
        {"audio_filepath": "a/1.wav", "offset": 0, "duration": 0.75, "label": "a", "text": "hello"},
        {"audio_filepath": "a/1.wav", "offset": 0.75, "duration": 1.25, "label": "a"},
        {"audio_filepath": "b/1.wav", "duration": None, "label": 7},
    )
    assert rows(read_nemo(source, root=audio), audio) == [
        ("a/1-0.000", "a", "a/1.wav", 0.0, 0.75, 8_000),
        ("a/1-0.750", "a", "a/1.wav", 0.75, 1.25, 8_000),
        ("b/1", "7", "b/1.wav", 0.0, 2.0, 8_000),
    ]


def test_a_part_beyond_the_end_is_rejected_with_its_line(audio):
    source = listed(
        audio,
        {"audio_filepath": "a/1.wav", "offset": 0.5, "duration": 1.5, "label": "a"},
        {"audio_filepath": "a/2.wav", "offset": 1.5, "duration": 1.5, "label": "a"},
    )
    result = scan_list(read_nemo(source, root=audio), root=audio)
    assert result.manifest.column("utterance") == ["a/1"]
    reason = "utterance must lie within its recording of 2.000 s, got 1.500 to 3.000 s"
    assert result.rejected == [("a/2.wav", f"{reason} (listed in {source}:2)")]


# ----- SpeechBrain


def test_speechbrain_counts_samples_of_the_file(audio):
    source = listed(
        audio,
        "ID, duration, wav, start, stop, spk_id",
        "a-1,2.0,$data_root/a/1.wav,0,8000,a",
        "a-2,2.0,{data_root}/a/1.wav,8000,16000,a",
        f"b-1,2.0,{audio}/b/1.wav,,,b",
    )
    assert rows(read_speechbrain(source, root=audio), audio) == [
        ("a-1", "a", "a/1.wav", 0.0, 1.0, 8_000),
        ("a-2", "a", "a/1.wav", 1.0, 1.0, 8_000),
        ("b-1", "b", "b/1.wav", 0.0, 2.0, 8_000),
    ]


def test_speechbrain_must_stop_behind_the_start(audio):
    source = listed(audio, "ID,duration,wav,start,stop,spk_id", "a,2.0,a/1.wav,10,10,a")
    with pytest.raises(ManifestError, match=r"stop must be greater than start, got 10 and 10 in .*list:2"):
        list(read_speechbrain(source, root=audio))


# ----- tables


def test_any_names_will_do_for_the_columns_of_a_table(audio):
    source = listed(audio, "who;file;from;show;city", 'a;"a/1.wav";0.5;s1;Oslo', "b;b/1.wav;;;")
    names = ColumnNames(path="file", speaker="who", offset_seconds="from", session="show")
    candidates = list(read_csv(source, root=audio, names=names, delimiter=";"))
    assert rows(candidates, audio) == [
        ("a/1", "a", "a/1.wav", 0.5, 1.5, 8_000),
        ("b/1", "b", "b/1.wav", 0.0, 2.0, 8_000),
    ]
    assert [(each.session, each.columns) for each in candidates] == [("s1", {"city": "Oslo"}), (None, {})]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["speaker,wav", "a,b"], r"header must name the column path, got 'speaker, wav' in .*list:1"),
        ([], r"header must name the column path, got '' in .*list:1"),
        (["path,speaker,path", "a,b,c"], r"columns must have different names, got path, speaker, path in .*list:1"),
        (["path,speaker", "a/1.wav,a", "a,2.wav,a"], r"line must have 2 fields as the header, got 3 in .*list:3"),
        (["path,speaker", "a/1.wav"], r"line must have 2 fields as the header, got 1 in .*list:2"),
        (["path,speaker", '"a"b,c'], r"line must be CSV, got .* in .*list:2\. Correct the quotes"),
        (["path,speaker", "a/1.wav,"], r"speaker must be text that is not empty, got '' in .*list:2"),
        (["path,speaker,offset_seconds", "a/1.wav,a,soon"], r"offset_seconds must be a number from 0, .* in .*list:2"),
    ],
)
def test_a_broken_table_is_explained(audio, lines, message):
    with pytest.raises(ManifestError, match=message):
        list(read_csv(listed(audio, *lines), root=audio))


@pytest.mark.parametrize("delimiter", ["", ";;", '"', "\n"])
def test_a_delimiter_is_one_character(audio, delimiter):
    with pytest.raises(ValueError, match="delimiter must be one character"):
        list(read_csv(listed(audio, "path,speaker"), root=audio, delimiter=delimiter))


# ----- Lhotse


def lhotse_recording(audio: Path, name: str) -> lhotse.Recording:
    return lhotse.Recording.from_file(audio / name, recording_id=name)


def supervision(name: str, recording: str, **fields: object) -> lhotse.SupervisionSegment:
    settings = {"start": 0.25, "duration": 1.5, "speaker": "a", "gender": "F", "custom": {"session": "s", "n": 1}}
    return lhotse.SupervisionSegment(**{"id": name, "recording_id": recording, **settings, **fields})


@pytest.fixture
def lhotse_sets(audio):
    recordings = lhotse.RecordingSet.from_recordings(
        [lhotse_recording(audio, "a/1.wav"), lhotse_recording(audio, "b/1.wav")]
    )
    supervisions = lhotse.SupervisionSet.from_segments(
        [supervision("u1", "a/1.wav"), supervision("u2", "b/1.wav", start=0.0, duration=2.0, speaker="b", custom=None)]
    )
    return recordings, supervisions


LHOTSE_ROWS = [("u1", "a", "a/1.wav", 0.25, 1.5, 8_000), ("u2", "b", "b/1.wav", 0.0, 2.0, 8_000)]


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_what_lhotse_writes_is_read(audio, lhotse_sets, suffix):
    recordings, supervisions = lhotse_sets
    recordings.to_file(audio.parent / f"r{suffix}")
    supervisions.to_file(audio.parent / f"s{suffix}")
    candidates = list(read_lhotse(audio.parent / f"r{suffix}", root=audio, supervisions=audio.parent / f"s{suffix}"))
    assert rows(candidates, audio) == LHOTSE_ROWS
    assert candidates[0].columns == {"session": "s", "gender": "F"}


def test_the_supervisions_of_cuts_count_from_the_cut_and_are_trimmed_to_it(audio, lhotse_sets):
    cuts = lhotse.CutSet.from_manifests(*lhotse_sets)
    cuts.to_file(audio.parent / "whole.jsonl")
    assert rows(read_lhotse(audio.parent / "whole.jsonl", root=audio), audio) == LHOTSE_ROWS
    cuts.truncate(offset_type="start", max_duration=1.0).to_file(audio.parent / "first.jsonl")
    assert rows(read_lhotse(audio.parent / "first.jsonl", root=audio), audio) == [
        ("u1", "a", "a/1.wav", 0.25, 0.75, 8_000),
        ("u2", "b", "b/1.wav", 0.0, 1.0, 8_000),
    ]
    cuts.trim_to_supervisions().to_file(audio.parent / "trimmed.jsonl")
    assert rows(read_lhotse(audio.parent / "trimmed.jsonl", root=audio), audio) == LHOTSE_ROWS
    windows = cuts.cut_into_windows(1.0).to_eager()
    windows = lhotse.CutSet.from_cuts(list(windows)[1:2])  # the second half of the first recording
    windows.to_file(audio.parent / "second.jsonl")
    ((*_, offset, duration, _),) = rows(read_lhotse(audio.parent / "second.jsonl", root=audio), audio)
    assert (offset, duration) == (1.0, 0.75)


RECORDING = {"id": "r", "sources": [{"type": "file", "channels": [0], "source": "a/1.wav"}], "sampling_rate": 8_000,
             "num_samples": 16_000, "duration": 2.0}  # fmt: skip
SUPERVISION = {"id": "u", "recording_id": "r", "start": 0, "duration": 1, "channel": 0, "speaker": "a"}
CUT = {"id": "c", "start": 0, "duration": 1, "channel": 0, "supervisions": [SUPERVISION], "recording": RECORDING,
       "type": "MonoCut"}  # fmt: skip


def source(kind: str, path: str) -> dict[str, object]:
    return {"sources": [{"type": kind, "channels": [0], "source": path}]}


STEREO = [{"type": "file", "channels": [0, 1], "source": "a/1.wav"}]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (source("command", "touch x"), r"file, got the type 'command' in .*:1\. Commands are never run"),
        (source("url", "https://x"), r"file, got the type 'url' in .*:1\. .*nothing is downloaded"),
        (source("file", "touch x |"), r"got the command 'touch x \|' in .*:1"),
        (source("file", "../x.wav"), r"path must stay inside .* in .*:1"),
        ({"sources": []}, r"recording must have one source, got \[\] in .*:1"),
        ({"sources": "x"}, r"recording must have one source, got 'x' in .*:1"),
        ({"sources": [{**STEREO[0], "channels": [1, 2]}]}, r"channel must be one of \[1, 2\], .*, got 0 in .*:1"),
        ({"transforms": [{"name": "Speed"}]}, r"recording must be as its file is, got the transforms .* in .*:1"),
    ],
)  # fmt: skip
def test_a_recording_that_is_no_plain_file_is_refused(audio, change, message):
    with pytest.raises(ManifestError, match=message):
        list(read_lhotse(listed(audio, {**CUT, "recording": {**RECORDING, **change}}), root=audio))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"type": "MixedCut"}, r"cut must be of type MonoCut or MultiCut or Cut, got 'MixedCut' in .*:1"),
        ({"supervisions": []}, r"cut must have a supervision, which names the speaker, got \[\] in .*:1"),
        ({"recording": None}, r"recording must be a JSON object, got None in .*:1"),
        ({"duration": None}, r"duration must be a number, got none in .*:1"),
        ({"supervisions": [{**SUPERVISION, "speaker": None}]}, r"speaker must be text .*, got None in .*:1"),
        ({"supervisions": [{**SUPERVISION, "custom": [1]}]}, r"custom must be a JSON object, got \[1\] in .*:1"),
        ({"supervisions": [{**SUPERVISION, "start": "x"}]}, r"start must be a number, got 'x' in .*:1"),
    ],
)  # fmt: skip
def test_a_cut_that_is_no_utterance_is_explained(audio, change, message):
    with pytest.raises(ManifestError, match=message):
        list(read_lhotse(listed(audio, {**CUT, **change}), root=audio))


def test_a_supervision_of_an_unknown_recording_is_named(audio):
    supervisions = audio.parent / "s.jsonl"
    supervisions.write_text(json.dumps({**SUPERVISION, "recording_id": "r9"}))
    with pytest.raises(ManifestError, match=r"recording_id must be one of .*list, got 'r9' in .*s\.jsonl:1"):
        list(read_lhotse(listed(audio, RECORDING), root=audio, supervisions=supervisions))


def test_a_recording_is_listed_once(audio):
    with pytest.raises(ManifestError, match=r"recording must be there once, got 'r' again in .*list:2"):
        list(read_lhotse(listed(audio, RECORDING, RECORDING), root=audio, supervisions=audio.parent / "none"))


def test_recordings_alone_get_a_hint(audio):
    with pytest.raises(
        ManifestError, match=r"got None in .*list:1\. .*if these are recordings, name their supervisions"
    ):
        list(read_lhotse(listed(audio, RECORDING), root=audio))


def test_all_channels_of_a_recording_are_one_utterance(audio):
    record(audio / "a/1.wav", channels=2)
    cut = {**CUT, "recording": {**RECORDING, "sources": STEREO}, "supervisions": [{**SUPERVISION, "channel": [0, 1]}]}
    assert rows(read_lhotse(listed(audio, cut), root=audio), audio) == [("u", "a", "a/1.wav", 0.0, 1.0, 8_000)]


# ----- all


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
def test_every_reader_names_a_missing_list(tmp_path, reader):
    with pytest.raises(FileNotFoundError, match="list must be a file, got"):
        list(reader(tmp_path / "none", root=tmp_path))


@pytest.mark.parametrize(
    ("reader", "lines"),
    [
        (read_wespeaker, ['{{"key": "u", "spk": "a", "wav": "{}"}}']),
        (read_nemo, ['{{"audio_filepath": "{}", "label": "a"}}']),
        (read_speechbrain, ["ID,duration,wav,start,stop,spk_id", "u,1,{},0,1,a"]),
        (read_csv, ["path,speaker", "{},a"]),
    ],
)
@pytest.mark.parametrize("path", ["/etc/passwd", "../x.wav", "touch witness |"])
def test_no_reader_leaves_the_root_or_runs_a_command(audio, reader, lines, path):
    source = listed(audio, *[line.format(path) for line in lines])
    with pytest.raises(ManifestError, match=rf"(must stay inside|got the command) .* in .*list:{len(lines)}"):
        list(reader(source, root=audio))
    assert not (audio / "witness").exists()

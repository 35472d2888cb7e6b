"""A corpus converted: same names, resumable, sources untouched, failures listed."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from chns.core import FolderInUseError, ManifestError, locked_folder
from chns.data import conversion
from chns.data.audio import audio_info, read_audio, write_audio
from chns.data.conversion import convert_audio
from chns.data.corpora.any_folder import prepare_folder
from chns.data.manifest import Manifest


def record(path: Path, *, rate: int = 16_000, frames: int = 16_000, channels: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = 0.1 * np.random.default_rng(frames).standard_normal((frames, channels))
    soundfile.write(path, samples, rate)


@pytest.fixture
def corpus(tmp_path):
    root = tmp_path / "corpus"
    record(root / "a" / "1.wav")
    record(root / "a" / "2.wav", rate=44_100, frames=44_107, channels=2)
    record(root / "b" / "x.y.flac", rate=8_000, frames=9_001)
    return root


def contents(folder: Path) -> dict[str, bytes]:
    """All but what tells processes, and us, whose folder it is."""
    ours = (".lock", ".chns-converted")
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name not in ours)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


@pytest.mark.parametrize("suffix", ["flac", "wav", "opus"])
def test_the_converted_tree_has_the_same_names_and_the_wanted_rate_and_the_sources_stay(corpus, tmp_path, suffix):
    before = contents(corpus)
    manifest = prepare_folder(corpus).manifest
    result = convert_audio(manifest, tmp_path / "out", format=suffix)
    assert contents(corpus) == before
    assert sorted(contents(tmp_path / "out")) == [f"a/1.{suffix}", f"a/2.{suffix}", f"b/x.y.{suffix}"]
    assert (result.failures, result.num_written, result.num_kept) == ([], 3, 0)
    assert result.manifest.column("utterance") == manifest.column("utterance")
    assert np.abs(result.manifest.durations_seconds - manifest.durations_seconds).max() < 1 / 16_000
    for old, new in zip(manifest, result.manifest, strict=True):
        assert new.path.is_relative_to(tmp_path / "out")
        assert audio_info(new.path)[1:] == (new.sample_rate_hz, 1) == (16_000, 1)
        expected, converted = read_audio(old.path), read_audio(new.path)
        assert len(expected) == len(converted)
        if suffix != "opus":
            assert np.abs(expected - converted).max() < 1e-4
        read_audio(new.path, offset_seconds=new.offset_seconds, duration_seconds=new.duration_seconds)


def test_a_second_run_writes_nothing_and_one_with_damage_writes_only_that(corpus, tmp_path):
    manifest, out = prepare_folder(corpus).manifest, tmp_path / "out"
    first = convert_audio(manifest, out, format="flac")
    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("*.flac")}
    assert convert_audio(manifest, out, format="flac")[2:] == (0, 3)
    assert stamps == {path: path.stat().st_mtime_ns for path in out.rglob("*.flac")}
    whole = contents(out)
    (out / "a" / "1.flac").write_bytes(b"x")
    (out / "a" / "2.flac").unlink()
    (out / "a" / ".2.chns-tmp-999999999-0123abcd.flac").write_bytes(b"half")  # as a killed run leaves it
    again = convert_audio(manifest, out, format="flac")
    assert again[2:] == (2, 1)
    assert contents(out) == whole
    assert again.manifest.column("path") == first.manifest.column("path")


def test_a_source_that_is_newer_or_another_rate_is_converted_again(corpus, tmp_path):
    manifest, out = prepare_folder(corpus).manifest, tmp_path / "out"
    convert_audio(manifest, out, format="wav")
    later = time.time() + 10
    os.utime(corpus / "a" / "1.wav", (later, later))
    assert convert_audio(manifest, out, format="wav")[2:] == (1, 2)
    assert convert_audio(manifest, out, format="wav", sample_rate_hz=8_000).num_written == 3


def test_parts_of_a_long_recording_keep_their_places(tmp_path):
    record(tmp_path / "in" / "long.wav", rate=48_000, frames=48_000 * 3)
    row = {"speaker": "s", "path": "long.wav", "duration_seconds": 1.0, "sample_rate_hz": 48_000}
    rows = [{**row, "utterance": str(n), "offset_seconds": 0.5 + n, "note": "kept"} for n in range(2)]
    manifest = Manifest.from_rows(rows, root=tmp_path / "in")
    result = convert_audio(manifest, tmp_path / "out", format="flac")
    assert (result.num_written, len(result.manifest)) == (1, 2)
    assert [utterance.offset_seconds for utterance in result.manifest] == [0.5, 1.5]
    assert result.manifest.durations_seconds.tolist() == [1.0, 1.0]
    assert result.manifest.column("note") == ["kept", "kept"]


def test_what_cannot_be_decoded_is_listed_and_the_rest_converted(corpus, tmp_path):
    content = (corpus / "b" / "x.y.flac").read_bytes()
    manifest = prepare_folder(corpus).manifest
    (corpus / "b" / "x.y.flac").write_bytes(content[: len(content) // 2])
    (corpus / "a" / "1.wav").unlink()
    result = convert_audio(manifest, tmp_path / "out", format="flac")
    assert [failure.path for failure in result.failures] == ["a/1.wav", "b/x.y.flac"]
    assert "recording must be a file, got" in result.failures[0].reason
    assert "recording must be decodable, got an error in" in result.failures[1].reason
    assert result.manifest.column("path") == ["a/2.flac"]
    assert list(contents(tmp_path / "out")) == ["a/2.flac"]


def test_two_sources_that_would_get_one_name_are_not_mixed_up(corpus, tmp_path):
    record(corpus / "a" / "1.flac")
    rows = [
        {"utterance": path, "speaker": "a", "path": path, "offset_seconds": 0.0, "duration_seconds": 1.0,
         "sample_rate_hz": 16_000} for path in ("a/1.wav", "a/1.flac")
    ]  # fmt: skip
    result = convert_audio(Manifest.from_rows(rows, root=corpus), tmp_path / "out", format="wav")
    assert result.failures == [("a/1.wav", "converted file must have a name of its own, a/1.flac becomes a/1.wav too")]
    assert result.manifest.column("utterance") == ["a/1.flac"]


def test_nothing_that_can_be_converted_is_an_error(corpus, tmp_path):
    manifest = prepare_folder(corpus).manifest
    for path in corpus.rglob("*.*"):
        path.write_bytes(b"x")
    with pytest.raises(ManifestError, match=r"a file that can be converted, got none of 3 in .*a/1\.wav: recording"):
        convert_audio(manifest, tmp_path / "out", format="flac")


def test_a_recording_of_many_hours_does_not_fill_the_memory(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(conversion, "_MAX_HOURS", 1.05 / 3600)
    result = convert_audio(prepare_folder(corpus).manifest, tmp_path / "out", format="flac")
    assert [failure.path for failure in result.failures] == ["b/x.y.flac"]
    assert "must last at most 1.05" not in result.failures[0].reason
    assert "hours to be converted" in result.failures[0].reason


@pytest.mark.parametrize("below", [".", "flac"])
def test_the_folder_of_the_sources_is_refused(corpus, below):
    with pytest.raises(ValueError, match="converted files must lie outside the folder of their sources"):
        convert_audio(prepare_folder(corpus).manifest, corpus / below, format="wav")


def test_a_link_that_leads_back_to_the_source_is_not_followed(corpus, tmp_path):
    before = contents(corpus)
    manifest = prepare_folder(corpus).manifest
    convert_audio(manifest, tmp_path / "out", format="flac")
    shutil.rmtree(tmp_path / "out" / "b")
    (tmp_path / "out" / "b").symlink_to(corpus / "b")
    result = convert_audio(manifest, tmp_path / "out", format="flac")
    assert "converted file must not be its source" in result.failures[0].reason
    assert contents(corpus) == before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"format": "mp3"}, "format must be one of wav, flac, opus, got 'mp3'"),
        ({"format": "opus", "sample_rate_hz": 22_050}, "sample rate of Opus must be one of .*, got 22050"),
        ({"format": "flac", "sample_rate_hz": 0}, "sample_rate_hz must be positive, got 0"),
        ({"format": "flac", "jobs": 0}, "jobs must be at least 1, got 0"),
    ],
)
def test_a_setting_out_of_range_is_named(corpus, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        convert_audio(prepare_folder(corpus).manifest, tmp_path / "out", **settings)


def test_two_processes_cannot_write_one_folder(corpus, tmp_path):
    manifest = prepare_folder(corpus).manifest
    with (
        locked_folder(tmp_path / "out"),
        pytest.raises(
            FolderInUseError, match=r"folder must be written by one process at a time, got another one in .*out"
        ),
    ):
        convert_audio(manifest, tmp_path / "out", format="flac")


# After 40 files workers wait until the test has sent its signal: it comes before the end, however busy the machine is.
SCRIPT = """
import signal, sys, time
from pathlib import Path
from chns.data import conversion
from chns.data.manifest import Manifest
conversion._FILES_PER_WORKER = 1
write_audio, out = conversion.write_audio, Path(sys.argv[2])
def write_some_then_wait(*args, **kwargs):
    while len(list(out.glob("*/[!.]*"))) >= 40 and not (out.parent / "signal-sent").exists():
        time.sleep(0.02)
    write_audio(*args, **kwargs)
conversion.write_audio = write_some_then_wait
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a parent in the background of a shell ignores
    result = conversion.convert_audio(Manifest.read(sys.argv[1]), Path(sys.argv[2]), format="flac", jobs=2)
    print(result.num_written, result.num_kept)
"""


def waited_for(condition) -> bool:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_is_stopped_leaves_no_process_and_is_continued_to_the_same_result(tmp_path, stop):
    root, out = tmp_path / "in", tmp_path / "out"
    noise = 0.1 * np.random.default_rng(0).standard_normal(48_000).astype(np.float32)
    for number in range(192):  # far more than the five portions of 16 that may be under way when Ctrl-C comes
        write_audio(root / f"s{number % 3}" / f"{number}.wav", noise[number:], sample_rate_hz=48_000)
    manifest = prepare_folder(root).manifest
    manifest.write(tmp_path / "m.parquet")
    (tmp_path / "script.py").write_text(SCRIPT)
    words = [sys.executable, tmp_path / "script.py", tmp_path / "m.parquet", out]
    running = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    assert waited_for(lambda: len(list(out.glob("*/[!.]*"))) >= 3)
    children = [int(pid) for pid in Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()]
    running.send_signal(stop)
    (tmp_path / "signal-sent").touch()
    running.communicate(timeout=60)
    assert len(children) >= 2
    assert waited_for(lambda: not any(map(is_running, children)))
    before = len(list(out.glob("*/[!.]*")))
    assert before < 192
    result = convert_audio(manifest, out, format="flac", jobs=1)
    assert (result.num_written, result.num_kept) == (192 - before, before)
    assert contents(out) == contents_of_uninterrupted(manifest, tmp_path / "other")


def contents_of_uninterrupted(manifest: Manifest, out: Path) -> dict[str, bytes]:
    convert_audio(manifest, out, format="flac", jobs=1)
    return contents(out)

"""Recordings in shards are the recordings, a packing that was stopped goes on, and hostile shards are named."""

import hashlib
import itertools
import os
import pickle
import signal
import subprocess
import sys
import tarfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from aac_files import write_aac
from made_corpus import RATE, MadeCorpus, good_corpus, voice
from torch.utils.data import DataLoader

from chns.core import AudioError, FolderInUseError, ManifestError, locked_folder
from chns.data import packing as writing
from chns.data.audio import audio_info, read_audio
from chns.data.check import check_manifest
from chns.data.conversion import convert_audio
from chns.data.corpora.kaldi import write_kaldi
from chns.data.corpora.list_formats import write_csv
from chns.data.dataset import CropBatches, SpeakerCrops
from chns.data.manifest import Manifest
from chns.data.packing import pack_shards as pack_with_jobs
from chns.data.shard_plan import plan_shards
from chns.data.storage import packed as shard_recording
from chns.data.storage.packed import PackedRecording
from chns.data.storage.remote import name_field, size_field
from chns.sampling import BatchShape, RandomSpeakerBatches

LONG_SECONDS = 40

pack_shards = partial(pack_with_jobs, jobs=1)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Every format; long and odd names; parts of a recording; a recording that is not read whole."""
    corpus = MadeCorpus(tmp_path_factory.mktemp("corpus"))
    corpus.add("s0/flac", voice(0), session="a")
    corpus.add("s0/wav", np.stack([voice(1), voice(2)], axis=1), suffix=".wav", session="b")
    corpus.add("s1/vorbis", voice(3), suffix=".ogg", format="OGG", subtype="VORBIS", session="a")
    corpus.add("s1/opus", voice(4), suffix=".opus", format="OGG", subtype="OPUS", session="b")
    corpus.add("s2/mp3", voice(5), suffix=".mp3", format="MP3", session="a")
    corpus.add("s2/slow", voice(6, rate=8_000), rate=8_000, suffix=".wav", session="b")
    corpus.add(f"s3/{'n' * 120}", voice(7), session="a")
    corpus.add("s3/Zoë ж", voice(8), session="a")
    corpus.add("s4/long", voice(9, LONG_SECONDS), suffix=".wav", session="a")
    corpus.row("s5/part", "../s4/long.wav", offset=30.0, duration=3.0, session="c")
    corpus.rows[-1]["path"] = "s4/long.wav"
    for number, suffix in enumerate((".m4a", ".aac")):
        write_aac(corpus.root / "s6" / f"{number}{suffix}", voice(10 + number))
        corpus.row(f"s6/{number}", f"{number}{suffix}", duration=1.9, session="a")
    return corpus.manifest


@pytest.fixture(scope="module")
def packed(corpus, tmp_path_factory):
    out = tmp_path_factory.mktemp("packed") / "shards"
    packing = pack_shards(corpus, out, shard_bytes=300_000)
    assert (packing.failures, packing.num_kept) == ([], 0)
    assert packing.num_written > 2
    return Manifest.read(out / "manifest.parquet")


def contents(folder: Path) -> dict[str, bytes]:
    """All but what tells processes, and us, whose folder it is."""
    ours = (".lock", ".chns-converted")
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name not in ours)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def moved(manifest: Manifest, **changes) -> Manifest:
    """The manifest with values of its first row changed."""
    rows = manifest.table.to_pylist()
    rows[0] |= changes
    return Manifest.from_rows(rows, root=manifest.root)


def read_first(manifest: Manifest):
    return read_audio(manifest[0].path)


def test_every_recording_is_bit_for_bit_the_same_whole_and_in_parts(corpus, packed):
    assert packed.column("utterance") == corpus.column("utterance")
    assert packed.column("session") == corpus.column("session")
    for file, shard in zip(corpus, packed, strict=True):
        assert shard[:2] == file[:2]
        assert shard[3:] == file[3:]
        assert isinstance(shard.path, PackedRecording)
        assert shard.path.suffix == file.path.suffix
        assert audio_info(shard.path) == audio_info(file.path)
        for offset, duration in ((0.0, None), (0.25, 1.0), (1.3, 0.5), (file.offset_seconds, file.duration_seconds)):
            part = {"offset_seconds": offset, "duration_seconds": duration}
            np.testing.assert_array_equal(read_audio(shard.path, **part), read_audio(file.path, **part))


def test_recordings_are_the_same_where_there_is_no_pread(corpus, packed, monkeypatch):
    for name in ("pread", "preadv"):
        monkeypatch.delattr(f"os.{name}")
    for whole_bytes in (2**20, 0):  # read at once, and piece by piece
        monkeypatch.setattr("chns.data.storage.packed._READ_WHOLE_BYTES", whole_bytes)
        for file, shard in zip(corpus, packed, strict=True):
            np.testing.assert_array_equal(read_audio(shard.path), read_audio(file.path))


def test_a_file_of_a_shard_has_the_bytes_of_its_source(corpus, packed):
    for file, shard in zip(corpus, packed, strict=True):
        with shard.path.open() as opened:
            assert opened.read() == file.path.read_bytes()


def test_batches_from_shards_are_those_from_files_whatever_the_workers(hum_manifest, tmp_path):
    files = Manifest.read(hum_manifest)
    shards = pack_shards(files, tmp_path / "shards", shard_bytes=400_000).manifest

    def batches(manifest, num_workers):
        dataset = SpeakerCrops(manifest, crop_seconds=1.0, sample_rate_hz=RATE)
        sampler = RandomSpeakerBatches(manifest.speaker_labels, BatchShape(6, steps_per_epoch=4))
        sampler = CropBatches(sampler, seed=3, epoch=0)
        return list(DataLoader(dataset, batch_sampler=sampler, num_workers=num_workers))

    expected = batches(files, 0)
    for num_workers in (0, 2):
        for (crops, labels), (other_crops, other_labels) in zip(expected, batches(shards, num_workers), strict=True):
            assert torch.equal(crops, other_crops)
            assert torch.equal(labels, other_labels)


def test_a_shard_is_a_plain_tar_file_and_its_checksum_is_that_of_sha256sum(corpus, packed):
    names = {}
    for shard in sorted(packed.root.glob("*.tar")):
        with tarfile.open(shard) as tar:
            names |= {member.name: tar.extractfile(member).read() for member in tar}
    assert names == {path: (corpus.root / path).read_bytes() for path in set(corpus.column("path"))}
    lines = (packed.root / "SHA256SUMS").read_text().splitlines()
    expected = [f"{hashlib.sha256(s.read_bytes()).hexdigest()}  {s.name}" for s in sorted(packed.root.glob("*.tar"))]
    assert lines == expected


def test_the_index_of_a_shard_says_what_lies_where(corpus, packed):
    for shard in packed.root.glob("*.tar"):
        content = shard.read_bytes()
        for row in pq.read_table(shard.with_suffix(".parquet")).to_pylist():
            source = (corpus.root / row["path"]).read_bytes()
            assert content[row["byte_offset"] :][: row["byte_length"]] == source


def test_the_header_that_readers_expect_is_the_one_that_is_written():
    for name in ("a/b.flac", "n" * 100, "n" * 101, "Zoë/ж.wav"):
        for size in (1, 511, 2**33 - 1):
            header = writing._header(name, size)[-512:]
            assert (header[:100].rstrip(b"\0"), header[124:136]) == (name_field(name), size_field(size))


def test_speakers_lie_together_and_clusters_do_if_they_are_given(tmp_path):
    corpus = good_corpus(tmp_path / "in", speakers=6, utterances=3).manifest
    settings = {"shard_bytes": 10**9, "encoding": None}
    groups = np.array([1, 0, 1, 0, 2, 0])
    for speaker_groups, expected in ((None, "012345"), (groups, "135024")):
        plan = plan_shards(corpus, tmp_path, speaker_groups=speaker_groups, **settings)
        speakers = [member.path[1] for shard in plan.shards for member in shard.members]
        assert "".join(speaker for speaker, _ in itertools.groupby(speakers)) == expected


def test_shards_are_about_as_large_as_wanted(tmp_path):
    corpus = good_corpus(tmp_path / "in", speakers=10, utterances=3).manifest
    for chosen in ("as-is", "flac", "wav"):
        out = tmp_path / chosen
        pack_shards(corpus, out, shard_bytes=200_000, format=chosen)
        sizes = [path.stat().st_size for path in sorted(out.glob("*.tar"))]
        assert len(sizes) > 2
        assert max(sizes) < 320_000


@pytest.mark.parametrize("encoded", ["flac", "wav"])
def test_encoding_keeps_what_has_16_bits_and_brings_the_rest_to_mono_of_16_khz(corpus, tmp_path, encoded):
    packing = pack_shards(corpus, tmp_path, format=encoded)
    assert packing.failures == []
    for file, shard in zip(corpus, packing.manifest, strict=True):
        assert (shard.path.suffix, shard.sample_rate_hz) == (f".{encoded}", RATE)
        info = audio_info(shard.path)
        assert info[1:] == (RATE, 1)
        assert shard.offset_seconds + shard.duration_seconds <= info.duration_seconds
        assert abs(shard.duration_seconds - file.duration_seconds) < 1 / RATE
        expected, got = read_audio(file.path), read_audio(shard.path)
        assert len(expected) == len(got)
        if file.path.suffix in (".flac", ".wav") and "wav" not in file.name and file.sample_rate_hz == RATE:
            np.testing.assert_array_equal(got, expected)
        elif file.path.suffix != ".m4a" and file.path.suffix != ".aac":
            assert np.abs(got - np.clip(expected, -1, 1)).max() < 1e-4


def test_shards_can_be_packed_from_shards(corpus, packed, tmp_path):
    again = pack_shards(packed, tmp_path / "again", shard_bytes=10**9, speaker_groups=np.arange(7)[::-1]).manifest
    assert len(list((tmp_path / "again").glob("*.tar"))) == 1
    for file, shard in zip(corpus, again, strict=True):
        with shard.path.open() as opened:
            assert opened.read() == file.path.read_bytes()


def test_files_and_shards_may_be_in_one_manifest(packed, tmp_path):
    other = good_corpus(tmp_path / "other").manifest
    merged = Manifest.merge([packed, other], prefixes=["a", "b"])
    assert [isinstance(each.path, PackedRecording) for each in merged] == [True] * len(packed) + [False] * len(other)
    for each, before in zip(merged, itertools.chain(packed, other), strict=True):
        assert len(read_audio(each.path)) == len(read_audio(before.path))
    merged.write(tmp_path / "merged.parquet")
    assert list(Manifest.read(tmp_path / "merged.parquet")) == list(merged)
    other_root = Manifest.merge([packed, other], prefixes=["a", "b"])
    pack_shards(other_root, tmp_path / "all")


def test_a_csv_manifest_knows_the_places(packed, tmp_path):
    packed.take([0, 3]).write(packed.root / "some.csv")
    again = Manifest.read(packed.root / "some.csv")
    assert [each.path.byte_offset for each in again] == [packed[row].path.byte_offset for row in (0, 3)]
    (packed.root / "some.csv").unlink()


def test_a_second_run_writes_nothing(corpus, tmp_path):
    first = pack_shards(corpus, tmp_path, shard_bytes=300_000)
    before = contents(tmp_path)
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.glob("shard-*")}
    again = pack_shards(corpus, tmp_path, shard_bytes=300_000)
    assert (again.num_written, again.num_kept) == (0, first.num_written)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("shard-*")} == stamps
    assert contents(tmp_path) == before


@pytest.mark.parametrize("damage", ["missing", "cut", "no index", "other index", "touched source"])
def test_only_what_is_not_right_any_more_is_written_again(tmp_path, damage):
    corpus = good_corpus(tmp_path / "in", speakers=4, utterances=2).manifest
    out = tmp_path / "out"
    first = pack_shards(corpus, out, shard_bytes=120_000)
    assert first.num_written == 4
    before = contents(out)
    shard = out / "shard-00001.tar"
    if damage == "missing":
        shard.unlink()
    elif damage == "cut":
        os.truncate(shard, 1_000)
    elif damage == "no index":
        shard.with_suffix(".parquet").write_bytes(b"x")
    elif damage == "other index":
        shard.with_suffix(".parquet").write_bytes((out / "shard-00002.parquet").read_bytes())
    elif damage == "touched source":
        os.utime(corpus.root / "s1" / "0.flac", (1, 1))
    (out / ".shard-00001.chns-tmp-999999999-0123abcd.tar").write_bytes(b"half")  # as a killed run leaves it
    again = pack_shards(corpus, out, shard_bytes=120_000)
    assert (again.num_written, again.num_kept) == (1, 3)
    after = contents(out)
    assert {name for name in before if name.endswith(".tar")} == {name for name in after if name.endswith(".tar")}
    assert all(after[name] == before[name] for name in before if not name.endswith("1.parquet"))


def test_in_another_format_all_is_written_again(tmp_path):
    corpus = good_corpus(tmp_path / "in").manifest
    assert pack_shards(corpus, tmp_path / "out").num_written == 1
    assert pack_shards(corpus, tmp_path / "out", format="flac").num_kept == 0
    assert pack_shards(corpus, tmp_path / "out", format="wav").num_kept == 0
    assert pack_shards(corpus, tmp_path / "out", format="wav").num_written == 0


def test_shards_that_are_not_needed_any_more_are_named(tmp_path, caplog):
    corpus = good_corpus(tmp_path / "in", speakers=4).manifest
    pack_shards(corpus, tmp_path / "out", shard_bytes=120_000)
    assert not caplog.records
    pack_shards(corpus, tmp_path / "out", shard_bytes=240_000)
    assert "holds 2 shards that the manifest needs no more, shard-00002.tar to shard-00003.tar" in caplog.text


SCRIPT = """
import sys
from pathlib import Path
from chns.data.manifest import Manifest
from chns.data.packing import pack_shards
if __name__ == "__main__":
    pack_shards(Manifest.read(sys.argv[1]), Path(sys.argv[2]), shard_bytes=100_000, format="flac", jobs=2)
"""


@pytest.mark.slow
def test_a_killed_run_is_continued_to_the_same_result(tmp_path):
    corpus = MadeCorpus(tmp_path / "in")
    noise = voice(0, 10, rate=48_000)
    for number in range(64):
        corpus.add(f"s{number % 3}/{number}", noise[number:], rate=48_000, suffix=".wav")
    manifest, out = corpus.manifest, tmp_path / "out"
    manifest.write(tmp_path / "m.parquet")
    (tmp_path / "script.py").write_text(SCRIPT)
    words = [sys.executable, tmp_path / "script.py", tmp_path / "m.parquet", out]
    running = subprocess.Popen(words, stderr=subprocess.PIPE, start_new_session=True)
    deadline = time.monotonic() + 60
    while len(list(out.glob("shard-*.parquet"))) < 3:
        assert running.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    children = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
    running.send_signal(signal.SIGKILL)
    running.communicate(timeout=30)
    while any(Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert not (out / "manifest.parquet").exists()
    settings = {"shard_bytes": 100_000, "format": "flac"}
    result = pack_shards(manifest, out, **settings)
    assert result.num_kept >= 3
    assert result.num_written > 0
    pack_shards(manifest, tmp_path / "alone", **settings)
    assert contents(out) == contents(tmp_path / "alone")


def test_what_cannot_be_packed_is_listed_and_the_rest_packed(tmp_path):
    corpus = good_corpus(tmp_path / "in", speakers=3)
    manifest = corpus.manifest
    (corpus.root / "s0" / "0.flac").unlink()
    (corpus.root / "s1" / "0.flac").write_bytes(b"")
    (corpus.root / "s2" / "0.flac").write_bytes(b"no audio")
    packing = pack_shards(manifest, tmp_path / "out", format="flac")
    assert [failure.path for failure in packing.failures] == ["s0/0.flac", "s1/0.flac", "s2/0.flac"]
    reasons = [failure.reason for failure in packing.failures]
    assert reasons[0].startswith("recording must be a file, got ")
    assert reasons[1].startswith("recording must be a file of 1 byte to 8 GiB, got 0 bytes in ")
    assert reasons[2].startswith("recording must be WAV, FLAC, Ogg, Opus or MP3 audio")
    assert packing.manifest.column("utterance") == ["s0/1", "s1/1", "s2/1"]
    assert packing.report.read_text().count("\n") == 4
    for each in packing.manifest:
        np.testing.assert_array_equal(read_audio(each.path), read_audio(corpus.root / f"{each.name}.flac"))


def test_a_recording_that_changes_while_it_is_packed_is_not_packed(tmp_path):
    corpus = good_corpus(tmp_path / "in").manifest
    plan = plan_shards(corpus, tmp_path, shard_bytes=10**9, speaker_groups=None, encoding=None).shards[0]
    os.truncate(corpus.root / "s0" / "1.flac", 1_000)
    shard = writing.write_shard(plan, encoding=None)
    assert [failure.path for failure in shard.failures] == ["s0/1.flac"]
    assert "must not change while it is packed, got 1,000 bytes instead of" in shard.failures[0].reason
    with tarfile.open(plan.path) as tar:
        assert tar.getnames() == ["s0/0.flac", "s1/0.flac", "s1/1.flac"]


def test_what_the_disk_does_not_give_is_not_packed(tmp_path):
    corpus = good_corpus(tmp_path / "in").manifest
    plan = plan_shards(corpus, tmp_path, shard_bytes=10**9, speaker_groups=None, encoding=None).shards[0]
    plan.members[1] = plan.members[1]._replace(source=Path("/proc/self/mem"))  # nothing is mapped at its start
    shard = writing.write_shard(plan, encoding=None)
    reason = "recording must be readable, got /proc/self/mem (Input/output error)."
    assert shard.failures == [("s0/1.flac", reason)]
    assert shard.index["path"].to_pylist() == ["s0/0.flac", "s1/0.flac", "s1/1.flac"]


def test_a_wrong_duration_stays_wrong(tmp_path):
    corpus = good_corpus(tmp_path / "in")
    corpus.rows[0]["duration_seconds"] = 5.0
    corpus.rows[1]["offset_seconds"] = 7.0
    packed = pack_shards(corpus.manifest, tmp_path / "out", format="flac").manifest
    assert packed.durations_seconds.tolist() == [5.0, 2.0, 2.0, 2.0]


def test_a_recording_of_many_hours_is_not_encoded_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "_MAX_ENCODED_HOURS", 1 / 3600)
    with pytest.raises(ManifestError, match=r"recording must last at most .* hours to be encoded anew, got"):
        pack_shards(good_corpus(tmp_path / "in").manifest, tmp_path / "out", format="flac")


def test_nothing_that_can_be_packed_is_an_error_and_leaves_the_shards(tmp_path):
    corpus = good_corpus(tmp_path / "in").manifest
    pack_shards(corpus, tmp_path / "out")
    before = contents(tmp_path / "out")
    for path in (tmp_path / "in").rglob("*.flac"):
        path.unlink()
    with pytest.raises(ManifestError, match=r"a recording that can be packed, got none in .*\(the first is s0/0.flac"):
        pack_shards(corpus, tmp_path / "out")
    assert contents(tmp_path / "out") == before


def test_two_recordings_that_would_get_one_name_are_not_mixed_up(tmp_path):
    corpus = MadeCorpus(tmp_path / "in")
    corpus.add("s0/x", voice(0))
    corpus.add("s0/y", voice(1))
    (corpus.root / "s0" / "y.flac").rename(corpus.root / "s0" / "x.wav")
    corpus.rows[1]["path"] = "s0/x.wav"
    packing = pack_shards(corpus.manifest, tmp_path / "out", format="flac")
    reason = "recording must have a name of its own in the shards, s0/x.flac is called s0/x.flac too"
    assert packing.failures == [("s0/x.wav", reason)]


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"format": "mp3"}, ValueError, "format must be one of as-is, flac, wav, got 'mp3'"),
        ({"shard_bytes": 0}, ValueError, "shard_bytes must be positive, got 0"),
        ({"jobs": 0}, ValueError, "jobs must be at least 1, got 0"),
        ({"speaker_groups": [0]}, ValueError, r"must be one for each of 2 speakers, got shape \(1,\)"),
    ],
)
def test_a_setting_out_of_range_is_named(tmp_path, settings, error, message):
    with pytest.raises(error, match=message):
        pack_shards(good_corpus(tmp_path / "in").manifest, tmp_path / "out", **settings)


def test_shards_are_not_packed_into_their_own_folder_nor_by_two_at_once(packed, tmp_path):
    with pytest.raises(ValueError, match="shards must not be packed into their own folder, got"):
        pack_shards(packed, packed.root / ".." / packed.root.name)
    with locked_folder(tmp_path), pytest.raises(FolderInUseError, match="must be written by one process at a time"):
        pack_shards(packed, tmp_path)


def test_a_folder_called_like_a_shard_is_refused(tmp_path):
    corpus = MadeCorpus(tmp_path / "in")
    corpus.add("s.tar/x", voice(0))
    assert len(read_first(corpus.manifest)) == 2 * RATE
    with pytest.raises(ManifestError, match=r"must not be called like a shard, got s\.tar/x\.flac"):
        pack_shards(corpus.manifest, tmp_path / "out")


def test_a_checked_packed_corpus_is_as_clean_as_its_files(tmp_path):
    packed = pack_shards(good_corpus(tmp_path / "in").manifest, tmp_path / "out").manifest
    assert check_manifest(packed, kept=tmp_path / "kept").findings == []
    shard = packed.root / "shard-00000.tar"
    os.truncate(shard, shard.stat().st_size - 20_000)
    findings = check_manifest(packed, kept=tmp_path / "kept2").findings
    assert [(finding.kind, finding.row) for finding in findings if finding.row is not None] == [("undecodable", 3)]


def test_other_tools_are_given_files_only(packed, tmp_path):
    for write in (write_csv, write_kaldi):
        with pytest.raises(ManifestError, match=r"must be files for another tool to read them, got .*\.tar/"):
            write(packed, tmp_path / "out")
    with pytest.raises(ManifestError, match="a file that can be converted, got none"):
        convert_audio(packed, tmp_path / "converted", format="wav")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"byte_offset": 10**15}, r"must lie inside its shard of [\d,]+ bytes, got bytes 1,000,000,000,000,000 to"),
        ({"byte_length": 2**62}, r"must lie inside its shard of [\d,]+ bytes"),
        ({"byte_offset": 1024}, "must hold the recording at byte 1,024, got something else in"),
        ({"byte_length": 777}, "must hold the recording at byte 512, got something else in"),
        ({"path": "shard-00000.tar/s9/other.flac"}, "got something else in .*shard-00000.tar/s9/other.flac"),
        ({"path": "shard-00001.tar/s0/flac.flac"}, "got something else in .*shard-00001.tar/s0/flac.flac"),
    ],
)
def test_a_place_that_is_not_the_recordings_names_shard_and_recording(packed, changes, message):
    assert packed[0].path.byte_offset == 512
    with pytest.raises(AudioError, match=message):
        read_first(moved(packed, **changes))


def test_a_recording_cannot_lie_across_another(packed):
    first, second = packed[0].path, packed[1].path
    assert first.shard == second.shard
    with pytest.raises(AudioError, match=r"got something else in .*s0/flac\.flac"):
        read_first(moved(packed, byte_offset=second.byte_offset, byte_length=second.byte_length))
    with pytest.raises(AudioError, match=r"got something else in .*s0/flac\.flac"):
        read_first(moved(packed, byte_length=second.byte_offset + second.byte_length - first.byte_offset))


def test_a_shard_that_is_cut_off_or_gone_or_a_folder_is_named(tmp_path):
    packed = pack_shards(good_corpus(tmp_path / "in").manifest, tmp_path / "out").manifest
    shard = packed.root / "shard-00000.tar"
    os.truncate(shard, packed[3].path.byte_offset + 100)
    read_audio(packed[2].path)
    with pytest.raises(AudioError, match=r"must lie inside its shard .*shard-00000\.tar/s1/1\.flac.*cut off"):
        read_audio(packed[3].path)
    shard.unlink()
    with pytest.raises(FileNotFoundError, match=r"shard must be a file, got .*0\.tar for .*s0/0\.flac"):
        read_audio(packed[0].path)
    shard.mkdir()
    with pytest.raises(FileNotFoundError, match="shard must be a file"):
        read_audio(packed[0].path)


def test_a_shard_that_may_not_be_read_is_named(packed, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(shard_recording.os, "open", refuse)
    with pytest.raises(AudioError, match=r"shard must be readable, got .*Permission denied"):
        read_first(packed)


def test_a_shard_that_was_packed_anew_does_not_pass_off_other_speech(tmp_path):
    corpus = good_corpus(tmp_path / "in", speakers=3).manifest
    out = tmp_path / "out"
    old = pack_shards(corpus, out).manifest
    pack_shards(corpus, out, speaker_groups=[2, 1, 0])
    for each in (old[0], old[5]):
        with pytest.raises(AudioError, match="got something else in"):
            read_audio(each.path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"path": "../shard.tar/x.flac"}, "path must be relative and stay inside the root"),
        ({"path": "/etc/shard.tar/x.flac"}, "path must be relative and stay inside the root"),
        ({"path": "x.flac"}, r"with a byte_offset must be SHARD\.tar/NAME, got 'x\.flac' in .*row 1"),
        ({"byte_offset": -1}, "byte_offset must be at least 512, where the first header ends, got -1 in .*row 1"),
        ({"byte_length": 0}, "byte_length must be positive, got 0 in .*row 1"),
        ({"byte_length": None}, r"byte_offset and byte_length must be given together, got 'shard-00000\.tar"),
    ],
)
def test_a_manifest_with_an_impossible_place_is_refused(packed, changes, message):
    with pytest.raises(ManifestError, match=message):
        moved(packed, **changes)


def test_places_need_both_columns(packed):
    with pytest.raises(ManifestError, match="byte_offset and byte_length must come together, got one of them"):
        Manifest(packed.table.drop_columns(["byte_length"]), root=packed.root)


@pytest.mark.parametrize(("name", "offset", "share"), [("s4/long", 30.0, 0.25), ("s0/wav", 1.5, 0.8)])
def test_a_crop_of_a_long_recording_or_a_wav_reads_little_and_bounded_memory(packed, monkeypatch, name, offset, share):
    recording = next(each.path for each in packed if each.name == name)
    assert (recording.byte_length > shard_recording._READ_WHOLE_BYTES) == (name == "s4/long")
    fetched = []
    for call in ("pread", "preadv"):
        original = getattr(os, call)
        monkeypatch.setattr(
            shard_recording.os,
            call,
            lambda descriptor, wanted, offset, o=original: fetched.append(wanted) or o(descriptor, wanted, offset),
        )
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    crop = read_audio(recording, offset_seconds=offset, duration_seconds=0.25)
    assert len(crop) == RATE / 4
    read_bytes = sum(wanted if isinstance(wanted, int) else len(wanted[0]) for wanted in fetched)
    assert read_bytes < share * recording.byte_length
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors


IMPORTED = """
import av, soundfile
from chns.core import AudioError
from chns.data.audio import read_audio
from chns.data.storage.packed import PackedRecording
"""
READING_A_HUGE_RECORDING = """
for suffix in ("wav", "m4a"):
    try:
        read_audio(PackedRecording(path / f"{suffix}.tar", f"x.{suffix}", 512, 2**29))
    except AudioError as error:
        print(error)
"""


def test_a_shard_that_claims_a_huge_recording_does_not_fill_the_memory(tmp_path, memory_of):
    for suffix in ("wav", "m4a"):
        with (tmp_path / f"{suffix}.tar").open("wb") as file:
            file.write(writing._header(f"x.{suffix}", 2**29))
            file.truncate(512 + 2**29)
    growth = memory_of(READING_A_HUGE_RECORDING, path=tmp_path, before=IMPORTED)
    wav, m4a = growth.printed.splitlines()
    assert wav.startswith("recording must be WAV, FLAC, Ogg, Opus or MP3 audio, got something else")
    assert m4a.startswith("MP4 header must have at most 67,108,864 bytes, got 536,870,912")
    assert growth.held < 50


def test_a_damaged_recording_in_a_shard_is_an_error_that_names_it(tmp_path):
    packed = pack_shards(good_corpus(tmp_path / "in").manifest, tmp_path / "out").manifest
    place = packed[0].path
    with place.shard.open("r+b") as file:
        file.seek(place.byte_offset)
        file.write(b"no audio")
    with pytest.raises(AudioError, match=r"got something else or a damaged file: .*shard-00000\.tar/s0/0\.flac"):
        read_first(packed)


def test_a_place_can_be_sent_to_another_process(packed):
    place = packed[0].path
    assert pickle.loads(pickle.dumps(place)) == place
    assert soundfile.info(place.open()).samplerate == RATE

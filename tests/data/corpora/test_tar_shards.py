"""Tars that others have packed: crops come from them as from files, and a hostile one is named with its member."""

import io
import json
import os
import re
import tarfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from made_corpus import RATE, voice

from chns.cli import main
from chns.core import ManifestError
from chns.data.audio import read_audio
from chns.data.corpora.lhotse import prepare_lhotse_shar
from chns.data.corpora.tar_shards import prepare_webdataset, prepare_wespeaker_shards
from chns.data.dataset import CropRequest, SpeakerCrops
from chns.data.manifest import Manifest
from chns.data.packing import pack_shards
from chns.data.storage.packed import PackedRecording, shard_members


def encoded(seed, *, seconds=2.0, format="FLAC"):  # noqa: A002
    content = io.BytesIO()
    soundfile.write(content, voice(seed, seconds), RATE, format=format)
    return content.getvalue()


def member(name: str, content: bytes = b"", **fields) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, content


def write_tar(path: Path, members, *, form=tarfile.PAX_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as file:
        for info, content in members:
            file.addfile(info, io.BytesIO(content))
    return path


def sample(key: str, seed, speaker: str, *, suffix=".flac"):
    return [member(f"{key}.spk", speaker.encode()), member(f"{key}{suffix}", encoded(seed))]


@pytest.fixture
def shards(tmp_path):
    """Two shards of two utterances each, as WeSpeaker's tools write them, and their list."""
    for number in range(2):
        members = sample(f"id{number}/a.b", number, f"id{number}") + sample(f"id{number}/c", 9, f"id{number}\n")
        write_tar(tmp_path / "shards" / f"shards_{number:09d}.tar", members)
    names = [f"{path}\n" for path in sorted((tmp_path / "shards").glob("*.tar"))]
    (tmp_path / "shard.list").write_text("".join(names))
    return tmp_path / "shards"


def test_wespeaker_shards_are_utterances_with_their_speakers(shards, tmp_path):
    result = prepare_wespeaker_shards(tmp_path / "shard.list")
    assert (result.rejected, result.remarks) == ([], [])
    names = [("id0/a.b", "id0"), ("id0/c", "id0"), ("id1/a.b", "id1"), ("id1/c", "id1")]
    assert [each[:2] for each in result.manifest] == names
    np.testing.assert_allclose(read_audio(result.manifest[0].path), voice(0), atol=1e-4)
    assert prepare_wespeaker_shards(shards).manifest.column("utterance") == result.manifest.column("utterance")
    one = prepare_wespeaker_shards(shards / "shards_000000001.tar").manifest
    assert one.column("utterance") == ["id1/a.b", "id1/c"]


def test_crops_of_a_shard_are_those_of_the_unpacked_files_and_it_is_packed_anew(shards, tmp_path):
    manifest = prepare_wespeaker_shards(shards).manifest
    manifest.write(tmp_path / "m.parquet")
    manifest = Manifest.read(tmp_path / "m.parquet")
    packed = pack_shards(manifest, tmp_path / "again", jobs=1).manifest
    for row, each in enumerate(manifest):
        assert isinstance(each.path, PackedRecording)
        file = tmp_path / "file.flac"
        with tarfile.open(each.path.shard) as shard:
            file.write_bytes(shard.extractfile(each.path.member).read())
        whole = read_audio(file)
        crop, label = SpeakerCrops(manifest, crop_seconds=1.0, sample_rate_hz=RATE)[CropRequest(row, (3, row))]
        starts = np.flatnonzero(whole[: len(whole) - RATE + 1] == crop[0].item())
        assert any(np.array_equal(crop, whole[start : start + RATE]) for start in starts)
        assert manifest.speakers[label] == each.speaker
        again, _ = SpeakerCrops(packed, crop_seconds=1.0, sample_rate_hz=RATE)[CropRequest(row, (3, row))]
        assert torch.equal(again, crop)


@pytest.mark.slow
def test_a_training_reads_its_crops_from_the_tars_of_others(tmp_path, configs):
    members = [each for number in range(32) for each in sample(f"u{number}", number, f"s{number // 4}")]
    write_tar(tmp_path / "shards" / "a.tar", members)
    assert main(["prepare", "wespeaker-shards", str(tmp_path / "shards"), "--out", str(tmp_path / "m.parquet")]) == 0
    words = ["--data.train", tmp_path / "m.parquet", "--out", tmp_path / "run", "--data.held_out_speakers", "2"]
    words += ["--train.epochs", "1", "--batches.speakers_per_batch", "4", "--batches.steps_per_epoch", "2"]
    words += ["--data.crop_seconds", "0.5", "--data.num_workers", "0"]
    assert main(["train", "--config", str(configs / "tiny.yaml"), *map(str, words)]) == 0
    assert (tmp_path / "run" / "summary.json").is_file()


def test_webdataset_samples_have_their_speaker_in_one_of_several_places(tmp_path):
    entry = {"speaker": "c", "text": "hello", "session": "x", "duration": 2.0, "byte_offset": "7"}
    members = [
        *sample("a", 0, "a"),
        member("b.FLAC", encoded(1)),
        member("b.cls", b"17"),
        member("dir/c.take.flac", encoded(2)),
        member("dir/c.json", json.dumps(entry).encode()),
        member("__meta__", b"no sample"),
        member("._c.flac", b"of macOS"),
    ]
    result = prepare_webdataset(write_tar(tmp_path / "s.tar", members))
    assert [each[:2] for each in result.manifest] == [("a", "a"), ("b", "17"), ("dir/c", "c")]
    assert result.manifest.column_names[-2:] == ["session", "text"]
    assert result.manifest.column("text") == ["", "", "hello"]
    assert result.passed_over == {"": 1, ".flac": 1}
    chosen = prepare_webdataset(tmp_path / "s.tar", speaker_field="json.text")
    assert [each[:2] for each in chosen.manifest] == [("dir/c", "hello")]
    assert [each.reason for each in chosen.rejected] == [
        "sample must name its speaker in json.text, got spk beside the recording",
        "sample must name its speaker in json.text, got cls beside the recording",
    ]


def test_samples_that_every_shard_numbers_anew_get_the_name_of_their_shard(tmp_path):
    for name in ("a", "b"):
        write_tar(tmp_path / name / "s.tar", [*sample("000000", 0, name), *sample("000001", 1, name)])
    manifest = prepare_webdataset(tmp_path).manifest
    assert manifest.column("utterance") == ["a/s/000000", "a/s/000001", "b/s/000000", "b/s/000001"]
    assert manifest.column("speaker") == ["a", "a", "b", "b"]


def test_all_writers_of_plain_tars_are_understood(tmp_path):
    names = ["./dot", "f/" * 30 + "n" * 60, "n" * 150, "Zoë ж", "x" * 95 + "ё" * 4]
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        wanted = names[:2] if form == tarfile.USTAR_FORMAT else names  # it has no room for the others
        members = [each for seed, name in enumerate(wanted) for each in sample(name, seed, f"s{seed}")]
        result = prepare_webdataset(write_tar(tmp_path / "s.tar", members, form=form))
        assert result.rejected == []
        assert sorted(result.manifest.column("utterance")) == sorted(name.removeprefix("./") for name in wanted)
        for each in result.manifest:
            np.testing.assert_allclose(read_audio(each.path), voice(int(each.speaker[1:])), atol=1e-4)


def checksum(block: bytes) -> bytes:
    return b"%06o\0 " % (sum(block) - sum(block[148:156]) + 8 * ord(" "))


def test_a_size_with_a_space_behind_it_is_a_size(tmp_path):
    path = write_tar(tmp_path / "s.tar", sample("a", 0, "a"))
    content = bytearray(path.read_bytes())
    for start in (0, 1024):
        content[start + 135] = ord(" ")
        content[start + 148 : start + 156] = checksum(content[start : start + 512])
    path.write_bytes(content)
    assert len(read_audio(prepare_webdataset(path).manifest[0].path)) == 2 * RATE


GOOD = sample("good", 0, "s")


@pytest.mark.parametrize(
    ("members", "path", "reason"),
    [
        ([member("a.spk", b"s")], "s.tar/a", r"sample must have one recording, got 0 among 'a.spk'"),
        ([member("a.flac", encoded(1))], "s.tar/a.flac", "sample must name its speaker in spk or .*, got nothing"),
        ([*sample("a", 1, "s"), member("a.wav", b"x")], "s.tar/a", "recording, got 2 among 'a.spk', 'a.flac', 'a.w"),
        ([*sample("a", 1, "s"), member("a.SPK", b"t")], "s.tar/a.SPK", "one file of a kind, got two of the same name"),
        (sample("a", 1, " \n"), "s.tar/a.spk", r"speaker must be a line of UTF-8, got b' \\n'"),
        (sample("a", 1, "s\nt"), "s.tar/a.spk", r"speaker must be a line of UTF-8, got b's\\nt'"),
        ([member("a.spk", b"\xff"), member("a.wav", b"x")], "s.tar/a.spk", r"a line of UTF-8, got b'\\xff'"),
        (sample("a", 1, "s" * 1025), "s.tar/a.spk", "file must have at most 1,024 bytes, got 1,025"),
        ([member("a.json", b"[" * 10**5), member("a.wav", b"x")], "s.tar/a.json", r"one JSON object, got b'\[\[\["),
        ([member("a.json", b'{"speaker": 0.5}'), member("a.wav", b"x")], "s.tar/a.json", "that is not empty, got 0.5"),
        ([member("a.spk", b"s"), member("a.wav", b"x")], "s.tar/a.wav", "recording must be WAV"),
        ([member("a.spk", b"s"), member("a.wav")], "s.tar/a.wav", "recording must be WAV"),
        ([member("a.spk", b"s"), member("a.wma", b"x")], "s.tar/a.wma", "recording must be WAV"),
        (
            [member("a.spk", b"s"), member("a.wav", type=tarfile.SYMTYPE, linkname="/etc/passwd")],
            "s.tar/a.wav",
            "member must be a plain file, got a link to '/etc/passwd'",
        ),
        (
            [member("a.spk", b"s"), member("a.wav", type=tarfile.LNKTYPE, linkname="good.flac")],
            "s.tar/a.wav",
            "member must be a plain file, got a link to 'good.flac'",
        ),
        ([member("a.spk", b"s"), member("a.wav", type=tarfile.CHRTYPE)], "s.tar/a.wav", "plain file, got a device"),
        (sample("/etc/a", 1, "s"), "s.tar//etc/a.spk", "member must be named by a path from the shard"),
        (sample("x.tar/a", 1, "s"), "s.tar/x.tar/a.spk", "without a folder that is called like one"),
        (sample("../a", 1, "s"), "s.tar/../a.flac", "path must hold no backslash and stay inside the root"),
        (sample("b\\a", 1, "s"), "s.tar/b\\a.flac", "path must hold no backslash and stay inside the root"),
        (sample("b\u202ea", 1, "s"), "s.tar/b\u202ea.flac", "name must hold no line break or other control character"),
        (sample("a", 1, "s\u202et"), "s.tar/a.flac", "name must hold no line break or other control character"),
        (sample("good", 1, "t"), "s.tar/good.flac", "utterance must be unique, s.tar/good.flac has the same name"),
        (
            [member("a.spk", b"s"), member("a.wav", b"x", pax_headers={"GNU.sparse.map": "0,1"})],
            "s.tar/a.wav",
            "member must be a plain file, got a sparse one",
        ),
        (
            [member("a.spk", b"s"), member("b.wav", b"x", pax_headers={"path": "a.wav"})],
            "s.tar/a.wav",
            "member must have its name and length in the header right before it, got others",
        ),
    ],
)  # fmt: skip
def test_what_is_no_utterance_is_rejected_with_its_member(tmp_path, members, path, reason):
    other = [member("hidden"), *GOOD, *members] if members[0][0].name != "good.spk" else [*GOOD, member("x"), *members]
    result = prepare_webdataset(write_tar(tmp_path / "s.tar", other))
    assert result.manifest.column("utterance") == ["good"]
    (rejected,) = result.rejected
    assert rejected.path == path
    assert re.search(reason, rejected.reason), rejected.reason


def test_speakers_that_look_the_same_are_one(tmp_path):
    members = [*sample("a", 0, "Zoe\u0308"), *sample("b", 1, "Zo\u00eb "), *sample("c", 2, "\u200bZo\u00eb")]
    result = prepare_webdataset(write_tar(tmp_path / "s.tar", members))
    assert result.manifest.speakers == ["Zo\u00eb"]
    assert "1 speaker is written in several ways" in result.remarks[0]


def extended(keyword: bytes, value: bytes) -> bytes:
    """A header of pax."""
    length = len(keyword) + len(value) + 3
    length += len(str(length + len(str(length))))
    record = b"%d %s=%s\n" % (length, keyword, value)
    info, _ = member("pax", record, type=tarfile.XHDTYPE)
    return info.tobuf(tarfile.USTAR_FORMAT) + record + bytes(-len(record) % 512)


def header(name: str, size: int, **fields) -> bytes:
    info, _ = member(name, **fields)
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT)


END = bytes(1024)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "must be a tar file that is not compressed, got another or a damaged one: .*s.tar .empty file"),
        (b"RIFF" * 1000, "must be a tar file that is not compressed, .*s.tar"),
        (b"\x1f\x8b" * 1000, "must be a tar file that is not compressed, .*Unpack it with gunzip"),
        (header("a.wav", 10**6) + END, "hold its members whole, got 1,000,000 bytes at byte 512 of .* for 'a.wav'"),
        (header("a.wav", 2**62) + END, "must hold its members whole, got 4,611,686,018,427,387,904 bytes"),
        (header("a.wav", -(2**40)) + END, "must hold its members whole, got -1,099,511,627,776 bytes"),
        (extended(b"size", b"-5") + header("a.wav", 5) + END, "must hold its members whole, got -5 bytes"),
        (header("x", 2**40, type=tarfile.XHDTYPE) + END, "must have at most 65,536 bytes, got more before byte 512"),
        (header("x", 2**40, type=tarfile.GNUTYPE_LONGNAME) + END, "must have at most 65,536 bytes, got more"),
        (header("x", 0, type=tarfile.XHDTYPE) * 10_000, "headers of a member must have at most 65,536 bytes"),
        (extended(b"path", b"n") * 10_000, "headers of a member must have at most 65,536 bytes"),
        (header("a", 0), "shard must end with an empty block, got the end at byte 512"),
        (header("a", 0) + bytes(100), "shard must end with an empty block, got no header at byte 512|the end"),
        (header("a", 0) + b"x" * 512 + END, "shard must end with an empty block, got no header at byte 512"),
        (header("a", 0) + b"x" * 100, "shard must end with an empty block, got no header at byte 512"),
    ],
)
def test_a_damaged_tar_is_named_with_the_place(tmp_path, content, message):
    path = tmp_path / "s.tar"
    path.write_bytes(content)
    with pytest.raises(ManifestError, match=message):
        prepare_webdataset(path)


def test_a_tar_that_was_cut_off_anywhere_is_an_error(tmp_path):
    whole = write_tar(tmp_path / "whole.tar", sample("a", 0, "s")).read_bytes()
    end = len(whole.rstrip(b"\0"))
    for length in (1, 511, 513, 1024, 1025, 2000, end - 1, end + (-end % 512)):
        (tmp_path / "s.tar").write_bytes(whole[:length])
        with pytest.raises(ManifestError, match=r"s\.tar"):
            prepare_webdataset(tmp_path / "s.tar")


def test_mutated_tars_are_read_or_refused(tmp_path, rng):
    members = [*sample("n" * 150, 0, "s"), *sample("Zoë", 1, "t"), member("d", type=tarfile.DIRTYPE)]
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        short = [member(info.name, content[:600], type=info.type) for info, content in members]
        seed = write_tar(tmp_path / "seed.tar", short, form=form).read_bytes().rstrip(b"\0") + END
        for _ in range(150):
            content = bytearray(seed)
            for place in rng.integers(0, len(content), 3):
                content[place] = rng.integers(256)
            for start in range(0, len(content), 512):  # what a checksum forbids is not read any further
                block = content[start : start + 512]
                if rng.random() < 0.7 and block[257:262] == b"ustar":
                    content[start + 148 : start + 156] = checksum(block)
            (tmp_path / "s.tar").write_bytes(content)
            with suppress(ManifestError):
                list(shard_members(tmp_path / "s.tar"))


@pytest.mark.slow
def test_the_members_of_a_long_tar_are_not_remembered(tmp_path, memory_of):
    path = tmp_path / "s.tar"
    path.write_bytes(header("a", 0) * 30_000 + END)
    code = "from chns.data.storage.packed import shard_members"
    growth = memory_of("print(sum(1 for _ in shard_members(path)))", path=path, before=code)
    assert growth.printed == "30000"
    assert growth.held < 6


def test_a_list_names_tars_below_its_root(shards, tmp_path):
    listed = tmp_path / "other.list"
    listed.write_text("shards_000000000.tar\n\nshards_000000000.tar\n")
    assert len(prepare_wespeaker_shards(listed, root=shards).manifest) == 2
    for line, message in (
        ("../x.tar", r"path must stay inside .*other.list:1"),
        ("s.tar.gz", r"shard must be called NAME.tar, got 's.tar.gz' in .*other.list:1"),
        ("wget -q |", r"Commands are never run"),
    ):
        listed.write_text(line)
        with pytest.raises(ManifestError, match=message):
            prepare_webdataset(listed, root=shards)
    listed.write_text("none.tar")
    with pytest.raises(FileNotFoundError, match=r"shard must be a file, got .*none.tar"):
        prepare_webdataset(listed, root=shards)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ManifestError, match=r"folder must hold shards that are called NAME\.tar, got none"):
        prepare_webdataset(tmp_path / "empty")


def test_a_conversion_of_shards_is_refused_with_a_way_out(shards, tmp_path, capsys):
    words = [
        "prepare",
        "webdataset",
        shards,
        "--out",
        tmp_path / "m.parquet",
        "--convert",
        "flac",
        "--converted",
        tmp_path,
    ]
    assert main(list(map(str, words))) == 2
    assert "--convert must be of recordings in files, got those of webdataset in tars" in capsys.readouterr().err


# ----- Lhotse Shar


def cut(name: str, *supervisions: dict, **changes) -> dict:
    source = {"type": "shar", "channels": [0], "source": ""}
    recording = {"id": name, "sources": [source], "sampling_rate": RATE, "num_samples": 32_000, "duration": 2.0}
    entry = {"id": name, "start": 0, "duration": 2.0, "channel": 0, "recording": recording, "type": "MonoCut"}
    whole = {"id": name, "recording_id": name, "start": 0.0, "duration": 2.0, "channel": 0, "speaker": "s"}
    return entry | {"supervisions": [whole | each for each in supervisions]} | changes


def write_shar(folder: Path, cuts, members) -> Path:
    write_tar(folder / "recording.000000.tar", members)
    (folder / "cuts.000000.jsonl").write_text("".join(json.dumps(each) + "\n" for each in cuts))
    return folder


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Lhotse leaves tars open
def test_what_lhotse_packed_is_heard_as_lhotse_hears_it(tmp_path):
    import lhotse
    from lhotse.shar import SharWriter

    path = tmp_path / "long.wav"
    soundfile.write(path, np.stack([voice(0, 6.0), voice(1, 6.0)], axis=1), RATE)
    recording = lhotse.Recording.from_file(path, recording_id="long")
    written = []
    for number, (start, channel) in enumerate([(0.5, 0), (3.0, 1), (2.0, [0, 1])]):
        supervision = lhotse.SupervisionSegment(id=f"u{number}", recording_id="long", start=start + 0.25, duration=1.0,
                                                channel=channel, speaker=f"s{number}", gender="f")  # fmt: skip
        kind = lhotse.MultiCut if isinstance(channel, list) else lhotse.MonoCut
        each = kind(id=f"cut.{number}", start=start, duration=2.0, channel=channel, recording=recording)
        each.supervisions = [supervision.with_offset(-start)]
        written.append(each)
    (tmp_path / "shar").mkdir()
    with SharWriter(str(tmp_path / "shar"), fields={"recording": "flac"}, shard_size=2) as writer:
        for each in written:
            writer.write(each)
    result = prepare_lhotse_shar(tmp_path / "shar")
    assert result.rejected == []
    assert [each[:2] for each in result.manifest] == [("u0", "s0"), ("u1", "s1"), ("u2", "s2")]
    assert result.manifest.column("gender") == ["f", "f", "f"]
    for each, read in zip(result.manifest, lhotse.CutSet.from_shar(in_dir=tmp_path / "shar"), strict=True):
        expected = read.truncate(offset=0.25, duration=1.0).load_audio().mean(axis=0)
        heard = read_audio(each.path, offset_seconds=each.offset_seconds, duration_seconds=each.duration_seconds)
        np.testing.assert_allclose(heard, expected, atol=1e-6)


def test_a_cut_without_its_audio_is_rejected_with_its_line(tmp_path):
    cuts = [cut("a/b", {}), cut("none", {"id": "n"}), cut("no", {"id": "no"}), cut("link", {"id": "l"})]
    members = [member("a/b.flac", encoded(0)), member("a/b.json", b"{}"), member("no.nodata"), member("no.nometa"),
               member("link.flac", type=tarfile.SYMTYPE, linkname="/x")]  # fmt: skip
    result = prepare_lhotse_shar(write_shar(tmp_path, cuts, members))
    assert result.manifest.column("utterance") == ["a/b"]
    place = tmp_path / "cuts.000000.jsonl"
    assert result.rejected == [
        ("recording.000000.tar/link.flac", f"member must be a plain file, got a link to '/x' (listed in {place}:4)"),
        ("recording.000000.tar/no", f"cut must have a recording, got none of its name (listed in {place}:3)"),
        ("recording.000000.tar/none", f"cut must have a recording, got none of its name (listed in {place}:2)"),
    ]


def test_cuts_and_tars_that_do_not_belong_together_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="Shar must be a folder, got"):
        prepare_lhotse_shar(tmp_path / "none")
    with pytest.raises(ManifestError, match=r"must hold cuts\.N\.jsonl\.gz and recording\.N\.tar, got none in"):
        prepare_lhotse_shar(tmp_path)
    write_shar(tmp_path, [cut("a", {})], [member("a.flac", encoded(0))])
    os.rename(tmp_path / "cuts.000000.jsonl", tmp_path / "cuts.000001.jsonl")  # noqa: PTH104
    with pytest.raises(
        ManifestError, match=r"recording.N.tar for each cuts.N.jsonl.gz, got 1 and 1, '\.000000' of one"
    ):
        prepare_lhotse_shar(tmp_path)
    os.rename(tmp_path / "cuts.000001.jsonl", tmp_path / "cuts.000000.jsonl")  # noqa: PTH104
    write_shar(tmp_path, [cut("a", {}, recording={"id": "a", "sources": []})], [member("a.flac", encoded(0))])
    with pytest.raises(ManifestError, match=r"recording must have one source, got \[\] in .*cuts.000000.jsonl:1"):
        prepare_lhotse_shar(tmp_path)


# ----- for WebDataset's readers


def test_packed_shards_have_the_indexes_of_dali_and_wids(shards, tmp_path):
    manifest = prepare_wespeaker_shards(shards).manifest
    out = tmp_path / "packed"
    pack_shards(manifest, out, jobs=1)
    (index,) = out.glob("*.idx")
    version, *lines = index.read_text().splitlines()
    assert version == "v1.2 4"
    content = index.with_suffix(".tar").read_bytes()
    for line, each in zip(lines, manifest, strict=True):
        extension, offset, length, name = line.split(" ")
        assert (f"{name}", extension) == (f"{each.name}.flac", each.path.member.rpartition("/")[2].partition(".")[2])
        with each.path.open() as file:
            assert content[int(offset) : int(offset) + int(length)] == file.read()
    wids = json.loads((out / "shardindex.json").read_text())
    size = len(content)
    assert wids["shardlist"] == [{"url": "shard-00000.tar", "nsamples": 4, "filesize": size}]
    index.unlink()  # as an earlier version left it
    assert pack_shards(manifest, out, jobs=1).num_written == 0
    assert index.is_file()


def test_recordings_that_differ_behind_a_dot_are_one_sample_and_a_space_forbids_dalis_index(tmp_path, caplog):
    for name in ("a.1", "a.2", "b"):
        soundfile.write(tmp_path / f"{name}.wav", voice(0), RATE)
    rows = [{"utterance": name, "speaker": "s", "path": f"{name}.wav", "offset_seconds": 0.0, "duration_seconds": 2.0,
             "sample_rate_hz": RATE} for name in ("a.1", "a.2", "b")]  # fmt: skip
    pack_shards(Manifest.from_rows(rows, root=tmp_path), tmp_path / "out", jobs=1)
    index = tmp_path / "out" / "shard-00000.idx"
    size = (tmp_path / "b.wav").stat().st_size
    step = size + -size % 512 + 512
    lines = [f"1.wav 512 {size} a.1.wav 2.wav {512 + step} {size} a.2.wav", f"wav {512 + 2 * step} {size} b.wav"]
    assert index.read_text().splitlines() == ["v1.2 2", *lines]
    (tmp_path / "b.wav").rename(tmp_path / "b c.wav")
    rows[2]["path"] = "b c.wav"
    pack_shards(Manifest.from_rows(rows, root=tmp_path), tmp_path / "out", jobs=1)
    assert not index.exists()
    assert "gets no .idx for DALI: its format knows no names with spaces, such as b c.wav" in caplog.text

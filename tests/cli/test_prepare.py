"""``chns prepare``, ``chns merge`` and ``chns split``, as a user types them."""

import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile

import chns.data
from chns.cli import main
from chns.data.manifest import Manifest


def corpus(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.zeros(18_000, np.int16), 16_000)
    return root


@pytest.fixture
def run(capsys):
    """Run a command that must succeed; what it printed."""

    def run(*words: object) -> str:
        assert main([str(word) for word in words]) == 0
        return capsys.readouterr().out

    return run


@pytest.fixture
def refused(capsys):
    """Run a command that must fail with one line; that line."""

    def refused(*words: object) -> str:
        assert main([str(word) for word in words]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        message = captured.err.splitlines()[-1]
        assert message.startswith("chns: error: ")
        return message

    return refused


# ----- prepare


@pytest.mark.parametrize(
    ("name", "paths"),
    [
        ("voxceleb", ["id00001/v/00001.wav", "id00001/w/00001.wav", "id00002/v/00001.wav"]),
        ("speech-commands", ["bed/a_nohash_0.wav", "cat/a_nohash_0.wav", "cat/b_nohash_0.wav"]),
        ("folder", ["a/1.wav", "a/2.wav", "b/1.wav"]),
    ],
)
def test_each_corpus_becomes_a_manifest_and_a_summary(tmp_path, run, name, paths):
    source = corpus(tmp_path / "audio", *paths)
    out = tmp_path / "m.parquet"
    summary = json.loads(run("prepare", name, source, "--out", out, "--json"))
    parts = summary.pop("parts", [])
    assert [part["name"] for part in parts] == (["VoxCeleb2 dev"] if name == "voxceleb" else [])
    assert summary == {
        "manifest": str(out),
        "speakers": 2,
        "utterances": 3,
        "hours": 0.001,
        "rejected": 0,
        "report": str(tmp_path / "m.rejected.csv"),
    }
    manifest = Manifest.read(out)
    assert [utterance.path for utterance in manifest] == sorted(source / path for path in paths)


def test_a_kaldi_directory_has_its_audio_at_root(tmp_path, run):
    corpus(tmp_path / "audio", "1.wav")
    (tmp_path / "wav.scp").write_text(f"u1 {tmp_path}/audio/1.wav\n")
    (tmp_path / "utt2spk").write_text("u1 a\n")
    run("prepare", "kaldi", tmp_path, "--root", tmp_path / "audio", "--out", tmp_path / "m.csv", "--workers", "1")
    assert Manifest.read(tmp_path / "m.csv")[0].path == tmp_path / "audio" / "1.wav"


def test_the_speaker_pattern_is_passed_on(tmp_path, run):
    corpus(tmp_path / "audio", "alice_1.wav", "bob_1.wav")
    run("prepare", "folder", tmp_path / "audio", "--speaker-pattern", "([a-z]+)_", "--out", tmp_path / "m.parquet")
    assert Manifest.read(tmp_path / "m.parquet").speakers == ["alice", "bob"]


def test_the_summary_for_people_names_everything(tmp_path, run):
    corpus(tmp_path / "audio", "a/1.wav", "loose.wav")
    text = run("prepare", "folder", tmp_path / "audio", "--out", tmp_path / "m.parquet", "--min-seconds", "1")
    assert [line.split()[0] for line in text.splitlines()] == [
        "manifest",
        "speakers",
        "utterances",
        "hours",
        "rejected",
        "report",
    ]
    assert "rejected    1" in text


def test_the_minimum_length_is_passed_on(tmp_path, refused):
    source = corpus(tmp_path / "audio", "a/1.wav")
    message = refused("prepare", "folder", source, "--out", tmp_path / "m.parquet", "--min-seconds", "2")
    assert "recording must last at least 2 s, got 1.125 s" in message


def test_a_bad_name_for_the_manifest_is_refused_before_the_scan(tmp_path, refused):
    message = refused("prepare", "folder", tmp_path / "none", "--out", tmp_path / "m.txt")
    assert "manifest name must end in .parquet or .csv" in message


def test_the_minimum_of_the_command_is_that_of_the_library():
    from chns.cli.prepare_command import prepare_parser
    from chns.data.corpora.scan import MIN_DURATION_SECONDS

    arguments = prepare_parser().parse_args(["folder", "x", "--out", "m.parquet"])
    assert arguments.min_seconds == MIN_DURATION_SECONDS


def test_synthetic_speech_gets_the_settings(tmp_path, run, monkeypatch):
    settings = {}

    def prepare_synthetic(out: Path, **given: object) -> Manifest:
        settings.update(given, out=out)
        manifest_at(tmp_path / "m.parquet", "a/1", "a/2")
        return Manifest.read(tmp_path / "m.parquet")

    module = ModuleType("chns.data.corpora.synthetic")
    module.prepare_synthetic = prepare_synthetic
    monkeypatch.setitem(sys.modules, "chns.data.corpora.synthetic", module)
    monkeypatch.setattr(
        chns.data, "prepare_synthetic", module.prepare_synthetic, raising=False
    )  # if it was asked for before
    words = [
        "--speakers",
        8,
        "--utterances",
        3,
        "--families",
        2,
        "--family-spread",
        0.2,
        "--seed",
        5,
        "--workers",
        1,
        "--json",
    ]
    summary = json.loads(run("prepare", "synthetic", tmp_path, *words))
    assert settings == {
        "out": tmp_path,
        "num_speakers": 8,
        "num_utterances": 3,
        "num_families": 2,
        "family_spread": 0.2,
        "seed": 5,
        "jobs": 1,
    }
    assert summary == {"manifest": str(tmp_path / "manifest.parquet"), "speakers": 1, "utterances": 2, "hours": 0.001}


@pytest.mark.parametrize("words", [["prepare", "--help"], ["merge", "--help"], ["split", "--help"]])
def test_help_has_examples(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 0
    assert f"examples:\n  chns {words[0]} " in capsys.readouterr().out


# ----- merge


def manifest_at(path: Path, *names: str) -> Path:
    rows = [
        {
            "utterance": name,
            "speaker": name.split("/")[0],
            "path": f"{name}.wav",
            "offset_seconds": 0.0,
            "duration_seconds": 1.0,
            "sample_rate_hz": 16_000,
        }
        for name in names
    ]
    Manifest.from_rows(rows, root=path.parent).write(path)
    return path


def test_merging_keeps_every_utterance(tmp_path, run):
    left, right = manifest_at(tmp_path / "x" / "l.parquet", "a/1"), manifest_at(tmp_path / "y" / "r.csv", "b/1", "b/2")
    out = tmp_path / "all.csv"
    summary = json.loads(run("merge", left, right, "--out", out, "--json"))
    assert summary == {"manifest": str(out), "speakers": 2, "utterances": 3}
    assert Manifest.read(out).column("path") == ["x/a/1.wav", "y/b/1.wav", "y/b/2.wav"]


def test_equal_speakers_are_refused_until_the_user_says_what_they_are(tmp_path, run, refused):
    left, right = manifest_at(tmp_path / "l.parquet", "a/1"), manifest_at(tmp_path / "r.parquet", "a/2")
    out = tmp_path / "all.parquet"
    message = refused("merge", left, right, "--out", out)
    assert "speaker must be in one manifest only" in message
    assert "--prefix" in message
    assert not out.exists()
    run("merge", left, right, "--prefix", "--out", out)
    assert Manifest.read(out).speakers == ["l/a", "r/a"]
    run("merge", left, right, "--prefix", "x", "y", "--out", out)
    assert Manifest.read(out).speakers == ["x/a", "y/a"]
    assert run("merge", left, right, "--same-speakers", "--out", out) == f"{out}: 1 speaker, 2 utterances\n"


def test_as_many_prefixes_as_manifests(tmp_path, refused):
    left = manifest_at(tmp_path / "l.parquet", "a/1")
    assert "prefixes must be one for each of 1 manifests, got 2" in refused(
        "merge", left, "--prefix", "x", "y", "--out", tmp_path / "all.parquet"
    )


def test_equal_file_names_do_not_keep_speakers_apart(tmp_path, refused):
    left, right = manifest_at(tmp_path / "l" / "m.parquet", "a/1"), manifest_at(tmp_path / "r" / "m.parquet", "a/1")
    message = refused("merge", left, right, "--prefix", "--out", tmp_path / "all.parquet")
    assert "speaker must be in one manifest only, got 'm/a'" in message


# ----- split


def test_a_split_has_no_speaker_on_both_sides_and_repeats(tmp_path, run):
    source = manifest_at(tmp_path / "m.parquet", *[f"s{number}/1" for number in range(6)])
    train, held_out = tmp_path / "train.parquet", tmp_path / "held_out.parquet"
    words = ["split", source, "--held-out", 2, "--seed", 7, "--out", train, held_out]
    summary = json.loads(run(*words, "--json"))
    assert summary == {
        "train": {"manifest": str(train), "speakers": 4, "utterances": 4},
        "held_out": {"manifest": str(held_out), "speakers": 2, "utterances": 2},
    }
    first = Manifest.read(held_out).speakers
    assert not set(first) & set(Manifest.read(train).speakers)
    assert run(*words) == f"{train}: 4 speakers, 4 utterances\n{held_out}: 2 speakers, 2 utterances\n"
    assert Manifest.read(held_out).speakers == first


def test_the_two_parts_must_be_two_files(tmp_path, refused):
    source = manifest_at(tmp_path / "m.parquet", "a/1", "b/1")
    message = refused("split", source, "--held-out", 1, "--out", tmp_path / "x.parquet", tmp_path / "x.parquet")
    assert "--out must be a file of its own" in message


def test_too_many_held_out_speakers_are_refused(tmp_path, refused):
    source = manifest_at(tmp_path / "m.parquet", "a/1", "b/1")
    message = refused("split", source, "--held-out", 2, "--out", tmp_path / "x.parquet", tmp_path / "y.parquet")
    assert "num_held_out must be between 1 and 1" in message

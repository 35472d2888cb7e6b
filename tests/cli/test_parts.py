"""Parts of a command's work on several machines: with a last run they give what one run gives, byte for byte."""

import json
import shutil

import numpy as np
import pytest
import torch
from made_corpus import RATE, good_corpus

from chns.bundle.bundle import Architecture, save_bundle
from chns.cli import main
from chns.core import FolderInUseError, JobPart, locked_folder
from chns.data import resumable, speech_activity

PARTS = 3


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    settings = {"channels": 16, "aggregation_channels": 24, "embedding_dim": 8}
    architecture = Architecture(encoder="chns.encoders.EcapaTdnn", encoder_settings=settings)
    folder = tmp_path_factory.mktemp("model") / "model"
    save_bundle(folder, architecture.build(), architecture, training={}, metrics={})
    return folder


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    """Seven utterances; blocks of two, so that there are four."""
    monkeypatch.setattr(resumable, "BLOCK_UTTERANCES", 2)
    monkeypatch.setattr(resumable, "EMBEDDED_UTTERANCES", 2)
    made = good_corpus(tmp_path / "corpus", speakers=3)
    made.row("s2/copy", "0.flac")
    made.manifest.write(tmp_path / "m.parquet")
    return tmp_path


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def commands(corpus, model):
    """Those that take a part, by name; all write below OUT."""
    manifest, out = corpus / "m.parquet", corpus / "out"
    return {
        "prepare": ("prepare", "folder", corpus / "corpus", "--convert", "flac", "--converted", out / "c",
                    "--out", out / "p.parquet"),
        "check": ("check", manifest, "--fix", out / "f.parquet", "--report", out / "r.parquet"),
        "check --labels": ("check", manifest, "--labels", model, "--report", out / "r.csv"),
        "speech": ("speech", manifest, "--out", out / "s.parquet"),
        "pack": ("pack", manifest, "--out", out, "--shard-mb", "0.08"),
        "embed": ("embed", model, manifest, "--out", out / "e.parquet"),
    }  # fmt: skip


@pytest.mark.parametrize("name", ["prepare", "check", "check --labels", "speech", "pack", "embed"])
def test_parts_and_a_last_run_give_what_one_run_gives(corpus, model, capsys, monkeypatch, name):
    if name == "speech":  # what detects is not the matter here, and takes long
        monkeypatch.setattr(speech_activity, "_detector", lambda: None)
        monkeypatch.setattr(speech_activity, "_speech_probabilities", loudness)
    words = [*map(str, commands(corpus, model)[name]), "--workers", "0" if name in ("embed", "check --labels") else "1"]
    out = corpus / "out"
    code = main(words)
    assert code in (0, 1)
    alone = contents(out)
    assert alone
    shutil.rmtree(out)
    done = []
    for number in (3, 1):  # the second is never begun, as where a machine was lost
        capsys.readouterr()
        assert main([*words, "--part", f"{number}/{PARTS}", "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        done.append(told["done"])
        assert told["part"] == f"{number}/{PARTS}"
    assert 0 < done[0] <= done[1]
    assert not any(path in alone for path in contents(out) if path.suffix == ".parquet" and "shard" not in path.name)
    worked = []
    count_work(monkeypatch, worked)
    assert main(words) == code
    assert {path: content for path, content in contents(out).items() if path.name != ".lock"} == {
        path: content for path, content in alone.items() if path.name != ".lock"
    }
    if name in ("check", "speech"):
        assert len(worked) == 2  # the second block; the rest was kept


def loudness(windows):
    """Stands for the probability of speech: the level of each chunk of 32 ms."""
    samples = np.concatenate(list(windows))
    return 4 * np.abs(samples[: len(samples) // 512 * 512]).reshape(-1, 512).mean(axis=1), len(samples) / RATE


def count_work(monkeypatch, worked):
    genuine = resumable._counted

    def counted(results, progress):
        for result in genuine(results, progress):
            worked.append(result)
            yield result

    monkeypatch.setattr(resumable, "_counted", counted)


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "1/0", "a/b", "1/2/3", "-1/3", ""])
def test_a_part_is_one_of_several(text):
    with pytest.raises(ValueError, match="part must be I/N, such as 3/8, with I from 1 to N, got "):
        JobPart.read(text)


def test_every_piece_is_in_one_part():
    pieces = list(range(10))
    shares = [JobPart(number, 4).own(pieces) for number in range(1, 5)]
    assert sorted(piece for share in shares for piece in share) == pieces
    assert {len(share) for share in shares} == {2, 3}


def test_parts_work_side_by_side_and_the_whole_waits_for_them(tmp_path):
    first, second = JobPart(1, 2), JobPart(2, 2)
    with locked_folder(tmp_path, part=first), locked_folder(tmp_path, part=second):
        with pytest.raises(FolderInUseError, match="one process at a time"), locked_folder(tmp_path, part=first):
            pass
        with pytest.raises(FolderInUseError, match="one process at a time"), locked_folder(tmp_path):
            pass
    with locked_folder(tmp_path):
        pass


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--part", "1/2"), "--part must come with --convert, and without --unpack, got 1/2"),
        (("--convert", "flac", "--converted", "c", "--part", "3/2"), "part must be I/N, such as 3/8, with I from 1"),
    ],
)
def test_a_part_of_what_is_not_shared_is_refused(corpus, monkeypatch, capsys, words, message):
    monkeypatch.chdir(corpus)
    assert main(["prepare", "folder", "corpus", "--out", "p.parquet", *words]) == 2
    assert message in capsys.readouterr().err

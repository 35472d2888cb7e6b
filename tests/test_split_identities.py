"""The benchmark of the guard against false negatives: its split, and what it prints and writes."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from chns.bundle.bundle import Architecture, save_bundle
from chns.data.manifest import Manifest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    """What the script defines."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield runpy.run_path(str(BENCHMARKS / "split_identities.py"))
    sys.modules.pop("report", None)


@pytest.fixture
def run_benchmark(monkeypatch, benchmark):
    """Runs the script with arguments."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["split_identities", *map(str, arguments)])
        benchmark["main"]()

    return run


def test_a_share_of_the_speakers_becomes_two_with_half_of_the_utterances_each(benchmark, hum_manifest):
    manifest = Manifest.read(hum_manifest)
    split, persons = benchmark["split_identities"](manifest, share=0.3, seed=0)
    assert split.column("utterance") == manifest.column("utterance")
    assert split.root == manifest.root
    assert len(split.speakers) == len(persons) == 26
    halves = [name for name in split.speakers if name not in manifest.speakers]
    assert sorted({name[:-2] for name in halves}) == sorted(set(manifest.speakers) - set(split.speakers))
    sizes = dict(zip(split.speakers, np.bincount(split.speaker_labels).tolist(), strict=True))
    assert {sizes[name] for name in halves if name.endswith(".1")} == {2}
    assert {sizes[name] for name in halves if name.endswith(".2")} == {3}
    true = [manifest.speakers[persons[label]] for label in split.speaker_labels]
    assert true == manifest.column("speaker")


def test_the_same_seed_makes_the_same_split_and_another_one_another(benchmark, hum_manifest):
    manifest = Manifest.read(hum_manifest)
    names = [benchmark["split_identities"](manifest, share=0.5, seed=s)[0].column("speaker") for s in (0, 0, 1)]
    assert names[0] == names[1] != names[2]


@pytest.mark.parametrize("share", [0.0, 1.5])
def test_a_share_that_is_none_is_refused(share, benchmark, hum_manifest):
    with pytest.raises(ValueError, match=f"share must be above 0 and at most 1, got {share}"):
        benchmark["split_identities"](Manifest.read(hum_manifest), share=share, seed=0)


def test_speakers_joined_with_a_stranger_are_counted(benchmark):
    persons, true = np.array([0, 0, 1, 1, 1, 2]), np.array([5, 5, 6, 7, 7, 8])
    assert benchmark["num_wrongly_joined"](persons, true) == 3


def test_the_split_manifest_is_written_and_reads_back(run_benchmark, hum_manifest, tmp_path, capsys):
    run_benchmark(hum_manifest, "--write-manifest", tmp_path / "split.parquet")
    assert "26 speakers, 6 pairs of one person" in capsys.readouterr().out
    split = Manifest.read(tmp_path / "split.parquet")
    assert len(split.speakers) == 26
    assert split.recording(0).is_file()


def test_recall_and_precision_are_printed_and_written_for_every_model_and_threshold(
    run_benchmark, hum_manifest, tmp_path, capsys
):
    torch.manual_seed(0)
    settings = {"channels": 16, "aggregation_channels": 24, "embedding_dim": 8}
    architecture = Architecture(encoder="chns.encoders.EcapaTdnn", encoder_settings=settings)
    save_bundle(tmp_path / "model", architecture.build(), architecture, training={}, metrics={})
    out = tmp_path / "out.json"
    model = tmp_path / "model"
    run_benchmark(
        *(hum_manifest, "--models", model, "--thresholds", 0.5, 0.9, "--crop-seconds", 0.5, "--share", 0.5),
        *("--out", out),
    )
    written = json.loads(out.read_text(encoding="utf-8"))
    assert set(written["rows"]) == {f"{model}, 0.5", f"{model}, 0.9"}
    low, high = (written["rows"][f"{model}, {threshold}"] for threshold in (0.5, 0.9))
    assert low["suspected"] >= high["suspected"]
    assert low["recall"] >= high["recall"]
    assert all(0 <= row[name] <= 1 for row in (low, high) for name in row if name.startswith(("recall", "precision")))
    assert all(row["most in one"] >= 1 for row in (low, high))
    assert "30 speakers, 10 pairs of one person" in capsys.readouterr().out

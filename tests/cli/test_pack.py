"""`chns pack`, and every command that reads a manifest on what it wrote."""

import json
import subprocess

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from small_models import LEAST

from chns.cli import main
from chns.data.manifest import Manifest
from chns.sampling import SpeakerClusters
from chns.training.log import Meter


def run(capsys, *words):
    code = main([str(word) for word in words])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return captured.out


def failed(capsys, *words):
    assert main([str(word) for word in words]) == 2
    return capsys.readouterr().err


@pytest.fixture(scope="module")
def shards(hum_manifest, tmp_path_factory):
    out = tmp_path_factory.mktemp("packed") / "shards"
    assert main(["pack", str(hum_manifest), "--out", str(out), "--shard-mb", "0.5", "--workers", "1"]) == 0
    return out


def training(configs, manifest, out, *more):
    return [
        "train", "--config", configs / "chns.yaml", "--config", configs / "tiny.yaml", "--config", LEAST,
        "--data.train", manifest,
        "--data.held_out_speakers", "4", "--train.device", "cpu", "--out", out, *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def trained(hum_manifest, configs, tmp_path_factory):
    """A training from files."""
    folder = tmp_path_factory.mktemp("runs") / "files"
    assert main([str(word) for word in training(configs, hum_manifest, folder)]) == 0
    return folder


def test_the_summary_says_what_was_packed_and_a_second_run_writes_nothing(hum_manifest, tmp_path, capsys):
    out = tmp_path / "shards"
    words = ["pack", hum_manifest, "--out", out, "--shard-mb", 0.5, "--workers", 1]
    summary = json.loads(run(capsys, *words, "--json"))
    assert summary["shards"] == summary["written"] == len(list(out.glob("*.tar"))) > 2
    assert summary | {"shards": 0, "written": 0} == {
        "manifest": str(out / "manifest.parquet"), "speakers": 20, "utterances": 100, "shards": 0, "written": 0,
        "rejected": 0, "report": str(out / "manifest.rejected.csv"),
    }  # fmt: skip
    printed = run(capsys, *words)
    assert "utterances  100\n" in printed
    assert "written     0\n" in printed


def test_standard_tools_read_and_check_the_shards(hum_manifest, shards):
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=shards, check=True)
    listed = subprocess.run(["tar", "-tf", "shard-00000.tar"], cwd=shards, check=True, capture_output=True, text=True)
    first = [path for path in Manifest.read(shards / "manifest.parquet").column("path") if "shard-00000.tar/" in path]
    assert [f"shard-00000.tar/{name}" for name in listed.stdout.split()] == sorted(first)


@pytest.mark.slow
def test_training_from_shards_with_workers_and_a_stop_ends_with_the_weights_of_files(
    trained, shards, configs, tmp_path, monkeypatch, capsys
):
    words = training(configs, shards / "manifest.parquet", tmp_path / "run", "--data.num_workers", 2)
    add, calls = Meter.add, []

    def add_and_stop(meter, measured):
        calls.append(measured)
        if len(calls) == 11:
            raise KeyboardInterrupt
        return add(meter, measured)

    monkeypatch.setattr(Meter, "add", add_and_stop)
    assert main([str(word) for word in words]) == 130
    assert not (tmp_path / "run" / "summary.json").exists()
    monkeypatch.setattr(Meter, "add", add)
    run(capsys, *words)
    expected = load_file(trained / "model" / "model.safetensors")
    weights = load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in weights)


@pytest.mark.slow
def test_embeddings_trials_scores_and_checks_of_shards_are_those_of_files(
    hum_manifest, shards, trained, tmp_path, capsys
):
    written = {}
    for name, manifest in (("files", hum_manifest), ("shards", shards / "manifest.parquet")):
        folder = tmp_path / name
        folder.mkdir()
        run(capsys, "embed", trained / "model", manifest, "--out", folder / "e.parquet")
        run(capsys, "trials", manifest, "--out", folder / "t.txt", "--targets", 2, "--nontargets", 20)
        run(capsys, "evaluate", trained / "model", manifest, "--trials", folder / "t.txt", "--scores", folder / "s.txt")
        run(capsys, "split", manifest, "--held-out", 2, "--out", folder / "a.parquet", folder / "b.parquet")
        run(capsys, "check", folder / "b.parquet", "--workers", 1)
        embeddings = pq.read_table(folder / "e.parquet")
        written[name] = (embeddings, (folder / "t.txt").read_text(), (folder / "s.txt").read_text())
    assert written["files"][0].equals(written["shards"][0])
    assert written["files"][1:] == written["shards"][1:]


@pytest.fixture
def shards_url(shards):
    """The shards in fsspec's own memory, below a bucket."""
    storage = fsspec.filesystem("memory")
    for shard in shards.glob("*.tar"):
        storage.pipe_file(f"/bucket/packed/{shard.name}", shard.read_bytes())
    yield "memory://bucket/packed"
    storage.rm("/bucket", recursive=True)


@pytest.mark.slow
def test_embeddings_scores_and_clusters_below_a_url_are_those_of_local_shards(
    shards, shards_url, trained, tmp_path, capsys
):
    manifest, model = shards / "manifest.parquet", trained / "model"
    run(capsys, "trials", manifest, "--out", tmp_path / "t.txt", "--targets", 2, "--nontargets", 20)
    written = []
    for name, root in (("here", shards), ("there", shards_url)):
        folder = tmp_path / name
        folder.mkdir()
        where = ("--root", root, "--workers", 0)
        run(capsys, "embed", model, manifest, "--out", folder / "e.parquet", *where)
        run(
            capsys, "evaluate", model, manifest, "--trials", tmp_path / "t.txt", "--scores", folder / "s.txt", *where
        )  # fmt: skip
        run(capsys, "cluster", model, manifest, "--out", folder / "c.safetensors", "--num-clusters", 3, *where)
        clusters = SpeakerClusters.load(folder / "c.safetensors").labels.tolist()
        written.append((pq.read_table(folder / "e.parquet"), (folder / "s.txt").read_text(), clusters))
    assert written[0] == written[1]


def test_clusters_order_the_shards(hum_manifest, tmp_path, capsys):
    labels = np.arange(20) % 4
    SpeakerClusters(labels=labels, centres=np.eye(4, dtype=np.float32), seed=0).save(tmp_path / "c.safetensors")
    out = tmp_path / "shards"
    run(capsys, "pack", hum_manifest, "--out", out, "--order", "cluster", "--clusters", tmp_path / "c.safetensors")
    manifest = Manifest.read(out / "manifest.parquet")
    by_place = sorted(range(len(manifest)), key=lambda row: manifest.recording(row).byte_offset)
    assert labels[manifest.speaker_labels[by_place]].tolist() == np.repeat(np.arange(4), 25).tolist()


def test_options_that_do_not_go_together_are_refused(hum_manifest, tmp_path, capsys):
    words = ["pack", hum_manifest, "--out", tmp_path / "out"]
    message = "--order cluster and --clusters C.safetensors must be given together, got only one of them"
    assert message in failed(capsys, *words, "--order", "cluster")
    clusters = tmp_path / "c.safetensors"
    SpeakerClusters(labels=np.zeros(3, np.int64), centres=np.eye(2, dtype=np.float32), seed=0).save(clusters)
    assert message in failed(capsys, *words, "--clusters", clusters)
    errors = failed(capsys, *words, "--order", "cluster", "--clusters", clusters)
    assert "clusters must be those of the manifest's 20 speakers, got 3 in" in errors


def test_a_damaged_shard_is_one_line_that_names_the_recording(hum_manifest, trained, tmp_path, capsys):
    out = tmp_path / "shards"
    run(capsys, "pack", hum_manifest, "--out", out)
    with (out / "shard-00000.tar").open("r+b") as file:
        file.truncate(50_000)
    errors = failed(capsys, "embed", trained / "model", out / "manifest.parquet", "--out", tmp_path / "e.parquet")
    assert "chns: error: recording must lie inside its shard of 50,000 bytes, got bytes" in errors
    assert "shard-00000.tar/s" in errors

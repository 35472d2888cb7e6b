"""From a trained model to clusters, embeddings, trials, scores and error rates, as a user does it."""

import csv
import json

import pyarrow.parquet as pq
import pytest
from small_models import saved_model

from chns.bundle.bundle import load_bundle
from chns.cli import main
from chns.data.manifest import Manifest
from chns.sampling import SpeakerClusters


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return saved_model(tmp_path_factory.mktemp("model") / "model")


def run_json(capsys, *words):
    assert main([*map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.slow
def test_cluster_writes_clusters_and_a_table_and_shows_sizes_tightness_and_pairs(model, hum_manifest, tmp_path, capsys):
    words = ["cluster", model, hum_manifest, "--num-clusters", 4, "--out", tmp_path / "c.safetensors",
             "--table", tmp_path / "t.csv", "--crop-seconds", 0.5, "--pairs", 3, "--workers", 0]  # fmt: skip
    summary = run_json(capsys, *words)
    clusters = SpeakerClusters.load(tmp_path / "c.safetensors")
    assert summary["sizes"] == clusters.sizes.tolist()
    assert sum(summary["sizes"]) == 20
    assert clusters.encoder == load_bundle(model).digest
    assert all(-1 <= tightness <= 1 for tightness in summary["tightness"])
    similarities = [pair["similarity"] for pair in summary["closest_pairs"]]
    assert similarities == sorted(similarities, reverse=True)
    assert len(similarities) == 3
    with (tmp_path / "t.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["speaker"] for row in rows] == Manifest.read(hum_manifest).speakers
    assert [int(row["cluster"]) for row in rows] == clusters.labels.tolist()

    assert main([str(word) for word in words]) == 0
    printed = capsys.readouterr().out
    assert "20 speakers in 4 clusters" in printed
    assert "closest speakers" in printed


def test_embed_writes_an_embedding_an_utterance(model, hum_manifest, tmp_path, capsys):
    words = ("embed", model, hum_manifest, "--out", tmp_path / "e.parquet", "--workers", 0)
    summary = run_json(capsys, *words)
    assert summary == {"embeddings": str(tmp_path / "e.parquet"), "utterances": 100, "dim": 8}
    assert pq.read_table(tmp_path / "e.parquet").num_rows == 100
    assert main([str(word) for word in words]) == 0
    assert "100 embeddings of 8 dimensions" in capsys.readouterr().out


@pytest.mark.parametrize("form", ["kaldi", "voxceleb", "cnceleb"])
def test_evaluate_prints_what_metrics_prints_of_its_score_file(model, hum_manifest, tmp_path, capsys, form):
    trials, scores = tmp_path / "trials.txt", tmp_path / "scores.txt"
    made = run_json(capsys, "trials", hum_manifest, "--out", trials, "--format", form, "--targets", 3)
    assert made["target_trials"] == made["nontarget_trials"] == 60
    words = ("evaluate", model, hum_manifest, "--trials", trials, "--scores", scores, "--workers", 0)
    summary = run_json(capsys, *words)
    metrics = run_json(capsys, "metrics", scores)
    assert {name: summary[name] for name in metrics} == metrics
    assert set(metrics) == {"eer", "min_dcf", "target_trials", "nontarget_trials"}
    assert set(metrics["min_dcf"]) == {"0.01", "0.05"}
    assert len(scores.read_text().splitlines()) == 120
    assert main([str(word) for word in words]) == 0
    assert "minDCF (p_target 0.05)" in capsys.readouterr().out


def test_names_with_another_suffix_are_found(model, hum_manifest, tmp_path, capsys):
    (tmp_path / "trials.txt").write_text("1 s00/0.wav s00/1.wav\n0 s00/0.wav s01/1.wav\n")
    words = ("--trials", tmp_path / "trials.txt", "--scores", tmp_path / "s.txt", "--workers", 0)
    assert run_json(capsys, "evaluate", model, hum_manifest, *words)["target_trials"] == 1


def test_a_list_without_labels_is_scored_without_error_rates(model, hum_manifest, tmp_path, capsys):
    (tmp_path / "trials.txt").write_text("s00/0 s00/1\ns00/0 s01/1\n")
    words = ("--trials", tmp_path / "trials.txt", "--scores", tmp_path / "s.txt", "--workers", 0)
    assert "eer" not in run_json(capsys, "evaluate", model, hum_manifest, *words)
    assert len((tmp_path / "s.txt").read_text().splitlines()) == 2


@pytest.mark.slow
def test_the_hardest_trials_under_a_model_score_higher_than_random_ones(model, hum_manifest, tmp_path, capsys):
    means = {}
    for name, more in (("random", ()), ("hardest", ("--hardest-under", model, "--workers", 0))):
        trials, scores = tmp_path / f"{name}.txt", tmp_path / f"{name}.scores"
        run_json(capsys, "trials", hum_manifest, "--out", trials, "--nontargets", 50, *more)
        run_json(capsys, "evaluate", model, hum_manifest, "--trials", trials, "--scores", scores, "--workers", 0)
        rows = [line.split() for line in scores.read_text().splitlines()]
        nontargets = [float(score) for _, _, score, label in rows if label == "nontarget"]
        assert len(nontargets) == 50
        means[name] = sum(nontargets) / 50
    assert means["hardest"] > means["random"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("evaluate", "{model}", "{manifest}", "--trials", "none.txt", "--scores", "s.txt"), "none.txt"),
        (("embed", "nowhere", "{manifest}", "--out", "e.parquet"), "model must be a folder with config.json"),
        (("embed", "{model}", "none.parquet", "--out", "e.parquet"), "manifest must be a file, got none.parquet"),
        (("embed", "{model}", "{manifest}", "--out", "e.parquet", "--device", "abacus"), "--device must be one that"),
        (
            ("cluster", "{model}", "{manifest}", "--num-clusters", "21", "--out", "c.safetensors", "--workers", "0"),
            "num_clusters must be between 1 and the 20 speakers, got 21",
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_line(model, hum_manifest, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    assert main([word.format(model=model, manifest=hum_manifest) for word in words]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("chns: error: ")
    assert message in error
    assert list(tmp_path.iterdir()) == []

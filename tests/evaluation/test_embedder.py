"""Embeddings of manifests and centroids of speakers."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import chns.evaluation.embedder
from chns.data.audio import read_audio
from chns.data.dataset import CropRequest, SpeakerCrops
from chns.data.manifest import Manifest
from chns.encoders import EcapaTdnn, SpeakerEncoder
from chns.evaluation.embedder import embed_utterances, speaker_centroids, write_embeddings
from chns.features import LogMel
from chns.sampling.flat_groups import draw_per_speaker


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = SpeakerEncoder(LogMel(), EcapaTdnn(channels=16, aggregation_channels=24, embedding_dim=8))
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(8, 8_000))
    return model.eval()


@pytest.fixture(scope="module")
def manifest(hum_manifest):
    return Manifest.read(hum_manifest)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_embeddings_are_those_of_each_utterance_alone_in_manifest_order(model, manifest, num_workers, monkeypatch):
    monkeypatch.setattr(chns.evaluation.embedder, "_BATCH_SECONDS", 10.0)
    embeddings = embed_utterances(model, manifest, num_workers=num_workers)
    assert embeddings.shape == (100, 8)
    assert embeddings.dtype == np.float32
    for index in (0, 17, 99):
        with torch.no_grad():
            alone = model(torch.from_numpy(read_audio(manifest[index].path))[None])[0].numpy()
        np.testing.assert_allclose(embeddings[index], alone, atol=1e-5)


def test_only_the_first_seconds_count_where_a_limit_is_set(model, manifest):
    limited = embed_utterances(model, manifest.take([3]), max_seconds=0.5)
    with torch.no_grad():
        start = model(torch.from_numpy(read_audio(manifest[3].path, duration_seconds=0.5))[None]).numpy()
    np.testing.assert_allclose(limited, start, atol=1e-5)


def test_an_empty_manifest_has_no_embeddings(model, manifest):
    assert len(embed_utterances(model, manifest.take([]))) == 0


def test_the_mode_of_the_model_comes_back(model, manifest):
    model.train()
    before = model.encoder.first.norm.running_mean.clone()
    embed_utterances(model, manifest.take([0]))
    assert model.training
    assert torch.equal(model.encoder.first.norm.running_mean, before)
    model.eval()


def test_a_centroid_is_the_normalised_mean_of_its_speakers_crops(model, manifest):
    centroids = speaker_centroids(model, manifest, utterances_per_speaker=10, crop_seconds=0.5, seed=4)
    crops = SpeakerCrops(manifest, crop_seconds=0.5, sample_rate_hz=16_000)
    rows = np.flatnonzero(manifest.speaker_labels == 3)
    with torch.no_grad():
        embeddings = model(torch.stack([crops[CropRequest(int(row), (4, int(row)))][0] for row in rows])).numpy()
    expected = embeddings.mean(axis=0)
    np.testing.assert_allclose(centroids[3], expected / np.linalg.norm(expected), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(centroids, axis=1), 1, atol=1e-5)


def test_centroids_depend_on_the_seed_only(model, manifest):
    first, again, other = (
        speaker_centroids(model, manifest, utterances_per_speaker=2, crop_seconds=0.5, seed=seed, num_workers=workers)
        for seed, workers in [(0, 0), (0, 1), (1, 0)]
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_draw_takes_so_many_of_each_speaker_or_all():
    labels = np.array([0] * 5 + [2] * 2 + [1] * 9)
    drawn = draw_per_speaker(labels, 3, np.random.default_rng(0))
    assert np.bincount(labels[drawn]).tolist() == [3, 3, 2]
    assert len(set(drawn.tolist())) == len(drawn)
    counts = sum(
        np.bincount(draw_per_speaker(labels, 3, np.random.default_rng(seed)), minlength=16) for seed in range(600)
    )
    assert counts[:5] == pytest.approx(np.full(5, 360), rel=0.15)
    assert counts[7:] == pytest.approx(np.full(9, 200), rel=0.25)


def test_written_embeddings_read_back(manifest, tmp_path):
    embeddings = np.random.default_rng(0).normal(size=(len(manifest), 8)).astype(np.float32)
    write_embeddings(tmp_path / "e.parquet", manifest, embeddings)
    table = pq.read_table(tmp_path / "e.parquet")
    assert table.column_names == ["utterance", "speaker", "embedding"]
    assert np.array_equal(np.array(table["embedding"].to_pylist(), np.float32), embeddings)
    assert table["utterance"].to_pylist() == manifest.column("utterance")

"""Training speakers embedded with a run's model, and the file that keeps the embeddings."""

import logging

import numpy as np
import pytest
import torch

from chns.bundle.bundle import Architecture, load_bundle, save_bundle
from chns.core import ManifestError
from chns.data.dataset import CropRequest, SpeakerCrops
from chns.data.manifest import Manifest
from chns.evaluation.embedder import Embedder
from chns.report.speakers import embed_training_speakers
from chns.training.build import read_data, training_manifest
from chns.training.settings import DataSettings, TrainSettings


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    torch.manual_seed(0)
    architecture = Architecture(
        encoder="chns.encoders.EcapaTdnn",
        encoder_settings={"channels": 16, "aggregation_channels": 24, "embedding_dim": 8},
    )
    folder = tmp_path_factory.mktemp("model") / "model"
    save_bundle(folder, architecture.build(), architecture, training={"speakers": 20}, metrics={})
    return load_bundle(folder)


@pytest.fixture(scope="module")
def manifest(hum_manifest):
    return Manifest.read(hum_manifest)


@pytest.fixture
def embedded_how_often(monkeypatch):
    """How often something was embedded, instead of read."""
    calls = []
    embed = Embedder.crops

    def counting(*positional, **named):
        calls.append(positional)
        return embed(*positional, **named)

    monkeypatch.setattr(Embedder, "crops", counting)
    return lambda: len(calls)


def embed(bundle, manifest, cache, **settings):
    embedder = Embedder(model=bundle.model)
    return embed_training_speakers(
        bundle,
        manifest,
        embedder=embedder,
        cache=cache,
        **{"utterances_per_speaker": 2, "crop_seconds": 0.5, **settings},
    )


@pytest.mark.parametrize(("held_out", "seed"), [(None, 0), (None, 5), (7, 1), (0, 0)])
def test_training_speakers_are_those_that_training_kept(hum_manifest, held_out, seed):
    settings = TrainSettings(data=DataSettings(train=str(hum_manifest), held_out_speakers=held_out), seed=seed)
    kept, trained = training_manifest(settings), read_data(settings)[0]
    assert kept.speakers == trained.speakers
    assert kept.column("utterance") == trained.column("utterance")


def test_with_a_validation_manifest_nobody_was_held_out(hum_manifest):
    data = DataSettings(train=str(hum_manifest), validation="others.parquet", held_out_speakers=3)
    assert len(training_manifest(TrainSettings(data=data)).speakers) == 20


def test_every_speaker_has_crops_of_some_utterances(bundle, manifest, tmp_path):
    found = embed(bundle, manifest, tmp_path / "e.safetensors")
    assert found.names == manifest.speakers
    assert found.places.tolist() == list(range(20))
    assert np.bincount(found.labels).tolist() == [2] * 20
    assert found.num_training_speakers == 20
    every = embed(bundle, manifest, tmp_path / "every.safetensors", utterances_per_speaker=9)
    assert every.labels.tolist() == manifest.speaker_labels.tolist()
    crops = SpeakerCrops(manifest, crop_seconds=0.5, sample_rate_hz=16_000)
    with torch.no_grad():
        expected = bundle.model(torch.stack([crops[CropRequest(row, (0, row))][0] for row in (0, 41)])).numpy()
    np.testing.assert_allclose(every.embeddings[[0, 41]], expected, atol=1e-5)


def test_centroids_are_normalised_means_of_each_speaker(bundle, manifest, tmp_path):
    found = embed(bundle, manifest, tmp_path / "e.safetensors")
    mean = found.embeddings[found.labels == 7].mean(axis=0)
    np.testing.assert_allclose(found.centroids[7], mean / np.linalg.norm(mean), atol=1e-6)


def test_the_second_time_nothing_is_embedded(bundle, manifest, tmp_path, embedded_how_often):
    cache = tmp_path / "report" / "e.safetensors"
    first, again = embed(bundle, manifest, cache), embed(bundle, manifest, cache)
    assert embedded_how_often() == 1
    assert np.array_equal(first.embeddings, again.embeddings)
    assert np.array_equal(first.labels, again.labels)
    assert first.names == again.names


def test_other_weights_or_utterances_are_embedded_anew(bundle, manifest, tmp_path, embedded_how_often):
    cache = tmp_path / "e.safetensors"
    embed(bundle, manifest, cache)
    changes = [{"crop_seconds": 0.4}, {"seed": 1}, {"utterances_per_speaker": 3}, {"max_speakers": 19}]
    for number, changed in enumerate(changes, 2):
        embed(bundle, manifest, cache, **changed)
        assert embedded_how_often() == number
    embed(bundle._replace(digest="another"), manifest, cache, **changes[-1])
    assert embedded_how_often() == 6


@pytest.mark.parametrize(("kept_bytes", "more"), [(0, b""), (-9, b""), (0, b"\xff" * 99)])
def test_a_damaged_file_is_replaced(bundle, manifest, tmp_path, embedded_how_often, caplog, kept_bytes, more):
    cache = tmp_path / "e.safetensors"
    first = embed(bundle, manifest, cache)
    cache.write_bytes(cache.read_bytes()[:kept_bytes] + more)
    with caplog.at_level(logging.WARNING):
        again = embed(bundle, manifest, cache)
    assert "cannot be read" in caplog.text
    assert embedded_how_often() == 2
    assert np.array_equal(first.embeddings, again.embeddings)
    embed(bundle, manifest, cache)
    assert embedded_how_often() == 2


def test_a_file_with_numbers_that_are_none_is_replaced(bundle, manifest, tmp_path, embedded_how_often):
    cache = tmp_path / "e.safetensors"
    first = embed(bundle, manifest, cache)
    content = bytearray(cache.read_bytes())
    content[-4:] = np.float32(np.nan).tobytes()
    cache.write_bytes(content)
    assert np.array_equal(embed(bundle, manifest, cache).embeddings, first.embeddings)
    assert embedded_how_often() == 2


def test_where_the_embeddings_cannot_be_kept_they_are_there_all_the_same(bundle, manifest, tmp_path, caplog):
    (tmp_path / "report").write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING):
        found = embed(bundle, manifest, tmp_path / "report" / "e.safetensors")
    assert len(found.embeddings) == 40
    assert "could not be kept" in caplog.text


def test_of_too_many_speakers_some_are_drawn(bundle, manifest, tmp_path):
    found = embed(bundle, manifest, tmp_path / "e.safetensors", max_speakers=6)
    assert found.num_training_speakers == 20
    assert len(found.names) == len(set(found.places.tolist())) == 6
    assert found.names == [manifest.speakers[place] for place in found.places]
    assert np.bincount(found.labels).tolist() == [2] * 6
    other = embed(bundle, manifest, tmp_path / "other.safetensors", max_speakers=6, seed=1)
    assert other.names != found.names


def test_another_manifest_than_that_of_the_training_is_refused(bundle, manifest, tmp_path):
    fewer = manifest.split_speakers(1, seed=0)[0]
    with pytest.raises(ManifestError, match=r"training manifest must hold the 20 speakers .* got 19\. Give"):
        embed(bundle, fewer, tmp_path / "e.safetensors")


@pytest.mark.parametrize("name", ["utterances_per_speaker", "max_speakers"])
def test_a_number_below_one_is_refused(bundle, manifest, tmp_path, name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        embed(bundle, manifest, tmp_path / "e.safetensors", **{name: 0})


def test_recordings_that_are_gone_are_named(bundle, manifest, tmp_path):
    elsewhere = Manifest.read(manifest.root / "manifest.parquet", root=tmp_path)
    with pytest.raises(FileNotFoundError, match=r"s\d\d"):
        embed(bundle, elsewhere, tmp_path / "e.safetensors")

"""Validation on held-out speakers."""

import pytest
import torch

from chns.data.manifest import Manifest
from chns.encoders import SpeakerEncoder
from chns.features import LogMel
from chns.training.build import read_data
from chns.training.log import Validation
from chns.training.settings import DataSettings, TrainSettings


class MeanSpectrum(torch.nn.Module):
    """An encoder that needs no training."""

    def forward(self, features, lengths=None):
        mask = torch.arange(features.shape[1]) < lengths[:, None]
        return (features * mask[:, :, None]).sum(1) / lengths[:, None] + 1e-3


@pytest.fixture(scope="module")
def manifest(hum_manifest):
    return Manifest.read(hum_manifest)


def test_speakers_that_differ_are_told_apart_the_same_way_every_time(manifest):
    model = SpeakerEncoder(LogMel(subtract_mean=False), MeanSpectrum())
    validation = Validation(manifest, num_trials=400, seed=0, num_workers=0)
    validated = validation.measure(model, torch.device("cpu"))
    assert validated.metrics.eer < 0.2
    assert (validated.metrics.target_trials, validated.metrics.nontarget_trials) == (200, 200)
    assert validated.eer_by_corpus == {}
    assert validation.measure(model, torch.device("cpu")) == validated


def test_of_several_corpora_each_has_its_own_error_rate(manifest):
    halves = [manifest.take(range(50)), manifest.take(range(50, 100))]
    lone = manifest.take(range(5))  # one speaker: no non-targets within
    merged = Manifest.merge([*halves, lone], prefixes=["sea", "land", "air"])
    model = SpeakerEncoder(LogMel(subtract_mean=False), MeanSpectrum())
    together = Validation(merged, num_trials=4_000, seed=0, num_workers=0).measure(model, torch.device("cpu"))
    assert sorted(together.eer_by_corpus) == ["land", "sea"]
    for name, half in zip(("sea", "land"), halves, strict=True):
        alone = Validation(half, num_trials=4_000, seed=0, num_workers=0).measure(model, torch.device("cpu"))
        assert together.eer_by_corpus[name] == pytest.approx(alone.metrics.eer, abs=0.1)


@pytest.mark.parametrize(("num_speakers", "held_out"), [(9, None), (10, 2), (19, 2), (20, 2)])
def test_as_many_are_held_out_as_a_validation_needs_or_none(manifest, tmp_path, num_speakers, held_out):
    manifest.take(range(5 * num_speakers)).write(tmp_path / "m.parquet")
    training, validation = read_data(TrainSettings(data=DataSettings(train=str(tmp_path / "m.parquet"))))
    assert len(training.speakers) == num_speakers - (held_out or 0)
    assert (None if validation is None else len(validation.speakers)) == held_out


def test_whatever_the_seed_the_same_speakers_are_held_out(hum_manifest):
    data = DataSettings(train=str(hum_manifest), held_out_speakers=4)
    held_out = [read_data(TrainSettings(data=data, seed=seed))[1].speakers for seed in (0, 1, 2)]
    assert held_out[0] == held_out[1] == held_out[2]


def test_fewer_trials_where_the_manifest_does_not_give_more(manifest):
    validation = Validation(manifest.take(range(10)), num_trials=10_000, seed=0, num_workers=0)
    model = SpeakerEncoder(LogMel(subtract_mean=False), MeanSpectrum())
    metrics = validation.measure(model, torch.device("cpu")).metrics
    assert (metrics.target_trials, metrics.nontarget_trials) == (20, 25)


@pytest.mark.parametrize("rows", [range(5), range(0, 100, 5), []])
def test_one_speaker_or_one_utterance_a_speaker_is_not_enough(manifest, rows):
    with pytest.raises(ValueError, match="validation must have two speakers and a speaker with two utterances, got"):
        Validation(manifest.take(rows), num_trials=10, seed=0, num_workers=0)

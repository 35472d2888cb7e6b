"""Validation on held-out speakers."""

import pytest
import torch

from chns.data.manifest import Manifest
from chns.encoders import SpeakerEncoder
from chns.features import LogMel
from chns.training.validation import Validation


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
    metrics = validation.measure(model, torch.device("cpu"))
    assert metrics.eer < 0.2
    assert (metrics.target_trials, metrics.nontarget_trials) == (200, 200)
    assert validation.measure(model, torch.device("cpu")) == metrics


def test_fewer_trials_where_the_manifest_does_not_give_more(manifest):
    validation = Validation(manifest.take(range(10)), num_trials=10_000, seed=0, num_workers=0)
    metrics = validation.measure(SpeakerEncoder(LogMel(subtract_mean=False), MeanSpectrum()), torch.device("cpu"))
    assert (metrics.target_trials, metrics.nontarget_trials) == (20, 25)


@pytest.mark.parametrize("rows", [range(5), range(0, 100, 5), []])
def test_one_speaker_or_one_utterance_a_speaker_is_not_enough(manifest, rows):
    with pytest.raises(ValueError, match="validation must have two speakers and a speaker with two utterances, got"):
        Validation(manifest.take(rows), num_trials=10, seed=0, num_workers=0)

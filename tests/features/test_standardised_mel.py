"""Features of ReDimNet2 against the same in convolutions, as its own code has them."""

import pytest
import torch
from foreign_models import redimnet_filters
from torch.nn import functional as F

from chns.features import StandardisedMel


def reference(waveforms, num_mels=72):
    x = (waveforms - waveforms.mean(1, keepdim=True)) / (waveforms.std(1, keepdim=True, unbiased=False) + 1e-8)
    x = F.conv1d(F.pad(x[:, None], (1, 0), "reflect"), torch.tensor([[[-0.97, 1.0]]]))
    n, k = torch.arange(400)[:, None], torch.arange(256)
    window = torch.hamming_window(400, periodic=False)[:, None]
    parts = [window * wave(2 * torch.pi * n * k / 512) for wave in (torch.cos, torch.sin)]
    power = sum(F.conv1d(x, part.T[:, None], stride=160, padding=80).square() for part in parts).clip(1e-8, 1e8)
    mels = F.conv1d(power, redimnet_filters(num_mels)[:, :, None]).clip(1e-8, 1e8)
    features = (mels + 1e-8).log()
    return (features - features.mean(2, keepdim=True)).transpose(1, 2)


def test_features_are_those_of_the_original():
    waveforms = 0.05 * torch.randn(2, 16_123) * torch.linspace(0.1, 1, 16_123) + 0.02
    ours = StandardisedMel()(waveforms)
    assert ours.shape == (2, 100, 72)
    torch.testing.assert_close(ours, reference(waveforms), atol=2e-3, rtol=1e-3)


def test_each_utterance_of_a_padded_batch_is_as_it_is_alone():
    features, waveforms = StandardisedMel(num_mels=40), torch.randn(4, 9_000)
    lengths = torch.tensor([9_000, 8_999, 5_000, 400])
    padded = features(waveforms, lengths)
    for row, length in enumerate(lengths.tolist()):
        alone = features(waveforms[row : row + 1, :length])[0]
        assert len(alone) == features.frame_lengths(lengths)[row]
        torch.testing.assert_close(padded[row, : len(alone)], alone, atol=1e-4, rtol=1e-4)
        assert not padded[row, len(alone) :].any()


@pytest.mark.parametrize("settings", [{"sample_rate_hz": 8_000}, {"num_mels": 0}, {"num_mels": 257}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ValueError, match="sample_rate_hz must be 16000 and num_mels between 1 and 256"):
        StandardisedMel(**settings)
    with pytest.raises(ValueError, match="hop_seconds must be between two samples and a frame"):
        StandardisedMel(hop_seconds=0.05)

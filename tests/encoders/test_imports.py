"""Encoders as other toolkits have them: still indifferent to padding, and finite where the utterance is short."""

import pytest
import torch

from chns.encoders import EcapaTdnn, ResNet, resnet34
from chns.encoders.ecapa_tdnn import EcapaVariant
from chns.encoders.layers import StatisticsPooling, mirrored

ENCODERS = {
    "mirrored": lambda: EcapaTdnn(
        channels=32, aggregation_channels=48, embedding_dim=16, variant=EcapaVariant(padding="reflect")
    ),
    "plain head": lambda: EcapaTdnn(
        channels=32, aggregation_channels=48, embedding_dim=16, variant={"plain_head": True}
    ),
    "no context": lambda: EcapaTdnn(
        channels=32, aggregation_channels=48, embedding_dim=16, variant={"global_context": False}
    ),
    "resnet": lambda: ResNet(channels=(8, 8, 16, 16), blocks=(1, 2, 1, 1), embedding_dim=16),
}


def with_lived_in_norms(encoder):
    torch.manual_seed(0)
    for module in encoder.modules():
        if isinstance(module, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)):
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.5, 1.5)
            module.bias.data.normal_(std=0.3)
    return encoder.eval()


@pytest.mark.parametrize("make", ENCODERS.values(), ids=ENCODERS.keys())
def test_an_utterance_is_the_same_alone_and_padded_in_a_batch(make):
    encoder = with_lived_in_norms(make())
    lengths = torch.tensor([61, 60, 37, 8, 3, 1])
    features = torch.randn(6, 61, 80)
    features[1:, 60:] = 1e3
    with torch.no_grad():
        padded = encoder(features, lengths)
        alone = torch.cat([encoder(features[i : i + 1, :n]) for i, n in enumerate(lengths.tolist())])
    torch.testing.assert_close(padded, alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("make", ENCODERS.values(), ids=ENCODERS.keys())
def test_every_parameter_gets_a_finite_gradient(make):
    encoder = make()
    encoder(torch.randn(4, 30, 80)).square().sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


def test_mirroring_is_torchs_where_torch_can():
    x = torch.randn(2, 3, 9)
    assert torch.equal(mirrored(x, None, 4), torch.nn.functional.pad(x, (4, 4), mode="reflect"))
    assert mirrored(x[:, :, :1], None, 4).shape == (2, 3, 9)


def test_mirroring_ends_where_the_utterance_does():
    x = torch.arange(6.0).expand(2, 1, 6)
    mask = torch.tensor([[[1.0, 1, 1, 1, 0, 0]], [[1.0] * 6]])
    assert mirrored(x, mask, 2)[0, 0, :8].tolist() == [2, 1, 0, 1, 2, 3, 2, 1]
    assert mirrored(x, mask, 2)[1, 0].tolist() == [2, 1, 0, 1, 2, 3, 4, 5, 4, 3]


def test_statistics_are_the_mean_and_the_unbiased_deviation():
    x = torch.randn(2, 3, 50)
    pooled = StatisticsPooling(3)(x)
    torch.testing.assert_close(pooled, torch.cat([x.mean(2), x.std(2)], dim=1), atol=1e-5, rtol=1e-5)
    assert torch.isfinite(StatisticsPooling(3)(x[:, :, :1])).all()


def test_resnet34_has_the_published_number_of_parameters():
    assert sum(p.numel() for p in resnet34().parameters()) / 1e6 == pytest.approx(6.63, rel=0.005)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dilations": (1, 2, 10**7, 4)}, r"dilations must be whole numbers from 1 to 100"),
        ({"kernels": (5, 3, 4, 3)}, r"kernels must be odd, got \[5, 3, 4, 3\]"),
        ({"padding": "same"}, "padding must be 'zeros' or 'reflect', got 'same'"),
    ],
)
def test_settings_that_make_no_sense_are_errors(settings, message):
    with pytest.raises(ValueError, match=message):
        EcapaTdnn(channels=32, aggregation_channels=48, variant=settings)

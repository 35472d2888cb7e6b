"""The published families: sizes as counted and as published, padding, training, export, and what they refuse."""

import re

import numpy as np
import onnxruntime
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import chns.encoders
from chns.encoders import CamPlusPlus, ReDimNet2, ResNet, SpeakerEncoder, Stage
from chns.encoders.resnet import energy_attention
from chns.features import LogMel
from chns.losses import SupConLoss

SMALL = {
    "cam++": lambda: CamPlusPlus(front_channels=4, channels=16, growth=8, layers=(2, 2), dilations=(1, 2)),
    "redimnet2": lambda: ReDimNet2(num_mels=80, channels=4, stages=STAGES, out_channels=6, embedding_dim=16),
    "bottleneck": lambda: ResNet(channels=(4, 4, 8, 8), blocks=(1, 2, 1, 1), block="bottleneck", embedding_dim=16),
    "simam": lambda: ResNet(
        channels=(4, 4, 8, 8), blocks=(1, 2, 1, 1), block="simam", attentive_pooling=True, embedding_dim=16
    ),
}
STAGES = (
    Stage(band_stride=1, frame_stride=2, blocks=1, expansion=2, reduction=20),
    Stage(band_stride=2, frame_stride=2, blocks=1, expansion=1, reduction=10),
)
# As published, in millions; ReDimNet2's are cut rather than rounded there.
PUBLISHED = {
    "cam_plus_plus": 6.85,
    "redimnet2_b0": 1.13,
    "redimnet2_b1": 2.18,
    "redimnet2_b2": 3.69,
    "redimnet2_b3": 4.19,
    "resnet34": 6.63,
    "resnet152": 19.8,
    "resnet221": 23.8,
    "resnet293": 28.6,
    "simam_resnet34": 25.2,
    "simam_resnet100": 50.2,
}
OF_MANY_LAYERS = ("resnet152", "resnet221", "resnet293", "simam_resnet100", "redimnet2_b2", "redimnet2_b3")
SIZED = [*PUBLISHED, "ecapa_tdnn_mobile", "ecapa_tdnn_512", "ecapa_tdnn_1024"]

each_small = pytest.mark.parametrize("make", SMALL.values(), ids=SMALL.keys())


def with_lived_in_norms(encoder):
    torch.manual_seed(0)
    for module in encoder.modules():
        if isinstance(module, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)):
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.5, 1.5)
        if getattr(module, "bias", None) is not None and "Norm" in type(module).__name__:
            module.bias.data.normal_(std=0.3)
    return encoder.eval()


def on_no_memory(name):
    with torch.device("meta"):
        return getattr(chns.encoders, name)().eval()


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in OF_MANY_LAYERS)) for name in SIZED]
)
def test_parameters_and_multiply_adds_are_those_of_the_docstring(name):
    encoder = on_no_memory(name)
    num_mels = 72 if "redimnet" in name else 80
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        encoder(torch.empty(1, 298, num_mels, device="meta"))
    stated = re.search(r"([\d.]+) M parameters, ([\d.]+) G multiply-adds for 3 s", getattr(chns.encoders, name).__doc__)
    millions = sum(p.numel() for p in encoder.parameters()) / 1e6
    assert millions == pytest.approx(float(stated[1]), rel=0.005)
    assert counter.get_total_flops() / 2e9 == pytest.approx(float(stated[2]), rel=0.015)


@pytest.mark.parametrize("name", PUBLISHED)
def test_there_are_as_many_parameters_as_published(name):
    millions = sum(p.numel() for p in on_no_memory(name).parameters()) / 1e6
    assert millions == pytest.approx(PUBLISHED[name], rel=0.005)


@each_small
def test_an_utterance_is_the_same_alone_and_padded_in_a_batch(make):
    encoder = with_lived_in_norms(make())
    lengths = torch.tensor([237, 236, 101, 41, 8, 5, 1])
    features = torch.randn(7, 237, 80)
    features[4:, 200:] = 1e3
    with torch.no_grad():
        padded = encoder(features, lengths)
        alone = torch.cat([encoder(features[i : i + 1, :n]) for i, n in enumerate(lengths.tolist())])
        full = encoder(features[:1], lengths[:1])
    torch.testing.assert_close(padded, alone, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(full, alone[:1], atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@each_small
def test_it_learns_a_batch_by_heart_and_every_weight_takes_part(make):
    torch.manual_seed(0)
    encoder, loss = make(), SupConLoss()
    voices = torch.randn(4, 1, 80)
    features = (voices + torch.randn(4, 2, 80)).repeat_interleave(24, 1).view(8, 24, 80) + torch.randn(8, 24, 80)
    labels = torch.arange(8) // 2
    optimizer = torch.optim.Adam(encoder.parameters(), lr=3e-3)
    first = loss(encoder(features), labels)
    first.backward()
    for name, parameter in encoder.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
    for _ in range(12):
        optimizer.step()
        optimizer.zero_grad()
        last = loss(encoder(features), labels)
        last.backward()
    assert last < 0.7 * first


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # of the exporter's own making
@each_small
def test_waveform_to_embedding_exports_to_onnx_with_any_batch_and_length(make, tmp_path):
    model = SpeakerEncoder(LogMel(), with_lived_in_norms(make())).eval()
    path = tmp_path / "model.onnx"
    dimensions = {"waveforms": {0: torch.export.Dim("batch"), 1: torch.export.Dim("samples")}}
    torch.onnx.export(model, (torch.randn(2, 36_000),), path, dynamo=True, dynamic_shapes=dimensions, verbose=False)
    session = onnxruntime.InferenceSession(path)
    for shape in [(1, 9_000), (3, 40_123)]:
        waveforms = 0.1 * torch.randn(shape)
        with torch.no_grad():
            ours = model(waveforms).numpy()
        (exported,) = session.run(None, {session.get_inputs()[0].name: waveforms.numpy()})
        np.testing.assert_allclose(exported, ours, atol=1e-4, rtol=1e-3)


def test_energy_attention_is_the_published_formula():
    x = torch.randn(2, 3, 5, 7)
    distance = (x - x.mean(dim=(2, 3), keepdim=True)) ** 2
    energy = distance / (4 * (distance.sum(dim=(2, 3), keepdim=True) / 34 + 1e-4)) + 0.5
    torch.testing.assert_close(energy_attention(x, None), x * torch.sigmoid(energy))


def test_a_segment_of_cam_plus_plus_is_two_seconds():
    encoder = with_lived_in_norms(SMALL["cam++"]())
    contexts = []
    encoder.blocks[0][0].masked.squeeze.register_forward_hook(lambda _, inputs, __: contexts.append(inputs[0]))
    with torch.no_grad():
        encoder(torch.randn(1, 402, 80))
    assert contexts[0].shape[2] == 3  # of 201 halved frames: 100, 100 and 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ResNet(block="dense"), "block must be one of basic, bottleneck, simam, got 'dense'"),
        (lambda: CamPlusPlus(layers=(1, 2), dilations=(1,)), r"layers and dilations must be as many, got \[1, 2\]"),
        (lambda: ReDimNet2(num_mels=81, channels=4, stages=STAGES), "num_mels must be divisible by 2, got 81. Set fea"),
        (lambda: ReDimNet2(num_mels=80, channels=4, stages=[Stage(1, 1, 1, 1, 32)]), "takes 1 positional argument"),
        (
            lambda: ReDimNet2(
                num_mels=80,
                channels=4,
                stages=[{"band_stride": 1, "frame_stride": 1, "blocks": 1, "expansion": 1, "reduction": 32}],
            ),
            "must be divisible by 4 attention heads, got 320 / 32",
        ),
    ],
)
def test_settings_that_make_no_sense_are_errors(make, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make()

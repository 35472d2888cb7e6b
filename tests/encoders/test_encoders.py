"""Both encoders: sizes, indifference to padding, autocast, export."""

import re

import numpy as np
import onnxruntime
import pytest
import torch

from chns.encoders import (
    EcapaTdnn,
    SpeakerEncoder,
    ThinResNet,
    ecapa_tdnn_512,
    ecapa_tdnn_1024,
    ecapa_tdnn_mobile,
    layers,
    thin_resnet34,
)
from chns.encoders.layers import AttentiveStatisticsPooling
from chns.features import LogMel

SMALL = {
    "ecapa": lambda: EcapaTdnn(channels=32, aggregation_channels=48, embedding_dim=16),
    "resnet sap": lambda: ThinResNet(channels=(8, 8, 16, 16), blocks=(1, 1, 1, 1), pooling="sap", embedding_dim=16),
    "resnet asp": lambda: ThinResNet(channels=(8, 8, 16, 16), blocks=(1, 1, 1, 1), pooling="asp", embedding_dim=16),
}
SHIPPED = [
    pytest.param(ecapa_tdnn_mobile, id="ecapa mobile"),
    pytest.param(ecapa_tdnn_512, id="ecapa 512", marks=pytest.mark.slow),
    pytest.param(ecapa_tdnn_1024, id="ecapa 1024", marks=pytest.mark.slow),
    pytest.param(lambda: thin_resnet34(pooling="sap"), id="resnet sap"),
    pytest.param(lambda: thin_resnet34(pooling="asp"), id="resnet asp"),
]


def with_lived_in_norms(encoder, seed=0):
    """Batch normalisation that moves zero, as after training: padding would show if it were not masked."""
    torch.manual_seed(seed)
    for module in encoder.modules():
        if isinstance(module, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)):
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(std=0.3)
    return encoder.eval()


@pytest.mark.parametrize(
    ("make", "millions"),
    [
        (ecapa_tdnn_mobile, 2.05),
        (ecapa_tdnn_512, 6.2),
        (ecapa_tdnn_1024, 20.8),
        (lambda: thin_resnet34(pooling="sap"), 1.60),
        (lambda: thin_resnet34(pooling="asp"), 1.85),
    ],
)
def test_parameter_counts_are_those_documented(make, millions):
    count = sum(p.numel() for p in make().parameters())
    assert count / 1e6 == pytest.approx(millions, rel=0.005)


@pytest.mark.parametrize("make", SHIPPED)
def test_an_utterance_is_the_same_alone_and_padded_in_a_batch(make):
    encoder = with_lived_in_norms(make())
    lengths = torch.tensor([61, 60, 37, 8, 1])
    features = torch.randn(5, 61, 80)
    with torch.no_grad():
        padded = encoder(features, lengths)
        alone = torch.cat([encoder(features[i : i + 1, :n]) for i, n in enumerate(lengths.tolist())])
    torch.testing.assert_close(padded, alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("make", SMALL.values(), ids=SMALL.keys())
def test_what_stands_in_the_padding_does_not_matter(make):
    encoder = with_lived_in_norms(make())
    lengths = torch.tensor([20, 33])
    features = torch.randn(2, 33, 80)
    other = features.clone()
    other[0, 20:] = 1e3
    with torch.no_grad():
        torch.testing.assert_close(encoder(features, lengths), encoder(other, lengths), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("make", SMALL.values(), ids=SMALL.keys())
def test_full_lengths_equal_no_lengths(make):
    encoder = with_lived_in_norms(make())
    features = torch.randn(3, 40, 80)
    with torch.no_grad():
        torch.testing.assert_close(encoder(features), encoder(features, torch.full((3,), 40)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("make", SHIPPED)
def test_every_parameter_gets_a_finite_gradient(make):
    encoder = make()
    embeddings = encoder(torch.randn(4, 30, 80))
    assert embeddings.shape == (4, encoder.embedding_dim)
    embeddings.square().sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize("make", SMALL.values(), ids=SMALL.keys())
def test_constant_input_gives_finite_embeddings_and_gradients(make):
    encoder = make()
    features = torch.zeros(2, 30, 80, requires_grad=True)
    encoder(features).sum().backward()
    assert torch.isfinite(features.grad).all()


@pytest.mark.parametrize("make", SMALL.values(), ids=SMALL.keys())
def test_bf16_autocast_stays_close(make):
    encoder = with_lived_in_norms(make())
    features = torch.randn(2, 50, 80)
    lengths = torch.tensor([50, 31])
    with torch.no_grad():
        exact = encoder(features, lengths)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mixed = encoder(features, lengths)
    assert torch.nn.functional.cosine_similarity(exact, mixed.float()).min() > 0.99


@pytest.mark.parametrize("function", ["_WeightedStatistics", "_RowStatistics"])
@pytest.mark.parametrize("numbers_at_once", [1, 14, 10_000])
def test_statistics_of_a_few_rows_at_a_time_have_the_gradients_that_differences_show(
    function, numbers_at_once, monkeypatch
):
    monkeypatch.setattr(layers, "_NUMBERS_AT_ONCE", numbers_at_once)
    torch.manual_seed(0)
    inputs = [torch.randn(2, 3, 7, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    needed = inputs if function == "_WeightedStatistics" else inputs[:1]
    assert torch.autograd.gradcheck(getattr(layers, function).apply, needed)


@pytest.mark.parametrize(
    "learnt", [(True, True, True), (True, False, False), (False, True, True), (False, True, False)]
)
def test_a_pointwise_convolution_has_the_gradients_that_differences_show(learnt, monkeypatch):
    monkeypatch.setattr(layers, "_BEATS_ONEDNN", True)
    torch.manual_seed(0)
    shapes = [(2, 3, 5), (4, 3, 1), (4,)]
    inputs = [torch.randn(s, dtype=torch.float64, requires_grad=bool(g)) for s, g in zip(shapes, learnt, strict=True)]
    assert torch.autograd.gradcheck(layers.pointwise, inputs)
    assert torch.autograd.gradcheck(lambda x, weight: layers.pointwise(x, weight, None), inputs[:2])


@pytest.mark.parametrize(("half", "beats"), [(False, True), (False, False), (True, True)])
def test_a_pointwise_convolution_is_torchs_with_gradients_of_its_own_where_they_are_quicker(half, beats, monkeypatch):
    monkeypatch.setattr(layers, "_BEATS_ONEDNN", beats)
    torch.manual_seed(0)
    tensors = [torch.randn(shape, requires_grad=True) for shape in [(64, 16, 30), (8, 16, 1), (8,)]]
    slopes = torch.randn(64, 8, 30)
    kept = []
    for function in (torch.nn.functional.conv1d, layers.pointwise):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            output = function(*tensors)
        kept.append([output, *torch.autograd.grad(output, tensors, slopes.to(output.dtype))])
    assert ("_Pointwise" in output.grad_fn.name()) == (beats and not half)
    for theirs, ours in zip(*kept, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0 if half else 1e-5)


@pytest.mark.parametrize("lengths", [None, (50, 31)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pooling_in_training_is_that_of_evaluation(lengths, dtype, monkeypatch):
    monkeypatch.setattr(layers, "_NUMBERS_AT_ONCE", 300)
    torch.manual_seed(0)
    pooling = AttentiveStatisticsPooling(12, bottleneck=8)
    pooling.norm = torch.nn.Identity()  # the only part that is meant to differ
    mask = layers.frame_mask(None if lengths is None else torch.tensor(lengths), torch.zeros(50))
    kept, slopes = [], torch.randn(2, 24)
    for training in (False, True):
        x = torch.randn(2, 50, 12, generator=torch.Generator().manual_seed(1)).mT.to(dtype).requires_grad_()
        pooling.train(training).zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            pooled = pooling(x, mask)
        pooled.backward(slopes)
        kept.append([pooled, x.grad, *(parameter.grad for parameter in pooling.parameters())])
    tolerance = 1e-5 if dtype == torch.float32 else 0.02
    for plain, ours in zip(*kept, strict=True):
        torch.testing.assert_close(ours.float(), plain.float(), atol=tolerance, rtol=tolerance)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # of the exporter's own making
@pytest.mark.parametrize("make", [SMALL["ecapa"], SMALL["resnet asp"]], ids=["ecapa", "resnet asp"])
def test_waveform_to_embedding_exports_to_onnx_with_any_batch_and_length(make, tmp_path):
    model = SpeakerEncoder(LogMel(), with_lived_in_norms(make())).eval()
    path = tmp_path / "model.onnx"
    dimensions = {"waveforms": {0: torch.export.Dim("batch"), 1: torch.export.Dim("samples")}}
    torch.onnx.export(model, (torch.randn(2, 16_000),), path, dynamo=True, dynamic_shapes=dimensions, verbose=False)
    session = onnxruntime.InferenceSession(path)
    for shape in [(1, 8_000), (3, 24_123)]:
        waveforms = 0.1 * torch.randn(shape)
        with torch.no_grad():
            ours = model(waveforms).numpy()
        (exported,) = session.run(None, {session.get_inputs()[0].name: waveforms.numpy()})
        np.testing.assert_allclose(exported, ours, atol=1e-4, rtol=1e-3)


def test_channels_that_do_not_split_are_an_error():
    with pytest.raises(ValueError, match="channels must be divisible by res2net_scale = 8, got 100"):
        EcapaTdnn(channels=100, aggregation_channels=300)


def test_an_unknown_pooling_is_an_error():
    with pytest.raises(ValueError, match="pooling must be 'sap' or 'asp', got 'mean'"):
        ThinResNet(pooling="mean")


def test_ecapa_computes_what_speechbrains_does_with_the_same_weights():
    theirs = pytest.importorskip("speechbrain.lobes.models.ECAPA_TDNN", exc_type=ImportError).ECAPA_TDNN(
        80, channels=[256, 256, 256, 256, 768], lin_neurons=192, attention_channels=128, se_channels=128
    )
    for module in theirs.modules():
        # SpeechBrain mirrors the ends of an utterance; we pad with zeros, which alone is independent of the batch.
        if hasattr(module, "padding_mode") and not isinstance(module, torch.nn.Conv1d):
            module.padding_mode = "constant"
    theirs = with_lived_in_norms(theirs)
    ours = ecapa_tdnn_mobile().eval()
    ours.load_state_dict(renamed_from_speechbrain(theirs.state_dict()))
    features = torch.randn(3, 70, 80)
    with torch.no_grad():
        torch.testing.assert_close(ours(features), theirs(features)[:, 0], atol=1e-5, rtol=1e-5)


def renamed_from_speechbrain(state):
    """SpeechBrain's names for the layers of an ECAPA-TDNN, and ours."""
    rules = [
        (r"\.(conv|norm)\.\1\.", r".\1."),
        (r"^blocks\.0\.", "first."),
        (r"^blocks\.(\d)\.", lambda match: f"blocks.{int(match[1]) - 1}."),
        (r"\.tdnn1\.", ".before."),
        (r"\.tdnn2\.", ".after."),
        (r"\.res2net_block\.", ".res2net."),
        (r"\.se_block\.conv1\.conv\.", ".se.squeeze."),
        (r"\.se_block\.conv2\.conv\.", ".se.excite."),
        (r"\.se_block\.conv1\.", ".se.squeeze."),
        (r"\.se_block\.conv2\.", ".se.excite."),
        (r"^mfa\.", "aggregation."),
        (r"^asp\.tdnn\.conv\.", "pooling.hidden."),
        (r"^asp\.tdnn\.norm\.", "pooling.norm."),
        (r"^asp\.conv\.", "pooling.score."),
        (r"^asp_bn\.norm\.", "pooling_norm."),
        (r"^fc\.conv\.", "embedding."),
    ]
    renamed = {}
    for name, tensor in state.items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)  # noqa: PLW2901
        renamed[name] = tensor[:, :, 0] if name == "embedding.weight" else tensor
    return renamed

"""The gradients of a batch are the same in chunks and over processes, in float64 to 1e-9."""

import copy
import os
from itertools import pairwise

import pytest
import torch
import torch.multiprocessing as mp
from forked import SERVER
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from torch import nn

from chns.losses import AAMSoftmaxLoss, DistillationLoss, HSCLLoss, SupConLoss, TaughtLoss
from chns.training.log import negative_similarity
from chns.training.step import TrainingStep

LABELS = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3, 4, 4])
LOSSES = {
    "supcon": lambda: SupConLoss(0.3, margin=0.1),
    "hscl": lambda: HSCLLoss(0.3),
    "aam": lambda: AAMSoftmaxLoss(6, 4, scale=5.0),
    "taught": lambda: TaughtLoss(
        SupConLoss(0.3), DistillationLoss(embedding_dim=4, teacher_dim=3), teacher(), weight=2.0
    ),
    "sampled aam": lambda: AAMSoftmaxLoss(40, 4, scale=5.0, sampled_speakers=12),
}


@pytest.fixture(autouse=True)
def _float64():
    """Fabric returns outputs in the default type."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def encoder(norm=True, dropout=0.0):
    torch.manual_seed(1)
    layers = [nn.Linear(12, 8), nn.BatchNorm1d(8) if norm else nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 4)]
    return nn.Sequential(*layers).double()


def teacher():
    torch.manual_seed(5)
    return nn.Linear(12, 3).double()


def batch():
    return torch.randn(len(LABELS), 12, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def gradients_of(model, loss, *, chunk_size=None, fabric=None, rows=slice(None)):
    """Loss and gradients of a step; with several processes, of this one's rows."""
    fabric = fabric or Fabric(accelerator="cpu", devices=1, precision="64-true")
    loss = loss.double()
    wrapped = fabric.setup_module(model)
    step = TrainingStep(fabric, wrapped, loss, chunk_size=chunk_size, seed=7)
    result = step(batch()[rows], LABELS[rows], step=3)
    parameters = {**dict(model.named_parameters()), **{f"loss.{n}": p for n, p in loss.named_parameters()}}
    return result, {name: parameter.grad.clone() for name, parameter in parameters.items()}


def direct(model, loss):
    loss = loss.double()
    taught = (loss.taught(batch()).double(),) if isinstance(loss, TaughtLoss) else ()
    value = loss(model(batch()), LABELS, *taught)
    value.backward()
    parameters = {**dict(model.named_parameters()), **{f"loss.{n}": p for n, p in loss.named_parameters()}}
    return value.detach(), {name: parameter.grad for name, parameter in parameters.items()}


def assert_equal_gradients(a, b):
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], atol=1e-9, rtol=1e-9, msg=name)


@pytest.mark.parametrize("chunk_size", [None, 3])
def test_negatives_are_measured_as_users_of_the_model_see_them(chunk_size):
    """Batch normalisation of the batch centres its embeddings, whatever they have in common."""
    model = encoder(dropout=0.5)
    model[3] = nn.Identity()  # so that the batch's own statistics leave a mean of 0
    with torch.no_grad():
        model[1].running_mean.fill_(-3.0)
    fabric = Fabric(accelerator="cpu", devices=1, precision="64-true")
    step = TrainingStep(fabric, fabric.setup_module(model), SupConLoss(0.3).double(), chunk_size=chunk_size, seed=7)
    before = copy.deepcopy(model.state_dict())
    embeddings = step.embeddings_in_evaluation(batch(), LABELS)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    torch.testing.assert_close(embeddings.double(), copy.deepcopy(model).eval()(batch()), atol=1e-5, rtol=1e-5)
    honest, _ = negative_similarity(embeddings, LABELS)
    centred, _ = negative_similarity(copy.deepcopy(model)(batch()).detach(), LABELS)
    assert honest > 0.8
    assert abs(centred) < 0.2


@pytest.mark.parametrize("chunk_size", [None, 1, 3, 10, 99])
@pytest.mark.parametrize("make_loss", LOSSES.values(), ids=LOSSES.keys())
def test_chunks_give_the_gradients_of_the_whole_batch(make_loss, chunk_size):
    """Batch normalisation in evaluation mode, for in training it would take its statistics from a chunk."""
    torch.manual_seed(0)
    loss = make_loss()
    model = encoder().eval()
    value, expected = direct(copy.deepcopy(model), copy.deepcopy(loss))
    result, gradients = gradients_of(model, loss, chunk_size=chunk_size)
    torch.testing.assert_close(result.loss, value, atol=1e-9, rtol=1e-9)
    assert_equal_gradients(gradients, expected)


@pytest.mark.parametrize("chunk_size", [None, 10])
def test_one_chunk_in_training_mode_gives_the_gradients_of_the_whole_batch(chunk_size):
    model = encoder().train()
    value, expected = direct(copy.deepcopy(model), SupConLoss())
    result, gradients = gradients_of(model, SupConLoss(), chunk_size=chunk_size)
    torch.testing.assert_close(result.loss, value, atol=1e-9, rtol=1e-9)
    assert_equal_gradients(gradients, expected)


def test_chunks_in_training_mode_normalise_each_chunk_in_both_passes():
    model = encoder().train()
    reference = copy.deepcopy(model)
    value = SupConLoss().double()(torch.cat([reference(chunk) for chunk in batch().split(5)]), LABELS)
    value.backward()
    _, gradients = gradients_of(model, SupConLoss(), chunk_size=5)
    for name, parameter in reference.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, atol=1e-9, rtol=1e-9)


def test_running_statistics_are_updated_by_the_first_pass_only():
    model = encoder().train()
    reference = copy.deepcopy(model)
    for chunk in batch().split(5):
        reference(chunk)
    gradients_of(model, SupConLoss(), chunk_size=5)
    torch.testing.assert_close(model[1].running_mean, reference[1].running_mean)
    torch.testing.assert_close(model[1].running_var, reference[1].running_var)
    assert model[1].num_batches_tracked == 2
    assert model[1].track_running_stats


@pytest.mark.parametrize(("chunk_size", "parts"), [(None, [10]), (5, [5, 5])])
def test_running_statistics_taken_anew_are_the_mean_of_those_of_the_batches(chunk_size, parts):
    model = encoder().train()
    kept = nn.BatchNorm1d(4).double()
    kept.keeps_statistics = True
    kept.register_forward_pre_hook(lambda norm, _: norm.eval() and None)
    model.append(kept)
    gradients_of(model, SupConLoss())  # what a hard batch leaves
    before = copy.deepcopy(model.state_dict())
    fabric = Fabric(accelerator="cpu", devices=1, precision="64-true")
    step = TrainingStep(fabric, fabric.setup_module(model), SupConLoss(), chunk_size=chunk_size, seed=7)
    assert step.has_running_statistics
    random = [3 * batch(), batch() - 1]
    step.restate([(waveforms, LABELS) for waveforms in random], step=3)
    hidden = [model[0](chunk) for waveforms in random for chunk in waveforms.split(parts)]
    torch.testing.assert_close(model[1].running_mean, torch.stack([h.mean(0) for h in hidden]).mean(0))
    torch.testing.assert_close(model[1].running_var, torch.stack([h.var(0) for h in hidden]).mean(0))
    assert model[1].momentum == 0.1
    for name, value in model.state_dict().items():
        if not name.startswith("1.") or name in ("1.weight", "1.bias"):
            torch.testing.assert_close(value, before[name], rtol=0, atol=0, msg=name)
    without = TrainingStep(fabric, fabric.setup_module(encoder(norm=False)), SupConLoss(), chunk_size=None, seed=7)
    assert not without.has_running_statistics


def test_dropout_is_the_same_in_both_passes():
    """Otherwise the gradient would not be that of the loss: compare with finite differences along it."""
    model = encoder(norm=False, dropout=0.5).train()
    result, gradients = gradients_of(model, SupConLoss(), chunk_size=4)
    step_size = 1e-6
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(step_size * gradients[name])
    model.zero_grad()
    moved, _ = gradients_of(model, SupConLoss(), chunk_size=4)
    expected = sum(float(gradient.square().sum()) for name, gradient in gradients.items() if "loss" not in name)
    assert float(moved.loss - result.loss) / step_size == pytest.approx(expected, rel=1e-3)


def test_dropout_differs_between_chunks_and_steps():
    model = encoder(norm=False, dropout=0.5).train()
    fabric = Fabric(accelerator="cpu", devices=1, precision="64-true")
    step = TrainingStep(fabric, fabric.setup_module(model), SupConLoss(), chunk_size=2, seed=7)
    same_rows = batch()[:2].repeat(5, 1)
    first, again, later = (step(same_rows, LABELS, step=number).embeddings for number in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, later)
    assert not torch.equal(first[:2], first[2:4])


@pytest.mark.parametrize("chunk_size", [None, 3])
def test_float16_scales_every_gradient_once_and_unscaled_they_are_those_of_float32(chunk_size):
    """Twice scaled, the encoder's gradients would be 4,096 times too large; unscaled, the loss's as much too small."""
    torch.set_default_dtype(torch.float32)
    model, loss = encoder().float().eval(), SupConLoss(0.3)
    expected_model, expected_loss = copy.deepcopy(model), copy.deepcopy(loss)
    expected_loss(expected_model(batch().float()), LABELS).backward()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    fabric = Fabric(accelerator="cpu", devices=1, plugins=[MixedPrecision("16-mixed", "cpu", scaler)])
    step = TrainingStep(fabric, fabric.setup_module(model), loss, chunk_size=chunk_size, seed=7)
    step(batch().float(), LABELS, step=3)
    for ours, theirs in ((model, expected_model), (loss, expected_loss)):
        for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            scale = float(other.grad.abs().max())
            torch.testing.assert_close(one.grad / 2.0**12, other.grad, atol=0.02 * scale, rtol=0.02)


def test_a_chunk_holds_at_least_one_segment():
    fabric = Fabric(accelerator="cpu", devices=1)
    with pytest.raises(ValueError, match="chunk_size must be at least 1, got 0"):
        TrainingStep(fabric, fabric.setup_module(encoder()), SupConLoss(), chunk_size=0, seed=0)


def run_rank(rank, world_size, port, slices, results):
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "GROUP_RANK": "0",
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": "test",
    }
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    fabric = Fabric(accelerator="cpu", devices=world_size, strategy="ddp", precision="64-true")
    fabric.launch()
    for name, make_loss in LOSSES.items():
        for chunk_size in (None, 2):
            torch.manual_seed(0)
            result, gradients = gradients_of(
                encoder().eval(), make_loss(), chunk_size=chunk_size, fabric=fabric, rows=slices[rank]
            )
            results[name, chunk_size, rank] = result.loss, gradients, result.speaker_labels.tolist()
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    "bounds",
    [
        pytest.param([0, 10], id="1 process", marks=pytest.mark.slow),
        pytest.param([0, 6, 10], id="2 processes"),
        pytest.param([0, 2, 5, 9, 10], id="4 processes", marks=pytest.mark.slow),
    ],
)
def test_processes_give_the_loss_and_gradients_of_one(bounds, free_port):
    """Slices of unequal length, also across the utterances of one speaker; with temperature and class weights."""
    world_size = len(bounds) - 1
    slices = [slice(first, last) for first, last in pairwise(bounds)]
    with mp.Manager() as manager:
        results = manager.dict()
        arguments = (world_size, free_port, slices, results)
        mp.start_processes(run_rank, args=arguments, nprocs=world_size, start_method=SERVER.get_start_method())
        results = dict(results)
    for name, make_loss in LOSSES.items():
        torch.manual_seed(0)
        value, expected = direct(encoder().eval(), make_loss())
        for chunk_size in (None, 2):
            for rank in range(world_size):
                loss, gradients, labels = results[name, chunk_size, rank]
                torch.testing.assert_close(loss, value, atol=1e-9, rtol=1e-9)
                assert_equal_gradients(gradients, expected)
                assert labels == LABELS.tolist()

"""The stacked training of the experiments on batches computes what the library's losses do, run by run."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from chns.losses import AAMSoftmaxLoss, HSCLLoss, SupConLoss
from chns.training.log import easy_anchor_share

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def scripts(monkeypatch):
    """What the losses and the training define."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    found = runpy.run_path(str(BENCHMARKS / "vector_losses.py")) | runpy.run_path(
        str(BENCHMARKS / "vector_training.py")
    )
    yield found
    sys.modules.pop("vector_losses", None)


@pytest.mark.parametrize("name", ["supcon", "hscl", "aam_softmax"])
def test_each_run_of_a_stack_has_the_librarys_loss_and_gradient(scripts, name):
    generator = torch.Generator().manual_seed(0)
    z = torch.nn.functional.normalize(torch.randn(3, 8, 5, generator=generator), dim=2).requires_grad_()
    labels = torch.arange(4).repeat_interleave(2).expand(3, 8)
    plan = scripts["Plan"]([5, 5], speakers=4)
    stacked = scripts["LOSSES"][name](3, 4, plan)
    of_stack = stacked(z, labels)
    (gradient,) = torch.autograd.grad(of_stack.sum(), z)
    for run in range(3):
        one = {"supcon": SupConLoss, "hscl": HSCLLoss}.get(name, lambda: AAMSoftmaxLoss(4, 5))()
        if name == "aam_softmax":
            one.weight.data = stacked.weight[run].detach().clone()
        own = z[run].detach().clone().requires_grad_()
        value = one(own, labels[run])
        value.backward()
        torch.testing.assert_close(of_stack[run], value)
        # The library normalises too, so its gradient lacks what lies along the embedding.
        along = (gradient[run] * own).sum(1, keepdim=True) * own
        torch.testing.assert_close((gradient[run] - along).detach(), own.grad, rtol=1e-4, atol=1e-6)


def test_easy_anchors_of_a_stack_are_those_of_the_library(scripts):
    z = torch.nn.functional.normalize(torch.randn(3, 12, 4, generator=torch.Generator().manual_seed(1)), dim=2)
    labels = torch.arange(6).repeat_interleave(2)
    shares = scripts["easy_anchors"](z, 2)
    assert 0 < shares.mean() < 1
    torch.testing.assert_close(shares, torch.stack([easy_anchor_share(one, labels) for one in z]))


@pytest.fixture
def float64():
    """Adam makes steps of what rounding leaves of a gradient that is none, such as that of a bias before batch norm."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("float64")
def test_runs_side_by_side_learn_what_each_learns_alone(scripts):
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(12), 4)
    vectors = torch.from_numpy(rng.normal(size=(12, 6))[labels] + 0.1 * rng.normal(size=(48, 6)))
    plan = scripts["Plan"]([6, 7, 5], speakers=4, steps=20, steps_per_epoch=10, norm="batch", look_every=1)
    strategy = scripts["Strategy"]()
    together, curves, _ = scripts["train"](plan, [(strategy, 3), (strategy, 4)], vectors, labels)
    alone, curve, _ = scripts["train"](plan, [(strategy, 4)], vectors, labels)
    assert curves[1] == pytest.approx(curve[0]) if isinstance(curve[0], dict) else len(curve[0]) == 2
    np.testing.assert_allclose(together.embed(1, vectors), alone.embed(0, vectors), atol=1e-9)
    assert not np.allclose(together.embed(0, vectors), together.embed(1, vectors), atol=1e-2)


def _small_encoders(number):
    from chns.encoders import EcapaTdnn

    sizes = {"channels": 8, "aggregation_channels": 12, "se_bottleneck": 4, "attention_channels": 4, "embedding_dim": 6}
    return [EcapaTdnn(num_mels=5, res2net_scale=4, **sizes) for _ in range(number)]


def test_a_stack_of_encoders_computes_and_learns_what_each_of_them_does():
    stacked = runpy.run_path(str(BENCHMARKS / "stacked_encoder.py"))["StackedEcapa"]
    torch.manual_seed(0)
    encoders, features = _small_encoders(2), torch.randn(2, 6, 15, 5)
    stack = stacked(encoders)
    expected = torch.stack([encoder.train()(x) for encoder, x in zip(encoders, features, strict=True)])
    found = stack(features)
    torch.testing.assert_close(found, expected)
    (expected**2).sum().backward()
    (found**2).sum().backward()
    for run, encoder in enumerate(encoders):
        for name, weight in encoder.named_parameters():
            gradient = stack.weights[name.replace(".", "/")].grad[run]
            torch.testing.assert_close(gradient, weight.grad, rtol=1e-3, atol=1e-4)
    (again,) = _small_encoders(1)
    again.load_state_dict(stack.state_of(1), strict=False)
    torch.testing.assert_close(again.eval()(features[1]), encoders[1].eval()(features[1]))


@pytest.mark.slow
def test_trainings_that_share_their_start_and_go_on_from_a_file_end_as_alone(monkeypatch, tmp_path):
    pytest.importorskip("PIL", reason="log-mel images need Pillow")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    of = runpy.run_path(str(BENCHMARKS / "logmel_training.py"))
    from vector_training import Plan

    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(20), 6)
    voices = rng.normal(size=(20, 1, 40))[labels]
    words = of["Words"](torch.from_numpy((voices + rng.normal(size=(120, 8, 40))).astype(np.float32)), labels)
    plan = Plan([96], speakers=4, steps=9, steps_per_epoch=3, joined=2)

    def training(*names):
        return of["Training"](plan, [f"{name}-0" for name in names], words, 8, 1)

    together = training("random", "neighbours", "hscl", "memory")
    together.run_epoch()
    torch.save(together.state(), tmp_path / "state.pt")
    continued = training("random", "neighbours", "hscl", "memory")
    continued.take(torch.load(tmp_path / "state.pt", weights_only=True))
    alone = training("neighbours")
    alone.run_epoch()
    for _ in range(2):
        shares = [one.run_epoch()["neighbours-0"] for one in (together, continued, alone)]
    assert shares[0] == shares[1] == pytest.approx(shares[2])
    weights = [one.network("neighbours-0").embedding.weight for one in (together, continued, alone)]
    torch.testing.assert_close(weights[0], weights[1], rtol=0, atol=0)
    torch.testing.assert_close(weights[0], weights[2], rtol=1e-3, atol=1e-4)
    assert not torch.allclose(weights[0], together.network("random-0").embedding.weight, atol=1e-3)
    for module in (
        "frozen_features",
        "rival_samplers",
        "stacked_encoder",
        "strategies",
        "vector_training",
        "vector_losses",
    ):
        sys.modules.pop(module, None)


def test_the_last_layers_of_cam_plus_plus_compute_what_the_whole_does(monkeypatch, tmp_path):
    from chns.encoders import CamPlusPlus

    monkeypatch.syspath_prepend(str(BENCHMARKS))
    of = runpy.run_path(str(BENCHMARKS / "tail_training.py"))
    torch.manual_seed(0)
    sizes = {"num_mels": 16, "front_channels": 4, "channels": 16, "growth": 8, "embedding_dim": 6}
    encoder = CamPlusPlus(layers=(2, 2, 3), dilations=(1, 2, 2), **sizes)
    encoder(torch.randn(8, 60, 16))  # running statistics that are not those of the start
    encoder.eval()
    seen = []
    encoder.blocks[-1][-2].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].mT))
    expected = encoder(torch.randn(5, 60, 16))
    tail = of["Tail"](encoder, seen[0].shape[2])
    assert len(tail.layers) == 2
    torch.testing.assert_close(tail(seen[0]), expected)
    for split, rows in (("test", [0, 1, 2]), ("others", [3, 4])):
        np.save(tmp_path / f"{split}.tail.npy", seen[0][rows].detach().half().numpy())
        np.savez(tmp_path / f"{split}.npz", speakers=np.array([f"{split}{i // 2}" for i in rows]))
    signals = of["Signals"](tmp_path, "test", "others")
    assert len(np.unique(signals.labels)) == 4
    torch.testing.assert_close(signals[np.array([4, 0, 3])], seen[0][[4, 0, 3]], rtol=1e-2, atol=1e-2)
    for module in ("frozen_training", "rival_samplers", "strategies", "vector_training", "vector_losses"):
        sys.modules.pop(module, None)

"""What a step costs: counted against arithmetic by hand, and against batches of other sizes; and chunks that follow."""

import logging
import math
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from chns.cli import main
from chns.encoders import EcapaTdnn, SpeakerEncoder, ecapa_tdnn_mobile
from chns.features import LogMel
from chns.losses import SupConLoss
from chns.training.cost import ACCELERATORS, Accelerator, count_encoder, count_step, free_memory_bytes, loader_workers

FRAMES, MELS, DIM = 98, 80, 32


class OneProduct(nn.Module):
    """Frames to embeddings by a single matrix."""

    embedding_dim = DIM

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(MELS, DIM))

    def forward(self, features, _lengths=None):
        return (features @ self.weight).mean(dim=1)


def step_of(encoder, *, speakers=4, crop_seconds=1.0, precision="32-true"):
    counted = count_encoder(SpeakerEncoder(LogMel(), encoder), crop_seconds=crop_seconds, precision=precision)
    return count_step(counted, SupConLoss(), num_speakers=speakers, utterances_per_speaker=2)


def test_a_product_is_counted_as_by_hand():
    features_alone = 2 * FRAMES * (400 * 2 * 257 + 257 * MELS)  # Fourier transform and mel bands
    product = 2 * FRAMES * MELS * DIM
    loss = 3 * 2 * DIM * 8 * 8  # similarities, and both sides' gradients
    flop = step_of(OneProduct()).flop
    assert flop == pytest.approx(8 * (features_alone + 2 * product) + loss, rel=0.02)


@pytest.mark.slow
def test_a_step_of_the_papers_encoder_is_what_the_documentation_says():
    counted = count_encoder(SpeakerEncoder(LogMel(), ecapa_tdnn_mobile()), crop_seconds=3.0, precision="bf16-mixed")
    cost = count_step(counted, SupConLoss(), num_speakers=650, utterances_per_speaker=2)
    assert cost.flop / 1300 == pytest.approx(2.49e9, rel=0.01)
    assert cost.moved_bytes == pytest.approx(127e9, rel=0.02)
    h100 = ACCELERATORS[0]
    assert cost.moved_bytes / h100.bytes_per_second <= cost.least_seconds(h100) < 0.05
    assert cost.chunk_size(h100.usable_bytes) is None
    size = cost.chunk_size(4e9)
    assert cost.memory_bytes(size) <= 4e9 < cost.memory_bytes(2 * size)
    assert cost.chunk_size(4e9, num_processes=8) is None  # each has 163 segments
    assert cost.least_seconds(h100, chunk_size=size) > 1.2 * cost.least_seconds(h100)


def narrow():
    return EcapaTdnn(channels=16, aggregation_channels=48, res2net_scale=4, se_bottleneck=8, attention_channels=8)


def test_counting_changes_neither_the_model_nor_random_numbers():
    model = SpeakerEncoder(LogMel(), narrow())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(5)
    expected = torch.randn(3)
    torch.manual_seed(5)
    count_encoder(model, crop_seconds=0.5, precision="32-true")
    assert torch.equal(torch.randn(3), expected)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.slow
def test_twice_the_batch_costs_twice_and_half_the_precision_moves_less():
    small, large = step_of(narrow()), step_of(narrow(), speakers=64)
    assert large.flop / small.flop == pytest.approx(16, rel=0.1)
    assert step_of(narrow(), precision="bf16-mixed").moved_bytes < 0.8 * small.moved_bytes
    slow = Accelerator(name="slow", flops={"32-true": 1e6}, bytes_per_second=1e30, memory_bytes=1e12)
    assert small.least_seconds(slow) == pytest.approx(small.flop / 1e6)


@pytest.mark.slow
def test_a_batch_that_does_not_fit_is_trained_in_chunks(tmp_path, configs, hum_manifest, monkeypatch, caplog):
    monkeypatch.setattr("chns.training.run.usable_memory_bytes", lambda _device: 5e6)
    caplog.set_level(logging.INFO, logger="chns")
    words = ["train", "--config", configs / "tiny.yaml", "--data.train", hum_manifest, "--train.epochs", 1]
    words += ["--data.held_out_speakers", 0, "--train.device", "cpu"]
    assert main([*map(str, words), "--out", str(tmp_path / "run")]) == 0
    assert "train.chunk_size: " in caplog.text
    assert "12 segments at once need about" in caplog.text
    assert "of memory are free" not in caplog.text
    kept = (tmp_path / "run" / "config.yaml").read_text()
    assert "chunk_size: null" not in kept
    assert main([*map(str, words), "--train.chunk_size", "12", "--out", str(tmp_path / "whole")]) == 0
    assert "chunk_size: 12" in (tmp_path / "whole" / "config.yaml").read_text()


@pytest.mark.slow
def test_a_step_for_which_others_leave_no_memory_is_warned_of(tmp_path, configs, hum_manifest, monkeypatch, caplog):
    monkeypatch.setattr("chns.training.run.free_memory_bytes", lambda: 4e6)
    words = ["train", "--config", configs / "tiny.yaml", "--data.train", hum_manifest, "--train.epochs", 1]
    words += ["--data.held_out_speakers", 0, "--train.device", "cpu"]
    assert main([*map(str, words), "--out", str(tmp_path / "run")]) == 0
    assert "GB of memory are free: the system may end this process" in caplog.text
    assert re.search(r"or set train\.chunk_size to [1248]\.", caplog.text)
    assert "chunk_size: null" in (tmp_path / "run" / "config.yaml").read_text()


def test_free_memory_is_some_where_the_system_tells(monkeypatch):
    assert 1e7 < free_memory_bytes() < 1e14
    monkeypatch.setattr("chns.training.cost.Path", lambda _: Path("/nowhere"))
    assert free_memory_bytes() == math.inf


def test_workers_are_as_many_as_have_cores_and_room_in_shared_memory(monkeypatch):
    free = 64 * 2**20
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    monkeypatch.setattr("chns.training.cost._SHARED_MEMORY", Path("/"))
    small, large = free / 3 / 20, free / 3 / 2.5
    assert loader_workers(None, 12, num_processes=1, batch_bytes=small) == (8, "8, for 12 cores")
    assert loader_workers(None, 12, num_processes=2, batch_bytes=small) == (5, "5, for 12 cores")
    workers, why = loader_workers(None, 12, num_processes=1, batch_bytes=large)
    assert workers == 2
    assert why == "2, as / has room for no more: make it larger (docker run --shm-size)"
    assert loader_workers(None, 12, num_processes=1, batch_bytes=2 * free)[0] == 0
    assert loader_workers(2, 12, num_processes=1, batch_bytes=large) == (2, None)
    workers, why = loader_workers(6, 12, num_processes=1, batch_bytes=large)
    assert workers == 6
    assert why is not None
    assert "has room for the batches of 2" in why

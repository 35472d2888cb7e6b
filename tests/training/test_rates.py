"""Parts of an encoder that learn slowly or not at all."""

import shutil

import pytest
import torch
from safetensors.torch import load_file
from small_models import LEAST

from chns.cli import main
from chns.core import ConfigError
from chns.training.log import Meter
from chns.training.rates import freeze_and_rate, parameter_groups


class Small(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.front = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4))
        self.back = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4, affine=False))
        self.scale = torch.nn.Parameter(torch.ones(1))

    def forward(self, x):
        return self.back(self.front(x)) * self.scale


@pytest.mark.parametrize(
    ("rates", "message"),
    [
        ({"layer*": 0.5}, r"'layer\*', which fits none of its 7\. Take patterns such as scale, front\.\*, back\.\*\."),
        ({"front.*": 1.5}, r"optimizer\.rates must be between 0 and 1, got 1\.5 for 'front\.\*'"),
        ({"*": 0}, r"optimizer\.rates must let some of the encoder learn, got 0 for all"),
    ],
)
def test_rates_that_mean_nothing_are_refused(rates, message):
    with pytest.raises(ConfigError, match=message):
        freeze_and_rate(Small(), rates)


def test_groups_have_their_share_of_the_rate_and_the_last_pattern_counts():
    encoder = Small()
    found = freeze_and_rate(encoder, {"*": 0.1, "back.*": 0, "scale": 1})
    learning = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    assert len(learning) == 5
    full, slow = parameter_groups(learning, found, peak=0.01)
    assert full["lr"] == 0.01
    assert full["params"] == [encoder.scale]
    assert slow["lr"] == pytest.approx(0.001)
    assert [id(p) for p in slow["params"]] == [id(p) for p in encoder.front.parameters()]


@pytest.mark.parametrize(("rates", "front", "back"), [({"front.*": 0}, 0, 1), ({"back.*": 0}, 1, 0), ({}, 1, 1)])
def test_frozen_normalisation_stays_in_evaluation_mode_with_and_without_parameters(rates, front, back):
    encoder = Small()
    freeze_and_rate(encoder, rates)
    for _ in range(3):
        encoder.train()
        encoder(torch.randn(8, 4))
    assert (int(encoder.front[1].num_batches_tracked), int(encoder.back[1].num_batches_tracked)) == (
        3 * front,
        3 * back,
    )


@pytest.mark.slow
def test_what_is_frozen_stays_through_a_run_that_is_stopped_and_goes_on(tmp_path, configs, hum_manifest, monkeypatch):
    tiny = [
        "train", "--config", str(configs / "chns.yaml"), "--config", str(configs / "tiny.yaml"),
        "--config", str(LEAST),
        "--data.train", str(hum_manifest), "--data.held_out_speakers", "4", "--train.device", "cpu",
    ]  # fmt: skip
    assert main([*tiny, "--train.epochs", "2", "--out", str(tmp_path / "first")]) == 0
    start = shutil.copytree(tmp_path / "first" / "model", tmp_path / "start")
    before = load_file(start / "model.safetensors")
    parts = list(dict.fromkeys(name.partition(".")[0] for name in before))
    frozen, slow = parts[0], parts[1]
    tuned = [*tiny, "--train.epochs", "2", "--train.start_from", str(start)]
    tuned += ["--optimizer.rates", f'{{"{frozen}.*": 0, "{slow}.*": 0.1}}', "--train.chunk_size", "5"]
    assert main([*tuned, "--out", str(tmp_path / "alone")]) == 0
    with monkeypatch.context() as patched:
        steps = iter(range(100))
        patched.setattr(Meter, "step_done", lambda _: _stop_at(9, next(steps)))
        assert main([*tuned, "--out", str(tmp_path / "stopped")]) == 130
    assert main([*tuned, "--out", str(tmp_path / "stopped")]) == 0
    after, resumed = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("alone", "stopped"))
    for name, values in after.items():
        assert torch.equal(resumed[name], values), name
        is_frozen = name.startswith(f"{frozen}.")
        assert not is_frozen or torch.equal(values, before[name]), name
    assert any(not torch.equal(after[name], before[name]) for name in after if name.startswith(f"{slow}."))


def _stop_at(last, step):
    if step == last:
        raise KeyboardInterrupt

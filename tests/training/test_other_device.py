"""Training on a device that is not the CPU: nothing of one device meets the other's, and steps do not wait for it."""

import json
from pathlib import Path

import forked
import pytest
import sham_device
import torch
from safetensors.torch import load_file
from small_models import LEAST

from chns.cli import main
from chns.losses import HSCLLoss, SupConLoss
from chns.training.step import FiniteWatch

PLAIN = ["--encoder.factory", "chns_test_encoders.Plain", "--encoder.settings", "{}"]
KINDS = {
    "clusters": [],
    "H-SCL in chunks": [
        "--loss.factory", "chns.losses.HSCLLoss", "--loss.settings", "{beta_start: 0.0}", "--train.chunk_size", "5",
        *PLAIN,
    ],
    "sampled speakers, random batches": [
        "--loss.factory", "chns.losses.AAMSoftmaxLoss", "--loss.settings", "{sampled_speakers: 12}",
        "--batches.kind", "random", *PLAIN,
    ],
}  # fmt: skip


RUN = "import json, sham_device; print(json.dumps(sham_device.waits_of_trainings(json.loads(sys.argv[1]))))"
SPOILT = ("spoilt", ["--loss.factory", "chns_test_losses.Spoilt", "--loss.settings", "{}", *PLAIN])


def command(configs, manifest, out, *more):
    return [
        "train", "--config", str(configs / "chns.yaml"), "--config", str(configs / "tiny.yaml"), "--config", str(LEAST),
        "--data.train", str(manifest), "--data.held_out_speakers", "4", "--train.device", "cpu", "--train.epochs", "2",
        "--train.log_every_steps", "4", "--train.checkpoint_every_steps", "5", "--out", str(out), *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def on_sham(tmp_path_factory, configs, hum_manifest):
    """Trainings on a device that is not the CPU: their folders, and what `sham_device` tells of each."""
    folder = tmp_path_factory.mktemp("sham")
    commands = [command(configs, hum_manifest, folder / name, *more) for name, more in [*KINDS.items(), SPOILT]]
    code = f"import sys; sys.path.insert(0, {str(Path(sham_device.__file__).parent)!r})\n{RUN}"
    spoilt = {"SPOIL": "gradient", "SPOIL_FROM": "0.5"}
    told = forked.told(code, folder / "said", words=[json.dumps(commands)], environment=spoilt)
    results = json.loads(told.splitlines()[-1])
    return {name: (folder / name, result) for name, result in zip([*KINDS, SPOILT[0]], results, strict=True)}


@pytest.mark.parametrize("name", KINDS)
def test_a_run_on_another_device_is_that_of_the_cpu_and_its_steps_do_not_wait(
    name, tmp_path, configs, hum_manifest, on_sham
):
    there, result = on_sham[name]
    assert result["code"] == 0, result["error"]
    assert main(command(configs, hum_manifest, tmp_path / "cpu", *KINDS[name])) == 0
    cpu, sham = (load_file(folder / "model" / "model.safetensors") for folder in (tmp_path / "cpu", there))
    assert all(torch.equal(cpu[name], sham[name]) for name in cpu)
    assert len(result["waited"]) == 12
    at_lines, at_checkpoints, at_ends = {4, 8, 12}, {5, 10}, {6, 12}
    first = {1} if "sampled" in name else set()  # the number of steps so far is read from the loss's state
    waiting = {int(step) for step, places in result["waited"].items() if places}
    assert waiting == at_lines | at_checkpoints | at_ends | first, result["waited"]


def test_a_gradient_that_is_not_finite_is_named_though_it_is_noticed_later(
    tmp_path, configs, hum_manifest, monkeypatch, capsys, on_sham
):
    name, more = SPOILT
    there, result = on_sham[name]
    monkeypatch.setenv("SPOIL", "gradient")
    monkeypatch.setenv("SPOIL_FROM", str(6 / 12))  # with step 7; a line of the log follows step 8
    assert main(command(configs, hum_manifest, tmp_path / "cpu", *more)) == result["code"] == 1
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert "at step 7, epoch 1, of the utterances s" in message
    assert message.replace(str(tmp_path / "cpu"), "") == result["error"][0].replace(str(there), "")
    assert list(result["waited"]) == [str(step) for step in range(1, 8)]
    assert (there / "log.csv").read_text().splitlines()[-1].startswith("6,")  # the validation after epoch 0


@pytest.mark.parametrize("loss", [SupConLoss(), HSCLLoss()])
def test_pairs_that_must_be_searched_wait(loss):
    with sham_device.sham_device() as device:
        sham_device.SYNCHRONISING.clear()
        embeddings = torch.randn(4, 3).to(device)
        loss.to(device)(embeddings, torch.tensor([0, 0, 1, 1]).to(device))
        assert any("nonzero" in place for place in sham_device.SYNCHRONISING)
        with pytest.raises(RuntimeError, match="expected all tensors on sham, got one on cpu"):
            loss(embeddings, torch.tensor([0, 0, 1, 1]))


def test_the_first_bad_step_is_kept_and_one_that_scaling_can_mend_is_none():
    watch = FiniteWatch(torch.device("cpu"))
    good, bad = torch.tensor(1.0), torch.tensor(torch.nan)
    watch.note(0, good, good)
    watch.note(1, good, bad, scale=torch.tensor(2.0))
    assert watch.found() is None
    watch.note(2, good, torch.tensor(torch.inf), scale=torch.tensor(1.0))
    watch.note(3, bad, bad)
    assert watch.found() == (2, 1.0, torch.inf)
    watch = FiniteWatch(torch.device("cpu"))
    watch.note(4, bad, good, scale=torch.tensor(2.0))  # a loss is not scaled
    assert watch.found().step == 4

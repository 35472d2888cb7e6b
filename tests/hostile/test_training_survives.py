"""What users and machines do to trainings: numbers that break, starts that fail, two at once, parents that die."""

import json
import logging
import os
import random
import signal
import subprocess
import sys
import time
from importlib.resources import files
from pathlib import Path

import forked
import pytest
import torch
import yaml
from safetensors.torch import load_file
from small_models import LEAST

from chns.bundle.bundle import Architecture, save_bundle
from chns.cli import main
from chns.core import NonFiniteError, locked_folder
from chns.training.state import save_training

CONFIGS = Path(str(files("chns") / "configs"))
HELPERS = Path(__file__).parents[1] / "helpers"
PLAIN = ["--encoder.factory", "chns_test_encoders.Plain", "--encoder.settings", "{}"]


def words(manifest, out, *more):
    return [
        "train", "--config", str(CONFIGS / "chns.yaml"), "--config", str(CONFIGS / "tiny.yaml"),
        "--config", str(LEAST), *PLAIN,
        "--data.train", str(manifest), "--data.held_out_speakers", "4", "--train.device", "cpu", "--out", str(out),
        *more,
    ]  # fmt: skip


def weights(folder):
    return load_file(folder / "model" / "model.safetensors")


def same_weights(a, b):
    first, second = weights(a), weights(b)
    return all(torch.equal(first[name], second[name]) for name in first)


# ----- numbers that are not finite


@pytest.mark.parametrize(
    ("how", "what"), [("loss", "loss"), pytest.param("gradient", "norm of the gradients", marks=pytest.mark.slow)]
)
def test_a_training_stops_where_it_breaks_and_goes_on_without_the_cause(
    how, what, hum_manifest, tmp_path, monkeypatch, capsys
):
    spoilt = ["--loss.factory", "chns_test_losses.Spoilt", "--loss.settings", "{}"]
    assert main(words(hum_manifest, tmp_path / "sound", *spoilt)) == 0
    monkeypatch.setenv("SPOIL", how)
    monkeypatch.setenv("SPOIL_FROM", str(9 / 18))  # with the tenth step, the fourth of epoch 1
    command = words(hum_manifest, tmp_path / "run", *spoilt)
    assert main(command) == 1
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith(f"chns: error: {what} must be finite, got ")
    assert "at step 10, epoch 1, of the utterances s" in message
    assert message.count("/") >= 12  # utterances of the batch are called s00/0
    state = torch.load(tmp_path / "run" / "training.pt", weights_only=True)
    assert state["step"] == 8
    assert all(torch.isfinite(tensor).all() for tensor in weights(tmp_path / "run").values())
    assert main(command) == 1  # as long as the cause is there
    monkeypatch.delenv("SPOIL")
    assert main(command) == 0
    assert same_weights(tmp_path / "run", tmp_path / "sound")


def test_weights_that_are_not_finite_are_never_written(tmp_path):
    architecture = Architecture(encoder="chns_test_encoders.Plain", encoder_settings={}, feature_settings={})
    model = architecture.build()
    save_bundle(tmp_path / "model", model, architecture, training={}, metrics={})
    before = (tmp_path / "model" / "model.safetensors").read_bytes()
    with torch.no_grad():
        model.encoder.layers[0].bias[3] = torch.nan
    with pytest.raises(NonFiniteError, match=r"weights of the encoder must be finite, got NaN .* in layers\.0\.bias"):
        save_bundle(tmp_path / "model", model, architecture, training={}, metrics={})
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == before
    with pytest.raises(NonFiniteError, match="weights in the model at step 7 must be finite"):
        save_training(tmp_path / "training.pt", {"model": model, "loss": torch.nn.Identity()}, step=7, num_steps=9)
    assert not (tmp_path / "training.pt").exists()


# ----- one training a folder


def test_a_folder_in_which_another_training_runs_is_refused(hum_manifest, tmp_path, capsys):
    with locked_folder(tmp_path / "run"):
        assert main(words(hum_manifest, tmp_path / "run")) == 2
    assert "folder must be written by one process at a time, got another one in" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "run").iterdir() if path.name != ".lock"] == []


@pytest.mark.slow
def test_torchrun_alone_says_how_many_processes_there_are(hum_manifest, tmp_path):
    """Red where each of two processes took itself for the only one, and both wrote into one folder."""
    command = words(hum_manifest, tmp_path / "two", "--train.epochs", "2", "--data.held_out_speakers", "0")
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "chns"]
    result = subprocess.run([*start, *command], env=environment(), capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("training on 20 speakers") == 1
    assert json.loads((tmp_path / "two" / "summary.json").read_text())["steps"] == 12


def test_processes_that_would_wait_for_no_time_at_all_are_refused(hum_manifest, tmp_path, capsys):
    assert main(words(hum_manifest, tmp_path / "run", "--train.timeout_minutes", "0")) == 2
    assert "train.timeout_minutes must be positive, got 0." in capsys.readouterr().err


def test_another_number_than_torchruns_is_refused(hum_manifest, tmp_path, monkeypatch, capsys):
    for name, value in {"TORCHELASTIC_RUN_ID": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert main(words(hum_manifest, tmp_path / "run", "--train.devices", "3")) == 2
    assert "train.devices must be the 2 that torchrun has started, got 3" in capsys.readouterr().err
    assert main(words(hum_manifest, tmp_path / "run", "--train.num_nodes", "1")) == 2
    assert "train.num_nodes must be the 2 that torchrun has started, got 1" in capsys.readouterr().err


PARENT = """
import sys
from dataclasses import replace
from pathlib import Path
from chns.comparison import runs as training
from chns.comparison.runs import PlannedRun
from chns.training.settings import TrainSettings
training._COMMAND = (*training._COMMAND[:-1], training._COMMAND[-1].replace("from chns.cli import main", CHILD))
out = Path(sys.argv[1])
runs = [PlannedRun(strategy="s", settings=replace(TrainSettings(), seed=n), folder=out / str(n)) for n in range(2)]
list(training.train_runs(runs, jobs=2))
"""
CHILD = """
import pathlib, time
def main(words):
    out = pathlib.Path(words[words.index("--out") + 1])
    def stop(*_):
        (out / "stopped").touch()
        raise SystemExit(130)
    signal.signal(signal.SIGTERM, stop)
    (out / "started").touch()
    time.sleep(120)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, pytest.param(signal.SIGHUP, marks=pytest.mark.slow)])
def test_trainings_of_a_comparison_end_with_it(how, tmp_path):
    if signal.getsignal(how) == signal.SIG_IGN:
        pytest.skip("tests that nohup has started, and all that they start, are deaf to it")
    process = forked.started(f"CHILD = {CHILD!r}\n{PARENT}", tmp_path / "said", words=[tmp_path])
    wait_until(lambda: all((tmp_path / n / "started").exists() for n in "01"), process.is_alive)
    os.kill(process.pid, how)
    process.join(timeout=60)
    wait_until(lambda: all((tmp_path / n / "stopped").exists() for n in "01"))


# ----- starts that fail, and settings that mean the same


@pytest.mark.slow
def test_a_start_that_failed_leaves_no_settings_behind(hum_manifest, tmp_path, capsys):
    run = tmp_path / "run"
    assert main(words(tmp_path / "mistyped.parquet", run)) == 2
    assert main(words(hum_manifest, run, "--batches.speakers_per_batch", "650")) == 2
    assert "650" in capsys.readouterr().err
    assert not (run / "config.yaml").exists()
    assert main(words(hum_manifest, run, "--train.epochs", "2")) == 0


@pytest.mark.slow
def test_settings_may_change_until_there_is_a_checkpoint(hum_manifest, tmp_path, capsys):
    run = tmp_path / "run"
    assert main(words(hum_manifest, run, "--train.epochs", "2")) == 0
    (run / "summary.json").unlink()
    (run / "training.pt").unlink()
    assert main(words(hum_manifest, run, "--train.epochs", "2", "--seed", "5")) == 0
    assert yaml.safe_load((run / "config.yaml").read_text())["seed"] == 5
    assert main(words(hum_manifest, tmp_path / "five", "--train.epochs", "2", "--seed", "5")) == 0
    assert same_weights(run, tmp_path / "five")
    capsys.readouterr()
    assert main(words(hum_manifest, run, "--train.epochs", "2")) == 2
    error = capsys.readouterr().err
    assert "seed must be 5 as when the run was begun, got 0" in error
    assert f"--train.start_from {run / 'model'}" in error


@pytest.mark.slow
def test_one_manifest_by_three_names_is_one_setting(hum_manifest, tmp_path, monkeypatch, caplog):
    link = tmp_path / "link.parquet"
    link.symlink_to(hum_manifest)
    monkeypatch.chdir(hum_manifest.parent)
    run = tmp_path / "run"
    assert main(words(hum_manifest.name, run, "--train.epochs", "2")) == 0
    monkeypatch.chdir(tmp_path)
    for name in (hum_manifest, link, os.path.relpath(hum_manifest)):
        caplog.clear()
        with caplog.at_level(logging.INFO):
            assert main(words(name, run, "--train.epochs", "2")) == 0
        assert f"already trained: {run}" in caplog.messages


@pytest.mark.slow
def test_a_run_is_made_longer_and_never_shorter(hum_manifest, tmp_path, capsys, caplog):
    run = tmp_path / "run"
    assert main(words(hum_manifest, run, "--train.epochs", "2")) == 0
    short = weights(run)
    with caplog.at_level(logging.INFO):
        assert main(words(hum_manifest, run, "--train.epochs", "3")) == 0
    assert "made longer, from 12 steps to 18: the learning rate goes on where the longer schedule has it" in caplog.text
    assert json.loads((run / "summary.json").read_text())["steps"] == 18
    assert torch.load(run / "training.pt", weights_only=True)["step"] == 18
    assert not torch.equal(short["layers.0.weight"], weights(run)["layers.0.weight"])
    steps = [line.split(",")[0] for line in (run / "log.csv").read_text().splitlines()[1:]]
    assert steps == sorted(steps, key=int)
    assert steps[-1] == "18"
    capsys.readouterr()
    assert main(words(hum_manifest, run, "--train.epochs", "2")) == 2
    assert "train.epochs must be 3 as when the run was begun, got 2" in capsys.readouterr().err


# ----- killed at any moment


@pytest.mark.slow
def test_twenty_kills_at_random_moments_change_no_weight_and_no_decision(hum_manifest, tmp_path):
    """With `auto`, chunks and two processes: all of them are killed at once, and the same command goes on."""
    more = [
        "--batches.kind", "auto", "--batches.steps_per_epoch", "60", "--train.epochs", "4", "--train.devices", "2",
        "--train.chunk_size", "3", "--train.checkpoint_every_steps", "1", "--clusters.start_easy_share", "0.05",
    ]  # fmt: skip
    alone, survivor = tmp_path / "alone", tmp_path / "survivor"
    process, begun = started(words(hum_manifest, alone, *more), tmp_path / "log")
    assert process.wait(timeout=600) == 0, (tmp_path / "log").read_text()
    seconds = time.monotonic() - begun
    rng, steps, command = random.Random(0), [], words(hum_manifest, survivor, *more)
    for number in range(20):
        process, _ = started(command, tmp_path / "log", in_training=number % 5 > 0)  # or while it still starts
        time.sleep(rng.uniform(0, seconds / 20 if number % 5 else 4))
        assert process.poll() is None, (tmp_path / "log").read_text()
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        is_begun = (survivor / "training.pt").is_file()
        steps.append(torch.load(survivor / "training.pt", weights_only=True)["step"] if is_begun else 0)
    assert steps == sorted(steps)
    assert len(set(steps)) > 10
    process, _ = started(command, tmp_path / "log")
    assert process.wait(timeout=600) == 0, (tmp_path / "log").read_text()
    logging.info("killed after the steps %s of 240", steps)
    assert same_weights(alone, survivor)
    first, second = (torch.load(run / "training.pt", weights_only=True) for run in (alone, survivor))
    for part in ("model", "loss", "optimizer", "plan"):
        assert repr(first[part]) == repr(second[part])
    assert "hard" in (alone / "decisions.txt").read_text()
    for name in ("decisions.txt", "best.json", "model/config.json"):
        assert (alone / name).read_bytes() == (survivor / name).read_bytes()
    left_over = [path.name for path in survivor.rglob("*") if ".chns-" in path.name]
    assert left_over == []


def started(command, log, *, in_training=True):
    """The process, which leads a group of its own, and the time, once it trains if wished."""
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "chns", *command],
            env=environment(), stderr=file, stdout=file, start_new_session=True,
        )  # fmt: skip
    wait_until(lambda: not in_training or "training on" in log.read_text(), lambda: process.poll() is None)
    return process, time.monotonic()


# ----- a logger of the user's own


@pytest.mark.slow
def test_a_logger_is_told_what_the_log_is_told(hum_manifest, tmp_path, capsys):
    own = ["--train.logger.factory", "chns_test_losses.Lines", "--train.logger.settings.path", str(tmp_path / "lines")]
    assert main(words(hum_manifest, tmp_path / "run", "--train.epochs", "2", *own)) == 0
    *lines, last = [json.loads(line) for line in (tmp_path / "lines").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6, 6, 8, 10, 12, 12]
    assert lines[0]["loss"] > 0
    assert 0 <= lines[-1]["validation_eer"] <= 1
    assert last == "success"
    none = ["--train.logger.factory", "chns_test_encoders.Plain"]
    assert main(words(hum_manifest, tmp_path / "other", *none)) == 2
    assert (
        "train.logger must have a method log_metrics(metrics, step), got chns_test_encoders.Plain"
        in capsys.readouterr().err
    )


def environment():
    path = os.pathsep.join(filter(None, [str(HELPERS), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}


def wait_until(done, is_alive=lambda: True):
    deadline = time.monotonic() + 120
    while not done():
        assert is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.05)

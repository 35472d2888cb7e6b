"""Runs from the command line: to the end, stopped, killed, resumed."""

import csv
import json
import logging
import multiprocessing
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import forked
import pytest
import torch
import yaml
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from safetensors.torch import load_file
from small_models import LEAST

from chns.bundle.bundle import load_bundle
from chns.bundle.bundle_graph import PACKAGED_MODEL, load_graph_bundle
from chns.cli import main
from chns.data.manifest import Manifest
from chns.encoders import EcapaTdnn, SpeakerEncoder
from chns.features import LogMel
from chns.losses import HSCLLoss
from chns.sampling.clusters import SpeakerClusters
from chns.training.build import make_plan, training_manifest
from chns.training.folder import RunFolder, read_settings
from chns.training.log import Meter, Validation, negative_similarity
from chns.training.loop import Training, learning_rate_factor
from chns.training.plan import TEACHER_EMBEDDINGS, BatchPlan, _read_kept
from chns.training.run import _launched, measure_steps
from chns.training.settings import BatchSettings, ClusterSettings, TrainingSettings, TrainSettings
from chns.training.step import TrainingStep

PLAIN = ("--encoder.factory", "chns_test_encoders.Plain", "--encoder.settings", "{}")
TIMES = {"elapsed_seconds", "segments_per_second", "data_wait_share", "encoder_seconds", "loss_seconds"}


def command(configs, manifest, out, *more):
    return [
        "train", "--config", str(configs / "chns.yaml"), "--config", str(configs / "tiny.yaml"), "--config", str(LEAST),
        "--data.train", str(manifest), "--data.held_out_speakers", "4", "--train.device", "cpu",
        "--out", str(out), *more,
    ]  # fmt: skip


def weights(folder):
    return load_file(folder / "model" / "model.safetensors")


def assert_same_weights(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


@pytest.fixture(scope="module")
def finished(tmp_path_factory, configs, hum_manifest):
    """A run left alone."""
    folder = tmp_path_factory.mktemp("runs") / "alone"
    assert main(command(configs, hum_manifest, folder)) == 0
    return folder


def test_a_run_leaves_a_model_a_log_clusters_and_a_summary(finished):
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["steps"] == 18
    assert 0 <= summary["best_validation"]["eer"] <= summary["validation"]["eer"] <= 1
    assert (finished / "model" / "config.json").is_file()
    assert (finished / "best_model" / "config.json").is_file()
    assert [path.name for path in (finished / "clusters").iterdir()] == ["epoch-0001.safetensors"]


def test_the_log_shows_loss_temperature_hardness_and_validation(finished):
    with (finished / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    training = [row for row in rows if row["loss"]]
    assert [int(row["step"]) for row in training] == list(range(2, 19, 2))
    assert [float(row["hard_ratio"]) for row in training] == [0.0] * 3 + [1.0] * 6
    for row in training:
        assert float(row["temperature"]) > 0
        assert -1 <= float(row["negative_similarity_mean"]) <= float(row["negative_similarity_p95"]) <= 1
        assert 0 <= float(row["data_wait_share"]) <= 1
    assert [int(row["step"]) for row in rows if row["validation_eer"]] == [6, 12, 18]


@pytest.mark.slow
def test_the_last_step_is_logged_and_waiting_is_told_once(tmp_path, configs, hum_manifest, caplog, monkeypatch):
    monkeypatch.setattr("chns.training.loop._MUCH_WAITING", 0.0)
    caplog.set_level(logging.INFO, logger="chns")
    assert main(command(configs, hum_manifest, tmp_path, "--train.log_every_steps", "4", *PLAIN)) == 0
    with (tmp_path / "log.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file) if row["loss"]] == ["4", "8", "12", "16", "18"]
    told = r"the encoder waits for data \d+ % of the time: raise data.num_workers, now 0"
    assert len(re.findall(told, caplog.text)) == 1
    length = r"after 10 steps: \d+\.\d\d s a step, 0:00:0\d for the 8 that are left, .*; at most \d+\.\d GB of memory"
    assert len(re.findall(length, caplog.text)) == 1


def test_a_line_of_the_log_in_words_tells_hardness():
    values = {"loss": 1.5, "hard_ratio": 0.5, "easy_anchor_share": 0.824, "segments_per_second": 99.6}
    values |= {"negative_similarity_mean": 0.157, "negative_similarity_p95": 0.4}
    assert Meter.in_words(20, 100, 1, values) == (
        "step 20/100, epoch 1: loss 1.500, hard ratio 0.5, easy anchors 82 %, negatives 0.16 (p95 0.40), 100 segments/s"
    )


@pytest.mark.parametrize(("most_seconds", "num_steps"), [(60.0, 5), (0.0, 2)])
def test_a_measurement_of_speed_ends_where_its_time_is_up(finished, monkeypatch, most_seconds, num_steps):
    taken, step = [], Training._train_step

    def counted_step(self, *batch):
        taken.append(batch)
        step(self, *batch)

    monkeypatch.setattr(Training, "_train_step", counted_step)
    monkeypatch.setattr("chns.training.loop._MEASURED_SECONDS", most_seconds)
    measure_steps(read_settings(RunFolder.open(finished)), num_steps=4)
    assert len(taken) == num_steps  # the first starts all


def test_the_same_command_again_does_nothing(finished, configs, hum_manifest):
    before = (finished / "log.csv").read_bytes()
    assert main(command(configs, hum_manifest, finished)) == 0
    assert (finished / "log.csv").read_bytes() == before


def test_other_settings_in_the_same_folder_are_refused(finished, configs, hum_manifest, capsys):
    assert main(command(configs, hum_manifest, finished, "--seed", "7")) == 2
    assert "seed must be 0 as when the run was begun, got 7" in capsys.readouterr().err


@pytest.mark.slow
def test_best_model_stays_the_one_whose_validation_was_best(tmp_path, configs, hum_manifest, monkeypatch):
    folder = tmp_path / "run"
    rates = iter([0.3, 0.1, 0.2])
    measure = Validation.measure

    def scripted(self, model, device):
        validated = measure(self, model, device)
        metrics = replace(validated.metrics, eer=next(rates))
        if metrics.eer == 0.2:
            shutil.copytree(folder / "model", tmp_path / "second" / "model")
        return validated._replace(metrics=metrics)

    monkeypatch.setattr(Validation, "measure", scripted)
    assert main(command(configs, hum_manifest, folder, *PLAIN)) == 0
    measured = {
        name: json.loads((folder / name / "config.json").read_text())["metrics"]["validation"]["eer"]
        for name in ("model", "best_model")
    }
    assert measured == {"model": 0.2, "best_model": 0.1}
    best = load_file(folder / "best_model" / "model.safetensors")
    assert_same_weights(best, weights(tmp_path / "second"))
    assert any(not torch.equal(tensor, best[name]) for name, tensor in weights(folder).items())
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["validation"]["eer"], summary["best_validation"]["eer"]) == (0.2, 0.1)


@pytest.mark.slow
def test_running_statistics_are_averaged_over_processes_before_each_validation(
    tmp_path, configs, hum_manifest, monkeypatch
):
    happened = []
    measure, step = Validation.measure, TrainingStep.__call__

    def noting(self, model, device):
        happened.append("measured")
        return measure(self, model, device)

    def noting_steps(self, *batch, **told):
        happened.append("step")  # after which an earlier average, for a checkpoint, counts no longer
        return step(self, *batch, **told)

    monkeypatch.setattr("chns.training.loop.average_buffers", lambda _: happened.append("averaged"))
    monkeypatch.setattr(Validation, "measure", noting)
    monkeypatch.setattr(TrainingStep, "__call__", noting_steps)
    assert main(command(configs, hum_manifest, tmp_path / "run", *PLAIN)) == 0
    assert [happened[place - 1] for place, what in enumerate(happened) if what == "measured"] == ["averaged"] * 3


@pytest.mark.slow
def test_the_loss_is_told_before_each_step_how_much_is_done(tmp_path, configs, hum_manifest, monkeypatch):
    told = []
    set_progress = HSCLLoss.set_progress
    forward = HSCLLoss.forward

    def noting(self, share_done):
        told.append(share_done)
        set_progress(self, share_done)

    def checked(self, *inputs):
        if told:  # before the training it is tried
            assert self.beta == pytest.approx(min(1.0, told[-1] / 0.5))
            told.append("step")
        return forward(self, *inputs)

    monkeypatch.setattr(HSCLLoss, "set_progress", noting)
    monkeypatch.setattr(HSCLLoss, "forward", checked)
    ramp = ("--loss.factory", "chns.losses.HSCLLoss", "--loss.settings", '{"beta": 1.0, "beta_start": 0.0}')
    assert main(command(configs, hum_manifest, tmp_path / "run", *PLAIN, *ramp)) == 0
    assert told == [what for step in range(18) for what in (step / 18, "step")]


@pytest.mark.slow
def test_two_runs_with_one_seed_are_equal_and_workers_change_nothing(finished, tmp_path, configs, hum_manifest):
    assert main(command(configs, hum_manifest, tmp_path / "again", "--data.num_workers", "1")) == 0
    assert_same_weights(weights(tmp_path / "again"), weights(finished))


@pytest.mark.parametrize(
    "how",
    [
        pytest.param(signal.SIGKILL, id="SIGKILL"),
        pytest.param(signal.SIGINT, id="SIGINT", marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, id="SIGTERM", marks=pytest.mark.slow),
    ],
)
def test_a_run_stopped_in_mid_epoch_and_resumed_ends_with_the_same_weights(
    how, finished, tmp_path, configs, hum_manifest
):
    folder = tmp_path / "stopped"
    workers = "0" if how == signal.SIGKILL else "1"
    words = command(configs, hum_manifest, folder, "--data.num_workers", workers)
    stop_in_the_hard_phase(words, folder, how)
    assert main(words) == 0
    assert_same_weights(weights(folder), weights(finished))
    assert_same_log(folder, finished)


@pytest.mark.slow
def test_a_run_that_decides_by_itself_decides_the_same_when_killed_and_resumed(
    tmp_path, configs, hum_manifest, capsys, monkeypatch
):
    shares = {"start_easy_share": "0", "easy_share_low": "0", "easy_share_high": "0.01"}
    automatic = ("--batches.kind", "auto", *(f"--clusters.{name}={value}" for name, value in shares.items()), *PLAIN)
    alone, stopped = tmp_path / "alone", tmp_path / "stopped"
    assert main(command(configs, hum_manifest, alone, *automatic)) == 0
    words = command(configs, hum_manifest, stopped, *automatic)
    with monkeypatch.context() as patched:
        break_off(patched, after_step=10)
        assert main(words) == 130
    assert torch.load(stopped / "training.pt", weights_only=True)["step"] == 8
    assert main(words) == 0
    assert_same_weights(weights(stopped), weights(alone))
    assert_same_log(stopped, alone)
    assert re.search(r"hard batches: from epoch 1 on, hard ratio .*; share of easy anchors .*", capsys.readouterr().out)
    decisions = (alone / "decisions.txt").read_text()
    assert "epoch 1: the hard phase begins: grouping 16 speakers by their centroids" in decisions
    assert "epoch 1: " in decisions.splitlines()[-1]
    assert (stopped / "decisions.txt").read_text() == decisions
    assert [path.name for path in (stopped / "neighbours").iterdir()] == ["epoch-0001.safetensors"]


@pytest.mark.slow
def test_a_run_that_never_finds_its_batches_easy_is_one_with_random_batches(tmp_path, configs, hum_manifest, capsys):
    for kind in ("auto", "random"):
        words = ("--batches.kind", kind, "--clusters.start_easy_share", "1", *PLAIN)
        assert main(command(configs, hum_manifest, tmp_path / kind, *words)) == 0
    assert_same_weights(weights(tmp_path / "auto"), weights(tmp_path / "random"))
    (decision,) = (tmp_path / "auto" / "decisions.txt").read_text().splitlines()
    assert re.fullmatch(r"epoch 2: \d+ % of the anchors were easy, below 100 %: stayed random, as supcon", decision)
    assert f"hard batches: none; {decision}" in capsys.readouterr().out


@pytest.mark.slow
def test_with_a_model_that_groups_batches_are_hard_from_the_first_step_and_resumed_runs_ask_it_no_more(
    finished, tmp_path, configs, hum_manifest, monkeypatch
):
    teacher = shutil.copytree(finished / "model", tmp_path / "teacher")
    words = ("--clusters.model", str(teacher), "--clusters.start_epoch", "null", "--train.epochs", "2", *PLAIN)
    alone, stopped = tmp_path / "alone", tmp_path / "stopped"
    assert main(command(configs, hum_manifest, alone, *words)) == 0
    (groups,) = (alone / "clusters").iterdir()
    assert groups.name == "epoch-0000.safetensors"
    assert SpeakerClusters.load(groups).encoder == load_bundle(teacher).digest
    with monkeypatch.context() as patched:  # before the first checkpoint: only the embeddings are there
        patched.setattr(Training, "_save", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        assert main(command(configs, hum_manifest, stopped, *words)) == 130
    assert not (stopped / "training.pt").exists()
    kept = Path(shutil.copy(stopped / TEACHER_EMBEDDINGS, tmp_path))
    with monkeypatch.context() as patched:
        patched.setattr(BatchPlan, "_embedded", None)
        assert main(command(configs, hum_manifest, stopped, *words)) == 0
    assert_same_weights(weights(stopped), weights(alone))
    assert_same_log(stopped, alone)
    assert not any((folder / TEACHER_EMBEDDINGS).exists() for folder in (stopped, alone))  # the groups are kept
    assert _read_kept(kept, "of other crops") is None
    kept.write_bytes(b"damaged")
    assert _read_kept(kept, "key") is None


@pytest.mark.slow
def test_the_mean_of_the_last_epochs_is_that_of_a_run_that_was_stopped(
    finished, tmp_path, configs, hum_manifest, monkeypatch
):
    words = ("--train.average_last", "2")
    alone, stopped = tmp_path / "alone", tmp_path / "stopped"
    assert main(command(configs, hum_manifest, alone, *words)) == 0
    ends = Training._validate_if_due

    def interrupted(training, epoch, log):
        if epoch == 2:
            raise KeyboardInterrupt
        return ends(training, epoch, log)

    with monkeypatch.context() as patched:  # after the first epoch that counts
        patched.setattr(Training, "_validate_if_due", interrupted)
        assert main(command(configs, hum_manifest, stopped, *words)) == 130
    assert main(command(configs, hum_manifest, stopped, *words)) == 0
    assert_same_weights(weights(stopped), weights(alone))
    assert not torch.equal(weights(alone)["embedding.weight"], weights(finished)["embedding.weight"])


@pytest.mark.parametrize(
    ("words", "epochs"),
    [
        ((), [1, 2]),
        (("--train.validate_every_epochs", "3"), [2]),
        (("--data.held_out_speakers", "0"), [2]),
        (("--batches.kind", "random"), []),
        (PLAIN, []),
    ],
)
def test_after_hard_batches_running_statistics_are_taken_of_random_ones_where_the_model_is_looked_at(
    words, epochs, tmp_path, configs, hum_manifest, monkeypatch
):
    taken = []
    restate = TrainingStep.restate

    def noted(step_of_training, batches, *, step):
        crops = list(batches)
        taken.append((step // 2 - 1, len(crops)))
        restate(step_of_training, crops, step=step)

    monkeypatch.setattr(TrainingStep, "restate", noted)
    short = ("--batches.steps_per_epoch", "2")
    assert main(command(configs, hum_manifest, tmp_path / "run", *short, *words)) == 0
    assert taken == [(epoch, 2) for epoch in epochs]  # 500 segments are more than an epoch has


@pytest.mark.slow
def test_the_packaged_model_which_has_no_weights_groups_too(hum_manifest):
    settings = TrainSettings(
        batches=BatchSettings(kind="clustered", speakers_per_batch=4),
        clusters=ClusterSettings(model="packaged", num_clusters=3, utterances_per_centroid=1, crop_seconds=0.5),
        train=TrainingSettings(epochs=2),
    )
    plan = make_plan(settings, Manifest.read(hum_manifest), torch.nn.Identity())
    torch.manual_seed(0)
    student = SpeakerEncoder(LogMel(), EcapaTdnn(channels=16, aggregation_channels=24, embedding_dim=8))
    assert plan.begin(0, student, torch.device("cpu"))
    assert plan.groups.centres.shape == (3, 192)
    assert plan.groups.encoder == load_graph_bundle(PACKAGED_MODEL).digest


def break_off(patched, *, after_step):
    """As a kill does that comes after this step: nothing more is saved."""
    train_step = Training._train_step

    def interrupted(self, *batch):
        if self._step == after_step:
            raise KeyboardInterrupt
        train_step(self, *batch)

    patched.setattr(Training, "_train_step", interrupted)


def stop_in_the_hard_phase(words, folder, how):
    slow = "import time, chns.training.log as m; add = m.Meter.add\n"
    slow += "m.Meter.add = lambda *a: (time.sleep(0.15), add(*a))[1]"
    said = folder.with_name("said")
    process = forked.started(f"{slow}\n{forked.COMMAND}", said, words=words)
    deadline = time.monotonic() + 120
    # The tiny configuration saves after step 4 and at the end of each epoch of 6; the hard phase begins with step 7.
    while not _logged_step(folder) >= 10:
        assert process.is_alive(), said.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, how)  # as terminals and job schedulers do: the loader's workers get it, too
    process.join(timeout=60)
    errors = said.read_text()
    assert errors.count("stopping after this step") == (how != signal.SIGKILL), errors
    assert process.exitcode == (-signal.SIGKILL if how == signal.SIGKILL else 130), errors
    assert not (folder / "summary.json").exists()
    assert torch.load(folder / "training.pt", weights_only=True)["step"] % 6 != 0


def _logged_step(folder):
    if not (folder / "log.csv").is_file():
        return 0
    with (folder / "log.csv").open() as file:
        return max((int(row["step"]) for row in csv.DictReader(file) if row["loss"]), default=0)


def assert_same_log(a, b):
    """All columns but those that measure time."""
    tables = []
    for folder in (a, b):
        with (folder / "log.csv").open() as file:
            tables.append([{k: v for k, v in row.items() if k not in TIMES} for row in csv.DictReader(file)])
    assert tables[0] == tables[1]


@pytest.mark.slow
def test_clipped_gradients_move_the_weights_no_further_than_they_are_long(tmp_path, configs, hum_manifest):
    """Adam divides by the gradients' size, except where they are far below its epsilon."""
    distances = {}
    for name, norm in (("clipped", "1e-12"), ("free", "1e6")):
        words = ["--optimizer.kind", "adamw", "--optimizer.weight_decay", "0", "--optimizer.clip_norm", norm]
        assert main(command(configs, hum_manifest, tmp_path / name, *words, "--train.epochs", "2")) == 0
        torch.manual_seed(0)
        architecture = load_bundle(tmp_path / name / "model").architecture
        initial = dict(architecture.build().encoder.named_parameters())
        distances[name] = max(float((weights(tmp_path / name)[n] - p.detach()).abs().max()) for n, p in initial.items())
    assert distances["clipped"] < 1e-4 < 1e-3 < distances["free"]


@pytest.mark.slow
def test_bf16_trains_float32_weights(tmp_path, configs, hum_manifest):
    assert main(command(configs, hum_manifest, tmp_path, "--train.precision", "bf16-mixed", "--train.epochs", "2")) == 0
    trained = weights(tmp_path)
    assert all(tensor.dtype == torch.float32 for name, tensor in trained.items() if "num_batches" not in name)
    assert all(torch.isfinite(tensor).all() for tensor in trained.values())


@pytest.fixture
def float16(monkeypatch):
    """Train in float16 on a CPU, where Fabric would not: the first factor, the scalers, the norms before clipping."""
    made = SimpleNamespace(factor=2.0**11, scalers=[], norms=[])
    clip = torch.nn.utils.clip_grad_norm_

    def launched(settings):
        if settings.train.precision == "32-true":
            return Fabric(accelerator="cpu", devices=1)
        made.scalers.append(torch.amp.GradScaler("cpu", init_scale=made.factor))
        return Fabric(accelerator="cpu", devices=1, plugins=[MixedPrecision("16-mixed", "cpu", made.scalers[-1])])

    def clipped(parameters, largest):
        made.norms.append(float(clip(parameters, largest)))
        return torch.tensor(made.norms[-1])

    monkeypatch.setattr("chns.training.run._launched", launched)
    monkeypatch.setattr("torch.nn.utils.clip_grad_norm_", clipped)
    return made


@pytest.mark.slow
def test_float16_clips_unscaled_gradients_and_goes_on_after_a_step_that_overflowed(
    tmp_path, configs, hum_manifest, float16
):
    """The first factor is too large for float16 on purpose: the scaler leaves steps out until it fits."""
    float16.factor = 2.0**18
    words = [*PLAIN, "--batches.kind", "random", "--optimizer.learning_rate", "1e-9", "--train.chunk_size", "5"]
    norms = {}
    for name in ("32-true", "16-mixed"):
        float16.norms.clear()
        assert main(command(configs, hum_manifest, tmp_path / name, *words, "--train.precision", name)) == 0
        norms[name] = torch.tensor(float16.norms)
    is_finite = torch.isfinite(norms["16-mixed"])
    assert 1 <= int((~is_finite).sum()) < 10
    torch.testing.assert_close(norms["16-mixed"][is_finite], norms["32-true"][is_finite], rtol=0.05, atol=0.0)
    assert 1 < float16.scalers[0].get_scale() < float16.factor


@pytest.mark.slow
def test_float16_goes_on_with_the_factor_it_had(tmp_path, configs, hum_manifest, float16, monkeypatch):
    words = [*PLAIN, "--train.precision", "16-mixed"]
    assert main(command(configs, hum_manifest, tmp_path / "alone", *words)) == 0
    with monkeypatch.context() as patched:
        break_off(patched, after_step=11)  # of 18; the last checkpoint is of step 8
        assert main(command(configs, hum_manifest, tmp_path / "run", *words)) == 130
    float16.factor = 2.0**16  # with which it would leave out steps anew
    assert main(command(configs, hum_manifest, tmp_path / "run", *words)) == 0
    assert_same_weights(weights(tmp_path / "run"), weights(tmp_path / "alone"))
    scales = [made.get_scale() for made in float16.scalers]
    assert scales[2] == scales[0]


def test_a_gradient_that_overflows_float16_at_the_factor_1_ends_the_training(
    tmp_path, configs, hum_manifest, float16, monkeypatch, capsys
):
    float16.factor = 4.0
    monkeypatch.setenv("SPOIL", "gradient")
    monkeypatch.setenv("SPOIL_FROM", "0")
    words = [*PLAIN, "--train.precision", "16-mixed", "--loss.factory", "chns_test_losses.Spoilt"]
    assert main(command(configs, hum_manifest, tmp_path / "run", *words)) == 1
    assert "norm of the gradients must be finite, got nan at step 3, epoch 0" in capsys.readouterr().err
    assert not (tmp_path / "run" / "training.pt").exists()


@pytest.mark.slow
def test_chunks_do_not_change_what_is_learnt(tmp_path, configs, hum_manifest):
    """Without batch normalisation's per-chunk statistics: an encoder of linear layers."""
    own = ["--encoder.factory", "chns_test_encoders.Plain", "--encoder.settings", "{}", "--train.epochs", "2"]
    runs = {}
    for name, chunk_size in (("whole", []), ("chunks", ["--train.chunk_size", "5"])):
        assert main(command(configs, hum_manifest, tmp_path / name, *own, *chunk_size)) == 0
        runs[name] = weights(tmp_path / name)
    for name, tensor in runs["whole"].items():
        torch.testing.assert_close(runs["chunks"][name], tensor, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(
    ("launcher", "encoder", "speakers", "chunks"),
    [
        pytest.param("own", "Observing", "4", [], marks=pytest.mark.slow),
        pytest.param("torchrun", "Plain", "5", ["--train.chunk_size", "4"], marks=pytest.mark.slow),
        ("torchrun's variables", "Observing", "4", []),
    ],
)
def test_two_processes_learn_what_one_does(
    launcher, encoder, speakers, chunks, tmp_path, configs, hum_manifest, free_port
):
    """The same global batches, losses, gradients and running statistics; only the order of additions differs."""
    own = ["--encoder.factory", f"chns_test_encoders.{encoder}", "--encoder.settings", "{}", "--train.epochs", "2",
           "--batches.speakers_per_batch", speakers]  # fmt: skip
    assert main(command(configs, hum_manifest, tmp_path / "one", *own)) == 0
    words = command(configs, hum_manifest, tmp_path / "two", *own, "--train.devices", "2", *chunks)
    said = in_two_processes(words, launcher, tmp_path, free_port)
    assert said.count("training on 16 speakers") == 1
    both = weights(tmp_path / "two")
    for name, tensor in weights(tmp_path / "one").items():
        if not name.endswith("running_var"):  # of half a batch; the mean of halves is that of the whole
            torch.testing.assert_close(both[name], tensor, atol=1e-4, rtol=1e-3)
    one, two = (json.loads((tmp_path / name / "summary.json").read_text()) for name in ("one", "two"))
    assert two["validation"]["eer"] == pytest.approx(one["validation"]["eer"], abs=0.02)
    with (tmp_path / "one" / "log.csv").open() as a, (tmp_path / "two" / "log.csv").open() as b:
        losses = [[float(row["loss"]) for row in csv.DictReader(file) if row["loss"]] for file in (a, b)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


def in_two_processes(words, launcher, folder, port):
    """What they say."""
    environment = {"PYTHONPATH": str(LEAST.parent), "OMP_NUM_THREADS": "1", "CHNS_TEST_NO_GRAPHS": "1"}
    if launcher == "torchrun's variables":
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "test"}
        environment |= dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), "2") | {"GROUP_RANK": "0"}
        code = f"import sys; sys.path.insert(0, {str(LEAST.parent)!r})\n{forked.COMMAND}"
        processes = []
        for rank in ("0", "1"):
            ranks = {**environment, "RANK": rank, "LOCAL_RANK": rank}
            processes.append(forked.started(code, folder / "said", words=words, environment=ranks))
        for process in processes:
            process.join(timeout=120)
        said = (folder / "said").read_text()
        assert [process.exitcode for process in processes] == [0, 0], said
        return said
    start = ["-m", "chns", *words]
    if launcher == "torchrun":
        start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *start]
    environment = {**os.environ, **environment}
    result = subprocess.run([sys.executable, *start], env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stderr


def test_a_damaged_checkpoint_is_named(tmp_path, configs, hum_manifest, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "training.pt").write_bytes(b"half a file")
    assert main(command(configs, hum_manifest, tmp_path / "run")) == 2
    assert "checkpoint must be one that this run wrote, got a damaged or foreign file" in capsys.readouterr().err


def test_a_checkpoint_of_another_version_is_refused(tmp_path, configs, hum_manifest, capsys):
    (tmp_path / "run").mkdir()
    torch.save({"format": "chns-training-1"}, tmp_path / "run" / "training.pt")
    assert main(command(configs, hum_manifest, tmp_path / "run")) == 2
    assert "checkpoint must be of format chns-training-2, got chns-training-1" in capsys.readouterr().err


def test_a_checkpoint_of_another_length_is_refused(finished, tmp_path, configs, hum_manifest, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "training.pt").write_bytes((finished / "training.pt").read_bytes())
    assert main(command(configs, hum_manifest, tmp_path / "run", "--train.epochs", "2")) == 2
    assert "checkpoint must be of a run of 12 steps, got one of 18" in capsys.readouterr().err


def test_a_missing_recording_is_named_without_a_worker_trace(tmp_path, configs, hum_manifest, capsys):
    manifest = Manifest.read(hum_manifest)
    Manifest.from_rows(
        [{**manifest[i]._asdict(), "utterance": str(i), "path": "gone.flac"} for i in range(len(manifest))],
        root=tmp_path,
    ).write(tmp_path / "gone.parquet")
    words = command(configs, tmp_path / "gone.parquet", tmp_path / "run", "--data.num_workers", "1")
    others = multiprocessing.active_children()
    assert main(words) == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message == f"chns: error: recording must be a file, got {tmp_path}/gone.flac."
    assert multiprocessing.active_children() == others  # waiting for workers that nobody tells to end takes 5 to 10 s


def test_the_learning_rate_rises_then_falls_to_almost_zero():
    factors = [learning_rate_factor(step, 100, 0.1) for step in range(100)]
    assert factors[:9] == pytest.approx([0.1 * (i + 1) for i in range(9)])
    assert max(factors) == pytest.approx(1.0)
    assert factors[9:] == sorted(factors[9:], reverse=True)
    assert 0 < factors[-1] < 0.001


@pytest.mark.parametrize(("num_steps", "warmup_share"), [(1, 0.0), (1, 0.1), (3, 1.0), (10, 0.0)])
def test_the_learning_rate_is_a_share_for_any_length(num_steps, warmup_share):
    assert all(0 < learning_rate_factor(step, num_steps, warmup_share) <= 1 for step in range(num_steps))


def test_negative_similarity_is_over_pairs_of_different_speakers():
    embeddings = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [3.0, 3.0]])
    mean, p95 = negative_similarity(embeddings, torch.tensor([0, 0, 1, 2]))
    root = 0.5**0.5
    assert mean == pytest.approx((0 + root + 0 + root + root) / 5)
    assert p95 == pytest.approx(root)


@pytest.mark.slow
def test_the_bare_command_trains_goes_on_and_tells_what_it_derived(tmp_path, hum_manifest, caplog, capsys):
    caplog.set_level(logging.INFO)
    words = ["train", "--data.train", str(hum_manifest), "--out", str(tmp_path / "run")]
    short = ["--train.epochs", "1", "--train.device", "cpu", "--data.crop_seconds", "0.3"]
    short += ["--encoder.factory", "chns.encoders.EcapaTdnn"]
    short += ["--encoder.settings", "{channels: 16, aggregation_channels: 24, embedding_dim: 8}"]
    assert main([*words, *short]) == 0
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["batches"]["speakers_per_batch"] == 18  # two are held out
    assert config["optimizer"]["learning_rate"] == 0.00166
    derived = json.loads((tmp_path / "run" / "derived.json").read_text())
    assert set(derived) == {"batches.speakers_per_batch", "data.num_workers", "optimizer.learning_rate"}
    assert "batches.speakers_per_batch: 18, all 18 training speakers with 2 utterances or more" in caplog.text
    printed = capsys.readouterr().out
    assert f"next: chns evaluate {tmp_path / 'run' / 'best_model'} M.parquet --trials TRIALS --out " in printed
    before = (tmp_path / "run" / "log.csv").read_bytes()
    for same in ([], ["--batches.speakers_per_batch", "18"]):
        assert main([*words, *short, *same]) == 0
    assert (tmp_path / "run" / "log.csv").read_bytes() == before
    assert main([*words, *short, "--batches.speakers_per_batch", "9"]) == 2
    longer = [*words, *short]
    longer[longer.index("--train.epochs") + 1] = "2"
    assert main(longer) == 0


@pytest.mark.slow
def test_a_project_that_was_moved_goes_on_from_another_folder(tmp_path, configs, hum_manifest, monkeypatch, capsys):
    home = tmp_path / "project"
    shutil.copytree(hum_manifest.parent, home / "audio")
    Manifest(Manifest.read(hum_manifest).table, root=home / "audio").write(home / "lists" / "train.parquet")
    monkeypatch.chdir(home)
    words = command(configs, "lists/train.parquet", "runs/one", "--clusters.start_epoch", "0")
    assert main([*words, "--train.epochs", "1"]) == 0
    monkeypatch.chdir(tmp_path)
    home.rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path / "moved" / "runs")
    words = command(configs, "../lists/train.parquet", "one", "--clusters.start_epoch", "0")
    capsys.readouterr()
    assert main([*words, "--train.epochs", "1"]) == 0
    assert "trained 6 steps: one/model" in capsys.readouterr().out
    again = training_manifest(read_settings(RunFolder.open("one")))
    assert again.root == tmp_path / "moved" / "audio"
    assert main([*words, "--train.epochs", "2"]) == 0
    assert RunFolder.open("one").steps_done() == 12


@pytest.mark.slow
def test_a_corpus_that_changed_under_a_run_is_noticed(tmp_path, hum_manifest, capsys):
    corpus = Manifest.read(hum_manifest)
    smaller, _ = corpus.split_speakers(5, seed=0)
    smaller.write(tmp_path / "m.parquet")
    words = ["train", "--data.train", str(tmp_path / "m.parquet"), "--out", str(tmp_path / "run"), "--config", "tiny"]
    words += ["--train.device", "cpu", "--train.epochs", "2", "--data.held_out_speakers", "0"]
    words += ["--batches", "{speakers_per_batch: null, steps_per_epoch: 2}"]
    assert main(words) == 0
    (tmp_path / "run" / "summary.json").unlink()
    corpus.write(tmp_path / "m.parquet")
    assert main(words) == 2
    assert "batches.speakers_per_batch must be 15 as when the run was begun, got 20" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("instruction", "precision", "warned"),
    [(None, "bf16-mixed", True), ("amx_bf16", "bf16-mixed", False), (None, "32-true", False)],
)
def test_bfloat16_on_a_cpu_without_it_is_warned_about(instruction, precision, warned, monkeypatch, caplog):
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    there = {name: name == instruction for name in ("avx512_bf16", "amx_bf16")}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: there)
    _launched(TrainSettings(train=TrainingSettings(device="cpu", precision=precision)))
    assert ("this CPU has no instructions for bfloat16" in caplog.text) == warned


FAULTS = """
import resource, torch
from chns.training.run import keep_freed_memory
{first}
def filled():
    torch.empty(2**24).fill_(1.0)
filled()
filled()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    filled()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")
def test_freed_memory_is_kept_for_the_next_step():
    """64 MB at a time: fetched anew, they are 16,384 pages each."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    faults = [
        int(
            subprocess.run(
                [sys.executable, "-c", FAULTS.format(first=first)],
                env=environment,
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
        for first in ("", "keep_freed_memory()")
    ]
    assert faults[0] > 5 * 10_000
    assert faults[1] < faults[0] / 3  # the first blocks may lie elsewhere

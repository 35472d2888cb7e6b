"""Configurations: every shipped one builds and takes a step; wrong ones are refused with their key."""

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from chns.bundle.bundle import Architecture, load_bundle, save_bundle
from chns.cli import main
from chns.cli.training_commands import train_parser
from chns.core import ConfigError
from chns.data.manifest import Manifest
from chns.losses import TaughtLoss
from chns.sampling import EpochSignals
from chns.training.build import fitted, make_loss, make_plan, read_data
from chns.training.folder import first_hard_epoch
from chns.training.log import Meter
from chns.training.run import train
from chns.training.settings import (
    BatchSettings,
    ClusterSettings,
    DataSettings,
    ObjectSettings,
    OptimizerSettings,
    TrainingSettings,
    TrainSettings,
)

STRATEGIES = ["supcon", "hscl", "chns", "chns_hscl", "neighbours", "auto", "aam_softmax"]
HARD_FROM_THE_START = ["chns", "chns_hscl", "neighbours"]


def settings_of(configs, *names, **data):
    parser = train_parser()
    words = [word for name in names for word in ("--config", str(configs / f"{name}.yaml"))]
    arguments = parser.instantiate(parser.parse_args(words))
    settings = TrainSettings(**{name: arguments[name] for name in TrainSettings.__dataclass_fields__})
    return replace(settings, data=replace(settings.data, **data))


@pytest.mark.parametrize(
    ("strategy", "encoder"),
    [
        *((strategy, ()) for strategy in STRATEGIES),
        ("chns_hscl", ("thin_resnet34",)),
        *(
            pytest.param(strategy, ("thin_resnet34",), marks=pytest.mark.slow)
            for strategy in STRATEGIES
            if strategy != "chns_hscl"
        ),
    ],
)
def test_every_shipped_configuration_builds_and_takes_a_step(configs, hum_manifest, strategy, encoder):
    settings = settings_of(configs, strategy, *encoder, train=str(hum_manifest))
    settings = replace(
        settings,
        batches=replace(settings.batches, speakers_per_batch=4, steps_per_epoch=1),
        clusters=replace(settings.clusters, num_clusters=2, start_epoch=0, crop_seconds=0.5, utterances_per_centroid=1),
    )
    manifest, _ = read_data(settings)
    torch.manual_seed(0)
    model = Architecture(encoder=settings.encoder.factory, encoder_settings=settings.encoder.settings).build()
    loss = make_loss(settings, model, manifest)
    plan = make_plan(settings, manifest, model.encoder)
    assert plan.begin(0, model, torch.device("cpu")) == (strategy in HARD_FROM_THE_START)
    (batch,) = plan.batches(0)
    labels = torch.from_numpy(manifest.speaker_labels[batch])
    value = loss(model(0.1 * torch.randn(len(batch), 4_000)), labels)
    value.backward()
    assert torch.isfinite(value)
    optimizer = torch.optim.Adam([*model.parameters(), *loss.parameters()], lr=0.01)
    before = [p.detach().clone() for p in model.parameters()]
    optimizer.step()
    assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize(
    ("loss", "derived"),
    [
        ("losses.MultiSimilarityLoss", {}),
        ("losses.ProxyAnchorLoss", {"proxies": (18, 192)}),
        ("losses.ArcFaceLoss", {"W": (192, 18)}),
    ],
)
def test_a_loss_of_pytorch_metric_learning_trains_with_its_proxies(configs, hum_manifest, loss, derived):
    settings = settings_of(configs, "supcon", train=str(hum_manifest))
    settings = replace(settings, loss=ObjectSettings(factory=f"pytorch_metric_learning.{loss}", settings={}))
    manifest, _ = read_data(settings)
    model = Architecture(encoder=settings.encoder.factory, encoder_settings=settings.encoder.settings).build()
    made = make_loss(settings, model, manifest)
    assert {name: tuple(value.shape) for name, value in made.named_parameters()} == derived
    labels = torch.from_numpy(manifest.speaker_labels[:40])
    made(model(0.1 * torch.randn(40, 4_000)), labels).backward()
    trained = [*model.encoder.parameters(), *made.parameters()]
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in trained)


def corpus(num_speakers, each=2):
    row = {"path": "a.flac", "offset_seconds": 0.0, "duration_seconds": 4.0, "sample_rate_hz": 16_000}
    rows = [
        {"utterance": f"{speaker}/{number}", "speaker": f"s{speaker:04d}", **row}
        for speaker in range(num_speakers)
        for number in range(each)
    ]
    return Manifest.from_rows(rows, root=Path("/"))


@pytest.mark.parametrize(
    ("num_speakers", "each", "per_batch", "rate", "clusters"),
    [(20, 2, 20, 0.00175, 6), (54, 2, 54, 0.00288, 6), (2000, 2, 650, 0.01, 17), (2000, 1, 1300, 0.01, 8)],
)
def test_what_is_left_open_follows_from_the_corpus(num_speakers, each, per_batch, rate, clusters):
    batches = BatchSettings(kind="clustered", utterances_per_speaker=each)
    settings, told = fitted(TrainSettings(batches=batches), corpus(num_speakers))
    assert settings.batches.speakers_per_batch == per_batch
    assert settings.optimizer.learning_rate == rate
    assert settings.clusters.num_clusters == clusters
    assert 0 <= settings.data.num_workers <= 8
    names = ["batches.speakers_per_batch", "clusters.num_clusters", "data.num_workers", "optimizer.learning_rate"]
    assert sorted(told) == names
    assert fitted(settings, corpus(num_speakers)) == (settings, {})


def test_what_is_set_is_left_alone_and_a_speaker_with_too_few_utterances_does_not_count():
    wanted = TrainSettings(
        batches=BatchSettings(kind="clustered", speakers_per_batch=8, utterances_per_speaker=2),
        data=DataSettings(num_workers=3),
        clusters=ClusterSettings(num_clusters=4),
        optimizer=OptimizerSettings(learning_rate=0.5),
    )
    assert fitted(wanted, corpus(9)) == (wanted, {})
    mixed = Manifest.merge([corpus(5), corpus(4, each=1)], prefixes=["a", "b"], same_speakers=False)
    assert fitted(TrainSettings(), mixed)[0].batches.speakers_per_batch == 5


@pytest.mark.parametrize(("number", "rest"), [(55, "Leave it out, which takes them all."), (1, "Leave it out")])
def test_too_many_speakers_a_batch_names_how_many_there_are_and_no_processes(number, rest):
    settings = TrainSettings(batches=BatchSettings(speakers_per_batch=number))
    if number == 1:
        settings, rest = TrainSettings(), "Train on more speakers."
    with pytest.raises(ConfigError, match=r"must be between 2 and the .* training speakers with 2 utt.*, got") as told:
        fitted(settings, corpus(54 if number > 1 else 1))
    assert str(told.value).endswith(rest)
    assert "world_size" not in str(told.value)


def test_the_defaults_are_the_papers(configs):
    settings, _ = fitted(settings_of(configs, "chns_hscl"), corpus(5_894))
    assert (settings.batches.speakers_per_batch, settings.batches.utterances_per_speaker) == (650, 2)
    assert (settings.clusters.num_clusters, settings.clusters.hard_ratio, first_hard_epoch(settings.clusters)) == (
        50,
        1.0,
        2,
    )
    assert (settings.optimizer.kind, settings.optimizer.learning_rate, settings.optimizer.weight_decay) == (
        "adam", 0.01, 2e-6,
    )  # fmt: skip
    assert (settings.data.crop_seconds, settings.train.epochs) == (3.0, 200)


def test_print_config_shows_everything(configs, capsys):
    with pytest.raises(SystemExit) as stopped:
        train_parser().parse_args(["--config", str(configs / "chns.yaml"), "--print_config"])
    assert stopped.value.code == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["batches"]["kind"] == "clustered"
    assert set(TrainSettings.__dataclass_fields__) <= set(shown)


@pytest.mark.parametrize(
    ("text", "message"),
    [("batches: {speakers: 3}", "does not accept option 'speakers'"), ("bogus: 1", "bogus"), ("seed: x", "seed")],
)
def test_an_unknown_or_wrong_key_is_named(tmp_path, capsys, text, message):
    (tmp_path / "wrong.yaml").write_text(text)
    with pytest.raises(SystemExit) as stopped:
        main(["train", "--config", str(tmp_path / "wrong.yaml"), "--out", str(tmp_path / "run")])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_a_training_manifest_is_required(tmp_path):
    with pytest.raises(ConfigError, match=r"data\.train must name a manifest, got none"):
        train(TrainSettings(), tmp_path / "run")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_device_that_is_not_there_is_named_before_anything_else(tmp_path):
    settings = TrainSettings(train=TrainingSettings(device="cuda"))
    with pytest.raises(ConfigError, match=r"train\.device must be one that this machine has \(auto, cpu.*got 'cuda'"):
        train(settings, tmp_path / "run")


def test_float16_is_refused_on_a_cpu(tmp_path):
    settings = TrainSettings(train=TrainingSettings(device="cpu", precision="16-mixed"))
    with pytest.raises(ConfigError, match=r"train\.precision must be 32-true or bf16-mixed on a CPU, got '16-mixed'"):
        train(settings, tmp_path / "run")


def test_a_folder_is_required(capsys):
    assert main(["train", "--data.train", "m.parquet"]) == 2
    assert "--out must name the folder of the run, got none" in capsys.readouterr().err


def test_validation_speakers_must_be_others(hum_manifest):
    settings = TrainSettings(data=DataSettings(train=str(hum_manifest), validation=str(hum_manifest)))
    with pytest.raises(
        ConfigError, match=r"data\.validation must hold other speakers .* got 20 in both, such as 's00'"
    ):
        read_data(settings)


def test_a_validation_manifest_of_other_speakers_is_used(hum_manifest):
    kept, held_out = Manifest.read(hum_manifest).split_speakers(5, seed=0)
    for name, part in (("kept", kept), ("held_out", held_out)):
        part.write(hum_manifest.parent / f"{name}.parquet")
    settings = TrainSettings(
        data=DataSettings(
            train=str(hum_manifest.parent / "kept.parquet"), validation=str(hum_manifest.parent / "held_out.parquet")
        )
    )
    manifest, validation = read_data(settings)
    assert manifest.speakers == kept.speakers
    assert validation.speakers == held_out.speakers


@pytest.mark.parametrize(("held_out", "expected"), [(None, 2), (7, 7), (0, None)])
def test_held_out_speakers_are_a_tenth_unless_told(hum_manifest, held_out, expected):
    manifest, validation = read_data(
        TrainSettings(data=DataSettings(train=str(hum_manifest), held_out_speakers=held_out))
    )
    assert (None if validation is None else len(validation.speakers)) == expected
    assert len(manifest.speakers) == 20 - (expected or 0)


@pytest.mark.parametrize(
    ("norms", "rates", "speakers_per_batch", "hardest"),
    [
        ((), {}, 11, 0.5),  # 11 of 1,000 speakers are more than one in a hundred
        ((), {}, 10, 1.0),
        ((torch.nn.BatchNorm1d(4),), {}, 11, 1.0),
        ((torch.nn.LayerNorm(4), torch.nn.InstanceNorm1d(4)), {}, 11, 0.5),
        ((torch.nn.BatchNorm1d(4),), {"1.*": 0}, 11, 0.5),  # frozen: it normalises by what it learnt before
        ((torch.nn.BatchNorm1d(4),), {"1.weight": 0, "1.bias": 0}, 11, 1.0),  # its statistics go on learning
        ((torch.nn.BatchNorm1d(4, affine=False),), {"1.running_mean": 0}, 11, 0.5),
        ((torch.nn.BatchNorm1d(4), torch.nn.BatchNorm1d(4)), {"1.*": 0}, 11, 1.0),
    ],
)
def test_auto_is_gentler_where_no_batch_normalisation_learns(hum_manifest, norms, rates, speakers_per_batch, hardest):
    """As measured in docs/results/words.md and sound.md."""
    row = Manifest.read(hum_manifest).table.to_pylist()[0]
    rows = [{**row, "speaker": f"{number:03d}", "utterance": f"{number:03d}"} for number in range(1_000)]
    many = Manifest.from_rows(rows, root=hum_manifest.parent)
    settings = TrainSettings(
        batches=BatchSettings(kind="auto", speakers_per_batch=speakers_per_batch, utterances_per_speaker=1),
        optimizer=OptimizerSettings(rates=rates),
    )
    plan = make_plan(settings, many, torch.nn.Sequential(torch.nn.Linear(4, 4), *norms))
    for epoch in range(4):
        plan.end_epoch(epoch, EpochSignals(easy_anchor_share=1.0, validation_eer=None))
    assert plan.hard_ratio_at(4) == hardest


def test_a_hard_phase_that_would_never_begin_is_refused(hum_manifest):
    settings = TrainSettings(
        batches=BatchSettings(kind="clustered", speakers_per_batch=4),
        clusters=ClusterSettings(start_epoch=3, num_clusters=2),
        train=TrainingSettings(epochs=3),
    )
    with pytest.raises(ConfigError, match=r"clusters\.start_epoch must be before the last of train\.epochs = 3, got 3"):
        make_plan(settings, Manifest.read(hum_manifest), torch.nn.Identity())


def test_groups_of_a_model_that_is_not_trained_are_not_made_anew(hum_manifest):
    settings = TrainSettings(
        batches=BatchSettings(kind="clustered", speakers_per_batch=4),
        clusters=ClusterSettings(model="packaged", refresh_every=2, num_clusters=2),
        train=TrainingSettings(epochs=3),
    )
    with pytest.raises(ConfigError, match=r"clusters\.refresh_every must be 0 with clusters\.model, got 2"):
        make_plan(settings, Manifest.read(hum_manifest), torch.nn.Identity())


class OwnEncoder(torch.nn.Module):
    """A user's encoder: an import path is all that a configuration needs."""

    def __init__(self, *, width: int) -> None:
        super().__init__()
        self.embedding_dim = width
        self.layer = torch.nn.Linear(80, width)
        self.drop = torch.nn.Dropout(0.2)

    def forward(self, features, lengths=None):
        if lengths is not None:
            inside = torch.arange(features.shape[1]) < lengths[:, None]
            features = features.abs() * inside[:, :, None]
            return self.layer(features.sum(1) / lengths[:, None])
        return self.drop(self.layer(features.abs().mean(1)))


def own_settings(configs, hum_manifest):
    settings = settings_of(configs, "supcon", "tiny", train=str(hum_manifest), held_out_speakers=0)
    return replace(
        settings,
        encoder=ObjectSettings(factory="own_package.OwnEncoder", settings={"width": 16}),
        train=replace(settings.train, epochs=1, device="cpu"),
    )


def test_a_users_own_encoder_without_validation_trains_and_loads(tmp_path, configs, hum_manifest, monkeypatch):
    monkeypatch.setitem(sys.modules, "own_package", sys.modules[__name__])
    summary = train(own_settings(configs, hum_manifest), tmp_path / "run")
    assert summary == {"steps": 6, "model": str(tmp_path / "run" / "model")}
    bundle = load_bundle(tmp_path / "run" / "model", trusted_packages=["own_package.OwnEncoder"])
    assert bundle.model(torch.randn(2, 8_000)).shape == (2, 16)


def test_how_gentle_auto_is_with_a_users_own_encoder_is_told(tmp_path, configs, hum_manifest, monkeypatch):
    monkeypatch.setitem(sys.modules, "own_package", sys.modules[__name__])
    settings = own_settings(configs, hum_manifest)
    train(replace(settings, batches=replace(settings.batches, kind="auto")), tmp_path / "run")
    told = json.loads((tmp_path / "run" / "derived.json").read_text())
    drawn = settings.batches.speakers_per_batch
    assert told["clusters.hard_ratio"] == (
        f"0.5 at most, as a batch holds {drawn} of 20 speakers and no batch normalisation learns"
    )


@pytest.mark.slow
def test_dropout_too_is_the_same_after_a_stop(tmp_path, configs, hum_manifest, monkeypatch):
    monkeypatch.setitem(sys.modules, "own_package", sys.modules[__name__])
    settings = own_settings(configs, hum_manifest)
    train(settings, tmp_path / "alone")
    with monkeypatch.context() as patched:
        patched.setattr(Meter, "step_done", lambda _: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(KeyboardInterrupt):
            train(settings, tmp_path / "stopped")
    assert torch.load(tmp_path / "stopped" / "training.pt", weights_only=True)["step"] == 2
    train(settings, tmp_path / "stopped")
    alone, stopped = (
        load_bundle(tmp_path / name / "model", trusted_packages=["own_package.OwnEncoder"])
        for name in ("alone", "stopped")
    )
    assert alone.digest == stopped.digest


def test_an_encoder_that_does_not_say_its_size_cannot_be_taught(hum_manifest, tmp_path):
    architecture = Architecture(
        encoder="chns.encoders.EcapaTdnn", encoder_settings={"channels": 16, "aggregation_channels": 24}
    )
    save_bundle(tmp_path / "teacher", architecture.build(), architecture, training={}, metrics={})
    settings = TrainSettings(train=TrainingSettings(teacher=str(tmp_path / "teacher")))
    model = architecture.build()
    assert isinstance(make_loss(settings, model, Manifest.read(hum_manifest)), TaughtLoss)
    del model.encoder.embedding_dim
    with pytest.raises(ConfigError, match=r"encoder must have an attribute embedding_dim to learn from train\.teacher"):
        make_loss(settings, model, Manifest.read(hum_manifest))

"""`chns import`, and what follows it: use, export and fine-tune a model of another toolkit, or one's own."""

import json

import pytest
import torch
from foreign_models import speechbrain_state, wespeaker_resnet_state
from small_models import LEAST

from chns.bundle.bundle import load_bundle
from chns.bundle.layouts import TOOLKITS
from chns.cli import main
from chns.cli.model_commands import import_parser
from chns.cli.training_commands import train_parser
from chns.core import ConfigError, ModelFileError
from chns.sampling import SpeakerClusters
from chns.training.build import starting_model
from chns.training.settings import ObjectSettings, TrainingSettings, TrainSettings

SHORT = ["--data.num_workers", "0", "--data.crop_seconds", "0.5", "--batches.speakers_per_batch", "4",
         "--batches.steps_per_epoch", "2", "--train.epochs", "1", "--train.device", "cpu"]  # fmt: skip


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("imported")
    torch.save(dict(speechbrain_state()), folder / "embedding_model.ckpt")
    words = ["import", "speechbrain", str(folder / "embedding_model.ckpt"), "--out", str(folder / "model")]
    assert main(words) == 0
    return folder / "model"


def run(*words):
    return main([str(word) for word in words])


def test_the_command_knows_every_toolkit():
    action = next(a for a in import_parser()._actions if a.dest == "toolkit")
    assert list(action.choices) == list(TOOLKITS)


def test_import_says_what_it_wrote(tmp_path, capsys):
    torch.save(dict(wespeaker_resnet_state(channels=4)), tmp_path / "avg_model.pt")
    words = ("import", "wespeaker-resnet34", tmp_path / "avg_model.pt", "--out", tmp_path / "model")
    assert run(*words) == 0
    assert "chns.encoders.ResNet on chns.features.LogMel" in capsys.readouterr().out
    assert run(*words, "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["imported_from"] == "wespeaker-resnet34"
    assert summary["weights_sha256"] == load_bundle(tmp_path / "model").digest
    assert run("import", "speechbrain", tmp_path / "avg_model.pt", "--out", tmp_path / "other") == 2
    assert "read as speechbrain; if the model is another" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


@pytest.mark.slow
def test_an_imported_model_verifies_evaluates_and_clusters(imported, hum_manifest, tmp_path, capsys):
    audio = hum_manifest.parent / "s00"
    assert run("verify", imported, audio / "0.flac", audio / "1.flac", "--threshold", 0.5, "--json") in (0, 1)
    assert -1 <= json.loads(capsys.readouterr().out)["score"] <= 1
    assert run("trials", hum_manifest, "--out", tmp_path / "t.txt", "--targets", 2) == 0
    words = ("--trials", tmp_path / "t.txt", "--scores", tmp_path / "s.txt", "--workers", 0)
    assert run("evaluate", imported, hum_manifest, *words) == 0
    out = tmp_path / "c.safetensors"
    words = ("--num-clusters", 4, "--out", out, "--crop-seconds", 0.5, "--workers", 0)
    assert run("cluster", imported, hum_manifest, *words) == 0
    assert SpeakerClusters.load(out).encoder == load_bundle(imported).digest


def test_training_can_start_from_an_imported_model(imported, hum_manifest, tmp_path):
    out = tmp_path / "run"
    rate = ("--optimizer.learning_rate", "1e-12")
    assert run("train", "--data.train", hum_manifest, "--out", out, "--train.start_from", imported, *rate, *SHORT) == 0
    before, after = load_bundle(imported), load_bundle(out / "model")
    assert after.architecture == before.architecture
    assert after.training["settings"]["train"]["start_from"] == str(imported)
    for (name, a), b in zip(before.model.named_parameters(), after.model.parameters(), strict=True):
        torch.testing.assert_close(b, a, atol=1e-6, rtol=0, msg=name)
    assert after.digest != before.digest  # running statistics have moved


@pytest.mark.slow
def test_a_fine_tuned_model_moves(imported, hum_manifest, tmp_path):
    out = tmp_path / "run"
    assert run("train", "--data.train", hum_manifest, "--out", out, "--train.start_from", imported, *SHORT) == 0
    before, after = load_bundle(imported).model, load_bundle(out / "model").model
    assert any(not torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True))


def test_an_encoder_other_than_that_of_the_starting_model_is_refused(imported):
    settings = TrainSettings(
        encoder=ObjectSettings(factory="chns.encoders.thin_resnet34"), train=TrainingSettings(start_from=str(imported))
    )
    with pytest.raises(ConfigError, match=r"encoder and features must be those of train\.start_from, .*Leave them out"):
        starting_model(settings)


def test_the_starting_model_may_be_named_in_full(imported):
    architecture = load_bundle(imported).architecture
    encoder = ObjectSettings(factory=architecture.encoder, settings=dict(architecture.encoder_settings))
    settings = TrainSettings(encoder=encoder, train=TrainingSettings(start_from=str(imported)))
    with pytest.raises(ConfigError, match="encoder and features must be those"):
        starting_model(settings)  # LogMel's features were chosen by leaving them out


def test_a_missing_starting_model_is_an_error(hum_manifest, tmp_path, capsys):
    words = ("--train.start_from", tmp_path / "none", *SHORT)
    assert run("train", "--data.train", hum_manifest, "--out", tmp_path / "run", *words) == 2
    assert "model must be a folder with config.json" in capsys.readouterr().err
    assert train_parser().get_defaults().train.start_from is None


def test_ones_own_encoder_trains_starts_again_and_clusters_once_it_is_trusted(hum_manifest, tmp_path, capsys):
    own = ("--encoder.factory", "chns_test_encoders.Plain", "--data.train", hum_manifest, *SHORT)
    assert run("train", "--out", tmp_path / "first", *own) == 0
    model = tmp_path / "first" / "model"
    assert run("train", "--out", tmp_path / "second", "--train.start_from", model, *own) == 0
    words = ("cluster", model, hum_manifest, "--num-clusters", 3, "--out", tmp_path / "c.safetensors")
    words += ("--crop-seconds", 0.5, "--workers", 0)
    assert run(*words) == 2
    assert "add 'chns_test_encoders' to the trusted packages" in capsys.readouterr().err
    assert run(*words, "--trust", "chns_test_encoders") == 0
    with pytest.raises(ModelFileError, match="encoder must come from a trusted package"):
        starting_model(TrainSettings(train=TrainingSettings(start_from=str(model))))


@pytest.mark.slow
def test_training_learns_from_a_teacher_beside_its_labels(imported, hum_manifest, tmp_path, capsys):
    """Of another size: 16 numbers of the teacher, 8 of the student."""
    own = ("--config", LEAST, "--data.train", hum_manifest, *SHORT, "--batches.steps_per_epoch", 40)
    own += ("--optimizer.learning_rate", 0.01)
    cosines = {}
    for name, words in {"alone": (), "taught": ("--train.teacher", imported, "--train.teacher_weight", 20)}.items():
        assert run("train", "--out", tmp_path / name, *words, *own) == 0
        cosines[name] = agreement(load_bundle(tmp_path / name / "model").model, load_bundle(imported).model)
    assert cosines["taught"] > cosines["alone"]
    kept = load_bundle(tmp_path / "taught" / "model").training["settings"]["train"]
    assert (kept["teacher"], kept["teacher_weight"]) == (str(imported), 20.0)
    words = ("--out", tmp_path / "third", *own, "--train.teacher", tmp_path / "none")
    assert run("train", *words) == 2
    assert "model must be a folder" in capsys.readouterr().err
    words = ("--out", tmp_path / "fourth", *own, "--train.teacher", imported, "--features.sample_rate_hz", 8_000)
    assert run("train", *words) == 2
    assert "train.teacher must hear the encoder's 8000 Hz, got 16000 Hz" in capsys.readouterr().err


def agreement(student, teacher):
    """How alike two models find the same pairs of sounds."""
    torch.manual_seed(0)
    sounds = 0.1 * torch.randn(24, 8_000) * torch.linspace(0.1, 3, 24)[:, None] + 0.05 * torch.sin(
        torch.linspace(0.1, 0.6, 24)[:, None] * torch.arange(8_000)
    )
    with torch.no_grad():
        alike = [torch.nn.functional.normalize(model(sounds)) for model in (student, teacher)]
    pairs = torch.stack([(rows @ rows.T)[tuple(torch.triu_indices(24, 24, 1))] for rows in alike])
    return float(torch.corrcoef(pairs)[0, 1])

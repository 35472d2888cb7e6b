"""From a configuration to augmented trainings: they run, resume exactly, and refuse settings that contradict."""

import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_models import LEAST

from chns.bundle.bundle import load_bundle
from chns.cli.training_commands import train_parser
from chns.core import AudioError, ConfigError
from chns.data.audio import write_audio
from chns.data.dataset import CropRequest
from chns.data.manifest import Manifest
from chns.training.augmenting import augmented_crops, make_masking
from chns.training.build import read_data
from chns.training.log import Meter
from chns.training.run import train
from chns.training.settings import TrainSettings


@pytest.fixture
def settings_from(configs, hum_manifest):
    """Settings of the shipped overlay on the tiny configuration, with changes as on the command line."""

    def make(*words, overlays=("supcon", "tiny", "augmented")):
        parser = train_parser()
        overlaid = [word for name in overlays for word in ("--config", str(configs / f"{name}.yaml"))]
        overlaid += ["--config", str(LEAST)]
        common = ["--data.train", str(hum_manifest), "--data.held_out_speakers", "4", "--train.device", "cpu"]
        made = parser.instantiate(parser.parse_args([*overlaid, *common, *words]))
        return TrainSettings(**{name: made[name] for name in TrainSettings.__dataclass_fields__})

    return make


def words_of(settings, manifest, count=60):
    crops = augmented_crops(settings, manifest, sample_rate_hz=16_000)
    return [words for n in range(count) for words in crops.augmented(CropRequest(n % len(manifest), (0, n)))[1]]


def test_by_default_nothing_is_augmented(settings_from, hum_manifest):
    settings = settings_from(overlays=("supcon", "tiny"))
    assert words_of(settings, Manifest.read(hum_manifest)) == []
    assert make_masking(settings) is None


def test_the_shipped_overlay_needs_no_download_and_uses_every_effect(settings_from, hum_manifest):
    settings = settings_from()
    kinds = {words.split()[0] for words in words_of(settings, Manifest.read(hum_manifest), count=150)}
    assert {"speed", "reverb", "noise", "babble", "gain"} <= kinds
    assert kinds & {"telephone", "gsm", "mp3"}
    assert make_masking(settings) is not None


@pytest.mark.slow
def test_folders_are_used_where_they_are_named_and_a_bundle_tells_only_their_name(
    settings_from, hum_manifest, tmp_path
):
    rng = np.random.default_rng(0)
    for name in ("noise/a", "music/b", "speech/c", "rirs/d"):
        write_audio(tmp_path / f"{name}.wav", 0.1 * rng.standard_normal(9_000).astype("f4"), sample_rate_hz=16_000)
    words = []
    for section, folder in (("noise", "noise"), ("music", "music"), ("babble", "speech"), ("reverberation", "rirs")):
        words += [f"--augmentation.{section}.folder", str(tmp_path / folder)]
        words += [f"--augmentation.{section}.probability", "0.3"]
    settings = settings_from(*words, "--train.epochs", "1")
    done = words_of(settings, Manifest.read(hum_manifest))
    for part in ("noise", "(a.wav)", "music", "(b.wav)", "voices)", "reverb (d.wav)"):
        assert any(part in effect for effect in done), part
    train(settings, tmp_path / "run")
    told = load_bundle(tmp_path / "run" / "model").training["settings"]["augmentation"]
    assert told["noise"]["folder"] == "noise"
    assert str(tmp_path) not in str(told)


@pytest.mark.slow
def test_an_augmented_run_that_was_stopped_ends_with_the_weights_of_one_left_alone(
    settings_from, tmp_path, monkeypatch
):
    settings = settings_from("--train.epochs", "2", "--train.chunk_size", "5", overlays=("chns", "tiny", "augmented"))
    train(settings, tmp_path / "alone")
    with monkeypatch.context() as patched:
        patched.setattr(Meter, "step_done", lambda _: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(KeyboardInterrupt):
            train(settings, tmp_path / "stopped")
    assert torch.load(tmp_path / "stopped" / "training.pt", weights_only=True)["step"] == 2
    train(replace(settings, data=replace(settings.data, num_workers=2)), tmp_path / "stopped")
    alone, stopped = (load_bundle(tmp_path / name / "model") for name in ("alone", "stopped"))
    assert alone.digest == stopped.digest
    assert alone.model.masking is None


def test_augmentation_changes_what_is_learnt(settings_from, tmp_path):
    digests = set()
    for name, overlays in (("plain", ("supcon", "tiny")), ("augmented", ("supcon", "tiny", "augmented"))):
        train(settings_from("--train.epochs", "1", overlays=overlays), tmp_path / name)
        digests.add(load_bundle(tmp_path / name / "model").digest)
    assert len(digests) == 2


@pytest.mark.slow
def test_new_speakers_multiply_the_training_speakers_only(settings_from, tmp_path):
    speed = '{"probability": 0, "new_speakers": [0.9, 1.1]}'
    settings = settings_from(
        "--augmentation.speed", speed, "--train.epochs", "2", overlays=("aam_softmax", "tiny", "augmented")
    )
    training, validation = read_data(settings)
    assert (len(training.speakers), len(validation.speakers)) == (48, 4)
    assert not any("@" in name for name in validation.speakers)
    train(replace(settings, batches=replace(settings.batches, utterances_per_speaker=1)), tmp_path / "aam")
    state = torch.load(tmp_path / "aam" / "training.pt", weights_only=True)
    assert 48 in {tensor.shape[0] for tensor in state["loss"].values() if tensor.ndim == 2}
    assert load_bundle(tmp_path / "aam" / "model").training["speakers"] == 48


@pytest.mark.slow
def test_clusters_are_made_of_the_new_speakers_too(settings_from, tmp_path):
    settings = settings_from(
        "--augmentation.speed.new_speakers", "[0.9]", "--augmentation.speed.probability", "0",
        "--train.epochs", "2", overlays=("chns", "tiny", "augmented"),
    )  # fmt: skip
    train(settings, tmp_path / "run")
    state = torch.load(tmp_path / "run" / "training.pt", weights_only=True)
    shape = state["plan"]["groups"]["labels"]["shape"]
    assert shape == [32]


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (["speed.new_speakers", "[0.9]"], ConfigError, r"augmentation\.speed\.probability must be 0 .* got 0\.2"),
        (["music.probability", "0.1"], ConfigError, r"augmentation\.music\.folder must name a folder of music"),
        (["noise.probability", "0.9"], ValueError, "probabilities of noise, babble must add up to at most 1"),
        (["noise.folder", "{tmp}/none"], FileNotFoundError, r"augmentation folder must exist, got .*none"),
        (["babble.folder", "{tmp}"], AudioError, r"augmentation folder must hold recordings .* got none in"),
        (["reverberation.folder", "{tmp}"], AudioError, "augmentation folder must hold recordings"),
        (["codec.kinds", "[]"], ValueError, "codec kinds must be some of telephone"),
        (["gain.min_gain_db", "7"], ValueError, "min_gain_db to max_gain_db must rise"),
        (["reverberation.max_reverberation_seconds", "9"], ValueError, "max_reverberation_seconds must rise"),
    ],
)
def test_settings_that_contradict_or_lead_nowhere_are_refused(
    settings_from, hum_manifest, tmp_path, words, error, message
):
    name, value = words
    settings = settings_from(f"--augmentation.{name}", value.format(tmp=tmp_path))
    with pytest.raises(error, match=message):
        augmented_crops(settings, Manifest.read(hum_manifest), sample_rate_hz=16_000)


def test_a_folder_and_simulated_rooms_are_not_both_used(settings_from, hum_manifest, tmp_path):
    words = ["--augmentation.reverberation.folder", str(tmp_path), "--augmentation.reverberation.rooms", "3"]
    with pytest.raises(ConfigError, match=r"augmentation\.reverberation\.rooms must be 0 with a folder, got 3"):
        augmented_crops(settings_from(*words), Manifest.read(hum_manifest), sample_rate_hz=16_000)

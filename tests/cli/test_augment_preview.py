"""Examples to listen to and a picture to look at, as a user asks for them."""

import importlib.util
import json

import numpy as np
import pytest
from matplotlib.image import imread

from chns.cli import main
from chns.data.audio import read_audio


def command(configs, manifest, out, *more):
    words = ["augment-preview", str(manifest), "--config", str(configs / "augmented.yaml"), "--out", str(out)]
    return [*words, "--data.crop_seconds", "0.6", *more]


@pytest.mark.slow
def test_a_preview_is_pairs_of_recordings_a_picture_and_words(configs, hum_manifest, tmp_path, capsys):
    assert main(command(configs, hum_manifest, tmp_path / "out", "--count", "3", "--json")) == 0
    shown = json.loads(capsys.readouterr().out)
    assert len(shown["examples"]) == 3
    assert len({example["utterance"] for example in shown["examples"]}) == 3
    changed = 0
    for example in shown["examples"]:
        original, augmented = (read_audio(tmp_path / example[kind]) for kind in ("original", "augmented"))
        assert len(original) == len(augmented) == 9_600
        assert np.array_equal(original, augmented) == (not example["effects"])
        changed += bool(example["effects"])
    assert changed >= 1
    picture = imread(shown["picture"])
    assert picture.shape[0] > 3 * 150
    assert picture.std() > 0.1
    assert sorted(path.suffix for path in (tmp_path / "out").iterdir()) == [".png", *[".wav"] * 6]


@pytest.mark.slow
def test_the_seed_decides_the_preview_and_other_files_stay(configs, hum_manifest, tmp_path, capsys):
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "notes.txt").write_text("mine")
    bytes_of = {}
    for name, seed in (("0", "0"), ("again", "0"), ("other", "1")):
        words = command(configs, hum_manifest, tmp_path / name, "--count", "1", "--seed", seed)
        assert main([*words, "--augmentation.noise.probability", "0.8"]) == 0
        bytes_of[name] = [path.read_bytes() for path in sorted((tmp_path / name).glob("*.wav"))]
    assert bytes_of["0"] == bytes_of["again"] != bytes_of["other"]
    assert (tmp_path / "0" / "notes.txt").read_text() == "mine"
    assert "spectrograms: " in capsys.readouterr().out


@pytest.mark.slow
def test_new_speakers_and_no_masks_are_shown_too(configs, hum_manifest, tmp_path, capsys):
    words = ["--augmentation.speed", '{"probability": 0, "new_speakers": [0.9, 1.1]}', "--count", "4", "--json"]
    words += ["--augmentation.spec_augment.probability", "0", "--augmentation.gain.probability", "0"]
    assert main(command(configs, hum_manifest, tmp_path, *words)) == 0
    effects = {example["utterance"]: example["effects"] for example in json.loads(capsys.readouterr().out)["examples"]}
    assert any("@" in name for name in effects)
    for name, done in effects.items():
        factor = name.partition("@")[2]
        assert (f"speed {factor}" in done) == bool(factor)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--count", "0"], "count must be between 1 and the manifest's 100 utterances, got 0"),
        (["--count", "101"], "count must be between 1 and the manifest's 100 utterances, got 101"),
        (
            ["--augmentation.music.probability", "0.2"],
            "augmentation.music.folder must name a folder of music, got none",
        ),
        (["--augmentation.gain.probability", "3"], "gain probability must be between 0 and 1, got 3.0"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(configs, hum_manifest, tmp_path, capsys, words, message):
    assert main(command(configs, hum_manifest, tmp_path / "out", *words)) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("chns: error: ")
    assert message in error
    assert not (tmp_path / "out").exists()


def test_a_folder_is_required(hum_manifest, capsys):
    assert main(["augment-preview", str(hum_manifest)]) == 2
    assert "--out must name the folder of the examples, got none" in capsys.readouterr().err


def test_the_library_that_draws_is_named_when_it_is_missing(configs, hum_manifest, tmp_path, monkeypatch, capsys):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "matplotlib" else found(name, *a))
    assert main(command(configs, hum_manifest, tmp_path)) == 2
    assert "matplotlib must be installed to draw spectrograms" in capsys.readouterr().err

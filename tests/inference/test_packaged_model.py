"""The model that the package carries: small, calibrated, and right about voices that it never heard."""

import json
from importlib.resources import files

import numpy as np
import pytest

from chns.bundle.bundle_graph import load_graph_bundle
from chns.cli import main
from chns.data.audio import write_audio
from chns.inference.verifier import PACKAGED_MODEL_IN_WORDS, Verifier

SMALL = files("chns") / "models" / "small"


def test_it_takes_at_most_five_megabytes_and_holds_what_a_bundle_may():
    sizes = {path.name: path.stat().st_size for path in SMALL.iterdir()}
    assert set(sizes) == {"config.json", "model.onnx", "README.md"}
    assert sum(sizes.values()) <= 5_000_000


def test_its_description_states_where_it_was_measured():
    metrics = json.loads((SMALL / "config.json").read_text())["metrics"]
    tested = metrics["test"]["voxceleb2 across videos"]
    assert 0 < tested["eer"]["low"] < tested["eer"]["estimate"] < tested["eer"]["high"] < 0.2
    assert tested["speakers"] == 40
    assert set(metrics["calibration"]["bands"]) == {"0 to 1.5 s", "1.5 to 3 s", "3 to 60 s"}
    assert set(metrics["calibration"]["quality"]) == {"duration"}


def test_noise_and_a_tone_are_no_reason_to_fail():
    verifier = Verifier.load(SMALL)
    seconds = np.arange(16_000) / 16_000
    tone = 0.1 * np.sin(2 * np.pi * 200 * seconds).astype(np.float32)
    noise = 0.1 * np.random.default_rng(0).standard_normal(16_000).astype(np.float32)
    of_tone, of_noise = (verifier.embed(sound, 16_000) for sound in (tone, noise))
    assert verifier.verify(of_tone, of_tone).accepted
    assert -1 <= verifier.verify(of_tone, of_noise).score < 0.9


def test_an_embedding_does_not_depend_on_the_batch():
    graph = load_graph_bundle(SMALL).run
    waveforms = 0.1 * np.random.default_rng(0).standard_normal((3, 24_000)).astype(np.float32)
    np.testing.assert_allclose(graph(waveforms)[1:2], graph(waveforms[1:2]), atol=1e-4)


@pytest.mark.slow
def test_it_tells_people_apart_across_videos(shared_data):
    folders = sorted((shared_data / "voxceleb2-mini").glob("id*"))[1:16:2]  # of the half that is for the test
    pairs = [[min(video.glob("*.flac")) for video in sorted(folder.iterdir())[:2]] for folder in folders]
    verifier = Verifier.load(SMALL)
    heard = [[verifier.embed(path) for path in pair] for pair in pairs]
    own = [verifier.verify(one, other).score for one, other in heard]
    strangers = [verifier.verify(heard[n][0], heard[n - 1][1]).score for n in range(len(heard))]
    assert np.mean(own) > 0.5
    assert np.mean(np.array(own)[:, None] > np.array(strangers)) > 0.95


@pytest.mark.parametrize("seconds", [0.3, 1.0, 12.3])
def test_every_length_is_heard(seconds):
    waveform = 0.1 * np.random.default_rng(0).standard_normal(round(16_000 * seconds)).astype(np.float32)
    assert np.isfinite(load_graph_bundle(SMALL).run(waveform[None])).all()


def test_the_words_about_it_are_what_was_measured():
    tested = json.loads((SMALL / "config.json").read_text())["metrics"]["test"]["voxceleb2 across videos"]
    assert f"{100 * tested['eer']['estimate']:.2f} % EER" in PACKAGED_MODEL_IN_WORDS
    assert f"{tested['speakers']} speakers" in PACKAGED_MODEL_IN_WORDS


def test_two_recordings_alone_are_verified_with_it(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        write_audio(
            tmp_path / f"{name}.wav", 0.1 * rng.standard_normal(32_000).astype(np.float32), sample_rate_hz=16_000
        )
    assert main(["verify", str(tmp_path / "a.wav"), str(tmp_path / "b.wav")]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("same speaker: score ")
    assert printed.err.startswith("model: the small model of the package (CAM++ in four bits; ")
    assert Verifier.load().model_digest == Verifier.load(SMALL).model_digest

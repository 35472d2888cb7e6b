"""``chns verify`` as a user and a script see it: what it prints, and its exit code."""

import json

import numpy as np
import pytest
import soundfile
from small_models import saved_model

from chns.cli import main
from chns.core import AudioError
from chns.data.audio import write_audio
from chns.inference.verifier import Verifier


@pytest.fixture(scope="module")
def save_model(tmp_path_factory):
    return lambda **metrics: str(saved_model(tmp_path_factory.mktemp("model") / "model", metrics=metrics))


@pytest.fixture(scope="module")
def model(save_model):
    return save_model(validation={"threshold": 0.999})


@pytest.fixture
def recordings(tmp_path):
    noise = 0.1 * np.random.default_rng(0).standard_normal(48_000).astype(np.float32)
    hum = 0.5 * np.sin(np.arange(48_000) / 9).astype(np.float32) + noise / 50
    for name, waveform in (("noise", noise), ("hum", hum), ("short", noise[:8_000]), ("silent", 0 * noise)):
        write_audio(tmp_path / f"{name}.wav", waveform, sample_rate_hz=16_000)
    return {name: str(tmp_path / f"{name}.wav") for name in ("noise", "hum", "short", "silent")}


def test_the_same_recording_is_one_speaker_and_exits_with_0(model, recordings, capsys):
    assert main(["verify", model, recordings["noise"], recordings["noise"]]) == 0
    assert capsys.readouterr().out == "same speaker: score 1.000, threshold 0.999\n"


def test_unlike_recordings_are_different_speakers_and_exit_with_1(model, recordings, capsys):
    assert main(["verify", model, recordings["noise"], recordings["hum"]]) == 1
    assert capsys.readouterr().out.startswith("different speakers: score ")


def test_the_threshold_decides(model, recordings):
    words = ["verify", model, recordings["noise"], recordings["hum"], "--threshold"]
    assert main([*words, "-1"]) == 0
    assert main([*words, "1"]) == 1


def test_warnings_name_the_file(model, recordings, capsys):
    main(["verify", model, recordings["noise"], recordings["short"]])
    assert f"warning: {recordings['short']}: 0.5 s of sound" in capsys.readouterr().out


def test_json_holds_all_that_is_printed(save_model, recordings, capsys):
    model = save_model(calibration={"scale": 10.0, "offset": -5.0})
    code = main(["verify", model, recordings["hum"], recordings["short"], "--json"])
    decision = json.loads(capsys.readouterr().out)
    assert decision["files"] == [recordings["hum"], recordings["short"]]
    assert decision["accepted"] is (code == 0) is (decision["score"] >= decision["threshold"])
    assert decision["threshold"] == 0.5
    assert decision["log_likelihood_ratio"] == pytest.approx(10 * decision["score"] - 5)
    assert [len(quality["warnings"]) for quality in decision["quality"]] == [0, 1]
    assert main(["verify", model, recordings["hum"], recordings["short"]]) == code
    assert f"log-likelihood ratio {decision['log_likelihood_ratio']:.2f}\n" in capsys.readouterr().out


def test_the_help_states_the_exit_codes(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["verify", "--help"])
    assert "exit code: 0 same speaker; 1 different speakers; 2 error" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{model}", "{noise}", "missing.wav"], "recording must be a file, got missing.wav"),
        (["{model}", "{noise}", "{silent}"], "recording must hold sound, got silence"),
        (["nowhere", "{noise}", "{hum}"], "model must be a folder with config.json"),
        (["{model}", "{noise}", "{hum}", "--threshold", "7"], "threshold must be a cosine, between -1 and 1, got 7.0"),
        (["{model}", "{noise}", "{hum}", "--device", "abacus"], "device must be one that this machine has"),
        (["{unsure}", "{noise}", "{hum}"], "threshold must be given for a model without one"),
    ],
)
def test_an_error_is_one_line_and_exits_with_2(model, save_model, recordings, capsys, words, message):
    names = {"model": model, "unsure": save_model(), **recordings}
    assert main(["verify", *(word.format(**names) for word in words)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert len(captured.err.splitlines()) == 1


@pytest.fixture
def voices(tmp_path):
    """Two sounds alone, and both in one file, left and right."""
    rng = np.random.default_rng(1)
    left, right = 0.1 * rng.standard_normal(32_000), 0.3 * np.sin(np.arange(32_000) / 9) * rng.uniform(0.5, 1, 32_000)
    samples = {"left": left, "right": right, "both": np.stack([left, right], axis=1)}
    for name, each in samples.items():
        soundfile.write(tmp_path / f"{name}.wav", each, 16_000)
    return {name: str(tmp_path / f"{name}.wav") for name in samples}


def scores_of(capsys, *words):
    assert main([*words, "--json"]) in (0, 1)
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(("channel", "alone"), [("left", "left"), ("0", "left"), ("right", "right"), ("1", "right")])
def test_verify_enrol_and_identify_hear_the_chosen_channel(model, voices, tmp_path, capsys, channel, alone):
    verified = scores_of(
        capsys, "verify", model, voices["both"], voices[alone], "--channel", channel, "--channel", "mix"
    )
    assert verified["score"] == pytest.approx(1, abs=1e-4)
    store = str(tmp_path / "people.store")
    scores_of(capsys, "enrol", model, store, "one", voices["both"], "--channel", channel)
    [match] = scores_of(capsys, "identify", model, store, voices[alone], "--threshold", "0")["matches"]
    assert match["score"] == pytest.approx(1, abs=1e-4)
    [match] = scores_of(capsys, "identify", model, store, voices["both"], "--threshold", "0", "--channel", channel)[
        "matches"
    ]
    assert match["score"] == pytest.approx(1, abs=1e-4)


def test_a_verifier_warns_of_two_voices_unless_a_channel_is_chosen(model, voices):
    verifier = Verifier.load(model)
    assert verifier.embed(voices["both"]).quality.channels_differ
    assert not verifier.embed(voices["left"]).quality.channels_differ
    for channel, alone in ((0, "left"), ("right", "right")):
        heard_one = verifier.embed(voices["both"], channel=channel)
        assert not heard_one.quality.channels_differ
        np.testing.assert_allclose(heard_one.vector, verifier.embed(voices[alone]).vector, atol=1e-5)
    with pytest.raises(AudioError, match="channel must be one of the recording's 2, counted from 0, got 2"):
        verifier.embed(voices["both"], channel=2)

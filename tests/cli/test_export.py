"""``chns export``: files that were checked, and a summary of what they cost."""

import json

import numpy as np
import pytest
from small_models import SHALLOW_ECAPA, lived_in

from chns.bundle.bundle import save_bundle
from chns.cli import main
from chns.data.audio import write_audio
from chns.inference.export import FORMS


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "model"
    save_bundle(folder, lived_in(SHALLOW_ECAPA), SHALLOW_ECAPA, training={}, metrics={})
    return folder


@pytest.fixture
def recording(tmp_path):
    noise = (0.1 * np.random.default_rng(0).normal(size=30_000)).astype(np.float32)
    write_audio(tmp_path / "speech.wav", noise, sample_rate_hz=16_000)
    return tmp_path / "speech.wav"


@pytest.mark.slow
def test_torch_export_is_checked_on_the_recordings_given(model, recording, tmp_path, capsys):
    words = ["export", str(model), "--format", "torch-export", "--out", str(tmp_path / "m.pt2")]
    assert main([*words, "--check", str(recording), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["checked_on"] == [str(recording)]
    assert summary["files"]["torch-export"]["distance"] < 1e-4
    assert summary["files"]["torch-export"]["num_bytes"] == (tmp_path / "m.pt2").stat().st_size
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "checked on: built-in synthetic signal" in printed
    assert "m.pt2: torch-export, " in printed


def test_onnx_and_int8_are_written_side_by_side_and_their_error_rates_compared(model, hum_manifest, tmp_path, capsys):
    trials = tmp_path / "trials.txt"
    assert main(["trials", str(hum_manifest), "--out", str(trials), "--targets", "3", "--json"]) == 0
    capsys.readouterr()
    words = ["export", str(model), "--format", "onnx", "--out", str(tmp_path / "m.onnx"), "--int8"]
    assert main([*words, "--trials", str(trials), "--manifest", str(hum_manifest)]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    lines = captured.out.splitlines()
    assert "opset 18" in lines[1]
    assert "m.int8.onnx: int8" in lines[2]
    assert [line.split()[0] for line in lines[3:]] == ["PyTorch", "onnx", "int8"]
    eers = [float(line.split()[2]) for line in lines[3:]]
    assert eers[0] == eers[1]
    assert abs(eers[2] - eers[0]) < 5
    assert (tmp_path / "m.int8.onnx").stat().st_size < (tmp_path / "m.onnx").stat().st_size


@pytest.mark.slow
def test_the_sherpa_form_says_how_far_its_features_are_from_the_models(model, tmp_path, capsys):
    words = ["export", str(model), "--format", "sherpa-onnx", "--out", str(tmp_path / "m.onnx"), "--json"]
    assert main(words) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["files"]["sherpa-onnx"]["distance"] < 1e-4 < summary["distance_to_own_features"]


def test_a_graph_that_fails_the_check_leaves_no_file_and_exits_with_2(model, tmp_path, monkeypatch, capsys):
    wrong = FORMS["torch-export"]._replace(
        write=lambda _, path: path.touch(), load=lambda _: lambda waveforms: np.ones((len(waveforms), 16), np.float32)
    )
    monkeypatch.setitem(FORMS, "torch-export", wrong)
    assert main(["export", str(model), "--format", "torch-export", "--out", str(tmp_path / "m.pt2")]) == 2
    assert "cosine distance of the exported graph to the model must be below 0.0001" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("--format", "torch-export", "--out", "m.pt2", "--int8"),
            "--int8 must go with an ONNX format, got --format tor",
        ),
        (
            ("--format", "onnx", "--out", "m.onnx", "--trials", "t.txt"),
            "--trials and --manifest must be given together",
        ),
        (
            ("--format", "torch-export", "--out", "m.pt2", "--check", "none.wav"),
            "recording must be a file, got none.wav",
        ),
        (("--format", "torch-export", "--out", "m.onnx"), "name of the exported file must end in .pt2, got m.onnx"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(model, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    assert main(["export", str(model), *words]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("chns: error: ")
    assert message in error
    assert list(tmp_path.iterdir()) == []


def test_trials_without_labels_are_refused_before_anything_is_written(model, hum_manifest, tmp_path, capsys):
    (tmp_path / "trials.txt").write_text("s00/0 s00/1\n")
    words = ["--format", "torch-export", "--out", str(tmp_path / "m.pt2"), "--manifest", str(hum_manifest)]
    assert main(["export", str(model), *words, "--trials", str(tmp_path / "trials.txt")]) == 2
    assert "--trials must have labels to compare error rates" in capsys.readouterr().err
    assert not (tmp_path / "m.pt2").exists()

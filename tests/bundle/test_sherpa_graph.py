"""Graphs with sherpa-onnx's metadata are run as they are, on the features of the toolkit that they name."""

import json

import kaldi_native_fbank
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from chns.bundle.bundle import load_bundle
from chns.bundle.bundle_graph import load_graph_bundle
from chns.cli import main
from chns.core import ModelFileError
from chns.data.audio import write_audio
from chns.features import LogMel
from chns.features.filterbank import Filterbank
from chns.inference.verifier import Verifier

METADATA = {
    "framework": "3d-speaker",
    "language": "English",
    "url": "",
    "comment": "a stand-in",
    "sample_rate": "16000",
    "output_dim": "16",
    "normalize_samples": "1",
    "feature_normalize_type": "global-mean",
}
WEIGHTS = np.random.default_rng(1).normal(size=(80, 16)).astype(np.float32)
SPEECH = (0.1 * np.random.default_rng(0).normal(size=(2, 24_000))).astype(np.float32)


def embedded(features):
    """What the stand-in computes: the mean square of each mel, mixed."""
    return (features**2).mean(axis=1) @ WEIGHTS


def graph_bytes(*, batch="N", extra=(), **metadata):
    nodes = [
        helper.make_node("Mul", ["x", "x"], ["squares"]),
        helper.make_node("ReduceMean", ["squares"], ["mean"], axes=[1], keepdims=0),
        helper.make_node("MatMul", ["mean", "weights"], ["embedding"]),
        *extra,
    ]
    graph = helper.make_graph(
        nodes,
        "speaker",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, "T", 80])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [batch, 16])],
        [numpy_helper.from_array(WEIGHTS, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    for name, value in {**METADATA, **metadata}.items():
        if value is not None:
            model.metadata_props.add(key=name, value=value)
    return model.SerializeToString()


@pytest.fixture
def speaker_onnx(tmp_path):
    def write(**settings):
        path = tmp_path / "speaker.onnx"
        path.write_bytes(graph_bytes(**settings))
        return path

    return write


def kaldi_features(waveform, window):
    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.dither = 0.0
    options.frame_opts.window_type = window
    options.mel_opts.num_bins = 80
    options.energy_floor = 0.0
    fbank = kaldi_native_fbank.OnlineFbank(options)
    fbank.accept_waveform(16_000, (waveform * 2.0**15).tolist())
    fbank.input_finished()
    features = np.stack([fbank.get_frame(number) for number in range(fbank.num_frames_ready)])
    return features - features.mean(axis=0)


@pytest.mark.parametrize(("framework", "window"), [("wespeaker", "hamming"), ("3d-speaker", "povey")])
@pytest.mark.parametrize("scaled", ["0", "1"])
def test_a_graph_hears_what_its_toolkit_computes(speaker_onnx, framework, window, scaled):
    bundle = load_graph_bundle(speaker_onnx(framework=framework, normalize_samples=scaled))
    expected = np.stack([embedded(kaldi_features(row, window)[None])[0] for row in SPEECH])
    np.testing.assert_allclose(bundle.run(SPEECH), expected, rtol=1e-3, atol=1e-3)
    assert (bundle.sample_rate_hz, bundle.frame_samples) == (16_000, 400)


@pytest.mark.parametrize("sample_rate_hz", [8_000, 16_000])
def test_the_features_without_torch_are_those_with_it(sample_rate_hz):
    ours = Filterbank(num_mels=80, sample_rate_hz=sample_rate_hz, window="hamming")(SPEECH)
    theirs = LogMel(sample_rate_hz=sample_rate_hz, window="hamming")(torch.from_numpy(SPEECH)).numpy()
    np.testing.assert_allclose(ours, theirs, atol=2e-4)


def test_what_metadata_leave_out_is_what_the_toolkits_do(speaker_onnx):
    stated = load_graph_bundle(speaker_onnx(normalize_samples="0")).run(SPEECH)
    left_out = load_graph_bundle(speaker_onnx(normalize_samples=None, feature_normalize_type=None)).run(SPEECH)
    np.testing.assert_array_equal(left_out, stated)


def test_a_graph_of_one_recording_at_a_time_takes_several(speaker_onnx):
    several = load_graph_bundle(speaker_onnx()).run(SPEECH)
    np.testing.assert_array_equal(load_graph_bundle(speaker_onnx(batch=1)).run(SPEECH), several)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"framework": "nemo"}, "framework must be wespeaker or 3d-speaker, got 'nemo' in the metadata of"),
        ({"framework": None}, "framework must be wespeaker or 3d-speaker, got none in the metadata of"),
        ({"sample_rate": "44100"}, "sample_rate must be 8000 or 16000, got '44100' in"),
        ({"feature_normalize_type": "per_feature"}, "feature_normalize_type must be global-mean, got 'per_feature'"),
        ({"normalize_samples": "2"}, "normalize_samples must be 0 or 1, got '2'"),
        ({"made_by": "chns"}, "which `chns export` made for sherpa-onnx's own features. Use the model that"),
        ({"extra": [helper.make_node("Own", ["x"], ["y"], domain="theirs")]}, "must use standard operators only"),
    ],
)
def test_what_is_not_known_is_refused(speaker_onnx, settings, message):
    with pytest.raises(ModelFileError, match=message):
        load_graph_bundle(speaker_onnx(**settings))


def test_an_embedding_of_another_size_than_is_stated_is_refused(speaker_onnx):
    bundle = load_graph_bundle(speaker_onnx(output_dim="192"))
    with pytest.raises(ModelFileError, match="output_dim must be 16, got '192' in the metadata of"):
        bundle.run(SPEECH)


def test_a_graph_of_other_inputs_is_refused(tmp_path):
    model = onnx.load_from_string(graph_bytes())
    model.graph.input[0].type.tensor_type.shape.dim.pop()
    (tmp_path / "speaker.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelFileError, match=r"graph must"):
        load_graph_bundle(tmp_path / "speaker.onnx")


def test_it_works_wherever_a_model_is_only_used(hub, tmp_path, hum_manifest, capsys):
    hub.repository("they/graphs").commit({"speaker+1.onnx": graph_bytes(), "README.md": b""})
    for name, row in zip("ab", SPEECH, strict=True):
        write_audio(tmp_path / f"{name}.wav", row, sample_rate_hz=16_000)
    recordings = [str(tmp_path / "a.wav"), str(tmp_path / "b.wav")]
    for model in ("hf://they/graphs", "hf://they/graphs/speaker+1.onnx"):
        assert main(["verify", model, *recordings, "--threshold", "0.5", "--json"]) in (0, 1)
    store, out = str(tmp_path / "people.store"), str(tmp_path / "e.parquet")
    assert main(["enrol", model, store, "anna", recordings[0]]) == 0
    assert main(["identify", model, store, recordings[0], "--threshold", "0.5"]) == 0
    words = ["embed", model, str(hum_manifest), "--out", out, "--workers", "0"]
    assert main(words) == 0
    assert main([*words, "--device", "cuda"]) == 2
    assert "--device must be cpu for a model that is a graph alone" in capsys.readouterr().err
    trials, scores = str(tmp_path / "t.txt"), str(tmp_path / "s.txt")
    assert main(["trials", str(hum_manifest), "--out", trials, "--targets", "2"]) == 0
    words = ["evaluate", model, str(hum_manifest), "--trials", trials, "--out", scores, "--workers", "0", "--json"]
    capsys.readouterr()
    assert main(words) == 0
    assert 0 <= json.loads(capsys.readouterr().out)["eer"] <= 1


def test_it_has_no_weights_to_train_and_cannot_be_written_into(speaker_onnx):
    with pytest.raises(FileNotFoundError, match=r"model must hold model\.safetensors for this, got only a graph in"):
        load_bundle(speaker_onnx())
    with pytest.raises(ValueError, match="threshold must be given for a model without one"):
        Verifier.load(speaker_onnx()).threshold  # noqa: B018

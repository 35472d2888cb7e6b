"""Exported graphs: they compute what the model does, for any batch and length, or there is no file."""

import logging

import foreign_models
import numpy as np
import onnx
import pytest
import torch
from small_models import SHALLOW_ECAPA, lived_in

from chns.bundle import bundle_graph
from chns.bundle.bundle import Architecture
from chns.bundle.bundle_graph import OPSET, ExportError, built_in_signal
from chns.bundle.graph import largest_distance, model_graph, onnx_graph
from chns.bundle.layouts import import_model
from chns.core import AudioError, ChnsError, ConfigError
from chns.data.audio import read_audio, write_audio
from chns.data.manifest import Manifest
from chns.encoders import SpeakerEncoder
from chns.evaluation.embedder import Embedder
from chns.evaluation.metrics import verification_metrics
from chns.evaluation.verification import score_trials
from chns.features import LogMel
from chns.inference import export
from chns.inference.export import (
    FORMS,
    SherpaEncoder,
    check_recordings,
    evaluate_graphs,
    export_for_sherpa,
    export_int8,
    export_model,
    sherpa_features,
    sherpa_graph,
)

SUFFIXES = {"onnx": ".onnx", "torch-export": ".pt2"}
SHAPES = [(1, 8_000), (3, 24_123), (1, 560), (2, 16_000)]


@pytest.fixture(scope="module")
def model():
    return lived_in(SHALLOW_ECAPA)


@pytest.fixture(scope="module")
def onnx_path(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    export_model(model, path, form="onnx", check=built_in_signal(model))
    return path


@pytest.fixture(scope="module")
def sherpa_export(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("sherpa") / "speaker.onnx"
    return export_for_sherpa(model, SHALLOW_ECAPA, path, check=built_in_signal(model), comment="a comment")


def noise(shape, seed=0):
    return (0.1 * np.random.default_rng(seed).normal(size=shape)).astype(np.float32)


@pytest.fixture
def quickly_written(monkeypatch):
    """torch's own format is written as an empty file, which takes no seconds; what reads it is given."""

    def with_reader(load):
        form = FORMS["torch-export"]._replace(write=lambda _, path: path.touch(), load=load)
        monkeypatch.setitem(export.FORMS, "torch-export", form)

    return with_reader


@pytest.mark.slow
def test_torchs_own_format_computes_what_the_model_does_for_any_batch_and_length(model, tmp_path):
    path = tmp_path / "model.pt2"
    exported = export_model(model, path, form="torch-export", check=built_in_signal(model))
    assert (exported.path, exported.num_bytes, exported.opset) == (path, path.stat().st_size, None)
    assert exported.distance < 1e-6
    assert (
        largest_distance(FORMS["torch-export"].load(path), model_graph(model), [noise(shape) for shape in SHAPES])
        < 1e-6
    )


def test_onnx_computes_what_the_model_does_for_any_batch_and_length(model, onnx_path):
    assert largest_distance(onnx_graph(onnx_path), model_graph(model), [noise(shape) for shape in SHAPES]) < 1e-6


@pytest.mark.slow
def test_a_residual_network_exports_with_any_batch_and_length(tmp_path):
    settings = {"channels": [8, 8, 16, 16], "blocks": [1, 1, 1, 1], "embedding_dim": 16}
    model = lived_in(Architecture(encoder="chns.encoders.ThinResNet", encoder_settings=settings))
    export_model(model, tmp_path / "m.pt2", form="torch-export", check=built_in_signal(model))
    graph = FORMS["torch-export"].load(tmp_path / "m.pt2")
    shapes = [(1, 1_680), (3, 24_123), (1, 8_000)]  # nine frames at least, for three stages halve them
    assert largest_distance(graph, model_graph(model), [noise(shape) for shape in shapes]) < 1e-6


def test_the_onnx_file_states_opset_rate_and_free_axes(onnx_path):
    file = onnx.load(onnx_path)
    assert [entry.version for entry in file.opset_import if not entry.domain] == [OPSET]
    assert {entry.key: entry.value for entry in file.metadata_props}["sample_rate_hz"] == "16000"
    (given,) = file.graph.input
    assert given.name == "waveforms"
    assert [axis.dim_param for axis in given.type.tensor_type.shape.dim] == ["batch", "samples"]
    assert [output.name for output in file.graph.output] == ["embeddings"]
    assert [path.name for path in onnx_path.parent.iterdir()] == ["model.onnx"]


def test_a_graph_that_computes_something_else_leaves_no_file_and_the_old_one_stays(model, tmp_path, quickly_written):
    quickly_written(lambda _: model_graph(SHALLOW_ECAPA.build().eval()))
    with pytest.raises(ExportError, match=r"cosine distance of the exported graph to the model must be below 0\.0001"):
        export_model(model, tmp_path / "new.pt2", form="torch-export", check=built_in_signal(model))
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "old.pt2").write_text("old")
    with pytest.raises(ExportError, match="No file was written"):
        export_model(model, tmp_path / "old.pt2", form="torch-export", check=built_in_signal(model))
    assert (tmp_path / "old.pt2").read_text() == "old"


def test_a_graph_that_gives_no_numbers_is_refused(model, tmp_path, quickly_written):
    quickly_written(lambda _: lambda inputs: np.full((len(inputs), 16), np.nan))
    with pytest.raises(ExportError, match="got nan"):
        export_model(model, tmp_path / "new.pt2", form="torch-export", check=built_in_signal(model))


@pytest.mark.parametrize("form", FORMS)
def test_a_name_that_hides_the_format_is_refused(model, tmp_path, form):
    with pytest.raises(ValueError, match=rf"name of the exported file must end in {SUFFIXES[form]}, got .*model\.bin"):
        export_model(model, tmp_path / "model.bin", form=form, check=built_in_signal(model))


def test_an_unknown_form_and_nothing_to_check_on_are_errors(model, tmp_path, quickly_written):
    quickly_written(lambda _: model_graph(model))
    with pytest.raises(ValueError, match="form must be one of onnx, torch-export, got 'tflite'"):
        export_model(model, tmp_path / "m.tflite", form="tflite", check=built_in_signal(model))
    with pytest.raises(ValueError, match="check must hold at least one batch of waveforms, got none"):
        export_model(model, tmp_path / "m.pt2", form="torch-export", check=[])
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_named_with_the_way_out(model, tmp_path, monkeypatch):
    monkeypatch.setattr(bundle_graph, "find_spec", lambda name: None if name == "onnxscript" else name)
    with pytest.raises(ChnsError, match=r"onnxscript must be installed for ONNX.*pip install 'chns\[export\]'"):
        export_model(model, tmp_path / "m.onnx", form="onnx", check=built_in_signal(model))


def test_check_recordings_gives_several_lengths_and_refuses_what_is_too_short(model, tmp_path):
    write_audio(tmp_path / "a.wav", noise(32_000), sample_rate_hz=16_000)
    batches = check_recordings([tmp_path / "a.wav"], model)
    assert [batch.shape for batch in batches] == [(2, 8_000), (2, 16_000), (2, 32_000)]
    assert len({batch.shape[1] for batch in built_in_signal(model)}) == 4
    write_audio(tmp_path / "b.wav", noise(559), sample_rate_hz=16_000)
    with pytest.raises(AudioError, match=r"recording must hold at least 560 samples, got 559 in .*b\.wav"):
        check_recordings([tmp_path / "b.wav"], model)


def test_int8_is_smaller_close_and_leaves_the_features_alone(model, onnx_path, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        small = export_int8(onnx_path, tmp_path / "m.int8.onnx", load=onnx_graph, check=built_in_signal(model))
    assert caplog.records == []
    assert 0 < small.distance < 1e-3
    weights = {value.name: value.data_type for value in onnx.load(small.path).graph.initializer}
    assert weights["features.spectrum"] == weights["features.filters"] == onnx.TensorProto.FLOAT
    quantised = [name for name in weights if name.endswith("_quantized")]
    num_slices_of_pooling = 3  # of one layer's weight: frame, mean, deviation
    num_layers = sum(isinstance(module, (torch.nn.Conv1d, torch.nn.Linear)) for module in model.modules())
    assert len(quantised) == num_layers - 1 + num_slices_of_pooling
    assert {weights[name] for name in quantised} == {onnx.TensorProto.UINT8}
    encoder_bytes = 4 * sum(parameter.numel() for parameter in model.parameters())
    assert onnx_path.stat().st_size - small.num_bytes > 0.4 * encoder_bytes


def test_an_int8_graph_that_is_far_off_leaves_no_file(model, onnx_path, tmp_path):
    other = model_graph(SHALLOW_ECAPA.build().eval())
    load = {onnx_path: model_graph(model)}
    with pytest.raises(ExportError, match=r"must be below 0\.02, got"):
        export_int8(
            onnx_path, tmp_path / "m.onnx", load=lambda path: load.get(path, other), check=built_in_signal(model)
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_error_rates_of_the_graphs_are_those_of_the_model(model, onnx_path, hum_manifest):
    manifest = Manifest.read(hum_manifest)
    enrolment, test = np.arange(0, 95), np.arange(5, 100)
    test[:50] = np.arange(50) // 5 * 5 + (np.arange(50) + 1) % 5
    is_target = manifest.speaker_labels[enrolment] == manifest.speaker_labels[test]
    graphs = {"model": model_graph(model), "onnx": onnx_graph(onnx_path)}
    results = evaluate_graphs(graphs, model, manifest, enrolment, test, is_target)
    expected = verification_metrics(score_trials(Embedder(model=model), manifest, enrolment, test), is_target)
    assert 0 < is_target.sum() < 95
    for result in results.values():
        assert result.metrics.eer == pytest.approx(expected.eer, abs=1e-6)
        assert result.real_time_factor > 0


@pytest.mark.slow
def test_the_sherpa_file_carries_the_metadata_that_sherpa_reads(sherpa_export):
    exported, to_own_features = sherpa_export
    metadata = {entry.key: entry.value for entry in onnx.load(exported.path).metadata_props}
    assert metadata == {
        "framework": "wespeaker",
        "language": "unspecified",
        "url": "",
        "comment": "a comment",
        "sample_rate": "16000",
        "output_dim": "16",
        "normalize_samples": "0",
        "made_by": "chns",
    }
    assert exported.distance < 1e-6
    assert exported.distance < to_own_features < 0.1


@pytest.mark.parametrize("num_samples", [400, 16_000, 16_079, 16_080, 16_159, 31_337])
def test_sherpa_features_are_kaldis_centred_and_mirrored(num_samples):
    knf = pytest.importorskip("kaldi_native_fbank")
    waveform = noise(num_samples)
    options = knf.FbankOptions()
    options.frame_opts.dither = 0
    options.frame_opts.snip_edges = False
    options.mel_opts.num_bins = 80
    options.mel_opts.high_freq = -400
    theirs = knf.OnlineFbank(options)
    theirs.accept_waveform(16_000, (waveform * 32_768).tolist())
    theirs.input_finished()
    expected = np.stack([theirs.get_frame(index) for index in range(theirs.num_frames_ready)])
    ours = sherpa_features(16_000)(torch.from_numpy(waveform)[None])[0].numpy()
    np.testing.assert_allclose(ours, expected, atol=5e-3)


def test_a_model_trained_with_sherpas_mels_sees_them_unchanged(model):
    """Then only the framing differs: the same as the model on a waveform that starts 2.5 ms later."""
    exact = SpeakerEncoder(LogMel(high_hz=7_600), model.encoder)
    encoder = SherpaEncoder(exact, low_hz=20.0, high_hz=7_600.0).eval()
    waveforms = torch.from_numpy(noise((2, 16_120)))
    with torch.no_grad():
        theirs = encoder(sherpa_features(16_000)(waveforms))
        torch.testing.assert_close(theirs, exact(waveforms[:, 40:]), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"num_mels": 64}, "num_mels must be 80, as sherpa-onnx has it, got 64"),
        ({"hop_seconds": 0.0125}, r"hop_seconds must be 0\.01, as sherpa-onnx has it, got 0\.0125"),
        ({"window": "hamming"}, r"window must be povey, as sherpa-onnx has it, got hamming\. Export as onnx\."),
    ],
)
def test_features_that_sherpa_cannot_compute_are_refused(model, tmp_path, setting, message):
    architecture = Architecture(encoder=SHALLOW_ECAPA.encoder, feature_settings=setting)
    with pytest.raises(ConfigError, match=message):
        export_for_sherpa(model, architecture, tmp_path / "m.onnx", check=built_in_signal(model))


def test_other_features_than_kaldis_are_refused_for_sherpa(tmp_path):
    architecture = Architecture(
        encoder=SHALLOW_ECAPA.encoder,
        encoder_settings=SHALLOW_ECAPA.encoder_settings,
        features="chns.features.DecibelMel",
    )
    model = architecture.build()
    with pytest.raises(
        ConfigError, match=r"features must be chns\.features\.LogMel for sherpa-onnx, got chns\.features\.DecibelMel\."
    ):
        export_for_sherpa(model, architecture, tmp_path / "m.onnx", check=built_in_signal(model))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("toolkit", ["speechbrain", "wespeaker-ecapa", "wespeaker-resnet34"])
def test_imported_models_export_with_their_features_inside_also_with_8_bits(toolkit, tmp_path):
    """Reflected padding, centred frames and their range in decibels, and other strides are in the graph."""
    states = {
        "speechbrain": foreign_models.speechbrain_state,
        "wespeaker-ecapa": foreign_models.wespeaker_ecapa_state,
        "wespeaker-resnet34": lambda: foreign_models.wespeaker_resnet_state(blocks=(1, 1, 1, 1)),
    }
    torch.save(dict(states[toolkit]()), tmp_path / "weights.pt2")
    bundle = import_model(toolkit, tmp_path / "weights.pt2", tmp_path / "model")
    check = built_in_signal(bundle.model)
    path = tmp_path / "m.onnx"
    assert export_model(bundle.model, path, form="onnx", check=check).distance < 1e-5
    shapes = [(1, 8_000), (3, 24_123), (2, 16_000)]
    assert largest_distance(onnx_graph(path), model_graph(bundle.model), [noise(shape) for shape in shapes]) < 1e-5
    small = export_int8(path, tmp_path / "m.int8.onnx", load=onnx_graph, check=check)
    assert small.num_bytes < path.stat().st_size


@pytest.mark.slow
def test_sherpa_onnx_itself_gives_the_embeddings_of_the_file(sherpa_export, shared_data):
    sherpa_onnx = pytest.importorskip("sherpa_onnx")
    path = sherpa_export[0].path
    extractor = sherpa_onnx.SpeakerEmbeddingExtractor(sherpa_onnx.SpeakerEmbeddingExtractorConfig(model=str(path)))
    assert extractor.dim == 16
    graph = sherpa_graph(path, 16_000)
    for recording in sorted(shared_data.glob("voxceleb2-mini/*/*/*.flac"))[:400:50]:
        waveform = read_audio(recording)
        stream = extractor.create_stream()
        stream.accept_waveform(16_000, waveform)
        stream.input_finished()
        theirs = np.array(extractor.compute(stream), np.float32)[None]
        assert largest_distance(graph, lambda _, theirs=theirs: theirs, [waveform[None]]) < 1e-4

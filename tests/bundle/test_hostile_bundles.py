"""Bundles made on purpose: no code of ours but encoders is run, and little work or memory is spent on them."""

import json
import threading

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from chns.bundle.bounded import parameters_limited
from chns.bundle.bundle import Architecture, load_bundle, save_bundle, weights_digest
from chns.core import ConfigError, ModelFileError
from chns.inference.verifier import Verifier

TINY = Architecture(
    encoder="chns.encoders.EcapaTdnn", encoder_settings={"channels": 16, "aggregation_channels": 24, "embedding_dim": 8}
)
SOUND = (0.1 * np.random.default_rng(0).normal(size=16_000)).astype(np.float32)


@pytest.fixture
def bundle(tmp_path):
    save_bundle(tmp_path / "model", TINY.build(), TINY, training={}, metrics={})
    return tmp_path / "model"


def edited(bundle, **changes):
    path = bundle / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return bundle


@pytest.mark.parametrize("part", ["encoder", "features"])
@pytest.mark.parametrize(
    "factory", ["chns.cli.main", "chns.core.files.atomic_folder", "chns.inference.publish.push_repository"]
)
def test_no_other_function_of_this_package_is_called(bundle, part, factory):
    with pytest.raises(ModelFileError, match=rf"{part} must come from a trusted package, got '{factory}'"):
        load_bundle(edited(bundle, **{part: factory}))


def test_what_is_no_network_is_refused(bundle):
    function = {"encoder": "chns.encoders.layers.frame_mask", "encoder_settings": {"lengths": None, "frames": None}}
    with pytest.raises(ModelFileError, match=r"encoder must come from a trusted package, got 'chns\.encoders\.layers"):
        load_bundle(edited(bundle, **function))
    with pytest.raises(ConfigError, match=r"encoder must name a module such as chns\.encoders\.ResNet, got 'chns"):
        Architecture(**function).build()


@pytest.mark.parametrize(
    ("encoder", "settings"),
    [
        ("chns.encoders.ThinResNet", {"blocks": [10**9, 1, 1, 1]}),
        ("chns.encoders.EcapaTdnn", {"channels": 2**20, "res2net_scale": 2**20, "aggregation_channels": 24}),
        (
            "chns.encoders.EcapaTdnn",
            {**TINY.encoder_settings, "variant": {"kernels": [1] * 50_000, "dilations": [1] * 50_000}},
        ),
    ],
)
def test_a_network_of_endless_layers_is_given_up(bundle, encoder, settings):
    with pytest.raises(ModelFileError, match=r"encoder must have at most \d+ parameters, as its weights allow"):
        load_bundle(edited(bundle, encoder=encoder, encoder_settings=settings))


def test_only_what_the_block_itself_builds_is_counted():
    with parameters_limited(2):
        thread = threading.Thread(target=lambda: nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1)))
        thread.start()
        thread.join()
        nn.Linear(1, 1)
        with pytest.raises(ConfigError, match="encoder must have at most 2 parameters, as its weights allow"):
            nn.Linear(1, 1)
    nn.Linear(1, 1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_weights_of_another_type_are_refused_even_with_the_right_digest(bundle, dtype):
    path = bundle / "model.safetensors"
    weights = {
        name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in load_file(path).items()
    }
    save_file(weights, path)
    with pytest.raises(ModelFileError, match=rf"weights must be torch\.float32, got {dtype} of "):
        load_bundle(bundle)


@pytest.mark.parametrize("features", ["chns.features.LogMel", "chns.features.DecibelMel"])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sample_rate_hz": 96_000, "frame_seconds": 0.005}, "sample_rate_hz must be between 4000 and 48000, got 96"),
        ({"hop_seconds": 0.0005, "frame_seconds": 0.008}, r"hop_seconds must be at least 0\.001 .* got 8 samples"),
        ({"hop_seconds": 0.0015}, r"at least 0\.001 and a 16th of frame_seconds, and at most frame_seconds, got 24"),
        ({"hop_seconds": 0.03}, r"hop_seconds must be .* at most frame_seconds, got 480 samples"),
    ],
)
def test_features_that_turn_seconds_into_gigabytes_are_refused(features, settings, message):
    with pytest.raises(ConfigError, match=message):
        Architecture(encoder=TINY.encoder, features=features, feature_settings={"num_mels": 20, **settings}).build()


@pytest.mark.parametrize("dilations", [[1, 2, 3, -1], [1, 2, 3, 2**63]])
def test_dilations_that_would_fail_or_hang_are_refused(bundle, dilations):
    with pytest.raises(ModelFileError, match="dilations must be whole numbers from 1 to 100"):
        Verifier.load(edited(bundle, encoder_settings={**TINY.encoder_settings, "variant": {"dilations": dilations}}))


def test_a_network_that_fails_only_when_used_is_an_error_of_ours(bundle, monkeypatch):
    def fail(*_):
        raise RuntimeError("shapes do not fit")

    verifier = Verifier.load(bundle)
    monkeypatch.setattr("chns.encoders.ecapa_tdnn.EcapaTdnn.forward", fail)
    with pytest.raises(ModelFileError, match="model must be able to embed 16000 samples, got an error"):
        verifier.embed(SOUND, 16_000)


def test_weights_that_are_no_numbers_are_an_error_of_ours(bundle):
    path = bundle / "model.safetensors"
    weights = load_file(path)
    weights["embedding.weight"] = torch.full_like(weights["embedding.weight"], float("nan"))
    save_file(weights, path)
    model = TINY.build()
    model.encoder.load_state_dict(weights)
    with pytest.raises(ModelFileError, match="embedding must be finite and not zero, got length nan"):
        Verifier.load(edited(bundle, weights_sha256=weights_digest(model.encoder))).embed(SOUND, 16_000)


def test_a_value_that_is_deep_or_long_does_not_make_the_error_so(bundle):
    deep = json.loads("[" * 300 + "]" * 300)
    for value in (deep, ["x" * 1_000] * 100):
        with pytest.raises(ModelFileError, match="encoder_settings must be of type dict, got") as caught:
            load_bundle(edited(bundle, encoder_settings=value))
        assert len(str(caught.value)) < 1_000

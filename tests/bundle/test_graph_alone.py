"""A bundle of a graph and a description, without weights, as the package carries one."""

import shutil

import numpy as np
import pytest
from small_models import SHALLOW_ECAPA, lived_in

from chns.bundle.bundle import add_metrics, load_bundle, read_description, save_bundle
from chns.bundle.bundle_graph import add_graph, load_graph_bundle
from chns.inference.verifier import Verifier


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone") / "model"
    model = lived_in(SHALLOW_ECAPA)
    save_bundle(folder, model, SHALLOW_ECAPA, training={}, metrics={"validation": {"threshold": 0.4}})
    add_graph(folder, model)
    (folder / "model.safetensors").unlink()
    return folder


def test_it_verifies_without_weights(alone):
    waveform = 0.1 * np.random.default_rng(0).standard_normal(16_000).astype(np.float32)
    verifier = Verifier.load(alone)
    assert verifier.verify(verifier.embed(waveform, 16_000), verifier.embed(0.5 * waveform, 16_000)).accepted
    assert load_graph_bundle(alone).run(waveform[None]).shape == (1, 16)


def test_its_metrics_can_be_added_to(alone, tmp_path):
    copy = shutil.copytree(alone, tmp_path / "copy")
    digest = read_description(copy)["weights_sha256"]
    add_metrics(copy, {"calibration": {"scale": 10.0, "offset": -4.0}}, digest=digest)
    verifier = Verifier.load(copy)
    one = verifier.embed(0.1 * np.random.default_rng(0).standard_normal(16_000), 16_000)
    assert verifier.verify(one, one).log_likelihood_ratio == pytest.approx(6.0, abs=1e-3)


def test_what_needs_weights_says_so(alone):
    with pytest.raises(FileNotFoundError, match=r"model must hold model\.safetensors for this, got only a graph"):
        load_bundle(alone)
    with pytest.raises(FileNotFoundError, match=r"take the one that it was made from"):
        Verifier.load(alone, backend="torch")


def test_a_folder_with_neither_is_no_model(alone, tmp_path):
    copy = shutil.copytree(alone, tmp_path / "copy")
    (copy / "model.onnx").unlink()
    with pytest.raises(FileNotFoundError, match=r"model must be a folder with config\.json and model\.safetensors"):
        load_graph_bundle(copy)

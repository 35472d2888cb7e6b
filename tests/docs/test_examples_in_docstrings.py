"""The examples of the stable names run as they stand, in a folder that holds what they name."""

import doctest

import numpy as np
import pytest
import soundfile

import chns
from chns.bundle.bundle import Architecture, save_bundle
from chns.data.manifest import Manifest


@pytest.fixture(scope="module")
def folder(tmp_path_factory, hum_manifest):
    """Two recordings of one speaker, manifests and a model."""
    folder = tmp_path_factory.mktemp("examples")
    for name in ("a", "b"):
        samples = [soundfile.read(path)[0] for path in sorted((hum_manifest.parent / "s00").iterdir())]
        soundfile.write(folder / f"{name}.wav", np.resize(np.concatenate(samples), 5 * 16_000), 16_000)
    (folder / "notes.txt").write_text("no audio")
    manifest = Manifest.read(hum_manifest)
    manifest.write(folder / "own.parquet")
    manifest.split_speakers(5, seed=0)[1].write(folder / "test.parquet")
    architecture = Architecture(encoder="chns.encoders.ecapa_tdnn_mobile")
    save_bundle(folder / "runs" / "chns" / "model", architecture.build(), architecture, training={}, metrics={})
    return folder


@pytest.mark.parametrize("name", chns.__all__)
def test_every_stable_name_has_an_example_that_runs(name, folder, monkeypatch):
    monkeypatch.setattr("chns.inference.publish.push_repository", lambda *_, **__: "https://hub.example/commit/0")
    monkeypatch.chdir(folder)
    [test] = [test for test in doctest.DocTestFinder(recurse=False).find(getattr(chns, name), name) if test.examples]
    output = []
    assert doctest.DocTestRunner().run(test, out=output.append).failed == 0, "".join(output)

"""A bundle names its features; one from before it did has Kaldi's."""

import json

import pytest
import torch

from chns.bundle.bundle import Architecture, load_bundle, save_bundle
from chns.core.errors import ConfigError, ModelFileError
from chns.features import DecibelMel, LogMel

TINY = {"encoder": "chns.encoders.EcapaTdnn", "encoder_settings": {"channels": 16, "aggregation_channels": 24}}


def saved(folder, **features):
    architecture = Architecture(**TINY, **features)
    save_bundle(folder, architecture.build(), architecture, training={}, metrics={})
    return folder


def edited(folder, change):
    description = json.loads((folder / "config.json").read_text())
    change(description)
    (folder / "config.json").write_text(json.dumps(description))
    return folder


def test_features_come_back_as_they_were(tmp_path):
    folder = saved(tmp_path / "m", features="chns.features.DecibelMel", feature_settings={"range_db": 60.0})
    features = load_bundle(folder).model.features
    assert isinstance(features, DecibelMel)
    assert features.range_db == 60.0


def test_a_bundle_that_names_no_features_has_kaldis(tmp_path):
    folder = edited(saved(tmp_path / "m"), lambda description: description.pop("features"))
    bundle = load_bundle(folder)
    assert bundle.architecture.features == "chns.features.LogMel"
    assert isinstance(bundle.model.features, LogMel)


def test_features_of_a_package_that_is_not_trusted_are_refused(tmp_path):
    folder = edited(saved(tmp_path / "m"), lambda description: description.update(features="os.system"))
    with pytest.raises(ModelFileError, match=r"features must come from a trusted package, got 'os\.system'"):
        load_bundle(folder)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (
            "chns.features.Nothing",
            "factory must be the import path of a class or function, got 'chns.features.Nothing'",
        ),
        ("chns.encoders.ThinResNet", "features must name a module such as chns.features.LogMel, got 'chns.encoders"),
    ],
)
def test_what_are_no_features_are_refused(tmp_path, features, message):
    folder = edited(saved(tmp_path / "m"), lambda description: description.update(features=features))
    with pytest.raises(ModelFileError, match="features must come from a trusted package, got 'chns"):
        load_bundle(folder)
    with pytest.raises(ConfigError, match=message):
        Architecture(**TINY, features=features).build()


def test_an_empty_model_takes_no_memory():
    assert all(p.is_meta for p in Architecture(**TINY).build(empty=True).encoder.parameters())
    assert not any(p.is_meta for p in Architecture(**TINY).build().parameters())
    assert torch.isfinite(Architecture(**TINY).build(empty=True).features(torch.zeros(1, 800))).all()

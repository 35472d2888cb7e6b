"""Model bundles: what is saved comes back; damaged, foreign and hostile ones are refused."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from chns.bundle.bundle import Architecture, load_bundle, load_model, save_bundle, weights_digest
from chns.core import ConfigError, ModelFileError

TINY = Architecture(
    encoder="chns.encoders.EcapaTdnn",
    encoder_settings={"channels": 16, "aggregation_channels": 24, "embedding_dim": 8},
    feature_settings={"num_mels": 40},
)


@pytest.fixture
def bundle(tmp_path):
    torch.manual_seed(0)
    save_bundle(tmp_path / "model", TINY.build(), TINY, training={"steps": 3}, metrics={"eer": 0.1})
    return tmp_path / "model"


def edited(bundle, **changes):
    path = bundle / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return bundle


def test_a_loaded_model_computes_what_the_saved_one_did(tmp_path):
    model = TINY.build().eval()
    save_bundle(tmp_path / "model", model, TINY, training={}, metrics={})
    waveforms, lengths = torch.randn(2, 8000), torch.tensor([8000, 5000])
    loaded = load_model(tmp_path / "model")
    assert not loaded.training
    with torch.no_grad():
        # Where a tensor lies in memory decides in which order its products are summed.
        torch.testing.assert_close(loaded(waveforms, lengths), model(waveforms, lengths), atol=1e-6, rtol=0)


def test_what_is_known_of_the_model_comes_back(bundle):
    loaded = load_bundle(bundle)
    assert loaded.architecture == TINY
    assert loaded.training == {"steps": 3}
    assert loaded.metrics == {"eer": 0.1}
    assert loaded.digest == weights_digest(loaded.model.encoder)
    assert loaded.model.sample_rate_hz == 16_000


def test_saving_again_replaces_the_whole_bundle(bundle):
    (bundle / ".config.json.lock").touch()
    save_bundle(bundle, TINY.build(), TINY, training={"steps": 4}, metrics={})
    assert load_bundle(bundle).training == {"steps": 4}
    assert sorted(path.name for path in bundle.iterdir()) == ["config.json", "model.safetensors"]
    assert [path.name for path in bundle.parent.iterdir()] == ["model"]


def test_a_failed_save_leaves_the_old_bundle(bundle):
    with pytest.raises(TypeError):
        save_bundle(bundle, TINY.build(), TINY, training={"not json": object()}, metrics={})
    assert load_bundle(bundle).training == {"steps": 3}
    assert [path.name for path in bundle.parent.iterdir()] == ["model"]


def test_a_missing_bundle_or_file_is_named(tmp_path, bundle):
    with pytest.raises(FileNotFoundError, match=r"model must be a folder with config\.json and .*nothing"):
        load_bundle(tmp_path / "nothing")
    (bundle / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"model must be a folder with config\.json and model\.safetensors"):
        load_bundle(bundle)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_link_that_leads_to_itself_is_no_file_of_a_bundle(bundle, name):
    (bundle / name).unlink()
    (bundle / name).symlink_to(name)
    with pytest.raises(FileNotFoundError, match=r"model must be a folder with config\.json and model\.safetensors"):
        load_bundle(bundle)


@pytest.mark.parametrize("position", [0.0, 0.1, 0.5, 0.99])
def test_a_flipped_byte_of_the_weights_is_noticed(bundle, position):
    path = bundle / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[int(position * (len(content) - 1))] ^= 0x41
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match="weights must"):
        load_bundle(bundle)


def test_truncated_weights_are_noticed(bundle):
    path = bundle / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelFileError, match="weights must fit the described encoder"):
        load_bundle(bundle)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"format": "other"}', "[" * 100_000])
def test_a_description_that_is_none_is_named(bundle, text):
    (bundle / "config.json").write_text(text)
    with pytest.raises(ModelFileError, match=r"(description must be JSON|model must be of format).*config\.json"):
        load_bundle(bundle)


def test_a_huge_description_is_not_read(bundle):
    (bundle / "config.json").write_text(" " * (2**20 + 1))
    with pytest.raises(ModelFileError, match="description must be at most 1048576 bytes"):
        load_bundle(bundle)


def test_a_field_of_the_wrong_type_is_named(bundle):
    with pytest.raises(ModelFileError, match="encoder_settings must be of type dict, got 3"):
        load_bundle(edited(bundle, encoder_settings=3))


@pytest.mark.parametrize("factory", ["os.system", "subprocess.run", "builtins.exec", "chnsevil.encoders.X"])
def test_code_of_other_packages_is_not_run(bundle, factory):
    with pytest.raises(ModelFileError, match="encoder must come from a trusted package, got "):
        load_bundle(edited(bundle, encoder=factory, encoder_settings={}))


def test_a_package_can_be_trusted(bundle):
    with pytest.raises(ModelFileError, match="weights must fit the described encoder"):
        load_bundle(edited(bundle, encoder="torch.nn.Identity", encoder_settings={}), trusted_packages=["torch"])


@pytest.mark.parametrize(
    "settings",
    [
        {"channels": 10**6, "aggregation_channels": 10**6},
        {"channels": 16, "aggregation_channels": 48},
        {"channels": 16, "aggregation_channels": 24, "colour": "red"},
        {"channels": "many", "aggregation_channels": 24},
    ],
)
def test_an_encoder_that_does_not_fit_the_weights_is_refused_without_taking_its_memory(bundle, settings):
    """The first would take 40 TB."""
    with pytest.raises(ModelFileError, match="weights must fit the described encoder"):
        load_bundle(edited(bundle, encoder_settings=settings))


def test_features_out_of_range_are_refused(bundle):
    with pytest.raises(ModelFileError, match="weights must fit the described encoder"):
        load_bundle(edited(bundle, feature_settings={"num_mels": 10**9}))


def test_other_weights_of_the_same_shape_are_noticed(bundle):
    path = bundle / "model.safetensors"
    save_file({name: tensor + 1 for name, tensor in load_file(path).items()}, path)
    with pytest.raises(ModelFileError, match=r"weights must have the digest that config\.json states"):
        load_bundle(bundle)


def test_settings_unknown_to_the_encoder_are_an_error_when_building():
    with pytest.raises(ConfigError, match=r"settings of chns\.encoders\.EcapaTdnn must be among"):
        Architecture(encoder="chns.encoders.EcapaTdnn", encoder_settings={"width": 3}).build()


def test_the_folder_of_a_training_names_its_model(tmp_path):
    save_bundle(tmp_path / "run" / "model", TINY.build(), TINY, training={}, metrics={})
    with pytest.raises(FileNotFoundError, match=r"got that of a training, .*run\. Its model is .*run/model\."):
        load_bundle(tmp_path / "run")

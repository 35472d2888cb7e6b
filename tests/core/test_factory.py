"""Objects from import paths."""

import pytest
import torch

from chns.core.errors import ConfigError
from chns.core.factory import make
from chns.losses import AAMSoftmaxLoss, SupConLoss


def test_settings_are_passed():
    loss = make("chns.losses.SupConLoss", {"margin": 0.3})
    assert isinstance(loss, SupConLoss)
    assert loss.margin == 0.3


def test_derived_settings_are_passed_only_to_who_takes_them_and_never_override():
    assert isinstance(make("chns.losses.SupConLoss", {}, num_speakers=5), SupConLoss)
    loss = make("chns.losses.AAMSoftmaxLoss", {"embedding_dim": 3}, num_speakers=5, embedding_dim=7)
    assert isinstance(loss, AAMSoftmaxLoss)
    assert loss.weight.shape == (5, 3)


def test_a_class_of_any_package_will_do():
    assert isinstance(make("torch.nn.Linear", {"in_features": 2, "out_features": 3}), torch.nn.Linear)


@pytest.mark.parametrize(
    "factory", ["nothing", "chns.losses.NoSuchLoss", "no.such.module.Loss", "", "chns.losses.__all__"]
)
def test_a_path_that_leads_nowhere_is_named(factory):
    with pytest.raises(ConfigError, match="factory must be the import path of a class or function, got "):
        make(factory, {})


def test_an_unknown_setting_is_named_with_the_known_ones():
    with pytest.raises(
        ConfigError, match=r"settings of chns\.losses\.SupConLoss must be among temperature, .* got tau"
    ):
        make("chns.losses.SupConLoss", {"tau": 1})


@pytest.mark.parametrize("settings", [{"temperature": -1.0}, {"temperature": "warm"}])
def test_a_refused_value_is_named(settings):
    with pytest.raises(ConfigError, match=r"settings of chns\.losses\.SupConLoss must suit it, got \{'temperature': "):
        make("chns.losses.SupConLoss", settings)

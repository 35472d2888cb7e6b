"""A model of our own for each test, to be attacked or lost."""

import shutil

import pytest
from small_models import saved_model


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return saved_model(tmp_path_factory.mktemp("saved") / "model")


@pytest.fixture
def bundle(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "model")

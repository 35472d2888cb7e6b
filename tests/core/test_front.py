import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGES = (
    *("chns", "chns.bundle", "chns.core", "chns.data", "chns.evaluation", "chns.features", "chns.inference"),
    *("chns.losses", "chns.sampling", "chns.store"),
)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_front_and_its_stub_name_the_same_things(package):
    front = importlib.import_module(package)
    stub = ast.parse(Path(front.__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    stated = {
        alias.name: node.module
        for node in stub.body
        if isinstance(node, ast.ImportFrom) and node.module.startswith("chns.")
        for alias in node.names
    }
    assert sorted(stated) == sorted(front.__all__)
    for name, home in stated.items():
        assert getattr(front, name) is getattr(importlib.import_module(home), name)


def test_a_name_that_is_not_there_is_an_attribute_error():
    front = importlib.import_module("chns")
    with pytest.raises(AttributeError, match="module 'chns' has no attribute 'SpeakerCluster'"):
        front.SpeakerCluster  # noqa: B018


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import chns", {"numpy", "torch"}),
        ("from chns import HardBatches, BatchShape", {"torch", "scipy", "pyarrow", "soundfile"}),
        ("from chns import Verifier", {"torch", "scipy", "pyarrow", "faiss"}),
    ],
)
def test_a_name_brings_only_what_it_needs(code, absent):
    script = f"import sys\n{code}\nprint(sorted({absent!r} & sys.modules.keys()))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"

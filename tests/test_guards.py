"""What `make guards` takes out is still there: it runs too long to be run at every change."""

import runpy
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
GUARDS = runpy.run_path(str(TESTS / "guards.py"))["GUARDS"]


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.part)
def test_a_guard_stands_once_in_its_module(guard):
    module = TESTS.parent / "src" / "chns" / guard.module
    assert module.read_text(encoding="utf-8").count(guard.line) == 1

"""What continuous integration installs has one version, whatever is published meanwhile."""

import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def asked_for(name, extras):
    """What a distribution asks for here with these extras; nothing is known of one that is not installed."""
    if name == "chns":
        lines = PROJECT["dependencies"] + [line for e in extras for line in PROJECT["optional-dependencies"][e]]
    else:
        try:
            lines = distribution(name).requires or []
        except PackageNotFoundError:
            return
    for requirement in map(Requirement, lines):
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in {"", *extras}):
            yield canonicalize_name(requirement.name), frozenset(requirement.extras)


def test_all_that_the_tests_need_is_pinned():
    waiting = [("chns", frozenset({"dev-slow"}))]
    needed = set(waiting)
    while waiting:
        new = set(asked_for(*waiting.pop())) - needed
        needed |= new
        waiting += new
    names = {name for name, _ in needed} - {"chns"}
    assert len(names) > 100
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {canonicalize_name(line.split("==")[0]) for line in lines if "==" in line}
    assert sorted(names - pinned) == []

"""The front of a package: names that are imported when they are first asked for (PEP 562).

A stub beside the package's ``__init__.py`` says the same to type checkers; a test holds the two together.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def lazily(package: str, homes: Mapping[str, str]) -> tuple[Callable[[str], Any], list[str]]:
    """What a package needs for its names to be found in its modules.

    Args:
        package: Its name.
        homes: By module, the names to be found there, separated by spaces.

    Returns:
        Its ``__getattr__`` and its ``__all__``.
    """
    home_of = {name: home for home, names in homes.items() for name in names.split()}

    def find(name: str) -> Any:
        if name not in home_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(home_of[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    return find, sorted(home_of)

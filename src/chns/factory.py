"""Make an object from the import path of a class or function and its keyword settings.

A user's own encoder or loss is named in a configuration like any of ours, without touching this package.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from chns.errors import ConfigError


def make(factory: str, settings: Mapping[str, Any], **derived: Any) -> Any:
    """Import ``factory`` and call it.

    Args:
        factory: Import path such as ``chns.encoders.ecapa_tdnn_mobile``.
        settings: Keyword arguments that a user chose.
        derived: Keyword arguments that follow from elsewhere (the number of speakers, say); passed only if the factory
            takes them and the user did not set them.

    Returns:
        Whatever the factory makes.

    Raises:
        ConfigError: If there is no such factory, a setting is unknown to it, or it refuses a value.
    """
    function = _imported(factory)
    parameters = inspect.signature(function).parameters
    open_ended = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    unknown = [name for name in settings if name not in parameters and not open_ended]
    if unknown:
        raise ConfigError(f"settings of {factory} must be among {', '.join(parameters)}, got {', '.join(unknown)}.")
    taken = {name: value for name, value in derived.items() if name in _accepted(function)}
    try:
        return function(**{**taken, **settings})
    except (TypeError, ValueError) as error:
        raise ConfigError(f"settings of {factory} must suit it, got {dict(settings)} ({error})") from error


def _accepted(function: Any) -> set[str]:
    """Names of keyword arguments; of a class whose constructor hands the rest on, also those of its bases."""
    callables = [function]
    if inspect.isclass(function):
        callables = [vars(base)["__init__"] for base in inspect.getmro(function) if "__init__" in vars(base)]
    names: set[str] = set()
    for one in callables:
        parameters = inspect.signature(one).parameters
        names |= set(parameters)
        if not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
            break
    return names


def _imported(factory: str) -> Any:
    module_name, _, name = factory.rpartition(".")
    try:
        function = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"factory must be the import path of a class or function, got {factory!r} ({error})."
        ) from error
    if not callable(function):
        raise ConfigError(f"factory must be the import path of a class or function, got {factory!r}.")
    return function

"""Make an object from the import path of a class or function and its keyword settings.

A user's own encoder or loss is named in a configuration like any of ours, without touching this package.

**Whose names are called.** To call a name is to run code, so it matters who wrote the name:

1. The person at the keyboard may name anything, in the configuration or the options of the command that runs
   (`make`).
2. A file that came with a model or a run (``config.json``, a run folder's ``config.yaml``) may name only what stands in
   a closed list of ours, or what the person named for this command: a complete import path, or a package below which
   the name lies *and* in which what it leads to is defined (`require_trusted`, ``--trust``).
3. ``chns`` is never such a package, and no file that came with a model can name one: this package also holds commands.

**Where names are found.** Where Python finds packages; and what such a person names, if no package of that name is
installed, in the current folder. A file there is never imported in place of an installed package.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import sys
from collections.abc import Collection, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from chns.core.errors import ConfigError, ModelFileError, in_short, quoted

_log = logging.getLogger(__name__)

_OWN_PACKAGE = "chns"


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
        raise ConfigError(
            f"settings of {factory} must be among {', '.join(parameters)}, got {in_short(', '.join(unknown))}."
        )
    taken = {name: value for name, value in derived.items() if name in _accepted(function)}
    try:
        return function(**{**taken, **settings})
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"settings of {factory} must suit it, got {quoted(dict(settings))} ({in_short(error)})"
        ) from error


def require_trusted(part: str, name: str, *, ours: Collection[str], trusted: Collection[str], source: str) -> None:
    """Make sure that a name of unknown origin may be called, by the rule of this module.

    Args:
        part: What the name is for, for the message.
        name: Import path that a file states.
        ours: The closed list of what this package offers for the purpose.
        trusted: What the person at the keyboard named: packages, or complete import paths.
        source: Where the name stands.

    Raises:
        ValueError: If ``trusted`` names this package.
        ModelFileError: If the name may not be called. Then nothing of it was run; only a package that is trusted is
            imported, to see where the name leads.
    """
    for entry in trusted:
        if entry.partition(".")[0] == _OWN_PACKAGE:
            raise ValueError(
                f"trusted package must be one of your own, got {entry!r}. Encoders and features of {_OWN_PACKAGE} need "
                f"no trust, and the rest of it gets none."
            )
    if name in ours or (name and name in trusted):
        return
    package = name.partition(".")[0]
    if package == _OWN_PACKAGE:
        raise ModelFileError(
            f"{part} must come from a trusted package, got {quoted(name)} in {source}. "
            f"Of {_OWN_PACKAGE} only {', '.join(sorted(ours))} may be named."
        )
    if not _is_below(name, trusted):
        raise ModelFileError(
            f"{part} must come from a trusted package, got {quoted(name)} in {source}. "
            f"If you know its code, add {quoted(package)} to the trusted packages."
        )
    home = str(getattr(_imported(name), "__module__", None))
    if home not in trusted and not _is_below(home, trusted):
        raise ModelFileError(
            f"{part} must be defined in a trusted package, got {quoted(name)}, which is of {quoted(home)}, in "
            f"{source}. If you know its code, trust its complete name."
        )


def _is_below(name: str, packages: Collection[str]) -> bool:
    return any(name.startswith(f"{package}.") for package in packages if package)


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
        _look_in_current_folder(module_name.partition(".")[0])
        function = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"factory must be the import path of a class or function, got {factory!r} ({error})."
        ) from error
    if not callable(function):
        raise ConfigError(f"factory must be the import path of a class or function, got {factory!r}.")
    return function


def _look_in_current_folder(package: str) -> None:
    """If a package is not installed and lies in the current folder, let Python look there, after all else."""
    if package in sys.modules or find_spec(package) is not None:
        return
    here = Path.cwd()
    if (here / f"{package}.py").is_file() or (here / package).is_dir():
        _log.info("%s is taken from the current folder, %s", package, here)
        sys.path.append(str(here))
        importlib.invalidate_caches()

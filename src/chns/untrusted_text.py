"""Text from strangers: YAML of bounded size, numbers, and what may stand on a screen or in a table.

A configuration of 500 bytes can unfold to terabytes through aliases of aliases, and a number can hold the screen's own
commands. Everything that is read as YAML or as a number, and every name that is shown, passes through here.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from chns.errors import ConfigError, in_short, quoted, shown

LARGEST_YAML_BYTES = 2**20
_MOST_VALUES, _DEEPEST = 100_000, 50
_LONGEST_SCALAR = 3_000  # longer hexadecimal integers could not be printed
_BEGINNINGS_OF_FORMULAS = ("=", "+", "-", "@")
_NAMES_CODE = "class_path"  # jsonargparse would import what it names


def number(text: str) -> float:
    """A number as programs write them: ASCII digits, a point, an exponent, ``inf`` or ``nan``.

    Python's own rule also takes ``1_000`` and the digits of other scripts, which other readers of the same file refuse.

    Raises:
        ValueError: If it is none.
    """
    if not text.isascii() or "_" in text:
        raise ValueError(f"number must be written with the digits 0 to 9, got {quoted(text)}.")
    return float(text)


def table_cell(text: str) -> str:
    """Text from a stranger as a cell of a table that people open: no formula, and nothing that a screen acts on.

    A spreadsheet runs a cell that begins like a formula; an apostrophe in front makes it text.
    """
    text = shown(text)
    return f"'{text}" if text.lstrip().startswith(_BEGINNINGS_OF_FORMULAS) else text


def bounded_text(path: Path, *, most_bytes: int = LARGEST_YAML_BYTES) -> str:
    """The text of a small file.

    Raises:
        ConfigError: If it is not a regular file, larger than that, or not UTF-8.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError(f"file must be a regular one, got {path}.")
    if status.st_size > most_bytes:
        raise ConfigError(f"file must be at most {most_bytes:,} bytes, got {status.st_size:,} in {path}.")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"file must be UTF-8 text, got {error.reason} at byte {error.start} in {path}.") from error


def read_yaml(path: Path) -> Any:
    """The content of a YAML file, which may come from a stranger.

    Raises:
        ConfigError: If it is larger than `LARGEST_YAML_BYTES`, not UTF-8, or breaks a rule of `require_small_yaml`.
    """
    import yaml

    text = bounded_text(path)
    try:
        require_small_yaml(text)
        return yaml.load(text, Loader=_safe_loader())  # noqa: S506 - a safe one
    except (yaml.YAMLError, ValueError, TypeError, ArithmeticError, RecursionError) as error:
        raise ConfigError(f"YAML must be well-formed and small, got {path} ({in_short(error)}).") from error


def require_small_yaml(text: str) -> None:
    """Make sure that YAML is small once its aliases are followed, before anything is made of it.

    Raises:
        ConfigError: If it is longer than `LARGEST_YAML_BYTES`, has an alias inside what it stands for, nests deeper
            than 50, has more than 100,000 values with aliases followed or one longer than 3,000 characters, or asks for
            a class by ``class_path``. Also of the texts in it, which may be read as YAML in their turn.
        yaml.YAMLError: If it is not YAML.
    """
    import yaml

    if len(text) > LARGEST_YAML_BYTES:
        raise ConfigError(f"YAML must be at most {LARGEST_YAML_BYTES:,} characters, got {len(text):,}.")
    for scalar in _scalars(text):
        if len(scalar) > _LONGEST_SCALAR:
            raise ConfigError(f"value in YAML must be at most {_LONGEST_SCALAR:,} characters, got {quoted(scalar)}.")
        if _NAMES_CODE in scalar:
            raise ConfigError(f"YAML must name classes by `factory`, got {_NAMES_CODE} in {quoted(scalar)}.")
        if "&" in scalar and "*" in scalar and len(scalar) < len(text):
            with suppress(yaml.YAMLError):
                require_small_yaml(scalar)


def _scalars(text: str) -> Iterator[str]:
    """Texts of YAML as they stand in it; an error where the whole gets too large with aliases followed."""
    import yaml

    total = 0
    sizes: dict[str, int] = {}
    opened: list[tuple[str, int]] = []
    for event in yaml.parse(text, Loader=_safe_loader()):
        anchor = getattr(event, "anchor", None) or ""
        if isinstance(event, yaml.AliasEvent):
            if any(anchor == one for one, _ in opened):
                raise ConfigError(f"alias in YAML must stand outside of what it names, got *{anchor:.100}.")
            total += sizes.get(anchor, 0)
        elif isinstance(event, yaml.ScalarEvent):
            total, sizes[anchor] = total + 1, 1
            yield event.value
        elif isinstance(event, yaml.CollectionStartEvent):
            opened.append((anchor, total))
            total += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            of_collection, before = opened.pop()
            sizes[of_collection] = total - before
        if len(opened) > _DEEPEST:
            raise ConfigError(f"YAML must be nested at most {_DEEPEST} deep, got more.")
        if total > _MOST_VALUES:
            raise ConfigError(f"YAML must hold at most {_MOST_VALUES:,} values with aliases followed, got more.")


def _safe_loader() -> Any:
    import yaml

    return getattr(yaml, "CSafeLoader", yaml.SafeLoader)

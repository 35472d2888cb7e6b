"""What every room stands on: errors, types of arrays, files, processes, objects by name.

The names below are found when they are first asked for, so that a command that needs an error does not wait for numpy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chns.core.arrays import BoolArray, Float32Array, Float64Array, IntArray
    from chns.core.errors import (
        AudioError,
        ChnsError,
        ConfigError,
        FolderInUseError,
        ManifestError,
        ModelFileError,
        NonFiniteError,
        RunFolderError,
        TrialError,
        in_short,
        quoted,
        shown,
    )
    from chns.core.files import (
        FORMULA,
        LARGEST_YAML_BYTES,
        atomic_folder,
        atomic_path,
        bounded_text,
        locked_folder,
        no_formula,
        number,
        plain_text,
        read_yaml,
        require_ours,
        require_small_yaml,
        table_cell,
    )

_HOMES = {
    "chns.core.arrays": ("BoolArray Float32Array Float64Array IntArray"),
    "chns.core.errors": (
        "AudioError ChnsError ConfigError FolderInUseError ManifestError ModelFileError NonFiniteError "
        "RunFolderError TrialError in_short quoted shown"
    ),
    "chns.core.files": (
        "FORMULA LARGEST_YAML_BYTES atomic_folder atomic_path bounded_text locked_folder no_formula number plain_text "
        "read_yaml require_ours require_small_yaml table_cell"
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}

__all__ = [
    "FORMULA",
    "LARGEST_YAML_BYTES",
    "AudioError",
    "BoolArray",
    "ChnsError",
    "ConfigError",
    "Float32Array",
    "Float64Array",
    "FolderInUseError",
    "IntArray",
    "ManifestError",
    "ModelFileError",
    "NonFiniteError",
    "RunFolderError",
    "TrialError",
    "atomic_folder",
    "atomic_path",
    "bounded_text",
    "in_short",
    "locked_folder",
    "no_formula",
    "number",
    "plain_text",
    "quoted",
    "read_yaml",
    "require_ours",
    "require_small_yaml",
    "shown",
    "table_cell",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value

"""What every room stands on: errors, types of arrays, files, processes, objects by name.

`lazily` makes the front of a package: names that are imported when they are first asked for (PEP 562). A stub beside
the package's ``__init__.py`` says the same to type checkers; a test holds the two together.
"""

from __future__ import annotations

import importlib
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
        return getattr(importlib.import_module(home_of[name]), name)

    return find, sorted(home_of)


__getattr__, __all__ = lazily(
    __name__,
    {
        "chns.core.arrays": "BoolArray Float32Array Float64Array IntArray",
        "chns.core.distributed": (
            "any_process average_buffers average_gradients cpu_has_bfloat16 from_first_process gather_array "
            "gather_batch gather_rows largest_anywhere launched_world rank require_device world_size"
        ),
        "chns.core.errors": (
            "FORMULA AudioError ChnsError ConfigError FolderInUseError ManifestError ModelFileError NonFiniteError "
            "RunFolderError TrialError counted in_short no_formula percent plain_text quoted "
            "shown suggestion table_cell usage_message"
        ),
        "chns.core.factory": "make require_trusted",
        "chns.core.files": (
            "LARGEST_YAML_BYTES atomic_folder atomic_path bounded_text config_path locked_folder moved_along number "
            "plain_disk_errors presets read_yaml require_ours require_small_yaml write_text"
        ),
        "chns.core.parallel": "JobPart available_cores mapped",
    },
)

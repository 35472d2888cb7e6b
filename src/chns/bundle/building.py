"""Build a network that a stranger describes without letting the description decide how much work that is.

``"blocks": [1000000000]`` takes a line in a file, and on torch's meta device no memory for weights, but hours and
gigabytes for the modules around them. How many parameters there can be is known before: as many as the file of weights
has tensors.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from chns.core.errors import ConfigError

_LOWEST_RATE_HZ, _HIGHEST_RATE_HZ = 4_000, 48_000
_MOST_OVERLAP = 16


@contextmanager
def parameters_limited(limit: int) -> Iterator[None]:
    """Stop the building of modules in the block when they have registered more parameters than that.

    Args:
        limit: The largest number of parameters, whatever their sizes.

    Raises:
        ConfigError: If there are more.
    """
    builder = threading.get_ident()
    count = 0

    def count_one(_module: nn.Module, _name: str, _parameter: nn.Parameter) -> None:
        nonlocal count
        if threading.get_ident() != builder:
            return
        count += 1
        if count > limit:
            raise ConfigError(f"encoder must have at most {limit} parameters, as its weights allow, got more.")

    handle = register_module_parameter_registration_hook(count_one)
    try:
        yield
    finally:
        handle.remove()


def require_sensible_frames(features: Any) -> None:
    """Bound the memory that a second of speech takes: rate and hop decide it, and no weights depend on them.

    Args:
        features: A module such as `chns.features.LogMel`.

    Raises:
        ConfigError: If the rate is none of speech, or frames follow one another too closely.
    """
    if not _LOWEST_RATE_HZ <= features.sample_rate_hz <= _HIGHEST_RATE_HZ:
        raise ConfigError(
            f"sample_rate_hz must be between {_LOWEST_RATE_HZ} and {_HIGHEST_RATE_HZ}, got {features.sample_rate_hz}."
        )
    if features.hop_samples < max(features.sample_rate_hz / 1_000, features.frame_samples / _MOST_OVERLAP):
        raise ConfigError(
            f"hop_seconds must be at least 0.001 and a {_MOST_OVERLAP}th of frame_seconds, got {features.hop_samples} "
            f"samples at {features.sample_rate_hz} Hz."
        )

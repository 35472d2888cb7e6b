"""Rules that settings of several effects share."""

from __future__ import annotations

import math


def require_probability(name: str, probability: float) -> None:
    """Check a probability.

    Raises:
        ValueError: If it is not between 0 and 1.
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"{name} must be between 0 and 1, got {probability}.")


def require_range(name: str, lowest: float, highest: float, *, within: tuple[float, float]) -> None:
    """Check the two ends that something is drawn between.

    Raises:
        ValueError: If they do not rise, or leave the bounds of what makes sense.
    """
    low, high = within
    if not (math.isfinite(lowest) and math.isfinite(highest) and low <= lowest <= highest <= high):
        raise ValueError(f"{name} must rise within {low:g} and {high:g}, got {lowest} to {highest}.")

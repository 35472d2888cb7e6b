"""Groups of integers in flat arrays."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]


class Groups(NamedTuple):
    """Members of groups in one flat array: group g holds ``members[starts[g] : starts[g] + sizes[g]]``."""

    members: IntArray
    starts: IntArray
    sizes: IntArray

    @classmethod
    def by_label(cls, labels: IntArray, num_groups: int) -> Groups:
        """Group positions by their label."""
        sizes = np.bincount(labels, minlength=num_groups)
        return cls(np.argsort(labels, kind="stable"), np.cumsum(sizes) - sizes, sizes)


def draw_excluding(rng: np.random.Generator, total: int, count: int, excluded: IntArray) -> IntArray:
    """Draw ``count`` different numbers below ``total`` that are not in ``excluded``, without listing the rest.

    Draws ranks among the numbers that remain; the number of rank r is r plus how many excluded ones lie before it.
    """
    ranks = rng.choice(total - len(excluded), count, replace=False)
    remaining_before = np.sort(excluded) - np.arange(len(excluded))
    return ranks + np.searchsorted(remaining_before, ranks, side="right")


def first_of_each(keys: IntArray) -> IntArray:
    """Positions at which a key comes for the first time, in their order."""
    _, first = np.unique(keys, return_index=True)
    return np.sort(first)

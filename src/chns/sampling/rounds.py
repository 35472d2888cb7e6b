"""Turns through an order of all speakers, so that each comes equally often."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from chns.sampling.flat_groups import IntArray


class Rounds:
    """Slices of an order of speakers, one a step, and a new order when too few are left; a new one each epoch.

    Those left at an order's end sit that round out. What a step gets depends on nothing but the arguments, so steps may
    be asked for in any order; it costs least to ask for them in theirs, as one order is kept.

    Args:
        seed: Same seed, same orders.
        num_speakers: Length of an order.
        draw_order: Makes an order with the generator that it is given.
    """

    def __init__(self, seed: int, num_speakers: int, draw_order: Callable[[np.random.Generator], IntArray]) -> None:
        self._seed = seed
        self._num_speakers = num_speakers
        self._draw_order = draw_order
        self._kept: tuple[int, int] | None = None
        self._order = np.empty(0, np.int64)

    def take(self, count: int, *, epoch: int, step: int) -> IntArray:
        """The ``count`` speakers whose turn it is."""
        if not count:
            return self._order[:0]
        round_number, place = divmod(step, self._num_speakers // count)
        if self._kept != (epoch, round_number):
            self._order = self._draw_order(np.random.default_rng([self._seed, epoch, round_number, 1]))
            self._kept = (epoch, round_number)
        return self._order[place * count : (place + 1) * count]

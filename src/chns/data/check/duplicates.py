"""Utterances with the same samples, by the digests of what was decoded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from chns.core.arrays import IntArray


def groups_of_copies(digests: Sequence[bytes | None]) -> Iterator[IntArray]:
    """Rows with equal digests, two or more at a time, each ascending.

    Args:
        digests: One a row, of equal lengths; a row without one has no copies.
    """
    known = np.array([row for row, digest in enumerate(digests) if digest is not None], np.int64)
    if not len(known):
        return
    values = np.array([digest.hex() for digest in digests if digest is not None])
    order = np.argsort(values, kind="stable")
    beginnings = np.flatnonzero(np.r_[True, values[order][1:] != values[order][:-1]])
    for group in np.split(order, beginnings[1:]):
        if len(group) > 1:
            yield known[group]

"""Speakers who may be one person under two names are kept out of each other's batches."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from chns.sampling.flat_groups import Groups, IntArray, draw_excluding, first_of_each


class Persons:
    """Which person each speaker is.

    Args:
        numbers: A number a speaker label; speakers with the same one may be the same person.
        speakers: Labels of the speakers that batches are made of, ascending.

    Raises:
        ValueError: If numbers are not a vector of integers, or a speaker has none.
    """

    def __init__(self, numbers: npt.ArrayLike, speakers: IntArray) -> None:
        numbers = np.asarray(numbers)
        if numbers.ndim != 1 or not np.issubdtype(numbers.dtype, np.integer):
            raise ValueError(f"persons must be a vector of integers, got shape {numbers.shape} of {numbers.dtype}.")
        if len(numbers) <= speakers[-1]:
            raise ValueError(
                f"persons must have a number for each speaker label up to {speakers[-1]}, got {len(numbers)} of them. "
                "Make them of the manifest that is sampled."
            )
        distinct, person = np.unique(numbers[speakers], return_inverse=True)
        self.count = len(distinct)
        self._speakers = speakers
        self._groups = Groups.by_label(person, self.count)
        self._person_of_label = np.full(len(numbers), -1)
        self._person_of_label[speakers] = person

    def of(self, speakers: IntArray) -> IntArray:
        """The person that each speaker is, as a number below ``count``."""
        persons: IntArray = self._person_of_label[speakers]
        return persons

    def apart(self, rng: np.random.Generator, speakers: IntArray) -> IntArray:
        """As many speakers, none of them the same person as another.

        The first of each person stays; at the end come speakers of persons drawn from all others. Drawing the persons,
        and not speakers until they fit, ends at once even where nearly all speakers are one person.
        """
        kept = speakers[first_of_each(self.of(speakers))]
        persons = draw_excluding(rng, self.count, len(speakers) - len(kept), self.of(kept))
        positions = self._groups.starts[persons] + rng.integers(self._groups.sizes[persons])
        return np.concatenate([kept, self._speakers[self._groups.members[positions]]])

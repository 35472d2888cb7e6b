"""What the batch samplers share: the shape of a batch, position, ranks, turns, and draws from groups."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from chns.core import Float32Array, IntArray

_log = logging.getLogger(__name__)


class Groups(NamedTuple):
    """Members of groups in one flat array: group g holds ``members[starts[g] : starts[g] + sizes[g]]``."""

    members: IntArray
    starts: IntArray
    sizes: IntArray

    @classmethod
    def by_label(cls, labels: IntArray) -> Groups:
        """Group positions by their label, up to the highest one."""
        sizes = np.bincount(labels)
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


def draw_per_speaker(speaker_labels: IntArray, count: int, rng: np.random.Generator) -> IntArray:
    """Up to ``count`` utterances of each speaker, drawn at random; their indices, ascending."""
    shuffled = rng.permutation(len(speaker_labels))
    by_speaker = shuffled[np.argsort(speaker_labels[shuffled], kind="stable")]
    sizes = np.unique(speaker_labels, return_counts=True)[1]
    place = np.arange(len(by_speaker)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.sort(by_speaker[place < count])


def centroids_of(embeddings: Float32Array, speaker_labels: IntArray, num_speakers: int) -> Float32Array:
    """The mean embedding of each speaker, normalised.

    Args:
        embeddings: Not normalised, shape (utterances, dim).
        speaker_labels: Speaker of each, shape (utterances,); every speaker has one at least.
        num_speakers: Number of speakers.

    Returns:
        Shape (num_speakers, dim).
    """
    sums = np.zeros((num_speakers, embeddings.shape[1]), np.float64)
    np.add.at(sums, speaker_labels, embeddings)
    centroids: Float32Array = (sums / np.linalg.norm(sums, axis=1, keepdims=True)).astype(np.float32)
    return centroids


@dataclass(frozen=True)
class BatchShape:
    """How many speakers and utterances make a batch, how many batches an epoch, and which slice a process takes.

    Args:
        speakers_per_batch: P, over all ranks; the default is the paper's.
        utterances_per_speaker: K. Speakers with fewer utterances are left out and counted in the log.
        steps_per_epoch: Batches an epoch; by default as many as give each utterance one turn on average.
        seed: Same seed and epoch, same batches.
        rank: Which slice of every batch this process takes.
        world_size: Number of slices; a batch is cut between speakers.

    Raises:
        ValueError: If a number is out of range.

    Examples:
        >>> from chns import BatchShape
        >>> whole = BatchShape(speakers_per_batch=650, utterances_per_speaker=2)
        >>> slice_of_the_second_of_two_processes = BatchShape(650, 2, rank=1, world_size=2)
    """

    speakers_per_batch: int = 650
    utterances_per_speaker: int = 2
    _: KW_ONLY
    steps_per_epoch: int | None = None
    seed: int = 0
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if self.utterances_per_speaker < 1:
            raise ValueError(f"utterances_per_speaker must be at least 1, got {self.utterances_per_speaker}.")
        if not 0 <= self.rank < self.world_size:
            raise ValueError(
                f"rank must be between 0 and world_size - 1 = {self.world_size - 1}, got {self.rank}. "
                "Pass the rank and world size of this process."
            )
        if self.steps_per_epoch is not None and self.steps_per_epoch < 1:
            raise ValueError(f"steps_per_epoch must be at least 1, got {self.steps_per_epoch}.")
        if self.speakers_per_batch < self.world_size:
            raise ValueError(
                f"speakers_per_batch must be at least 1 for each of world_size = {self.world_size} processes, "
                f"got {self.speakers_per_batch}."
            )
        if self.seed < 0:
            raise ValueError(f"seed must be 0 or more, got {self.seed}.")

    def speakers_of(self, rank: int) -> range:
        """Which of a batch's speakers, by their place, a process takes."""
        return range(
            self.speakers_per_batch * rank // self.world_size, self.speakers_per_batch * (rank + 1) // self.world_size
        )

    @property
    def slice_sizes(self) -> list[int]:
        """Utterances of each process's slice."""
        return [len(self.speakers_of(rank)) * self.utterances_per_speaker for rank in range(self.world_size)]


class SpeakerBatches(ABC):
    """A batch sampler whose subclass draws the speakers. See `chns.sampling.batches`.

    Iteration yields the batches of one epoch. One that follows an iteration that has handed out its last batch is of
    the next epoch; one that follows an iteration that was given up begins the same epoch again. `set_epoch` says which
    epoch is next.
    """

    def __init__(self, speaker_labels: npt.ArrayLike, shape: BatchShape, *, persons: npt.ArrayLike | None) -> None:
        labels = _checked_labels(speaker_labels)
        # Memory goes with the number of labels, not with their values, which may be ids of any size.
        self._labels, speaker_of_utterance = np.unique(labels, return_inverse=True)
        utterances = Groups.by_label(speaker_of_utterance)
        self._rows = np.flatnonzero(utterances.sizes >= shape.utterances_per_speaker)
        self.speakers: IntArray = self._labels[self._rows]  # draws are of places in it
        if shape.speakers_per_batch > len(self.speakers):
            raise ValueError(
                f"speakers_per_batch must be at most {len(self.speakers)}, the number of speakers with at least "
                f"{shape.utterances_per_speaker} utterances, got {shape.speakers_per_batch}."
            )
        left_out = len(self._labels) - len(self.speakers)
        if left_out:
            _log.info("%d speakers with fewer than %d utterances are left out.", left_out, shape.utterances_per_speaker)
        self._utterances = Groups(utterances.members, utterances.starts[self._rows], utterances.sizes[self._rows])
        self.shape = shape
        usable = int(self._utterances.sizes.sum())
        segments = shape.speakers_per_batch * shape.utterances_per_speaker
        self.steps_per_epoch = shape.steps_per_epoch or usable // segments
        self._persons = None if persons is None else self._checked_persons(persons)
        own = shape.speakers_of(shape.rank)
        self._first_speaker, self._last_speaker = own.start, own.stop
        self._epoch = 0
        self._first_step = 0
        self._next_step = 0
        self._resuming = False

    @property
    def epoch(self) -> int:
        """The epoch that is being iterated; before and between iterations, the last one or that of `set_epoch`."""
        return self._epoch

    @property
    def finished(self) -> bool:
        """Whether the last batch of the epoch was handed out: the next iteration is of the next epoch."""
        return self._next_step >= self.steps_per_epoch

    @property
    def first_place(self) -> int:
        """Place, in the global batch, of the first utterance of this rank's slice."""
        return self._first_speaker * self.shape.utterances_per_speaker

    def __len__(self) -> int:
        """Number of batches the next iteration yields: an epoch, or what a loaded state leaves of it."""
        return self.steps_per_epoch - self._first_step

    def __iter__(self) -> Iterator[list[int]]:
        """The epoch's batches as lists of utterance indices, from the position of a loaded state if there is one."""
        if self.finished:
            self._epoch, self._first_step = self._epoch + 1, 0
        self._next_step = self._first_step
        self._resuming = False
        return self._steps(self._epoch, self._first_step)

    def batch(self, epoch: int, step: int) -> list[int]:
        """This rank's slice of the batch at one step, without moving the iteration.

        Returns:
            Utterance indices, K of one speaker adjacent; over all ranks P x K of them.
        """
        rng = np.random.default_rng([self.shape.seed, epoch, step])
        places = self._draw_speakers(rng, epoch, step)
        if self._persons is not None:
            places = self._persons.apart(rng, places)
        utterances = self._draw_utterances(rng, places)
        mine: list[int] = utterances[self._first_speaker : self._last_speaker].ravel().tolist()
        return mine

    def set_epoch(self, epoch: int) -> None:
        """Let the next iteration yield ``epoch``.

        It begins with the first step, unless a state was loaded that stands in the midst of this epoch: then the
        iteration goes on from there, so a loop that names each epoch resumes exactly too.
        """
        if self._resuming and epoch == self._epoch:
            return
        self.go_to(epoch)

    def go_to(self, epoch: int, step: int = 0) -> None:
        """Let the next iteration begin with this step of this epoch, whatever state was loaded."""
        self._epoch = epoch
        self._first_step = self._next_step = step
        self._resuming = False

    def state_dict(self, *, step: int | None = None) -> dict[str, int]:
        """Where the sampler stands.

        Args:
            step: Number of batches of this epoch that were *used*. A ``DataLoader`` with workers asks for batches
                ahead of their use, so a training loop that saves in mid-epoch passes its own count; without it, the
                number of batches handed out.
        """
        return {**self.identity(), "epoch": self._epoch, "step": self._next_step if step is None else step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where ``state`` was taken; after the last step of an epoch that is the start of the next one.

        Raises:
            ValueError: If the state is of a sampler with other settings or other data, whose batches would differ.
        """
        self.require_same(state)
        finished, step = divmod(state["step"], self.steps_per_epoch)
        self.go_to(state["epoch"] + finished, step)
        self._resuming = step > 0

    def require_same(self, state: Mapping[str, Any]) -> None:
        """Check that a state is of the same settings and data.

        Raises:
            ValueError: If it is not.
        """
        for name, value in self.identity().items():
            if state.get(name) != value:
                raise ValueError(
                    f"{name} must be {state.get(name)} as in the saved state, got {value}. "
                    "Use the settings and data of the interrupted run, or start anew."
                )

    def identity(self) -> dict[str, int]:
        """Settings that decide the batches; rank and world size only slice them."""
        return {
            "seed": self.shape.seed,
            "speakers_per_batch": self.shape.speakers_per_batch,
            "utterances_per_speaker": self.shape.utterances_per_speaker,
            "steps_per_epoch": self.steps_per_epoch,
            "num_utterances": len(self._utterances.members),
        }

    def _steps(self, epoch: int, first_step: int) -> Iterator[list[int]]:
        for step in range(first_step, self.steps_per_epoch):
            self._next_step = step + 1
            if self.finished:  # before the last batch: a loop that counts batches never asks for what follows it
                self._first_step = 0
            yield self.batch(epoch, step)

    @abstractmethod
    def _draw_speakers(self, rng: np.random.Generator, epoch: int, step: int) -> IntArray:
        """Places, in ``speakers``, of P different speakers."""

    def _rows_in(self, num_rows: int, name: str) -> IntArray:
        """The row of each speaker in a table of all speakers.

        Row i belongs to the i-th lowest label. Where the table has more rows than there are labels, as it has where
        some labels have no utterance here, row i belongs to label i.
        """
        if num_rows == len(self._labels):
            return self._rows
        if num_rows <= self._labels[-1]:
            raise ValueError(
                f"{name} must cover speaker label {self._labels[-1]}, got {num_rows} speakers. "
                "Make them of the data that are sampled."
            )
        return self.speakers

    def _checked_persons(self, numbers: npt.ArrayLike) -> Persons:
        numbers = np.asarray(numbers)
        if numbers.ndim != 1 or not np.issubdtype(numbers.dtype, np.integer):
            raise ValueError(f"persons must be a vector of integers, got shape {numbers.shape} of {numbers.dtype}.")
        persons = Persons(numbers[self._rows_in(len(numbers), "persons")])
        if persons.count < self.shape.speakers_per_batch:
            raise ValueError(
                f"speakers_per_batch must be at most {persons.count}, the number of persons that the speakers are, "
                f"got {self.shape.speakers_per_batch}."
            )
        return persons

    def _draw_utterances(self, rng: np.random.Generator, places: IntArray) -> IntArray:
        """K different utterances of each speaker, shape (P, K).

        The j-th draw picks among the n - j positions not yet taken: it skips each taken position that is not above
        it, in ascending order.
        """
        sizes = self._utterances.sizes[places]
        drawn = np.empty((len(places), self.shape.utterances_per_speaker), np.int64)
        for j in range(self.shape.utterances_per_speaker):
            position = rng.integers(sizes - j)
            for taken in np.sort(drawn[:, :j], axis=1).T:
                position += position >= taken
            drawn[:, j] = position
        utterances: IntArray = self._utterances.members[self._utterances.starts[places, None] + drawn]
        return utterances


class HardSpeakerBatches(SpeakerBatches):
    """A batch sampler whose subclass draws the hard speakers; others fill the batch up."""

    def __init__(
        self, speaker_labels: npt.ArrayLike, shape: BatchShape, *, hard_ratio: float, persons: npt.ArrayLike | None
    ) -> None:
        super().__init__(speaker_labels, shape, persons=persons)
        self.hard_ratio = hard_ratio

    @property
    def hard_ratio(self) -> float:
        """Share of a batch's speakers that is drawn to be alike."""
        return self._hard_ratio

    @hard_ratio.setter
    def hard_ratio(self, value: float) -> None:
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"hard_ratio must be between 0 and 1, got {value}.")
        self._hard_ratio = value
        self._num_hard = int(value * self.shape.speakers_per_batch)

    def _draw_speakers(self, rng: np.random.Generator, epoch: int, step: int) -> IntArray:
        hard = self._draw_hard(rng, epoch, step)
        others = draw_excluding(rng, len(self.speakers), self.shape.speakers_per_batch - len(hard), hard)
        return np.concatenate([hard, others])

    @abstractmethod
    def _draw_hard(self, rng: np.random.Generator, epoch: int, step: int) -> IntArray:
        """Places, in ``speakers``, of the hard speakers, no place twice."""


class Rounds:
    """Turns through an order of all speakers, so that each comes equally often: slices of the order, one a step.

    There is a new order when too few are left, and a new one each epoch. Those left at an order's end sit that round
    out. What a step gets depends on nothing but the arguments, so steps may be asked for in any order; it costs least
    to ask for them in theirs, as one order is kept.

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


class Persons:
    """Which person each speaker is, where some may be one person under two names.

    Args:
        numbers: A number a speaker; speakers with the same one may be the same person.
    """

    def __init__(self, numbers: IntArray) -> None:
        distinct, self._person = np.unique(numbers, return_inverse=True)
        self.count = len(distinct)
        self._groups = Groups.by_label(self._person)

    def of(self, places: IntArray) -> IntArray:
        """The person that each speaker is, as a number below ``count``."""
        persons: IntArray = self._person[places]
        return persons

    def apart(self, rng: np.random.Generator, places: IntArray) -> IntArray:
        """As many speakers, none of them the same person as another.

        The first of each person stays; at the end come speakers of persons drawn from all others. Drawing the persons,
        and not speakers until they fit, ends at once even where nearly all speakers are one person.
        """
        kept = places[first_of_each(self.of(places))]
        persons = draw_excluding(rng, self.count, len(places) - len(kept), self.of(kept))
        positions = self._groups.starts[persons] + rng.integers(self._groups.sizes[persons])
        return np.concatenate([kept, self._groups.members[positions]])


def _checked_labels(speaker_labels: npt.ArrayLike) -> IntArray:
    labels = np.asarray(speaker_labels)
    if labels.ndim != 1 or not len(labels) or not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0:
        raise ValueError(
            "speaker_labels must be a non-empty vector of non-negative integers, "
            f"got shape {labels.shape} of {labels.dtype}."
        )
    return labels

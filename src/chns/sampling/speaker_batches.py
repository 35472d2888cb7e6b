"""What the batch samplers share: checks, position, ranks, and the draw of utterances."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from chns.sampling.flat_groups import Groups, IntArray
from chns.sampling.persons import Persons

_log = logging.getLogger(__name__)


class SpeakerBatches(ABC):
    """A batch sampler whose subclass draws the speakers. See `chns.sampling.batches`."""

    def __init__(
        self,
        speaker_labels: npt.ArrayLike,
        *,
        speakers_per_batch: int,
        utterances_per_speaker: int,
        steps_per_epoch: int | None,
        seed: int,
        rank: int,
        world_size: int,
        persons: npt.ArrayLike | None,
    ) -> None:
        labels = _checked_labels(speaker_labels)
        if utterances_per_speaker < 1:
            raise ValueError(f"utterances_per_speaker must be at least 1, got {utterances_per_speaker}.")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must be between 0 and world_size - 1 = {world_size - 1}, got {rank}.")
        if steps_per_epoch is not None and steps_per_epoch < 1:
            raise ValueError(f"steps_per_epoch must be at least 1, got {steps_per_epoch}.")
        self._utterances = Groups.by_label(labels, int(labels.max()) + 1)
        sizes = self._utterances.sizes
        self.speakers = np.flatnonzero(sizes >= utterances_per_speaker)
        if not max(world_size, 1) <= speakers_per_batch <= len(self.speakers):
            raise ValueError(
                f"speakers_per_batch must be between world_size = {world_size} and {len(self.speakers)}, the number of "
                f"speakers with at least {utterances_per_speaker} utterances, got {speakers_per_batch}."
            )
        left_out = int(np.count_nonzero(sizes)) - len(self.speakers)
        if left_out:
            _log.info("%d speakers with fewer than %d utterances are left out.", left_out, utterances_per_speaker)
        self.speakers_per_batch = speakers_per_batch
        self.utterances_per_speaker = utterances_per_speaker
        usable = int(sizes[self.speakers].sum())
        self.steps_per_epoch = steps_per_epoch or max(1, usable // (speakers_per_batch * utterances_per_speaker))
        self._persons = None if persons is None else self._checked_persons(persons)
        self.seed = seed
        self._first_speaker = speakers_per_batch * rank // world_size
        self._last_speaker = speakers_per_batch * (rank + 1) // world_size
        self._epoch = 0
        self._first_step = 0
        self._next_step = 0

    @property
    def epoch(self) -> int:
        """The epoch that iteration yields."""
        return self._epoch

    @property
    def first_place(self) -> int:
        """Place, in the global batch, of the first utterance of this rank's slice."""
        return self._first_speaker * self.utterances_per_speaker

    def __len__(self) -> int:
        """Number of batches the next iteration yields: an epoch, or what a loaded state leaves of it."""
        return self.steps_per_epoch - self._first_step

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the epoch's batches as lists of utterance indices, from the position of a loaded state if any."""
        for step in range(self._first_step, self.steps_per_epoch):
            self._next_step = step + 1
            yield self.batch(self._epoch, step)
        self._first_step = 0

    def batch(self, epoch: int, step: int) -> list[int]:
        """This rank's slice of the batch at one step, without moving the iteration.

        Returns:
            Utterance indices, K of one speaker adjacent; over all ranks P x K of them.
        """
        rng = np.random.default_rng([self.seed, epoch, step])
        speakers = self._draw_speakers(rng, epoch, step)
        if self._persons is not None:
            speakers = self._persons.apart(rng, speakers)
        utterances = self._draw_utterances(rng, speakers)
        mine: list[int] = utterances[self._first_speaker : self._last_speaker].ravel().tolist()
        return mine

    def set_epoch(self, epoch: int) -> None:
        """Let the next iteration yield ``epoch``, from its first step."""
        self._epoch = epoch
        self._first_step = self._next_step = 0

    def state_dict(self, *, step: int | None = None) -> dict[str, int]:
        """Where the sampler stands.

        Args:
            step: Number of batches of this epoch that were *used*. A ``DataLoader`` with workers asks for batches
                ahead of their use, so a training loop that saves in mid-epoch passes its own count; without it, the
                number of batches handed out.
        """
        return {**self._identity(), "epoch": self._epoch, "step": self._next_step if step is None else step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where ``state`` was taken; after the last step of an epoch that is the start of the next one.

        Raises:
            ValueError: If the state is of a sampler with other settings or other data, whose batches would differ.
        """
        for name, value in self._identity().items():
            if state.get(name) != value:
                raise ValueError(
                    f"{name} must be {state.get(name)} as in the saved state, got {value}. "
                    "Use the settings and data of the interrupted run, or start anew."
                )
        finished, step = divmod(state["step"], self.steps_per_epoch)
        self.set_epoch(state["epoch"] + finished)
        self._first_step = self._next_step = step

    def _identity(self) -> dict[str, int]:
        """Settings that decide the batches; rank and world size only slice them."""
        return {
            "seed": self.seed,
            "speakers_per_batch": self.speakers_per_batch,
            "utterances_per_speaker": self.utterances_per_speaker,
            "steps_per_epoch": self.steps_per_epoch,
            "num_utterances": len(self._utterances.members),
        }

    @abstractmethod
    def _draw_speakers(self, rng: np.random.Generator, epoch: int, step: int) -> IntArray:
        """P different speakers."""

    def _checked_persons(self, numbers: npt.ArrayLike) -> Persons:
        persons = Persons(numbers, self.speakers)
        if persons.count < self.speakers_per_batch:
            raise ValueError(
                f"speakers_per_batch must be at most {persons.count}, the number of persons that the speakers are, "
                f"got {self.speakers_per_batch}."
            )
        return persons

    def _draw_utterances(self, rng: np.random.Generator, speakers: IntArray) -> IntArray:
        """K different utterances of each speaker, shape (P, K).

        The j-th draw picks among the n - j positions not yet taken: it skips each taken position that is not above
        it, in ascending order.
        """
        sizes = self._utterances.sizes[speakers]
        drawn = np.empty((len(speakers), self.utterances_per_speaker), np.int64)
        for j in range(self.utterances_per_speaker):
            position = rng.integers(sizes - j)
            for taken in np.sort(drawn[:, :j], axis=1).T:
                position += position >= taken
            drawn[:, j] = position
        utterances: IntArray = self._utterances.members[self._utterances.starts[speakers, None] + drawn]
        return utterances


def _checked_labels(speaker_labels: npt.ArrayLike) -> IntArray:
    labels = np.asarray(speaker_labels)
    if labels.ndim != 1 or not len(labels) or not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0:
        raise ValueError(
            "speaker_labels must be a non-empty vector of non-negative integers, "
            f"got shape {labels.shape} of {labels.dtype}."
        )
    return labels

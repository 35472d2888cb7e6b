"""What the samplers of hard batches share: the hard ratio, and a batch of hard speakers filled up with others."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
import numpy.typing as npt

from chns.sampling.flat_groups import IntArray, draw_excluding
from chns.sampling.speaker_batches import SpeakerBatches


class HardSpeakerBatches(SpeakerBatches):
    """A batch sampler whose subclass draws the hard speakers. See `chns.sampling.batches`."""

    def __init__(
        self,
        speaker_labels: npt.ArrayLike,
        *,
        speakers_per_batch: int,
        utterances_per_speaker: int,
        hard_ratio: float,
        steps_per_epoch: int | None,
        seed: int,
        rank: int,
        world_size: int,
        persons: npt.ArrayLike | None,
    ) -> None:
        super().__init__(
            speaker_labels,
            speakers_per_batch=speakers_per_batch,
            utterances_per_speaker=utterances_per_speaker,
            steps_per_epoch=steps_per_epoch,
            seed=seed,
            rank=rank,
            world_size=world_size,
            persons=persons,
        )
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
        self._num_hard = int(value * self.speakers_per_batch)

    def _draw_speakers(self, rng: np.random.Generator, epoch: int, step: int) -> IntArray:
        hard = self._draw_hard(rng, epoch, step)
        others = draw_excluding(rng, len(self.speakers), self.speakers_per_batch - len(hard), hard)
        speakers: IntArray = self.speakers[np.concatenate([hard, others])]
        return speakers

    @abstractmethod
    def _draw_hard(self, rng: np.random.Generator, epoch: int, step: int) -> IntArray:
        """Places, in ``speakers``, of the hard speakers, no place twice."""

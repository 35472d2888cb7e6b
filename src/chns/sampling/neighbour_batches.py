"""Batches grown on the graph of nearest speakers, without clusters."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from chns.sampling.flat_groups import IntArray, first_of_each
from chns.sampling.hard_speaker_batches import HardSpeakerBatches
from chns.sampling.neighbours import SpeakerNeighbours
from chns.sampling.rounds import Rounds


class NeighbourSpeakerBatches(HardSpeakerBatches):
    """Batches made of several small groups of speakers who sound alike, each a speaker and some of its neighbours.

    Each batch (P speakers, hard ratio h) is composed so:

    1. Take the next speakers of a random order as seeds, one for each ``group_size`` of ``floor(h * P)`` speakers.
    2. Add to each seed ``group_size - 1`` speakers drawn from a band of its neighbours.
    3. Where groups overlap, or speakers who may be one person meet, take more of the bands of the same seeds, until
       there are ``floor(h * P)`` speakers or the bands are used up.
    4. Fill up with speakers drawn from all others.

    A cluster has a border, beyond which the nearest speaker of many of its members lies; a group does not. Seeds come
    in the order of a random permutation, a new one each time it is used up, so everybody is a seed equally often; in
    all, speakers who are near many others come more often. A band that starts above 0 leaves out the nearest, who may
    be the same person.

    Keeps, for every batch: exactly P speakers, none twice, K different utterances of each speaker, those of one speaker
    adjacent, at most ``floor(h * P)`` speakers from groups. An epoch stops after ``steps_per_epoch`` batches.

    Args:
        speaker_labels: Speaker of each utterance, shape (utterances,), non-negative integers.
        neighbours: The nearest speakers of every speaker label, from `find_neighbours`.
        speakers_per_batch: P, over all ranks; the default is the paper's.
        utterances_per_speaker: K. Speakers with fewer utterances are left out and counted in the log.
        hard_ratio: h, between 0 (random) and 1 (all speakers from groups). May be set between epochs.
        group_size: Speakers of a group, its seed included.
        band: First rank of the neighbours that a group is drawn from, and the rank after the last; the nearest speaker
            has rank 0.
        steps_per_epoch: Batches an epoch; by default as many as give each utterance one turn on average.
        seed: Same seed and epoch, same batches.
        rank: Which slice of every batch this process takes.
        world_size: Number of slices; a batch is cut between speakers.
        persons: An integer a speaker label; speakers with the same one, who may be one person under two names, never
            meet in a batch: all but the first of them make way for others. See `chns.sampling.same_person`.

    Raises:
        ValueError: If labels are not a non-empty vector of non-negative integers, a label has no neighbours, or a
            setting is out of range.

    Source:
        The idea of batches of hard groups: Masztalski et al., Interspeech 2025, with clusters. Growing them from
        nearest neighbours: Harwood et al., "Smart mining for deep metric learning", ICCV 2017.
    """

    def __init__(
        self,
        speaker_labels: npt.ArrayLike,
        neighbours: SpeakerNeighbours,
        *,
        speakers_per_batch: int = 650,
        utterances_per_speaker: int = 2,
        hard_ratio: float = 1.0,
        group_size: int = 8,
        band: tuple[int, int] = (0, 16),
        steps_per_epoch: int | None = None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        persons: npt.ArrayLike | None = None,
    ) -> None:
        super().__init__(
            speaker_labels,
            speakers_per_batch=speakers_per_batch,
            utterances_per_speaker=utterances_per_speaker,
            hard_ratio=hard_ratio,
            steps_per_epoch=steps_per_epoch,
            seed=seed,
            rank=rank,
            world_size=world_size,
            persons=persons,
        )
        num_known, num_neighbours = neighbours.indices.shape
        if self.speakers[-1] >= num_known:
            raise ValueError(
                f"neighbours must cover speaker label {self.speakers[-1]}, got {num_known} speakers. "
                "Compare the speakers of the manifest that is sampled."
            )
        if group_size < 2:
            raise ValueError(f"group_size must be at least 2, got {group_size}.")
        first, end = band
        if not 0 <= first <= end - (group_size - 1) or end > num_neighbours:
            raise ValueError(
                f"band must hold at least group_size - 1 = {group_size - 1} of the {num_neighbours} neighbours, got "
                f"{first} to {end}. Widen it, make groups smaller, or find more neighbours."
            )
        place = np.full(num_known + 1, -1, np.int32)  # the last one answers for the index -1
        place[self.speakers] = np.arange(len(self.speakers), dtype=np.int32)
        self._neighbours = place[neighbours.indices[self.speakers, first:end]]
        self.group_size = group_size
        self._rounds = Rounds(seed, len(self.speakers), self._shuffled)

    def _draw_hard(self, rng: np.random.Generator, epoch: int, step: int) -> IntArray:
        num_seeds = -(-self._num_hard // self.group_size)
        seeds = self._rounds.take(num_seeds, epoch=epoch, step=step)
        band = rng.permuted(self._neighbours[seeds], axis=1)
        groups = np.concatenate([seeds[:, None], band[:, : self.group_size - 1]], axis=1)
        spare = band[:, self.group_size - 1 :].T  # one more of each group, then the next one of each
        candidates = np.concatenate([groups.ravel(), spare.ravel()])
        candidates = candidates[candidates >= 0]
        keys = candidates if self._persons is None else self._persons.of(self.speakers[candidates])
        hard: IntArray = candidates[first_of_each(keys)[: self._num_hard]]
        return hard

    def _shuffled(self, rng: np.random.Generator) -> IntArray:
        return rng.permutation(len(self.speakers))

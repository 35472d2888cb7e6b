"""Which batches each epoch trains on: random first, then hard ones, from groups of speakers who sound alike by then."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from chns.checkpoint import weights_digest
from chns.data.manifest import Manifest
from chns.distributed import from_first_process, rank, world_size
from chns.embedding import FloatArray, centroids_of, embed_some_of_each_speaker
from chns.encoders import SpeakerEncoder
from chns.sampling import RandomSpeakerBatches, SpeakerClusters, SpeakerNeighbours
from chns.sampling.flat_groups import IntArray
from chns.sampling.grouping import Grouping
from chns.sampling.hard_speaker_batches import HardSpeakerBatches
from chns.sampling.same_person import persons_of, suspected_pairs
from chns.sampling.schedule import EpochSignals, HardPhase

_log = logging.getLogger(__name__)


class BatchPlan:
    """The warm-up, groups of similar speakers and hard phase of a run.

    Groups are made before the first epoch whose hard ratio is above 0, and again when ``refresh_every`` epochs have
    passed since.

    Args:
        manifest: The training utterances.
        hard_phase: How hard each epoch is; None for random batches throughout.
        grouping: How speakers are grouped, and drawn from the groups.
        speakers_per_batch: P.
        utterances_per_speaker: K.
        steps_per_epoch: Batches an epoch; by default as many as use each utterance once on average.
        refresh_every: Group again after this many epochs; 0 never does.
        separate_same_person: Keep speakers who may be one person out of each other's batches; found when groups are
            first made, before training has pushed them apart.
        utterances_per_centroid: Utterances that are embedded of each speaker.
        centroid_crop_seconds: Length of the crop taken of each of those.
        seed: Of batches and centroids.
        num_workers: Processes that decode for the centroids.

    Raises:
        ValueError: If a setting is out of range.
    """

    def __init__(
        self,
        manifest: Manifest,
        *,
        hard_phase: HardPhase | None,
        grouping: Grouping[Any],
        speakers_per_batch: int,
        utterances_per_speaker: int,
        steps_per_epoch: int | None,
        refresh_every: int,
        separate_same_person: bool,
        utterances_per_centroid: int,
        centroid_crop_seconds: float,
        seed: int,
        num_workers: int,
    ) -> None:
        if refresh_every < 0:
            raise ValueError(f"refresh_every must be 0 or more, got {refresh_every}.")
        self._manifest = manifest
        self._hard_phase = hard_phase
        self._grouping = grouping
        self._shape: dict[str, Any] = {
            "speakers_per_batch": speakers_per_batch,
            "utterances_per_speaker": utterances_per_speaker,
            "steps_per_epoch": steps_per_epoch,
            "seed": seed,
            "rank": rank(),
            "world_size": world_size(),
        }
        self._random = RandomSpeakerBatches(manifest.speaker_labels, **self._shape)
        self._refresh_every = refresh_every
        self._separate_same_person = separate_same_person
        self._utterances_per_centroid = utterances_per_centroid
        self._centroid_crop_seconds = centroid_crop_seconds
        self._seed = seed
        self._num_workers = num_workers
        self._hard: HardSpeakerBatches | None = None
        self._grouped_at: int | None = None
        self._persons: IntArray | None = None
        self.groups: SpeakerClusters | SpeakerNeighbours | None = None
        self.decisions: list[str] = []
        self.num_same_person: int | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Batches of every epoch."""
        return self._random.steps_per_epoch

    def hard_ratio_at(self, epoch: int) -> float:
        """Share of hard speakers in the batches of an epoch that begins now."""
        return self._hard_phase.hard_ratio_at(epoch) if self._hard_phase else 0.0

    def begin(self, epoch: int, model: SpeakerEncoder, device: torch.device) -> bool:
        """Group the speakers, if that is due before this epoch.

        Returns:
            Whether new groups were made.
        """
        reason = self._due(epoch)
        if reason is None:
            return False
        self._note(epoch, f"{reason}: grouping {len(self._manifest.speakers):,} speakers by their centroids")
        centroids = self._current_centroids(epoch, model, device)
        encoder = weights_digest(model.encoder)
        self._use(from_first_process(lambda: self._grouping.group(centroids, encoder=encoder)))
        self._grouped_at = epoch
        return True

    def batches(self, epoch: int) -> RandomSpeakerBatches | HardSpeakerBatches:
        """The batch sampler of an epoch, at its first step."""
        batches: RandomSpeakerBatches | HardSpeakerBatches = self._random
        ratio = self.hard_ratio_at(epoch)
        if self._hard is not None and ratio > 0:
            self._hard.hard_ratio = ratio
            batches = self._hard
        batches.set_epoch(epoch)
        return batches

    def end_epoch(self, epoch: int, signals: EpochSignals) -> None:
        """Let the hard phase take note of an epoch."""
        if self._hard_phase is not None:
            for decision in self._hard_phase.end_epoch(epoch, signals):
                self._note(epoch, decision)

    def save_groups(self, folder: Path) -> None:
        """Write the groups in use to ``clusters`` or ``neighbours`` in a run's folder."""
        assert self.groups is not None
        kind = "clusters" if isinstance(self.groups, SpeakerClusters) else "neighbours"
        self.groups.save(folder / kind / f"epoch-{self._grouped_at:04d}.safetensors")

    def state_dict(self) -> dict[str, Any]:
        """What later epochs depend on; arrays as tensors."""
        return {
            "decisions": self.decisions,
            "num_same_person": self.num_same_person,
            "grouped_at": self._grouped_at,
            "groups": None if self.groups is None else _as_tensors(asdict(self.groups)),
            "persons": None if self._persons is None else torch.from_numpy(self._persons),
            "hard_phase": self._hard_phase.state_dict() if self._hard_phase else {},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""
        self.decisions, self._grouped_at = list(state["decisions"]), state["grouped_at"]
        self.num_same_person = state["num_same_person"]
        self._persons = None if state["persons"] is None else state["persons"].numpy()
        if state["groups"] is not None:
            self._use(self._grouping.kind(**_as_arrays(state["groups"])))
        if self._hard_phase is not None:
            self._hard_phase.load_state_dict(state["hard_phase"])

    def _due(self, epoch: int) -> str | None:
        """Why groups are to be made before this epoch; None if they are not."""
        if self.hard_ratio_at(epoch) == 0:
            return None
        if self._grouped_at is None:
            return "the hard phase begins"
        if self._refresh_every and epoch - self._grouped_at >= self._refresh_every:
            return f"{epoch - self._grouped_at} epochs have passed"
        return None

    def _current_centroids(self, epoch: int, model: SpeakerEncoder, device: torch.device) -> FloatArray:
        searching = self._separate_same_person and self._persons is None
        embeddings, labels = embed_some_of_each_speaker(
            model,
            self._manifest,
            utterances_per_speaker=self._utterances_per_centroid,
            crop_seconds=self._centroid_crop_seconds,
            seed=self._seed + epoch,
            num_workers=self._num_workers,
            device=device,
            sharded=True,
        )
        if self.num_same_person is None:
            pairs = from_first_process(lambda: suspected_pairs(embeddings, labels))
            self.num_same_person = len(pairs)
        if searching:
            self._persons = from_first_process(lambda: self._search_persons(epoch, embeddings, labels))
        return centroids_of(embeddings, labels, len(self._manifest.speakers))

    def _search_persons(self, epoch: int, embeddings: FloatArray, speaker_labels: IntArray) -> IntArray:
        num_speakers = len(self._manifest.speakers)
        persons = persons_of(num_speakers, suspected_pairs(embeddings, speaker_labels))
        num_doubles = num_speakers - len(np.unique(persons))
        if len(np.unique(persons[self._random.speakers])) < self._random.speakers_per_batch:
            self._note(epoch, f"{num_doubles:,} speakers seem to be others: too many to be true, so none is kept apart")
            return np.arange(num_speakers)
        self._note(epoch, f"{num_doubles:,} speakers may be others under a second name: they never meet")
        return persons

    def _use(self, groups: SpeakerClusters | SpeakerNeighbours) -> None:
        self.groups = groups
        self._hard = self._grouping.batches(self._manifest.speaker_labels, groups, persons=self._persons, **self._shape)

    def _note(self, epoch: int, decision: str) -> None:
        self.decisions.append(f"epoch {epoch}: {decision}")
        _log.info("%s", self.decisions[-1])


def _as_tensors(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for name, v in fields.items()}


def _as_arrays(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: v.numpy() if isinstance(v, Tensor) else v for name, v in fields.items()}

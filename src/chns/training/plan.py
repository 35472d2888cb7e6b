"""Which batches each epoch of a run trains on: `chns.sampling.HardBatches` on a manifest, a model and its processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from chns.bundle.bundle import weights_digest
from chns.core import Float32Array, IntArray
from chns.core.distributed import from_first_process
from chns.data import Manifest
from chns.encoders import SpeakerEncoder
from chns.evaluation import Embedder
from chns.sampling.batches import RandomSpeakerBatches
from chns.sampling.clusters import SpeakerClusters
from chns.sampling.hard_batches import Grouping, HardBatches
from chns.sampling.neighbours import SpeakerNeighbours
from chns.sampling.same_person import suspected_pairs
from chns.sampling.schedule import EpochSignals, Schedule, StartWhenEasy
from chns.sampling.speaker_batches import BatchShape, HardSpeakerBatches


@dataclass(frozen=True, kw_only=True)
class CentroidCrops:
    """What the centroids of speakers are made of.

    Args:
        utterances_per_speaker: Utterances that are embedded of each speaker.
        crop_seconds: Length of the crop taken of each of those.
        num_workers: Processes that decode.
    """

    utterances_per_speaker: int = 10
    crop_seconds: float = 3.0
    num_workers: int = 0


class BatchPlan:
    """The warm-up, groups of similar speakers and hard phase of a run. See `HardBatches`.

    Args:
        manifest: The training utterances.
        shape: Speakers, utterances, steps and seed of the batches, and which slice is this process's.
        groups: How speakers are grouped, and drawn from the groups.
        schedule: How hard each epoch is; None for random batches throughout.
        separate_same_person: Keep speakers who may be one person out of each other's batches.
        crops: What centroids are made of.

    Attributes:
        num_same_person: Pairs of speakers who may be one person and are not kept apart, counted when groups are first
            made; None before, and where they are kept apart.

    Raises:
        ValueError: If a setting is out of range.
    """

    def __init__(
        self,
        manifest: Manifest,
        *,
        shape: BatchShape,
        groups: Grouping[Any],
        schedule: Schedule | None,
        separate_same_person: bool,
        crops: CentroidCrops,
    ) -> None:
        self._manifest = manifest
        self._crops = crops
        self._schedule = schedule
        self._seed = shape.seed
        self._looks = not separate_same_person
        self.num_same_person: int | None = None
        self._now: tuple[int, SpeakerEncoder, torch.device] | None = None
        self._batches = HardBatches(
            manifest.speaker_labels,
            embed=self._embed,
            shape=shape,
            groups=groups,
            schedule=schedule,
            separate_same_person=separate_same_person,
            utterances_per_centroid=crops.utterances_per_speaker,
            share=from_first_process,
        )

    @property
    def steps_per_epoch(self) -> int:
        """Batches of every epoch."""
        return self._batches.steps_per_epoch

    @property
    def groups(self) -> SpeakerClusters | SpeakerNeighbours | None:
        """The groups in use."""
        return self._batches.groups

    @property
    def decisions(self) -> list[str]:
        """What was decided so far and why, in words; while a hard phase waits for easy batches, how easy they are."""
        waiting = self._schedule.waiting if isinstance(self._schedule, StartWhenEasy) else None
        return self._batches.decisions if waiting is None else [*self._batches.decisions, waiting]

    def hard_ratio_at(self, epoch: int) -> float:
        """Share of hard speakers in the batches of an epoch that begins now."""
        return self._batches.hard_ratio_at(epoch)

    def begin(self, epoch: int, model: SpeakerEncoder, device: torch.device) -> bool:
        """Group the speakers, if that is due before this epoch.

        Returns:
            Whether new groups were made.
        """
        self._now = (epoch, model, device)
        made = self._batches.begin(epoch, encoder=lambda: weights_digest(model.encoder))
        self._now = None
        return made

    def batches(self, epoch: int) -> RandomSpeakerBatches | HardSpeakerBatches:
        """The batch sampler of an epoch, at its first step."""
        return self._batches.sampler_at(epoch)

    def end_epoch(self, epoch: int, signals: EpochSignals) -> None:
        """Let the schedule take note of an epoch."""
        self._batches.end(epoch, **signals._asdict())

    def save_groups(self, folder: Path) -> None:
        """Write the groups in use to ``clusters`` or ``neighbours`` in a run's folder."""
        assert self.groups is not None
        kind = "clusters" if isinstance(self.groups, SpeakerClusters) else "neighbours"
        self.groups.save(folder / kind / f"epoch-{self._batches.grouped_at:04d}.safetensors")

    def state_dict(self) -> dict[str, Any]:
        """What later epochs depend on."""
        return {**self._batches.state_dict(), "num_same_person": self.num_same_person}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state."""
        self._batches.load_state_dict(state)
        self.num_same_person = state["num_same_person"]

    def _embed(self, utterances: IntArray) -> Float32Array:
        assert self._now is not None
        epoch, model, device = self._now
        embedder = Embedder(model=model, device=device, num_workers=self._crops.num_workers, sharded=True)
        embeddings = embedder.crops(
            self._manifest,
            utterances,
            crop_seconds=self._crops.crop_seconds,
            seed=self._seed + epoch,
            purpose="centroids",
        )
        if self._looks and self.num_same_person is None:
            speakers = self._manifest.speaker_labels[utterances]
            self.num_same_person = from_first_process(lambda: len(suspected_pairs(embeddings, speakers)))
        return embeddings

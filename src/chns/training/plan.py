"""Which batches each epoch of a run trains on: `chns.sampling.HardBatches` on a manifest, a model and its processes."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from chns.bundle import weights_digest
from chns.core import Float32Array, IntArray, atomic_path, from_first_process
from chns.data import Manifest
from chns.encoders import SpeakerEncoder
from chns.evaluation import Embedder
from chns.sampling import (
    BatchShape,
    EpochSignals,
    Grouping,
    HardBatches,
    HardSpeakerBatches,
    RandomSpeakerBatches,
    Schedule,
    SpeakerClusters,
    SpeakerNeighbours,
    StartWhenEasy,
    suspected_pairs,
)
from chns.training.own_parts import OwnBatches

_log = logging.getLogger(__name__)

TEACHER_EMBEDDINGS = "group_embeddings.safetensors"


@dataclass(frozen=True, kw_only=True)
class GroupingModel:
    """A model that groups the speakers in place of the encoder in training.

    Args:
        model: Waveforms, shape (n, samples), to embeddings, shape (n, dim).
        digest: Of its weights.
        folder: Where its embeddings are kept; None computes them anew when a run goes on.
    """

    model: SpeakerEncoder
    digest: str
    folder: Path | None = None


@dataclass(frozen=True, kw_only=True)
class CentroidCrops:
    """What the centroids of speakers are made of.

    Args:
        utterances_per_speaker: Utterances that are embedded of each speaker.
        crop_seconds: Length of the crop taken of each of those.
        num_workers: Processes that decode.
        model: What embeds them; None for the encoder in training.
    """

    utterances_per_speaker: int = 10
    crop_seconds: float = 3.0
    num_workers: int = 0
    model: GroupingModel | None = None


class BatchPlan:
    """The warm-up, groups of similar speakers and hard phase of a run. See `HardBatches`.

    Args:
        manifest: The training utterances.
        shape: Speakers, utterances, steps and seed of the batches, and which slice is this process's.
        groups: How speakers are grouped, and drawn from the groups.
        schedule: How hard each epoch is; None for random batches throughout.
        separate_same_person: Keep speakers who may be one person out of each other's batches.
        crops: What centroids are made of.
        own: A sampler of the user's own, in place of all others.

    Attributes:
        slice_sizes: Utterances of each process's slice of every batch; None of a user's own sampler.
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
        own: OwnBatches | None = None,
    ) -> None:
        self._manifest = manifest
        self._own = own
        self._crops = crops
        self._schedule = schedule
        self._seed = shape.seed
        self._segments_per_step = shape.speakers_per_batch * shape.utterances_per_speaker
        self.slice_sizes = shape.slice_sizes if own is None else None
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
        made = self._batches.begin(epoch, encoder=lambda: self._digest(model))
        self._now = None
        return made

    def batches(self, epoch: int) -> RandomSpeakerBatches | HardSpeakerBatches | OwnBatches:
        """The batch sampler of an epoch, at its first step."""
        if self._own is not None:
            self._own.go_to(epoch)
            return self._own
        return self._batches.sampler_at(epoch)

    def random_batches(self, epoch: int, *, num_segments: int) -> tuple[list[list[int]], int]:
        """This process's slices of the first random batches that hold so many segments, and the place of the first."""
        batches = self._batches.random_at(epoch)
        number = math.ceil(num_segments / self._segments_per_step)
        return list(islice(iter(batches), number)), batches.first_place

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

    def _digest(self, model: SpeakerEncoder) -> str:
        return weights_digest(model.encoder) if self._crops.model is None else self._crops.model.digest

    def _embed(self, utterances: IntArray) -> Float32Array:
        assert self._now is not None
        epoch, model, device = self._now
        if self._crops.model is None:
            embeddings = self._embedded(utterances, model, device, epoch)
        else:
            embeddings = self._kept(utterances, self._crops.model, device, epoch)
        if self._looks and self.num_same_person is None:
            speakers = self._manifest.speaker_labels[utterances]
            self.num_same_person = from_first_process(lambda: len(suspected_pairs(embeddings, speakers)))
        return embeddings

    def _embedded(self, utterances: IntArray, model: SpeakerEncoder, device: torch.device, epoch: int) -> Float32Array:
        embedder = Embedder(model=model, device=device, num_workers=self._crops.num_workers, sharded=True)
        return embedder.crops(
            self._manifest,
            utterances,
            crop_seconds=self._crops.crop_seconds,
            seed=self._seed + epoch,
            purpose="centroids",
        )

    def _kept(self, utterances: IntArray, grouping: GroupingModel, device: torch.device, epoch: int) -> Float32Array:
        """The embeddings of another model: from the run's folder, or computed and kept there."""
        path = None if grouping.folder is None else grouping.folder / TEACHER_EMBEDDINGS
        what = hashlib.sha256(grouping.digest.encode())
        what.update(repr((self._crops.crop_seconds, self._seed + epoch)).encode())
        what.update("\n".join(self._manifest[row].name for row in utterances.tolist()).encode())
        key = what.hexdigest()
        kept = None if path is None else from_first_process(lambda: _read_kept(path, key))
        if kept is not None:
            _log.info("embeddings of the model that groups the speakers are taken from %s", path)
            return kept
        embeddings = self._embedded(utterances, grouping.model.to(device), device, epoch)
        if path is not None:
            from_first_process(lambda: _keep(path, key, embeddings))
        return embeddings


def _keep(path: Path, key: str, embeddings: Float32Array) -> None:
    with atomic_path(path) as temporary:
        save_file({"embeddings": embeddings}, temporary, metadata={"of": key})


def _read_kept(path: Path, key: str) -> Float32Array | None:
    """What `_keep` wrote; None if there is nothing, or it is damaged or of something else: it is then made anew."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="np") as file:
            if (file.metadata() or {}).get("of") != key:
                return None
            return cast(Float32Array, file.get_tensor("embeddings"))
    except (SafetensorError, OSError):
        return None

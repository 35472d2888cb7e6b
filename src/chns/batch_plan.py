"""Which batches each epoch trains on: random first, then from clusters made with the encoder as it is by then."""

from __future__ import annotations

import logging
from typing import Any, Literal

import torch

from chns.checkpoint import weights_digest
from chns.data.manifest import Manifest
from chns.distributed import from_first_process, rank, world_size
from chns.embedding import speaker_centroids
from chns.encoders import SpeakerEncoder
from chns.sampling import (
    ClusterSpeakerBatches,
    HardPhaseSchedule,
    RandomSpeakerBatches,
    SpeakerClusters,
    cluster_speakers,
)

_log = logging.getLogger(__name__)


class BatchPlan:
    """The warm-up, centroids, clusters and hard phase of a run.

    Args:
        manifest: The training utterances.
        schedule: When the hard phase starts and how hard it is; None for random batches throughout.
        speakers_per_batch: P.
        utterances_per_speaker: K.
        steps_per_epoch: Batches an epoch; by default as many as use each utterance once on average.
        num_clusters: Clusters of k-means.
        pooling: How clusters are pooled, see `chns.sampling.ClusterSpeakerBatches`.
        utterances_per_centroid: Utterances that make up a speaker's centroid.
        centroid_crop_seconds: Length of the crop taken of each of those.
        seed: Of batches, centroids and clusters.
        num_workers: Processes that decode for the centroids.

    Raises:
        ValueError: If a setting is out of range, or there are fewer speakers than clusters.
    """

    def __init__(
        self,
        manifest: Manifest,
        *,
        schedule: HardPhaseSchedule | None,
        speakers_per_batch: int,
        utterances_per_speaker: int,
        steps_per_epoch: int | None,
        num_clusters: int,
        pooling: Literal["random", "nearest"],
        utterances_per_centroid: int,
        centroid_crop_seconds: float,
        seed: int,
        num_workers: int,
    ) -> None:
        if schedule is not None and not 1 <= num_clusters <= len(manifest.speakers):
            raise ValueError(
                f"num_clusters must be between 1 and the {len(manifest.speakers)} training speakers, "
                f"got {num_clusters}."
            )
        self._manifest = manifest
        self._schedule = schedule
        self._shape: dict[str, Any] = {
            "speakers_per_batch": speakers_per_batch,
            "utterances_per_speaker": utterances_per_speaker,
            "steps_per_epoch": steps_per_epoch,
            "seed": seed,
            "rank": rank(),
            "world_size": world_size(),
        }
        self._random = RandomSpeakerBatches(manifest.speaker_labels, **self._shape)
        self._num_clusters = num_clusters
        self._pooling = pooling
        self._utterances_per_centroid = utterances_per_centroid
        self._centroid_crop_seconds = centroid_crop_seconds
        self._seed = seed
        self._num_workers = num_workers
        self._clustered: ClusterSpeakerBatches | None = None
        self.clusters: SpeakerClusters | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Batches of every epoch."""
        return self._random.steps_per_epoch

    def hard_ratio_at(self, epoch: int) -> float:
        """Share of hard speakers in the batches of an epoch."""
        return self._schedule.hard_ratio_at(epoch) if self._schedule else 0.0

    def begin(self, epoch: int, model: SpeakerEncoder, device: torch.device) -> bool:
        """Cluster the speakers with the model, if that is due before this epoch.

        Returns:
            Whether new clusters were made.
        """
        if self._schedule is None or not self._schedule.clusters_due(epoch):
            return False
        _log.info("epoch %d: clustering %d speakers by their centroids", epoch, len(self._manifest.speakers))
        centroids = speaker_centroids(
            model,
            self._manifest,
            utterances_per_speaker=self._utterances_per_centroid,
            crop_seconds=self._centroid_crop_seconds,
            seed=self._seed + epoch,
            num_workers=self._num_workers,
            device=device,
            sharded=True,
        )
        self._use(
            from_first_process(
                lambda: cluster_speakers(
                    centroids, num_clusters=self._num_clusters, seed=self._seed, encoder=weights_digest(model.encoder)
                )
            )
        )
        return True

    def batches(self, epoch: int) -> RandomSpeakerBatches | ClusterSpeakerBatches:
        """The batch sampler of an epoch, at its first step."""
        batches: RandomSpeakerBatches | ClusterSpeakerBatches = self._random
        if self._clustered is not None:
            self._clustered.hard_ratio = self.hard_ratio_at(epoch)
            batches = self._clustered
        batches.set_epoch(epoch)
        return batches

    def state_dict(self) -> dict[str, Any]:
        """The clusters in use, as tensors."""
        if self.clusters is None:
            return {}
        return {
            "labels": torch.from_numpy(self.clusters.labels),
            "centres": torch.from_numpy(self.clusters.centres),
            "seed": self.clusters.seed,
            "encoder": self.clusters.encoder,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Use the clusters of a saved state."""
        if state:
            self._use(
                SpeakerClusters(
                    labels=state["labels"].numpy(),
                    centres=state["centres"].numpy(),
                    seed=state["seed"],
                    encoder=state["encoder"],
                )
            )

    def _use(self, clusters: SpeakerClusters) -> None:
        self.clusters = clusters
        self._clustered = ClusterSpeakerBatches(
            self._manifest.speaker_labels,
            clusters,
            pooling=self._pooling,
            **self._shape,
        )

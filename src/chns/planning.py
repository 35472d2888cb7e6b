"""From settings to the plan of a run's batches; what ``batches.kind: auto`` means is decided here."""

from __future__ import annotations

from dataclasses import replace

from chns.batch_plan import BatchPlan, CentroidCrops
from chns.config import ClusterSettings, TrainSettings
from chns.data.manifest import Manifest
from chns.distributed import rank, world_size
from chns.errors import ConfigError
from chns.sampling.hard_batches import ClusterGroups, NeighbourGroups
from chns.sampling.schedule import Schedule, StartAt, StartWhenEasy
from chns.sampling.speaker_batches import BatchShape

# Of the cost of a training, a segment of which costs three forward passes, that `auto` spends on its one pass.
_AUTO_PASS_SHARE = 0.05
_PASSES_PER_TRAINED_SEGMENT = 3


def make_plan(settings: TrainSettings, manifest: Manifest) -> BatchPlan:
    """Which batches each epoch trains on.

    Args:
        settings: Of the run.
        manifest: Its training utterances.

    Raises:
        ConfigError: If a hard phase would never begin, or there are fewer speakers than clusters.
        ValueError: If a setting is out of range.
    """
    batches = settings.batches
    clusters = settings.clusters if batches.kind != "auto" else _auto(settings, manifest)
    if batches.kind in ("clustered", "neighbours") and clusters.start_epoch >= settings.train.epochs:
        raise ConfigError(
            f"clusters.start_epoch must be before the last of train.epochs = {settings.train.epochs}, "
            f"got {clusters.start_epoch}. The hard phase would never begin."
        )
    return BatchPlan(
        manifest,
        shape=BatchShape(
            batches.speakers_per_batch,
            batches.utterances_per_speaker,
            steps_per_epoch=batches.steps_per_epoch,
            seed=settings.seed,
            rank=rank(),
            world_size=world_size(),
        ),
        groups=_groups(settings, clusters, num_speakers=len(manifest.speakers)),
        schedule=None if batches.kind == "random" else _schedule(clusters),
        separate_same_person=clusters.separate_same_person,
        crops=CentroidCrops(
            utterances_per_speaker=clusters.utterances_per_centroid,
            crop_seconds=clusters.crop_seconds,
            num_workers=settings.data.num_workers,
        ),
    )


def _auto(settings: TrainSettings, manifest: Manifest) -> ClusterSettings:
    """The settings that the ablation in docs/results.md speaks for; those of the user remain where it is silent.

    Recordings are embedded once, when the hard phase begins: fresher groups made no difference. So many utterances of
    each speaker are embedded that this costs 5 % of the training at most, though never fewer than two.
    """
    batches = settings.batches
    segments_per_step = batches.speakers_per_batch * batches.utterances_per_speaker
    usable_steps = batches.steps_per_epoch or len(manifest) // segments_per_step
    affordable = _AUTO_PASS_SHARE * _PASSES_PER_TRAINED_SEGMENT * settings.train.epochs * usable_steps
    affordable_of_each = int(affordable * segments_per_step / len(manifest.speakers))
    return replace(
        settings.clusters,
        start="easy",
        start_epoch=1,
        hard_ratio=1.0,
        refresh_every=0,
        separate_same_person=True,
        utterances_per_centroid=max(2, min(settings.clusters.utterances_per_centroid, affordable_of_each)),
    )


def _schedule(clusters: ClusterSettings) -> Schedule:
    if clusters.start == "easy":
        return StartWhenEasy(
            earliest_epoch=clusters.start_epoch,
            start_easy_share=clusters.start_easy_share,
            easy_share_low=clusters.easy_share_low,
            easy_share_high=clusters.easy_share_high,
            hard_ratio=clusters.hard_ratio,
            regroup_every=clusters.refresh_every,
        )
    return StartAt(
        clusters.start_epoch,
        hard_ratio=clusters.hard_ratio,
        ramp_epochs=clusters.ramp_epochs,
        regroup_every=clusters.refresh_every,
    )


def _groups(
    settings: TrainSettings, clusters: ClusterSettings, *, num_speakers: int
) -> ClusterGroups | NeighbourGroups:
    if settings.batches.kind in ("neighbours", "auto"):
        return NeighbourGroups(clusters.group_size, band=(clusters.first_neighbour, clusters.last_neighbour))
    if settings.batches.kind == "clustered" and not 1 <= (clusters.num_clusters or 1) <= num_speakers:
        raise ConfigError(
            f"clusters.num_clusters must be between 1 and the {num_speakers} training speakers, or null, "
            f"got {clusters.num_clusters}."
        )
    return ClusterGroups(clusters.num_clusters, pooling=clusters.pooling)

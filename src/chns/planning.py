"""From settings to the plan of a run's batches; what ``batches.kind: auto`` means is decided here."""

from __future__ import annotations

from dataclasses import replace

from chns.batch_plan import BatchPlan
from chns.config import ClusterSettings, TrainSettings
from chns.data.manifest import Manifest
from chns.errors import ConfigError
from chns.sampling import HardPhaseSchedule
from chns.sampling.adaptive import AdaptiveHardPhase
from chns.sampling.grouping import ClusterGrouping, NeighbourGrouping
from chns.sampling.schedule import HardPhase

# Of the cost of a training, a segment of which costs three forward passes, that `auto` spends on its one pass.
_AUTO_PASS_SHARE = 0.05
_PASSES_PER_TRAINED_SEGMENT = 3
_AUTO_DRIFT = 0.25


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
        hard_phase=None if batches.kind == "random" else _hard_phase(clusters),
        grouping=_grouping(settings, clusters, num_speakers=len(manifest.speakers)),
        speakers_per_batch=batches.speakers_per_batch,
        utterances_per_speaker=batches.utterances_per_speaker,
        steps_per_epoch=batches.steps_per_epoch,
        refresh_every=clusters.refresh_every,
        refresh_drift=clusters.refresh_drift,
        centroids=clusters.centroids,
        separate_same_person=clusters.separate_same_person,
        utterances_per_centroid=clusters.utterances_per_centroid,
        centroid_crop_seconds=clusters.crop_seconds,
        seed=settings.seed,
        num_workers=settings.data.num_workers,
    )


def _auto(settings: TrainSettings, manifest: Manifest) -> ClusterSettings:
    """The settings that the ablation in docs/results.md speaks for; those of the user remain where it is silent.

    Recordings are embedded once, when the hard phase begins; later groups are made from moving averages. So many
    utterances of each speaker are embedded that this costs 5 % of the training at most, though never fewer than two.
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
        refresh_drift=_AUTO_DRIFT,
        centroids="moving_average",
        separate_same_person=True,
        utterances_per_centroid=max(2, min(settings.clusters.utterances_per_centroid, affordable_of_each)),
    )


def _hard_phase(clusters: ClusterSettings) -> HardPhase:
    if clusters.start == "easy":
        return AdaptiveHardPhase(
            earliest_epoch=clusters.start_epoch,
            start_easy_share=clusters.start_easy_share,
            easy_share_low=clusters.easy_share_low,
            easy_share_high=clusters.easy_share_high,
            hard_ratio=clusters.hard_ratio,
        )
    return HardPhaseSchedule(
        start_epoch=clusters.start_epoch, hard_ratio=clusters.hard_ratio, ramp_epochs=clusters.ramp_epochs
    )


def _grouping(
    settings: TrainSettings, clusters: ClusterSettings, *, num_speakers: int
) -> ClusterGrouping | NeighbourGrouping:
    if settings.batches.kind in ("neighbours", "auto"):
        band = (clusters.first_neighbour, clusters.last_neighbour)
        return NeighbourGrouping(group_size=clusters.group_size, band=band, seed=settings.seed)
    if settings.batches.kind == "clustered" and not 1 <= (clusters.num_clusters or 1) <= num_speakers:
        raise ConfigError(
            f"clusters.num_clusters must be between 1 and the {num_speakers} training speakers, or null, "
            f"got {clusters.num_clusters}."
        )
    return ClusterGrouping(
        num_clusters=clusters.num_clusters,
        pooling=clusters.pooling,
        speakers_per_batch=settings.batches.speakers_per_batch,
        seed=settings.seed,
    )

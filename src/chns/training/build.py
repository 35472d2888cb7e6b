"""From settings to objects: the only module that knows both. What ``batches.kind: auto`` means is decided here."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from chns.bundle import OUR_FACTORIES, PACKAGED_MODEL, Architecture, load_bundle
from chns.core import ConfigError, available_cores, launched_world, make, rank, world_size
from chns.data import Manifest
from chns.encoders import SpeakerEncoder
from chns.evaluation import embedding_bundle
from chns.losses import DistillationLoss, TaughtLoss
from chns.sampling import (
    CLUSTERS_PER_BATCH,
    BatchShape,
    ClusterGroups,
    NeighbourGroups,
    Schedule,
    StartAt,
    StartWhenEasy,
    derived_num_clusters,
)
from chns.training.augmenting import with_new_speakers
from chns.training.cost import loader_workers
from chns.training.folder import first_hard_epoch
from chns.training.log import MetricsLogger, Validation
from chns.training.loop import Rhythm
from chns.training.own_parts import OwnBatches, try_encoder, try_loss
from chns.training.plan import BatchPlan, CentroidCrops, GroupingModel
from chns.training.rates import freeze_and_rate, learns_statistics, parameter_groups
from chns.training.settings import PAPER_SEGMENTS, ClusterSettings, OptimizerSettings, TrainSettings

# Of the cost of a training, a segment of which costs three forward passes, that `auto` spends on its one pass.
_AUTO_PASS_SHARE = 0.05
_PASSES_PER_TRAINED_SEGMENT = 3
_PAPER_RATE = 0.01
_VALIDATION_SEED = 0  # every run is validated on the same speakers and trials


def fitted(settings: TrainSettings, manifest: Manifest) -> tuple[TrainSettings, dict[str, str]]:
    """The settings with what was left open filled in, from the corpus and this machine.

    The learning rate grows with the square root of the number of segments in a batch, the rule for Adam (Malladi, Lyu,
    Panigrahi, Arora, "On the SDEs and scaling rules for adaptive gradient algorithms", 2022).

    Args:
        settings: As given.
        manifest: The training utterances.

    Returns:
        Settings without open ends, and for each that was derived its name, value and reason in words.

    Raises:
        ConfigError: If a batch is to have more speakers than have enough utterances.
    """
    batches, data, clusters, optimizer = settings.batches, settings.data, settings.clusters, settings.optimizer
    each = batches.utterances_per_speaker
    usable = int(np.count_nonzero(np.bincount(manifest.speaker_labels) >= each))
    in_words = f"{usable:,} training speakers with {each} utterance{'' if each == 1 else 's'} or more"
    if (batches.speakers_per_batch or 0) > usable or usable < 2:
        raise ConfigError(
            f"batches.speakers_per_batch must be between 2 and the {in_words}, got {batches.speakers_per_batch}. "
            f"{'Leave it out, which takes them all' if usable > 1 else 'Train on more speakers'}."
        )
    told = {}
    if batches.speakers_per_batch is None:
        wanted = batches.wanted_speakers
        batches = replace(batches, speakers_per_batch=min(wanted, usable))
        why = f"the paper's {PAPER_SEGMENTS:,} segments" if wanted <= usable else f"all {in_words}"
        told["batches.speakers_per_batch"] = f"{batches.speakers_per_batch}, {why}"
    num_segments = batches.wanted_speakers * each
    if optimizer.learning_rate is None:
        rate = float(f"{_PAPER_RATE * math.sqrt(num_segments / PAPER_SEGMENTS):.3g}")
        optimizer = replace(optimizer, learning_rate=rate)
        told["optimizer.learning_rate"] = (
            f"{rate:g}, {_PAPER_RATE} times the root of {num_segments:,} of the paper's {PAPER_SEGMENTS:,} segments"
        )
    if clusters.num_clusters is None and batches.kind == "clustered":
        number = derived_num_clusters(len(manifest.speakers), batches.wanted_speakers)
        clusters = replace(clusters, num_clusters=number)
        told["clusters.num_clusters"] = f"{number}, of which a batch holds about {CLUSTERS_PER_BATCH} as in the paper"
    processes, _ = launched_world(settings.train.devices, settings.train.num_nodes)
    size = 4 * num_segments * data.crop_seconds * settings.features.get("sample_rate_hz", 16_000) / processes
    workers, note = loader_workers(data.num_workers, available_cores(), num_processes=processes, batch_bytes=size)
    if note is not None:
        told["data.num_workers"] = note
    data = replace(data, num_workers=workers)
    return replace(settings, batches=batches, data=data, clusters=clusters, optimizer=optimizer), told


def make_plan(settings: TrainSettings, manifest: Manifest, encoder: nn.Module, folder: Path | None = None) -> BatchPlan:
    """Which batches each epoch trains on.

    Args:
        settings: Of the run.
        manifest: Its training utterances.
        encoder: What is trained.
        folder: Where embeddings of ``clusters.model`` are kept.

    Raises:
        ConfigError: If a hard phase would never begin, there are fewer speakers than clusters, or groups of
            ``clusters.model`` are to be made anew; also as `_own_batches`.
        ModelFileError, FileNotFoundError: If ``clusters.model`` is damaged, not trusted or missing.
        ValueError: If a setting is out of range.
    """
    settings, _ = fitted(settings, manifest)
    batches = settings.batches
    own = _own_batches(settings, manifest)
    clusters = settings.clusters if batches.kind != "auto" else _auto(settings, manifest, encoder)
    first_epoch = first_hard_epoch(clusters)
    if batches.kind in ("clustered", "neighbours") and first_epoch >= settings.train.epochs:
        raise ConfigError(
            f"clusters.start_epoch must be before the last of train.epochs = {settings.train.epochs}, "
            f"got {first_epoch}. The hard phase would never begin."
        )
    if clusters.model is not None and clusters.refresh_every:
        raise ConfigError(
            f"clusters.refresh_every must be 0 with clusters.model, got {clusters.refresh_every}. Leave it out: that "
            "model is not trained, so its groups stay as they are."
        )
    return BatchPlan(
        manifest,
        shape=BatchShape(
            batches.wanted_speakers,
            batches.utterances_per_speaker,
            steps_per_epoch=batches.steps_per_epoch if own is None else own.steps_per_epoch,
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
            num_workers=settings.data.num_workers or 0,
            model=None if batches.kind == "random" else _grouping_model(settings, folder),
        ),
        own=own,
    )


def _own_batches(settings: TrainSettings, manifest: Manifest) -> OwnBatches | None:
    """``batches.factory``, which is told the shape of a batch, the seed and the speakers if it takes them.

    Raises:
        ConfigError: If it is to have a hard phase too, or is not what `OwnBatches` takes.
    """
    batches = settings.batches
    if batches.factory is None:
        return None
    if batches.kind != "random":
        raise ConfigError(f"batches.kind must be left out with batches.factory, got {batches.kind!r}.")
    shape = {"speakers_per_batch": batches.wanted_speakers, "utterances_per_speaker": batches.utterances_per_speaker}
    sampler = make(
        batches.factory,
        batches.settings,
        speaker_labels=manifest.speaker_labels,
        steps_per_epoch=batches.steps_per_epoch,
        seed=settings.seed,
        **shape,
    )
    return OwnBatches(
        sampler,
        batches.factory,
        manifest.speaker_labels,
        segments=batches.wanted_speakers * batches.utterances_per_speaker,
        rank=rank(),
        world_size=world_size(),
    )


def _grouping_model(settings: TrainSettings, folder: Path | None) -> GroupingModel | None:
    name = settings.clusters.model
    if name is None:
        return None
    chosen = PACKAGED_MODEL if name == "packaged" else name
    bundle = embedding_bundle(chosen, trusted_packages=named_by_user(settings))
    return GroupingModel(model=bundle.model, digest=bundle.digest, folder=folder)


def hardest_ratio(settings: TrainSettings, manifest: Manifest, encoder: nn.Module) -> float:
    """Of ``auto``: half of a batch where random trials would pay for more, as docs/results/words.md has it."""
    holds_few = 100 * settings.batches.wanted_speakers <= len(manifest.speakers)
    return 1.0 if holds_few or learns_statistics(encoder, settings.optimizer.rates) else 0.5


def _auto(settings: TrainSettings, manifest: Manifest, encoder: nn.Module) -> ClusterSettings:
    """The settings that docs/results/ablation.md speaks for; those of the user remain where it is silent.

    Recordings are embedded once, when the hard phase begins: fresher groups made no difference. So many utterances of
    each speaker are embedded that this costs 5 % of the training at most, though never fewer than two.
    """
    batches = settings.batches
    segments_per_step = batches.wanted_speakers * batches.utterances_per_speaker
    usable_steps = batches.steps_per_epoch or len(manifest) // segments_per_step
    affordable = _AUTO_PASS_SHARE * _PASSES_PER_TRAINED_SEGMENT * settings.train.epochs * usable_steps
    affordable_of_each = int(affordable * segments_per_step / len(manifest.speakers))
    return replace(
        settings.clusters,
        start="easy",
        start_epoch=1,
        hard_ratio=hardest_ratio(settings, manifest, encoder),
        refresh_every=0,
        separate_same_person=True,
        utterances_per_centroid=max(2, min(settings.clusters.utterances_per_centroid, affordable_of_each)),
    )


def _schedule(clusters: ClusterSettings) -> Schedule:
    if clusters.start == "easy":
        return StartWhenEasy(
            earliest_epoch=first_hard_epoch(clusters),
            start_easy_share=clusters.start_easy_share,
            easy_share_low=clusters.easy_share_low,
            easy_share_high=clusters.easy_share_high,
            hard_ratio=clusters.hard_ratio,
            regroup_every=clusters.refresh_every,
        )
    return StartAt(
        first_hard_epoch(clusters),
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


def starting_model(settings: TrainSettings) -> tuple[Architecture, SpeakerEncoder]:
    """How the model is built, and the model: with fresh weights, or as ``train.start_from`` has it.

    A bundle brings its encoder and features. An encoder of a user's own must be named in the settings all the same:
    that name, and no other of its package, is what makes its code trusted.

    Raises:
        ConfigError: If an encoder or features are chosen that are not those of ``train.start_from``, or an encoder of
            this package that a bundle cannot name.
        ModelFileError, FileNotFoundError: If that is damaged, not trusted or missing.
    """
    chosen = _architecture(settings)
    if chosen.encoder.startswith("chns.") and chosen.encoder not in OUR_FACTORIES["encoder"]:
        raise ConfigError(
            f"encoder.factory must be your own or one of {', '.join(sorted(OUR_FACTORIES['encoder']))}, "
            f"got {chosen.encoder!r}."
        )
    if settings.train.start_from is None:
        return chosen, chosen.build()
    bundle = load_bundle(settings.train.start_from, trusted_packages=named_by_user(settings))
    if chosen not in (_architecture(TrainSettings()), bundle.architecture):
        raise ConfigError(
            f"encoder and features must be those of train.start_from, {bundle.architecture}, got {chosen}. "
            "Leave them out."
        )
    model = bundle.architecture.build()
    model.encoder.load_state_dict(bundle.model.encoder.state_dict())
    return bundle.architecture, model


def named_by_user(settings: TrainSettings) -> list[str]:
    """The encoder that the settings of this command name, if it is not one of ours: its code may run.

    Args:
        settings: From the command line and its configuration, never from a folder that came from elsewhere.
    """
    named = settings.encoder.factory
    return [] if named in OUR_FACTORIES["encoder"] else [named]


def _architecture(settings: TrainSettings) -> Architecture:
    return Architecture(
        encoder=settings.encoder.factory, encoder_settings=settings.encoder.settings, feature_settings=settings.features
    )


def read_data(settings: TrainSettings) -> tuple[Manifest, Manifest | None]:
    """The training manifest, with the new speakers of ``augmentation.speed``, and that of the validation speakers.

    No speaker is in both. Held-out speakers are the same whatever the seed, so that error rates of seeds compare.

    Raises:
        ConfigError: If no training manifest is named, or a speaker is in both.
        ManifestError, FileNotFoundError: If a manifest is missing or not valid.
    """
    data = settings.data
    if data.validation is None:
        return _split(settings)
    everything, _ = _split(settings)
    validation = Manifest.read(data.validation, root=data.root)
    shared = set(everything.speakers) & set(validation.speakers)
    if shared:
        raise ConfigError(
            f"data.validation must hold other speakers than data.train, got {len(shared)} in both, such as "
            f"{min(shared)!r}. Split a manifest with `chns split`."
        )
    return everything, validation


def training_manifest(settings: TrainSettings) -> Manifest:
    """The utterances that a run trained on; those it was validated on need not exist any more.

    Raises:
        ConfigError: If no training manifest is named.
        ManifestError, FileNotFoundError: If it is missing or not valid.
    """
    return _split(settings)[0]


def _split(settings: TrainSettings) -> tuple[Manifest, Manifest | None]:
    data = settings.data
    if not data.train:
        raise ConfigError("data.train must name a manifest, got none. Make one with `chns prepare`.")
    manifest = Manifest.read(data.train, root=data.root)
    num_held_out = data.held_out_speakers
    if num_held_out is None:
        num_speakers = len(manifest.speakers)
        num_held_out = min(100, max(2, num_speakers // 10)) if num_speakers >= 10 else 0
    held_out = None
    if data.validation is None and num_held_out:
        manifest, held_out = manifest.split_speakers(num_held_out, seed=_VALIDATION_SEED)
    return with_new_speakers(settings, manifest), held_out


def make_loss(settings: TrainSettings, model: SpeakerEncoder, manifest: Manifest) -> nn.Module:
    """The loss; one that classifies is told how many speakers there are and how large an embedding is.

    Both also under the names of pytorch-metric-learning's losses; and the order of the batches. An encoder or a loss of
    the user's own is tried on a batch; errors as `try_encoder`, `try_loss` and `_taught`.
    """
    derived = {"num_speakers": len(manifest.speakers), "num_classes": len(manifest.speakers)}
    if settings.batches.factory is None:  # a user's own batches may be in any order
        derived["utterances_per_speaker"] = settings.batches.utterances_per_speaker
    if (embedding_dim := getattr(model.encoder, "embedding_dim", None)) is not None:
        derived |= {"embedding_dim": embedding_dim, "embedding_size": embedding_dim}
    loss: nn.Module = make(settings.loss.factory, settings.loss.settings, **derived)
    own_encoder = settings.encoder.factory not in OUR_FACTORIES["encoder"] and settings.train.start_from is None
    if own_encoder or not settings.loss.factory.startswith("chns."):
        tried_dim = try_encoder(model, settings.encoder.factory)
        try_loss(loss, settings.loss.factory, embedding_dim=tried_dim, num_speakers=len(manifest.speakers))
    return loss if settings.train.teacher is None else _taught(settings, loss, model)


def _taught(settings: TrainSettings, loss: nn.Module, model: SpeakerEncoder) -> TaughtLoss:
    """The loss, and that of ``train.teacher`` beside it.

    Raises:
        ConfigError: If the teacher or the encoder hears another rate, or does not say how large its embeddings are.
        ModelFileError, FileNotFoundError: If it is damaged, not trusted or missing.
    """
    teacher = load_bundle(str(settings.train.teacher), trusted_packages=named_by_user(settings)).model
    if teacher.sample_rate_hz != model.sample_rate_hz:
        raise ConfigError(
            f"train.teacher must hear the encoder's {model.sample_rate_hz} Hz, got {teacher.sample_rate_hz} Hz. "
            "Choose another teacher, or set features.sample_rate_hz."
        )
    embedding_dim, teacher_dim = (getattr(part.encoder, "embedding_dim", None) for part in (model, teacher))
    if embedding_dim is None or teacher_dim is None:
        raise ConfigError(
            "encoder must have an attribute embedding_dim to learn from train.teacher, got none. Add it to its class."
        )
    distillation = DistillationLoss(embedding_dim=embedding_dim, teacher_dim=teacher_dim)
    return TaughtLoss(loss, distillation, teacher, weight=settings.train.teacher_weight)


def optimizer_maker(
    settings: OptimizerSettings, encoder: nn.Module
) -> Callable[[list[nn.Parameter]], torch.optim.Optimizer]:
    """What makes the optimiser of a list of parameters; those of the encoder that ``rates`` freezes are frozen now.

    Raises:
        ConfigError: As `chns.training.rates.freeze_and_rate`.
    """
    rates = freeze_and_rate(encoder, settings.rates)
    rate = _PAPER_RATE if settings.learning_rate is None else settings.learning_rate
    kinds: dict[str, type[torch.optim.Adam]] = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    return lambda parameters: kinds[settings.kind](
        parameter_groups(parameters, rates, peak=rate), lr=rate, weight_decay=settings.weight_decay, fused=True
    )


def make_rhythm(settings: TrainSettings) -> Rhythm:
    """How long the run is, and when what is done.

    Raises:
        ConfigError: If more epochs are to be averaged than there are.
    """
    train = settings.train
    if not 1 <= train.average_last <= train.epochs:
        raise ConfigError(
            f"train.average_last must be between 1 and train.epochs = {train.epochs}, got {train.average_last}."
        )
    return Rhythm(
        epochs=train.epochs,
        warmup_share=settings.optimizer.warmup_share,
        clip_norm=settings.optimizer.clip_norm,
        log_every_steps=train.log_every_steps,
        checkpoint_every_steps=train.checkpoint_every_steps,
        validate_every_epochs=train.validate_every_epochs,
        num_workers=settings.data.num_workers or 0,
        chunk_size=train.chunk_size,
        seed=settings.seed,
        average_last=train.average_last,
    )


def make_validation(settings: TrainSettings, manifest: Manifest | None) -> Validation | None:
    """Trials on the held-out speakers, if there are any."""
    if manifest is None:
        return None
    return Validation(
        manifest,
        num_trials=settings.train.validation_trials,
        seed=_VALIDATION_SEED,
        num_workers=settings.data.num_workers or 0,
    )


def make_logger(settings: TrainSettings) -> MetricsLogger | None:
    """The user's own logger, beside ``log.csv``.

    Raises:
        ConfigError: If it cannot be made, or does not take metrics.
    """
    chosen = settings.train.logger
    if chosen is None:
        return None
    logger: MetricsLogger = make(chosen.factory, chosen.settings)
    if not callable(getattr(logger, "log_metrics", None)):
        raise ConfigError(f"train.logger must have a method log_metrics(metrics, step), got {chosen.factory}.")
    return logger

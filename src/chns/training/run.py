"""One training from its settings to its summary: launch, build, train, keep the models."""

from __future__ import annotations

import ctypes
import json
import logging
import os
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import nn

from chns.bundle import Architecture, add_graph_if_possible, load_bundle, require_own_bundle, save_bundle
from chns.core import (
    ChnsError,
    ConfigError,
    cpu_has_bfloat16,
    from_first_process,
    in_short,
    launched_world,
    locked_folder,
    rank,
    require_device,
    world_size,
    write_text,
)
from chns.data import Manifest
from chns.encoders import SpeakerEncoder
from chns.losses import TaughtLoss
from chns.training.augmenting import augmented_crops, described_augmentation, make_masking
from chns.training.build import (
    fitted,
    hardest_ratio,
    make_logger,
    make_loss,
    make_plan,
    make_rhythm,
    make_validation,
    named_by_user,
    optimizer_maker,
    read_data,
    starting_model,
)
from chns.training.cost import count_encoder, count_step, free_memory_bytes, usable_memory_bytes
from chns.training.folder import RunFolder, config_text, longer
from chns.training.log import Speed, Validated
from chns.training.loop import Record, Training
from chns.training.plan import TEACHER_EMBEDDINGS
from chns.training.settings import TrainSettings

_log = logging.getLogger(__name__)

# What gloo says when another process, or its host, is gone.
_OTHERS_LOST = ("Timed out waiting", "Connection closed by peer", "Connection reset by peer")

# What a bundle tells by itself, or does not tell.
_TOLD_ELSEWHERE = ("data", "encoder", "features")


def train(settings: TrainSettings, folder: Path) -> dict[str, Any]:
    """Train a model, or go on with a training, and write everything about it into a folder.

    The folder gets ``config.yaml`` (once all is made, so a start that failed leaves nothing; complete, with what was
    left open filled in, which ``derived.json`` lists with the reasons), ``training.pt`` (the
    state to go on from), ``log.csv``, ``clusters`` or ``neighbours``, the bundles ``model`` (the latest) and
    ``best_model`` (the lowest validation EER), and, when all is done, the graphs of these two and ``summary.json``.

    Args:
        settings: Everything that decides the run.
        folder: One run's own; calling again with the same settings goes on where that run stopped, with more epochs
            makes it longer. Settings may change until there is a checkpoint.

    Returns:
        The summary.

    Raises:
        ConfigError: If settings contradict each other or those that the folder was begun with.
        FileExistsError: If the folder has a ``model`` or ``best_model`` that is no bundle.
        ManifestError, FileNotFoundError: If a manifest is missing or not valid.
        FolderInUseError: If another training writes into the folder.
        NonFiniteError: If a loss, a gradient or a weight is NaN or infinite.
        ChnsError: If another process of this training is gone.
    """
    fabric = _launched(settings)
    with ExitStack() as held:
        from_first_process(lambda: held.enter_context(locked_folder(folder)))
        try:
            return _train_in(folder, settings, fabric)
        except RuntimeError as error:
            if world_size() == 1 or not any(sign in str(error) for sign in _OTHERS_LOST):
                raise
            raise ChnsError(
                f"the other processes must answer within train.timeout_minutes, {settings.train.timeout_minutes:g}, "
                f"got no answer ({in_short(error)}). The same command goes on from the last checkpoint in {folder}."
            ) from error


def _train_in(folder: Path, settings: TrainSettings, fabric: Fabric) -> dict[str, Any]:
    for name in ("model", "best_model"):
        require_own_bundle(folder / name)
    summary: dict[str, Any] | None = from_first_process(lambda: _finished(settings, folder))
    if summary is not None:
        _log.info("already trained: %s", folder)
        return summary
    given = settings
    training_manifest, validation_manifest = read_data(settings)
    settings, derived = fitted(given, training_manifest)
    from_first_process(lambda: _refuse_other(settings, folder))
    torch.manual_seed(settings.seed)
    architecture, model = starting_model(settings)
    model.masking = make_masking(settings)
    loss = make_loss(settings, model, training_manifest)
    settings, chunks = _in_chunks(settings, model, loss, fabric)
    derived |= chunks
    if settings.batches.kind == "auto" and hardest_ratio(settings, training_manifest, model.encoder) < 1:
        derived["clusters.hard_ratio"] = (
            f"0.5 at most, as a batch holds {settings.batches.wanted_speakers} of "
            f"{len(training_manifest.speakers):,} speakers and no batch normalisation learns"
        )
    progress = _Progress(settings, folder, architecture, model, training_manifest)
    run = Training(
        fabric=fabric,
        model=model,
        loss=loss,
        make_optimizer=optimizer_maker(settings.optimizer, model.encoder),
        plan=make_plan(settings, training_manifest, model.encoder, folder),
        crops=augmented_crops(settings, training_manifest, sample_rate_hz=model.sample_rate_hz),
        rhythm=make_rhythm(settings),
        record=Record(
            folder=folder,
            validation=make_validation(settings, validation_manifest),
            on_validation=progress.save,
            logger=make_logger(settings) if rank() == 0 else None,
        ),
    )
    from_first_process(lambda: _begin(settings, folder, derived))
    _log.info(
        "training on %d speakers, %d utterances: %d steps of %d speakers x %d utterances",
        len(training_manifest.speakers),
        len(training_manifest),
        run.num_steps,
        settings.batches.wanted_speakers,
        settings.batches.utterances_per_speaker,
    )
    for name, value in derived.items():
        _log.info("%s: %s", name, value)
    num_drawn, num_speakers = settings.batches.wanted_speakers, len(training_manifest.speakers)
    if settings.batches.kind != "random" and 2 * num_drawn > num_speakers:
        _log.warning(
            "every batch holds %d of the %d speakers, so that hard ones hardly differ from random ones. Set "
            "batches.speakers_per_batch to a quarter of the speakers, %d, for instance.",
            num_drawn,
            num_speakers,
            max(2, num_speakers // 4),
        )
    run.run()
    from_first_process(progress.add_graphs)
    from_first_process(lambda: (folder / TEACHER_EMBEDDINGS).unlink(missing_ok=True))  # their groups are kept
    return from_first_process(
        lambda: _write_json(folder / "summary.json", {"steps": run.num_steps, **progress.summary()})
    )


def measure_steps(settings: TrainSettings, *, num_steps: int = 10) -> Speed:
    """Train so many steps on random batches, and one before, as a run of these settings would; nothing is kept.

    Args:
        settings: Of the run; on one device.
        num_steps: How many, if an epoch has as many; fewer where they take more than a minute.

    Raises:
        AudioError, FileNotFoundError: If a recording cannot be read.
    """
    settings = replace(settings, batches=replace(settings.batches, kind="random"))
    fabric = _launched(settings)
    manifest, _ = read_data(settings)
    settings, _ = fitted(settings, manifest)
    torch.manual_seed(settings.seed)
    _, model = starting_model(settings)
    model.masking = make_masking(settings)
    loss = make_loss(settings, model, manifest)
    settings, _ = _in_chunks(settings, model, loss, fabric)
    with TemporaryDirectory() as folder:
        return Training(
            fabric=fabric,
            model=model,
            loss=loss,
            make_optimizer=optimizer_maker(settings.optimizer, model.encoder),
            plan=make_plan(settings, manifest, model.encoder),
            crops=augmented_crops(settings, manifest, sample_rate_hz=model.sample_rate_hz),
            rhythm=make_rhythm(settings),
            record=Record(folder=Path(folder), validation=None, on_validation=lambda _: None),
        ).measure(num_steps)


def _in_chunks(
    settings: TrainSettings, model: SpeakerEncoder, loss: nn.Module, fabric: Fabric
) -> tuple[TrainSettings, dict[str, str]]:
    """The settings with a ``train.chunk_size``, where it is open and a batch would not fit into memory; and why."""
    plain = loss.loss if isinstance(loss, TaughtLoss) else loss
    batches, train = settings.batches, settings.train
    if train.chunk_size is not None:
        return settings, {}
    try:
        encoder = count_encoder(model, crop_seconds=settings.data.crop_seconds, precision=train.precision)
        cost = count_step(
            encoder, plain, num_speakers=batches.wanted_speakers, utterances_per_speaker=batches.utterances_per_speaker
        )
    except (RuntimeError, NotImplementedError) as error:  # of a user's own that a CPU, or a batch of two, does not suit
        _log.debug("memory of a step cannot be counted: %s", error)
        return settings, {}
    usable = usable_memory_bytes(fabric.device)
    if fabric.device.type == "cpu":
        usable /= launched_world(settings.train.devices, settings.train.num_nodes)[0]
    size = cost.chunk_size(usable, num_processes=fabric.world_size)
    taken, free = cost.memory_bytes(size or -(-cost.num_segments // fabric.world_size)), free_memory_bytes()
    if fabric.device.type == "cpu" and taken > free:  # the size follows from the machine alone, as results do from it
        _log.warning(
            "a step needs about %.1f GB, and %.1f GB of memory are free: the system may end this process. End others, "
            "or set train.chunk_size to %d.",
            taken / 1e9,
            free / 1e9,
            cost.chunk_size(free / 2) or cost.num_segments,
        )
    if size is None:
        return settings, {}
    needed = cost.memory_bytes(-(-cost.num_segments // fabric.world_size))
    return replace(settings, train=replace(train, chunk_size=size)), {
        "train.chunk_size": f"{size}, as {cost.num_segments:,} segments at once need about {needed / 1e9:.0f} GB, and "
        f"{usable / 1e9:.0f} may be taken here"
    }


class _Progress:
    """Saves the model after each validation, and the best one apart."""

    def __init__(
        self,
        settings: TrainSettings,
        folder: Path,
        architecture: Architecture,
        model: SpeakerEncoder,
        manifest: Manifest,
    ) -> None:
        self._folder = folder
        self._architecture = architecture
        self._model = model
        kept = {name: value for name, value in asdict(settings).items() if name not in _TOLD_ELSEWHERE}
        kept["augmentation"] = described_augmentation(settings.augmentation)
        del kept["train"]["logger"]  # which may hold a key
        self._training = {
            "manifest": Path(settings.data.train).name,
            "speakers": len(manifest.speakers),
            "utterances": len(manifest),
            "hours": round(float(manifest.durations_seconds.sum()) / 3600, 3),
            "crop_seconds": settings.data.crop_seconds,
            "settings": kept,
        }
        self._last: Validated | None = None
        self._best_path = folder / "best.json"
        self._named = named_by_user(settings)

    def save(self, validated: Validated | None) -> None:
        """Write ``model``, and ``best_model`` if no earlier validation was better."""
        self._last = validated
        if rank() > 0:
            return
        metrics = None if validated is None else validated.metrics
        measured = {} if metrics is None else {"validation": {**metrics.to_json(), "threshold": metrics.threshold}}
        save_bundle(self._folder / "model", self._model, self._architecture, training=self._training, metrics=measured)
        if metrics is not None and metrics.eer < self._best_eer():
            save_bundle(
                self._folder / "best_model", self._model, self._architecture, training=self._training, metrics=measured
            )
            _write_json(self._best_path, metrics.to_json())

    def add_graphs(self) -> None:
        """Give the bundles their graphs, with which they are used without torch."""
        for name in ("model", "best_model"):
            if (self._folder / name).is_dir():
                bundle = load_bundle(self._folder / name, trusted_packages=self._named)
                add_graph_if_possible(self._folder / name, bundle.model)

    def summary(self) -> dict[str, Any]:
        """What training ended with."""
        if self._last is None:
            return {"model": str(self._folder / "model")}
        by_corpus = self._last.eer_by_corpus
        return {
            "model": str(self._folder / "model"),
            "validation": self._last.metrics.to_json() | ({"eer_by_corpus": by_corpus} if by_corpus else {}),
            "best_model": str(self._folder / "best_model"),
            "best_validation": json.loads(self._best_path.read_text(encoding="utf-8")),
        }

    def _best_eer(self) -> float:
        if not self._best_path.is_file():
            return float("inf")
        return float(json.loads(self._best_path.read_text(encoding="utf-8"))["eer"])


def _launched(settings: TrainSettings) -> Fabric:
    """Start the other processes, if there are to be any, and join them."""
    require_device(settings.train.device, settings.train.precision)
    devices, num_nodes = launched_world(settings.train.devices, settings.train.num_nodes)
    if settings.train.timeout_minutes <= 0:
        raise ConfigError(f"train.timeout_minutes must be positive, got {settings.train.timeout_minutes:g}.")
    strategy: str | DDPStrategy = settings.train.strategy
    if devices * num_nodes > 1 and strategy in ("auto", "ddp"):
        strategy = DDPStrategy(timeout=timedelta(minutes=settings.train.timeout_minutes))
    fabric = Fabric(
        accelerator=settings.train.device,
        strategy=strategy,
        devices=devices,
        num_nodes=num_nodes,
        precision=settings.train.precision,
    )
    fabric.launch()
    if fabric.device.type == "cpu":
        keep_freed_memory()
    if not fabric.is_global_zero:
        logging.getLogger("chns").setLevel(logging.WARNING)
    elif fabric.device.type == "cpu" and settings.train.precision == "bf16-mixed" and not cpu_has_bfloat16():
        _log.warning(
            "train.precision is bf16-mixed, but this CPU has no instructions for bfloat16: a step may take several "
            "times as long as with --train.precision 32-true"
        )
    return fabric


def keep_freed_memory() -> None:
    """Let the C library keep large blocks that are freed, where it is glibc and the environment does not say otherwise.

    By itself glibc gives them back to the system, and a step of a training fetches them anew page by page
    (docs/performance.md). Kept, a process holds as much as its largest step needed.
    """
    if {"MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_"} & set(os.environ):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return
    trim_threshold, mmap_max = -1, -4  # M_TRIM_THRESHOLD, M_MMAP_MAX of malloc.h
    mallopt(mmap_max, 0)
    mallopt(trim_threshold, 2**31 - 1)


def _finished(settings: TrainSettings, folder: Path) -> dict[str, Any] | None:
    """Make sure that what was begun in the folder had these settings; the summary, if it was finished with them.

    Raises:
        ConfigError: If there is a checkpoint of a run with other settings.
    """
    if not (folder / "config.yaml").is_file():
        return None
    run = RunFolder.open(folder)
    if not run.is_begun:
        return None
    if _refuse_other(settings, folder):
        return None
    return run.summary() or None


def _refuse_other(settings: TrainSettings, folder: Path) -> bool:
    """Whether the run in the folder is to be made longer.

    Raises:
        ConfigError: If it was begun with other settings; what was derived then counts as it came out.
    """
    if not (folder / "config.yaml").is_file():
        return False
    run = RunFolder.open(folder)
    changed = run.differences(settings) if run.is_begun else {}
    if longer(changed):
        return True
    if changed:
        name, (before, now) = next(iter(changed.items()))
        raise ConfigError(
            f"{name} must be {in_short(before)} as when the run was begun, got {in_short(now)} "
            f"(settings that differ: {in_short(', '.join(changed))}) in {run.path / 'config.yaml'}. Use another folder "
            f"for another run, with --train.start_from {run.model} if it is to start from these weights."
        )
    return False


def _begin(settings: TrainSettings, folder: Path, derived: Mapping[str, str]) -> None:
    """Write the settings; of a run that has no checkpoint, remove what it left of decisions and best model."""
    (folder / "summary.json").unlink(missing_ok=True)  # of a run that is made longer
    if not (folder / "training.pt").is_file():
        for name in ("best.json", "decisions.txt", "same_person.json"):
            (folder / name).unlink(missing_ok=True)
        for name in ("clusters", "neighbours"):
            shutil.rmtree(folder / name, ignore_errors=True)
    _write_json(folder / "derived.json", dict(derived))
    write_text(folder / "config.yaml", config_text(settings, folder))


def _write_json(path: Path, content: dict[str, Any]) -> dict[str, Any]:
    write_text(path, json.dumps(content, indent=2) + "\n")
    return content

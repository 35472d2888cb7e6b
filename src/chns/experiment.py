"""From settings to objects: the only place that knows both."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning_fabric import Fabric
from torch import nn

from chns.augmented_crops import augmented_crops, described_augmentation, make_masking
from chns.checkpoint import Architecture, save_bundle
from chns.config import OptimizerSettings, TrainSettings
from chns.data.manifest import Manifest
from chns.distributed import from_first_process, rank
from chns.encoders import SpeakerEncoder
from chns.errors import ConfigError
from chns.evaluation.metrics import VerificationMetrics
from chns.factory import make
from chns.files import atomic_path
from chns.planning import make_plan
from chns.run_folder import RunFolder
from chns.starting_model import starting_model
from chns.training import Training
from chns.training_data import read_data
from chns.validation import Validation

_log = logging.getLogger(__name__)

# What a bundle tells by itself, or does not tell.
_TOLD_ELSEWHERE = ("data", "encoder", "features")


def train(settings: TrainSettings, folder: Path) -> dict[str, Any]:
    """Train a model, or go on with a training, and write everything about it into a folder.

    The folder gets ``config.yaml``, ``training.pt`` (the state to go on from), ``log.csv``, ``tensorboard``,
    ``clusters``, the bundles ``model`` (the latest) and ``best_model`` (the lowest validation EER), and, when all is
    done, ``summary.json``.

    Args:
        settings: Everything that decides the run.
        folder: One run's own; calling again with the same settings goes on where that run stopped.

    Returns:
        The summary.

    Raises:
        ConfigError: If settings contradict each other or those that the folder was begun with.
        ManifestError, FileNotFoundError: If a manifest is missing or not valid.
    """
    fabric = _launched(settings)
    summary_path = folder / "summary.json"
    summary: dict[str, Any] | None = from_first_process(lambda: _begin(settings, folder))
    if summary is not None:
        _log.info("already trained: %s", folder)
        return summary
    training_manifest, validation_manifest = read_data(settings)
    torch.manual_seed(settings.seed)
    architecture, model = starting_model(settings)
    model.masking = make_masking(settings)
    progress = _Progress(settings, folder, architecture, model, training_manifest)
    run = Training(
        fabric=fabric,
        model=model,
        loss=make_loss(settings, model, training_manifest),
        make_optimizer=_optimizer_maker(settings.optimizer),
        plan=make_plan(settings, training_manifest),
        crops=augmented_crops(settings, training_manifest, sample_rate_hz=model.sample_rate_hz),
        validation=None
        if validation_manifest is None
        else Validation(
            validation_manifest,
            num_trials=settings.train.validation_trials,
            seed=settings.seed,
            num_workers=settings.data.num_workers,
        ),
        folder=folder,
        epochs=settings.train.epochs,
        warmup_share=settings.optimizer.warmup_share,
        clip_norm=settings.optimizer.clip_norm,
        log_every_steps=settings.train.log_every_steps,
        checkpoint_every_steps=settings.train.checkpoint_every_steps,
        validate_every_epochs=settings.train.validate_every_epochs,
        num_workers=settings.data.num_workers,
        chunk_size=settings.train.chunk_size,
        seed=settings.seed,
        on_validation=progress.save,
    )
    _log.info(
        "training on %d speakers, %d utterances: %d steps of %d speakers x %d utterances",
        len(training_manifest.speakers),
        len(training_manifest),
        run.num_steps,
        settings.batches.speakers_per_batch,
        settings.batches.utterances_per_speaker,
    )
    run.run()
    return from_first_process(lambda: _write_json(summary_path, {"steps": run.num_steps, **progress.summary()}))


def make_loss(settings: TrainSettings, model: SpeakerEncoder, manifest: Manifest) -> nn.Module:
    """The loss; one that classifies is told how many speakers there are and how large an embedding is.

    Both also under the names that losses of pytorch-metric-learning have for them.
    """
    derived = {"num_speakers": len(manifest.speakers), "num_classes": len(manifest.speakers)}
    embedding_dim = getattr(model.encoder, "embedding_dim", None)
    if embedding_dim is not None:
        derived |= {"embedding_dim": embedding_dim, "embedding_size": embedding_dim}
    loss: nn.Module = make(settings.loss.factory, settings.loss.settings, **derived)
    return loss


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
        self._training = {
            "manifest": Path(settings.data.train).name,
            "speakers": len(manifest.speakers),
            "utterances": len(manifest),
            "hours": round(float(manifest.durations_seconds.sum()) / 3600, 3),
            "crop_seconds": settings.data.crop_seconds,
            "settings": kept,
        }
        self._last: VerificationMetrics | None = None
        self._best_path = folder / "best.json"

    def save(self, metrics: VerificationMetrics | None) -> None:
        """Write ``model``, and ``best_model`` if no earlier validation was better."""
        self._last = metrics
        if rank() > 0:
            return
        measured = {} if metrics is None else {"validation": {**metrics.to_json(), "threshold": metrics.threshold}}
        save_bundle(self._folder / "model", self._model, self._architecture, training=self._training, metrics=measured)
        if metrics is not None and metrics.eer < self._best_eer():
            save_bundle(
                self._folder / "best_model", self._model, self._architecture, training=self._training, metrics=measured
            )
            _write_json(self._best_path, metrics.to_json())

    def summary(self) -> dict[str, Any]:
        """What training ended with."""
        if self._last is None:
            return {"model": str(self._folder / "model")}
        return {
            "model": str(self._folder / "model"),
            "validation": self._last.to_json(),
            "best_model": str(self._folder / "best_model"),
            "best_validation": json.loads(self._best_path.read_text(encoding="utf-8")),
        }

    def _best_eer(self) -> float:
        if not self._best_path.is_file():
            return float("inf")
        return float(json.loads(self._best_path.read_text(encoding="utf-8"))["eer"])


def _optimizer_maker(settings: OptimizerSettings) -> Callable[[list[nn.Parameter]], torch.optim.Optimizer]:
    kinds: dict[str, type[torch.optim.Adam]] = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    return lambda parameters: kinds[settings.kind](
        parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
    )


def _launched(settings: TrainSettings) -> Fabric:
    """Start the other processes, if there are to be any, and join them."""
    fabric = Fabric(
        accelerator=settings.train.device,
        strategy=settings.train.strategy,
        devices=settings.train.devices,
        num_nodes=settings.train.num_nodes,
        precision=settings.train.precision,
    )
    fabric.launch()
    if not fabric.is_global_zero:
        logging.getLogger("chns").setLevel(logging.WARNING)
    return fabric


def _begin(settings: TrainSettings, folder: Path) -> dict[str, Any] | None:
    """Write the settings, or make sure that they are those the folder was begun with; the summary, if there is one."""
    path = folder / "config.yaml"
    wanted = asdict(settings)
    if not path.is_file():
        with atomic_path(path) as temporary:
            temporary.write_text(yaml.safe_dump(wanted, sort_keys=False), encoding="utf-8")
        return None
    changed = RunFolder.open(folder).differences(settings)
    if changed:
        name, (before, now) = next(iter(changed.items()))
        raise ConfigError(
            f"{name} must be {before} as when the run was begun, got {now} "
            f"(settings that differ: {', '.join(changed)}) in {path}. Use another folder for another run."
        )
    summary_path = folder / "summary.json"
    if not summary_path.is_file():
        return None
    summary: dict[str, Any] = json.loads(summary_path.read_text(encoding="utf-8"))
    return summary


def _write_json(path: Path, content: dict[str, Any]) -> dict[str, Any]:
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return content

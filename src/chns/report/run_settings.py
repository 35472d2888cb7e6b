"""The settings that a run was trained with, read back from its folder."""

from __future__ import annotations

from jsonargparse import ArgumentError, ArgumentParser

from chns.config import TrainSettings
from chns.errors import RunFolderError
from chns.run_folder import RunFolder

_LOSS_NAMES = {
    "chns.losses.SupConLoss": "SupCon",
    "chns.losses.HSCLLoss": "H-SCL",
    "chns.losses.AAMSoftmaxLoss": "AAM-softmax",
}


def read_settings(run: RunFolder) -> TrainSettings:
    """The settings of a run; one that its ``config.yaml`` lacks has its default.

    Raises:
        RunFolderError: If a setting is unknown or of the wrong type.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(TrainSettings)
    try:
        settings = parser.instantiate(parser.parse_object(dict(run.settings)))
        return TrainSettings(**{name: settings[name] for name in TrainSettings.__dataclass_fields__})
    except (ArgumentError, TypeError) as error:
        raise RunFolderError(
            f"config.yaml must hold the settings of a training, got others in {run.path / 'config.yaml'} ({error})."
        ) from error


def strategy_name(settings: TrainSettings) -> str:
    """Loss and batches in words, e.g. ``SupCon, clustered batches, hard ratio 1.0``."""
    loss = _LOSS_NAMES.get(settings.loss.factory, settings.loss.factory.rpartition(".")[2])
    if settings.batches.kind == "random":
        return f"{loss}, random batches"
    clusters = settings.clusters
    words = [loss, "clustered batches", f"hard ratio {clusters.hard_ratio}"]
    if clusters.pooling == "nearest":
        words.append("nearest pooling")
    if clusters.refresh_every:
        words.append(f"clustered anew every {clusters.refresh_every} epochs")
    return ", ".join(words)

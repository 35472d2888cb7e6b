"""Which utterances a run trains on, and which it holds out to validate: from settings, the same for all who ask."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from chns.augmented_crops import with_new_speakers
from chns.config import TrainSettings
from chns.data.manifest import Manifest
from chns.errors import ConfigError


def read_data(settings: TrainSettings) -> tuple[Manifest, Manifest | None]:
    """The training manifest, with the new speakers of ``augmentation.speed``, and that of the validation speakers.

    No speaker is in both.

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


def training_manifest(settings: TrainSettings, *, manifest: Path | str | None = None) -> Manifest:
    """The utterances that a run trained on; those it was validated on need not exist any more.

    Args:
        settings: Of the run.
        manifest: Where its manifest is now, if not where the settings say; it then names its own audio folder.

    Raises:
        ConfigError: If no training manifest is named.
        ManifestError, FileNotFoundError: If it is missing or not valid.
    """
    if manifest is not None:
        settings = replace(settings, data=replace(settings.data, train=str(manifest), root=None))
    return _split(settings)[0]


def _split(settings: TrainSettings) -> tuple[Manifest, Manifest | None]:
    data = settings.data
    if not data.train:
        raise ConfigError("data.train must name a manifest, got none. Make one with `chns prepare`.")
    manifest = Manifest.read(data.train, root=data.root)
    num_held_out = data.held_out_speakers
    if num_held_out is None:
        num_held_out = min(100, len(manifest.speakers) // 10)
    held_out = None
    if data.validation is None and num_held_out:
        manifest, held_out = manifest.split_speakers(num_held_out, seed=settings.seed)
    return with_new_speakers(settings, manifest), held_out

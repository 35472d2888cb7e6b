"""The model that a training starts from: a fresh one, or that of a bundle, to fine-tune it."""

from __future__ import annotations

from chns.checkpoint import Architecture, load_bundle
from chns.config import TrainSettings
from chns.encoders import SpeakerEncoder
from chns.errors import ConfigError


def starting_model(settings: TrainSettings) -> tuple[Architecture, SpeakerEncoder]:
    """How the model is built, and the model: with fresh weights, or as ``train.start_from`` has it.

    A bundle brings its encoder and features. An encoder of a user's own must be named in the settings all the same,
    which is what makes its code trusted.

    Raises:
        ConfigError: If an encoder or features are chosen that are not those of ``train.start_from``.
        ModelFileError, FileNotFoundError: If that is damaged, not trusted or missing.
    """
    chosen = _architecture(settings)
    if settings.train.start_from is None:
        return chosen, chosen.build()
    own_package = settings.encoder.factory.partition(".")[0]
    bundle = load_bundle(settings.train.start_from, trusted_packages=[own_package])
    if chosen not in (_architecture(TrainSettings()), bundle.architecture):
        raise ConfigError(
            f"encoder and features must be those of train.start_from, {bundle.architecture}, got {chosen}. "
            "Leave them out."
        )
    model = bundle.architecture.build()
    model.encoder.load_state_dict(bundle.model.encoder.state_dict())
    return bundle.architecture, model


def _architecture(settings: TrainSettings) -> Architecture:
    return Architecture(
        encoder=settings.encoder.factory,
        encoder_settings=settings.encoder.settings,
        feature_settings=settings.features,
    )

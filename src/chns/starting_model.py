"""The model that a training starts from: a fresh one, or that of a bundle, to fine-tune it."""

from __future__ import annotations

from chns.checkpoint import OUR_FACTORIES, Architecture, load_bundle
from chns.config import TrainSettings
from chns.encoders import SpeakerEncoder
from chns.errors import ConfigError


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
        encoder=settings.encoder.factory,
        encoder_settings=settings.encoder.settings,
        feature_settings=settings.features,
    )

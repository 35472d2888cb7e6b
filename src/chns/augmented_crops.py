"""From settings of the augmentation to the objects that carry it out."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from chns.augmentation_config import AugmentationSettings, BabbleSettings, NoiseSettings, ReverberationSettings
from chns.config import TrainSettings
from chns.data.augmentation.augmenter import Augmenter
from chns.data.augmentation.background import Background, Layer
from chns.data.augmentation.codec import Codec
from chns.data.augmentation.level import Gain
from chns.data.augmentation.noise_sources import (
    Babble,
    ColouredNoise,
    NoiseSource,
    RecordingFolder,
    TrainingUtterances,
)
from chns.data.augmentation.reverberation import ResponseSource, Reverberation
from chns.data.augmentation.room_responses import ResponseFolder, SimulatedRooms, SyntheticDecay
from chns.data.augmentation.speed import Speed, with_speed_speakers
from chns.data.dataset import SpeakerCrops
from chns.data.manifest import Manifest
from chns.errors import ConfigError
from chns.features.spec_augment import SpecAugment


def augmented_crops(settings: TrainSettings, manifest: Manifest, *, sample_rate_hz: int) -> SpeakerCrops:
    """The training crops, with the effects whose probability is above 0.

    Args:
        settings: Of the run.
        manifest: The training utterances.
        sample_rate_hz: Rate of the crops.

    Raises:
        ConfigError: If settings contradict each other, or one is missing.
        ValueError: If one is out of range.
        FileNotFoundError, AudioError: If a folder of noises or rooms is missing or empty.
        ChnsError: If a library that is needed is not installed.
    """
    augmentation = settings.augmentation
    speed, gain, codec = augmentation.speed, augmentation.gain, augmentation.codec
    if speed.probability and speed.new_speakers:
        raise ConfigError(
            "augmentation.speed.probability must be 0 with augmentation.speed.new_speakers, for a crop at another "
            f"speed would sound like the other speaker, got {speed.probability}."
        )
    augmenter = Augmenter(
        speed=Speed(probability=speed.probability, factors=speed.factors) if speed.probability else None,
        reverberation=_reverberation(augmentation.reverberation, sample_rate_hz, settings.seed),
        background=_background(augmentation, manifest, sample_rate_hz),
        codec=Codec(probability=codec.probability, kinds=codec.kinds, sample_rate_hz=sample_rate_hz)
        if codec.probability
        else None,
        gain=Gain(probability=gain.probability, min_gain_db=gain.min_gain_db, max_gain_db=gain.max_gain_db)
        if gain.probability
        else None,
    )
    return SpeakerCrops(
        manifest, crop_seconds=settings.data.crop_seconds, sample_rate_hz=sample_rate_hz, augmenter=augmenter
    )


def described_augmentation(settings: AugmentationSettings) -> dict[str, dict[str, Any]]:
    """The settings as a model tells them to others: of a folder, only its own name."""
    sections: dict[str, dict[str, Any]] = asdict(settings)
    for section in sections.values():
        if section.get("folder") is not None:
            section["folder"] = Path(section["folder"]).name
    return sections


def with_new_speakers(settings: TrainSettings, manifest: Manifest) -> Manifest:
    """The training manifest, with every speaker once more at each of ``augmentation.speed.new_speakers``.

    Raises:
        ValueError: If a speed is out of range.
        ManifestError: If the manifest already has such speakers.
    """
    return with_speed_speakers(manifest, settings.augmentation.speed.new_speakers)


def make_masking(settings: TrainSettings) -> SpecAugment | None:
    """The masking of features while training, if there is to be any.

    Raises:
        ValueError: If a setting is out of range.
    """
    masking = settings.augmentation.spec_augment
    if not masking.probability:
        return None
    return SpecAugment(
        probability=masking.probability,
        time_masks=masking.time_masks,
        max_mask_frames=masking.max_mask_frames,
        mel_masks=masking.mel_masks,
        max_mask_mels=masking.max_mask_mels,
    )


def _reverberation(settings: ReverberationSettings, sample_rate_hz: int, seed: int) -> Reverberation | None:
    if not settings.probability:
        return None
    times = {
        "min_reverberation_seconds": settings.min_reverberation_seconds,
        "max_reverberation_seconds": settings.max_reverberation_seconds,
    }
    responses: ResponseSource
    if settings.folder is not None:
        if settings.rooms:
            raise ConfigError(
                f"augmentation.reverberation.rooms must be 0 with a folder, got {settings.rooms}. Choose one."
            )
        responses = ResponseFolder(Path(settings.folder), sample_rate_hz=sample_rate_hz)
    elif settings.rooms:
        responses = SimulatedRooms(num_rooms=settings.rooms, sample_rate_hz=sample_rate_hz, seed=seed, **times)
    else:
        responses = SyntheticDecay(sample_rate_hz=sample_rate_hz, **times)
    return Reverberation(responses, probability=settings.probability)


def _background(settings: AugmentationSettings, manifest: Manifest, sample_rate_hz: int) -> Background | None:
    layers = []
    if settings.noise.probability:
        noise = _folder(settings.noise, sample_rate_hz) or ColouredNoise(sample_rate_hz=sample_rate_hz)
        layers.append(_layer("noise", settings.noise, noise))
    if settings.music.probability:
        music = _folder(settings.music, sample_rate_hz)
        if music is None:
            raise ConfigError("augmentation.music.folder must name a folder of music, got none.")
        layers.append(_layer("music", settings.music, music))
    if settings.babble.probability:
        voices = _folder(settings.babble, sample_rate_hz) or TrainingUtterances(manifest, sample_rate_hz=sample_rate_hz)
        babble = Babble(voices, min_voices=settings.babble.min_voices, max_voices=settings.babble.max_voices)
        layers.append(_layer("babble", settings.babble, babble))
    return Background(layers) if layers else None


def _folder(settings: NoiseSettings | BabbleSettings, sample_rate_hz: int) -> RecordingFolder | None:
    if settings.folder is None:
        return None
    return RecordingFolder(Path(settings.folder), sample_rate_hz=sample_rate_hz)


def _layer(name: str, settings: NoiseSettings | BabbleSettings, source: NoiseSource) -> Layer:
    return Layer(name, source, settings.probability, settings.min_snr_db, settings.max_snr_db)

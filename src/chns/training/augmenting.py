"""What training crops and features go through, from settings, and some of it to listen to and to look at."""

from __future__ import annotations

import importlib.util
import logging
import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from chns.core import ChnsError, ConfigError, atomic_path
from chns.data import (
    Augmenter,
    Babble,
    Background,
    Codec,
    ColouredNoise,
    CropRequest,
    Gain,
    Layer,
    Manifest,
    NoiseSource,
    RecordingFolder,
    ResponseFolder,
    ResponseSource,
    Reverberation,
    SimulatedRooms,
    SpeakerCrops,
    Speed,
    SyntheticDecay,
    TrainingUtterances,
    Waveform,
    with_speed_speakers,
    write_audio,
)
from chns.features import LogMel
from chns.training.settings import (
    AugmentationSettings,
    BabbleSettings,
    NoiseSettings,
    ReverberationSettings,
    TrainSettings,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class SpecAugment(nn.Module):
    """Replaces random stripes of frames and of mels by the crop's mean of each mel.

    It has no parameters. Widths are uniform from 0, and places uniform, for each crop and each stripe.

    Args:
        probability: How often a crop is masked at all.
        time_masks: Stripes of frames.
        max_mask_frames: Widest of them.
        mel_masks: Stripes of mels.
        max_mask_mels: Widest of them.

    Raises:
        ValueError: If a setting is out of range.

    Source:
        Park et al., "SpecAugment: a simple data augmentation method for automatic speech recognition", Interspeech
        2019, without time warping.
    """

    def __init__(
        self, *, probability: float, time_masks: int, max_mask_frames: int, mel_masks: int, max_mask_mels: int
    ) -> None:
        super().__init__()
        if not 0 <= probability <= 1:
            raise ValueError(f"spec_augment probability must be between 0 and 1, got {probability}.")
        if min(time_masks, max_mask_frames, mel_masks, max_mask_mels) < 0:
            raise ValueError(
                "time_masks, max_mask_frames, mel_masks and max_mask_mels must be at least 0, "
                f"got {time_masks}, {max_mask_frames}, {mel_masks} and {max_mask_mels}."
            )
        self.probability = probability
        self.time_masks = time_masks
        self.max_mask_frames = max_mask_frames
        self.mel_masks = mel_masks
        self.max_mask_mels = max_mask_mels

    def forward(self, features: Tensor) -> Tensor:
        """Mask a batch of crops, which have no padding.

        Args:
            features: Shape (batch, frames, mels).

        Returns:
            Shape (batch, frames, mels).
        """
        batch, frames, mels = features.shape
        in_time = _stripes(batch, frames, self.time_masks, self.max_mask_frames, features.device)
        in_mels = _stripes(batch, mels, self.mel_masks, self.max_mask_mels, features.device)
        chosen = torch.rand(batch, 1, 1, device=features.device) < self.probability
        hidden = (in_time[:, :, None] | in_mels[:, None, :]) & chosen
        return torch.where(hidden, features.mean(dim=1, keepdim=True), features)


def _stripes(batch: int, size: int, count: int, max_width: int, device: torch.device) -> Tensor:
    """Which places of an axis lie in one of so many stripes, shape (batch, size), bool."""
    widths = (torch.rand(batch, count, 1, device=device) * (min(max_width, size) + 1)).floor()
    starts = (torch.rand(batch, count, 1, device=device) * (size - widths + 1)).floor()
    places = torch.arange(size, device=device)
    return ((places >= starts) & (places < starts + widths)).any(dim=1)


_DYNAMIC_RANGE_DB = 70.0
_CAPTION_CHARACTERS = 66
_DOTS_PER_INCH = 110


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
        background=_background(augmentation, manifest, sample_rate_hz, settings.seed),
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


def _background(
    settings: AugmentationSettings, manifest: Manifest, sample_rate_hz: int, seed: int
) -> Background | None:
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
        low, high = settings.babble.min_voices, settings.babble.max_voices
        babble = Babble(voices, min_voices=low, max_voices=high, seed=seed)
        layers.append(_layer("babble", settings.babble, babble))
    return Background(layers) if layers else None


def _folder(settings: NoiseSettings | BabbleSettings, sample_rate_hz: int) -> RecordingFolder | None:
    if settings.folder is None:
        return None
    return RecordingFolder(Path(settings.folder), sample_rate_hz=sample_rate_hz)


def _layer(name: str, settings: NoiseSettings | BabbleSettings, source: NoiseSource) -> Layer:
    return Layer(name, source, settings.probability, settings.min_snr_db, settings.max_snr_db)


class Example(NamedTuple):
    """One crop before and after.

    Attributes:
        utterance: Its name.
        effects: What was done to it, in words and in order.
        original: File of the crop as recorded.
        augmented: File of the crop as trained on.
    """

    utterance: str
    effects: tuple[str, ...]
    original: Path
    augmented: Path


class _Pair(NamedTuple):
    name: str
    effects: tuple[str, ...]
    original: Waveform
    augmented: Waveform


def write_preview(settings: TrainSettings, folder: Path, *, count: int) -> tuple[list[Example], Path]:
    """Write some crops of the training manifest before and after augmentation, and one picture of them all.

    The crops are drawn and augmented as a training with these settings would those of a first batch. The picture shows
    spectrograms side by side and, if features are masked, what the encoder sees of each.

    Args:
        settings: Of the training; ``data.train`` names the manifest.
        folder: Gets ``01-original.wav``, ``01-augmented.wav``, ... and ``spectrograms.png``; other files in it stay.
        count: How many crops, of different utterances.

    Returns:
        What was written, and the picture.

    Raises:
        ValueError: If there are fewer utterances than count, or a setting is out of range.
        ConfigError: If settings contradict each other.
        ManifestError, FileNotFoundError: If the manifest is missing or not valid.
        AudioError: If a recording cannot be read.
        ChnsError: If matplotlib is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise ChnsError(
            "matplotlib must be installed to draw spectrograms, got no such package. Run `pip install 'chns[report]'`."
        )
    features = LogMel(**settings.features)
    pairs = _draw_pairs(settings, count, features.sample_rate_hz)
    examples = [_write_pair(folder, number, pair, features.sample_rate_hz) for number, pair in enumerate(pairs, 1)]
    picture = folder / "spectrograms.png"
    _draw_picture(picture, pairs, _masked_features(settings, features, pairs), features.sample_rate_hz)
    return examples, picture


def _draw_pairs(settings: TrainSettings, count: int, sample_rate_hz: int) -> list[_Pair]:
    recorded = Manifest.read(settings.data.train, root=settings.data.root)
    if not 1 <= count <= len(recorded):
        raise ValueError(f"count must be between 1 and the manifest's {len(recorded)} utterances, got {count}.")
    manifest = with_new_speakers(settings, recorded)
    crop_seconds = settings.data.crop_seconds
    originals = SpeakerCrops(recorded, crop_seconds=crop_seconds, sample_rate_hz=sample_rate_hz)
    crops = augmented_crops(settings, manifest, sample_rate_hz=sample_rate_hz)
    chosen = np.random.default_rng(settings.seed).choice(len(manifest), count, replace=False).tolist()
    pairs = []
    for place, utterance in enumerate(chosen):
        seed = (settings.seed, 0, 0, place)
        original, _ = originals.augmented(CropRequest(utterance % len(recorded), seed))  # copies at a speed come behind
        augmented, effects = crops.augmented(CropRequest(utterance, seed))
        pairs.append(_Pair(manifest[utterance].name, effects, original, augmented))
    return pairs


def _write_pair(folder: Path, number: int, pair: _Pair, sample_rate_hz: int) -> Example:
    original, augmented = (folder / f"{number:02d}-{kind}.wav" for kind in ("original", "augmented"))
    write_audio(original, pair.original, sample_rate_hz=sample_rate_hz)
    write_audio(augmented, pair.augmented, sample_rate_hz=sample_rate_hz)
    return Example(pair.name, pair.effects, original, augmented)


def _masked_features(settings: TrainSettings, features: LogMel, pairs: Sequence[_Pair]) -> torch.Tensor | None:
    """What an encoder sees while training, shape (crops, frames, mels); None if nothing is masked."""
    masking = make_masking(settings)
    if masking is None:
        return None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        masked: torch.Tensor = masking(features(torch.from_numpy(np.stack([pair.augmented for pair in pairs]))))
    return masked


def _draw_picture(path: Path, pairs: Sequence[_Pair], masked: torch.Tensor | None, sample_rate_hz: int) -> None:
    logging.getLogger("matplotlib").setLevel(logging.WARNING)
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    num_columns = 2 if masked is None else 3
    style: dict[Any, Any] = {
        "text.parse_math": False,
        "font.size": 8,
        "axes.titlesize": 8,
        "axes.titlelocation": "left",
    }
    with rc_context(style), warnings.catch_warnings():
        # A name may be in a script that matplotlib's own font lacks.
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        figure = Figure(figsize=(4.6 * num_columns, 2.1 * len(pairs)), layout="constrained")
        axes = figure.subplots(len(pairs), num_columns, squeeze=False)
        for row, pair in enumerate(pairs):
            _draw_spectrogram(axes[row, 0], pair.original, sample_rate_hz, f"{row + 1:02d} {pair.name}")
            effects = ", ".join(pair.effects) or "as recorded"
            _draw_spectrogram(axes[row, 1], pair.augmented, sample_rate_hz, effects)
            if masked is not None:
                _draw_features(axes[row, 2], masked[row].numpy())
        with atomic_path(path) as temporary:
            figure.savefig(temporary, dpi=_DOTS_PER_INCH)


def _draw_spectrogram(axes: Axes, waveform: Waveform, sample_rate_hz: int, caption: str) -> None:
    """Decibels below the loudest point, so that a change of volume alone is not seen."""
    from scipy.signal import spectrogram  # a second, which trainings would wait for

    window = round(0.025 * sample_rate_hz)
    hop = round(0.010 * sample_rate_hz)
    _, _, power = spectrogram(waveform, sample_rate_hz, nperseg=window, noverlap=window - hop)
    decibels = 10 * np.log10(np.maximum(power, 1e-20) / max(power.max(), 1e-20))
    axes.imshow(
        decibels,
        origin="lower",
        aspect="auto",
        cmap="magma",
        vmin=-_DYNAMIC_RANGE_DB,
        vmax=0,
        extent=(0, len(waveform) / sample_rate_hz, 0, sample_rate_hz / 2000),
    )
    axes.set_title(textwrap.fill(_printable(caption), _CAPTION_CHARACTERS))
    axes.set_ylabel("kHz")


def _draw_features(axes: Axes, features: Waveform) -> None:
    axes.imshow(features.T, origin="lower", aspect="auto", cmap="magma")
    axes.set_title("what the encoder sees")
    axes.set_ylabel("mel")


def _printable(text: str) -> str:
    """Names of files come from strangers: no control characters in a picture."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)

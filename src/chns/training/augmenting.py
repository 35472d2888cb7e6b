"""What augmentation does to some crops, to listen to and to look at before a training spends days on it."""

from __future__ import annotations

import importlib.util
import logging
import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import scipy.signal
import torch

from chns.core import ChnsError, atomic_path
from chns.data.audio import Waveform, write_audio
from chns.data.dataset import CropRequest, SpeakerCrops
from chns.data.manifest import Manifest
from chns.features import LogMel
from chns.training.build import augmented_crops, make_masking, with_new_speakers
from chns.training.folder import TrainSettings

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DYNAMIC_RANGE_DB = 70.0
_CAPTION_CHARACTERS = 66
_DOTS_PER_INCH = 110


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
    window = round(0.025 * sample_rate_hz)
    hop = round(0.010 * sample_rate_hz)
    _, _, power = scipy.signal.spectrogram(waveform, sample_rate_hz, nperseg=window, noverlap=window - hop)
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

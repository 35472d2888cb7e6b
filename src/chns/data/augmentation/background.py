"""A sound under the voice - noise, music or babble - at a signal-to-noise ratio."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from chns.data.audio import Waveform
from chns.data.augmentation.level import power_of
from chns.data.augmentation.noise_sources import NoiseSource
from chns.data.augmentation.settings_checks import require_probability, require_range


class Layer(NamedTuple):
    """One kind of background.

    Attributes:
        name: Noise, music, ...
        source: Gives the sound.
        probability: How often it lies under a crop.
        min_snr_db: Loudest: lowest ratio of speech to it.
        max_snr_db: Softest.
    """

    name: str
    source: NoiseSource
    probability: float
    min_snr_db: float
    max_snr_db: float


class Background:
    """Lays at most one kind of background under a crop.

    Args:
        layers: The kinds; the sum of their probabilities is at most 1, and the rest stays without background.

    Raises:
        ValueError: If a probability or a ratio is out of range, or the probabilities add up to more than 1.
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        for layer in layers:
            require_probability(f"{layer.name} probability", layer.probability)
            name = f"{layer.name} min_snr_db to max_snr_db"
            require_range(name, layer.min_snr_db, layer.max_snr_db, within=(-50, 100))
        total = sum(layer.probability for layer in layers)
        if total > 1 + 1e-9:
            names = ", ".join(layer.name for layer in layers)
            raise ValueError(
                f"probabilities of {names} must add up to at most 1, for they exclude each other, got {total:g}."
            )
        self._layers = list(layers)

    def __call__(self, waveform: Waveform, rng: np.random.Generator) -> tuple[Waveform, str]:
        """The waveform, with a background or not, and what it is, in words.

        Raises:
            FileNotFoundError: If a recording of a background is gone.
            AudioError: If one cannot be read.
        """
        chance = rng.random()
        for layer in self._layers:
            if chance < layer.probability:
                snr_db = rng.uniform(layer.min_snr_db, layer.max_snr_db)
                noise, origin = layer.source(len(waveform), rng)
                return mix_at_snr(waveform, noise, snr_db), f"{layer.name} {snr_db:.1f} dB ({origin})"
            chance -= layer.probability
        return waveform, ""


def mix_at_snr(waveform: Waveform, noise: Waveform, snr_db: float) -> Waveform:
    """Add a noise so that the mean power of the waveform is so many decibels above it.

    Args:
        waveform: Shape (samples,).
        noise: Shape (samples,), of any level. Silence, on either side, has no ratio: nothing is added then.
        snr_db: The ratio.
    """
    signal_power, noise_power = power_of(waveform), power_of(noise)
    if signal_power == 0 or noise_power == 0:
        return waveform
    scale = np.sqrt(signal_power / noise_power) * 10 ** (-snr_db / 20)
    return waveform + noise * np.float32(scale)

"""Faster or slower speech by resampling: length and pitch change together, as with a tape.

A speaker heard 10 % faster has a voice 10 % higher: another voice. So there are two uses. `Speed` changes a crop and
keeps its label; `with_speed_speakers` makes each speaker at each speed a speaker more, in the manifest, and whatever
counts speakers (batches, clusters, a classification head) sees them as any other.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import soxr

from chns.core import Float32Array, Float64Array, ManifestError
from chns.data.augmentation.level import require_probability
from chns.data.manifest import Manifest, with_columns

SPEED_COLUMN = "speed_factor"
"""Column of a manifest that says how fast an utterance is to be played; 1 where it is empty."""

MIN_FACTOR, MAX_FACTOR = 0.5, 2.0


class Speed:
    """Draws how fast a crop is played.

    Args:
        probability: How often it is not the original speed.
        factors: The speeds, each equally likely, such as 0.9 and 1.1.

    Raises:
        ValueError: If the probability is out of range, there is no factor, or one is not between 0.5 and 2.
    """

    def __init__(self, *, probability: float, factors: Sequence[float]) -> None:
        require_probability("speed probability", probability)
        if not factors:
            raise ValueError("speed factors must be at least one, got none.")
        _require_factors(factors)
        self._probability = probability
        self._factors = list(factors)

    def draw(self, rng: np.random.Generator) -> float:
        """A factor; 1 for the original speed."""
        if rng.random() >= self._probability:
            return 1.0
        return float(self._factors[rng.integers(len(self._factors))])


def change_speed(waveform: Float32Array, factor: float) -> Float32Array:
    """Play a waveform so many times as fast: the length is divided by the factor, every frequency multiplied."""
    resampled: Float32Array = soxr.resample(waveform, factor, 1.0)
    return resampled


def with_speed_speakers(manifest: Manifest, factors: Sequence[float]) -> Manifest:
    """Add every speaker once more at each speed, as a speaker of their own.

    Args:
        manifest: The utterances, at their own speed.
        factors: Speeds other than 1; with 0.9 and 1.1 there are three times as many speakers and utterances.

    Returns:
        The manifest's utterances, then those of each speed, with names that end in ``@FACTOR`` and the factor in
        `SPEED_COLUMN`. Without factors, the manifest itself.

    Raises:
        ValueError: If a factor is 1, twice there, or not between 0.5 and 2.
        ManifestError: If the manifest already has speeds, or names that those of the new speakers would repeat.
    """
    if not factors:
        return manifest
    _require_factors(factors)
    if len({1.0, *factors}) < len(factors) + 1:
        raise ValueError(
            f"speeds of new speakers must be different, and other than 1, got {', '.join(map(str, factors))}."
        )
    if SPEED_COLUMN in manifest.column_names:
        raise ManifestError(f"manifest must hold speakers at their own speed, got a column {SPEED_COLUMN}.")
    return Manifest.merge([_at_speed(manifest, factor) for factor in (1.0, *factors)])


def speed_factors(manifest: Manifest) -> Float64Array | None:
    """How fast each utterance is to be played, shape (utterances,); None for a manifest without speeds.

    Raises:
        ManifestError: If a speed is not a number between 0.5 and 2.
    """
    if SPEED_COLUMN not in manifest.column_names:
        return None
    texts = manifest.column(SPEED_COLUMN)
    try:
        factors = np.array([float(text or 1) for text in texts])
        _require_factors(np.unique(factors).tolist())
    except ValueError as error:
        raise ManifestError(
            f"{SPEED_COLUMN} must be a number between {MIN_FACTOR} and {MAX_FACTOR}: {error}"
        ) from error
    return factors


def _at_speed(manifest: Manifest, factor: float) -> Manifest:
    suffix = "" if factor == 1 else f"@{factor:g}"
    renamed = {name: [f"{value}{suffix}" for value in manifest.column(name)] for name in ("utterance", "speaker")}
    return with_columns(manifest, {**renamed, SPEED_COLUMN: [f"{factor:g}"] * len(manifest)})


def _require_factors(factors: Sequence[float]) -> None:
    for factor in factors:
        if not MIN_FACTOR <= factor <= MAX_FACTOR:
            raise ValueError(f"speed factor must be between {MIN_FACTOR} and {MAX_FACTOR}, got {factor}.")

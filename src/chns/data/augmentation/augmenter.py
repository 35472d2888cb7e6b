"""The chain of effects of one crop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from chns.data.audio import Waveform
from chns.data.augmentation.background import Background
from chns.data.augmentation.effects import Codec, Gain, Speed, without_clipping
from chns.data.augmentation.reverberation import Reverberation

_SPEED_PLACE = 0


class Effect(Protocol):
    """Changes a waveform, or not, and says what it did."""

    def __call__(self, waveform: Waveform, rng: np.random.Generator) -> tuple[Waveform, str]:
        """The waveform and words; none if it was left as it is."""
        ...


class Augmenter:
    """Applies effects in the order of the world; whichever is None is left out.

    Args:
        speed: How fast the voice is.
        reverberation: The room around it.
        background: What else is heard in the room.
        codec: The line that carries the sum.
        gain: The volume in the end.
    """

    def __init__(
        self,
        *,
        speed: Speed | None = None,
        reverberation: Reverberation | None = None,
        background: Background | None = None,
        codec: Codec | None = None,
        gain: Gain | None = None,
    ) -> None:
        self._speed = speed
        self._effects: list[Effect | None] = [reverberation, background, codec, gain]

    def speed_of(self, seed: Sequence[int]) -> float:
        """How fast the crop with this seed is played: how much of the recording it needs depends on it."""
        return 1.0 if self._speed is None else self._speed.draw(_generator(seed, _SPEED_PLACE))

    def __call__(self, waveform: Waveform, seed: Sequence[int]) -> tuple[Waveform, tuple[str, ...]]:
        """Apply all effects but the speed, which the waveform already has.

        Args:
            waveform: Shape (samples,), in [-1, 1].
            seed: Decides everything drawn.

        Returns:
            The waveform, shape (samples,), in [-1, 1], and what was done, in words, in this order.

        Raises:
            FileNotFoundError: If a recording of a background or a room is gone.
            AudioError: If one cannot be read.
        """
        done = []
        for place, effect in enumerate(self._effects, _SPEED_PLACE + 1):
            if effect is not None:
                waveform, words = effect(waveform, _generator(seed, place))
                done.append(words)
        return without_clipping(waveform), tuple(filter(None, done))


def _generator(seed: Sequence[int], place: int) -> np.random.Generator:
    """Of one effect on one crop, independent of the others and of the crop's own."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(place,)))

"""A room around the voice: convolution with a room impulse response, in place and at the same level."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import scipy.signal

from chns.data.audio import Waveform
from chns.data.augmentation.level import power_of
from chns.data.augmentation.settings_checks import require_probability


class ResponseSource(Protocol):
    """Gives a room impulse response, and its origin in words."""

    def __call__(self, rng: np.random.Generator) -> tuple[Waveform, str]:
        """Samples, shape (samples,), of any level; not silent."""
        ...


class Reverberation:
    """Puts a crop into a room.

    Args:
        responses: Gives the rooms.
        probability: How often.

    Raises:
        ValueError: If the probability is out of range.
    """

    def __init__(self, responses: ResponseSource, *, probability: float) -> None:
        require_probability("reverberation probability", probability)
        self._responses = responses
        self._probability = probability

    def __call__(self, waveform: Waveform, rng: np.random.Generator) -> tuple[Waveform, str]:
        """The waveform, changed or not, and what was done, in words.

        Raises:
            FileNotFoundError: If the recording of a response is gone.
            AudioError: If it cannot be read, or is silent.
        """
        if rng.random() >= self._probability:
            return waveform, ""
        response, origin = self._responses(rng)
        return reverberate(waveform, response), f"reverb ({origin})"


def reverberate(waveform: Waveform, response: Waveform) -> Waveform:
    """Convolve with a room impulse response; the direct sound stays where it was, and the power what it was.

    Args:
        waveform: Shape (samples,).
        response: Not silent, shape (any,). Its largest sample is taken for the direct sound.
    """
    power = power_of(waveform)
    if power == 0:
        return waveform
    direct = int(np.abs(response).argmax())
    wet = scipy.signal.oaconvolve(waveform, response)[direct : direct + len(waveform)]
    wet_power = power_of(wet)
    scale = np.sqrt(power / wet_power) if wet_power > 0 else 1.0
    scaled: Waveform = (wet * scale).astype(np.float32)
    return scaled

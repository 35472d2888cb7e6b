"""A room around the voice, by impulse responses that are measured, simulated or made from noise."""

from __future__ import annotations

import importlib
import math
from pathlib import Path
from types import ModuleType
from typing import Protocol

import numpy as np
import scipy.fft

from chns.core import AudioError, ChnsError
from chns.data.audio import Waveform, read_audio
from chns.data.augmentation.background import recordings_in
from chns.data.augmentation.effects import power_of, require_probability, require_range, uniform_noise

_LONGEST_SECONDS = 2.0
_SPEED_OF_SOUND = 343.0
_SECONDS_RANGE = (0.05, 3.0)


class ResponseFolder:
    """The recordings below a folder, each equally likely; of a longer one, the first 2 s. Channels are averaged.

    Args:
        folder: Searched with all its subfolders, such as ``RIRS_NOISES/simulated_rirs``.
        sample_rate_hz: Rate of the responses.

    Raises:
        FileNotFoundError: If there is no such folder.
        AudioError: If it holds no recording.
    """

    def __init__(self, folder: Path, *, sample_rate_hz: int) -> None:
        self._folder = folder
        self._names = recordings_in(folder)
        self._sample_rate_hz = sample_rate_hz

    def __call__(self, rng: np.random.Generator) -> tuple[Waveform, str]:
        """A response, and the name of its file.

        Raises:
            FileNotFoundError: If the recording is gone.
            AudioError: If it cannot be read, or is silent.
        """
        name = self._names[rng.integers(len(self._names))]
        path = self._folder / name
        response = read_audio(path, sample_rate_hz=self._sample_rate_hz, duration_seconds=_LONGEST_SECONDS)
        if not response.any():
            raise AudioError(f"room impulse response must hold a sound, got silence in {path}.")
        return response, name


class SyntheticDecay:
    """A direct sound, and after it noise that decays exponentially: no room, but what rooms have in common.

    It has no single echoes, and all frequencies decay alike, as in no real room. It needs no download.

    Args:
        min_reverberation_seconds: Shortest time in which the tail falls by 60 dB.
        max_reverberation_seconds: Longest.
        sample_rate_hz: Rate of the responses.

    Raises:
        ValueError: If a time is out of range.
    """

    MIN_DIRECT_TO_TAIL_DB, MAX_DIRECT_TO_TAIL_DB = -3.0, 12.0

    def __init__(
        self, *, min_reverberation_seconds: float, max_reverberation_seconds: float, sample_rate_hz: int
    ) -> None:
        _require_times(min_reverberation_seconds, max_reverberation_seconds)
        self._range_seconds = (min_reverberation_seconds, max_reverberation_seconds)
        self._sample_rate_hz = sample_rate_hz

    def __call__(self, rng: np.random.Generator) -> tuple[Waveform, str]:
        """A response that nobody has heard before, and its decay."""
        seconds = rng.uniform(*self._range_seconds)
        direct_to_tail_db = rng.uniform(self.MIN_DIRECT_TO_TAIL_DB, self.MAX_DIRECT_TO_TAIL_DB)
        gap_seconds = rng.uniform(0.001, 0.010)
        times = np.arange(round(seconds * self._sample_rate_hz), dtype=np.float32) / np.float32(self._sample_rate_hz)
        tail = uniform_noise(len(times), rng)
        tail *= np.exp(times * np.float32(-math.log(1_000) / seconds))
        tail[times < gap_seconds] = 0
        tail *= np.float32(10 ** (-direct_to_tail_db / 20) / math.sqrt(len(tail) * power_of(tail)))
        tail[0] = 1.0
        return tail, f"decay {seconds:.2f} s, direct {direct_to_tail_db:+.0f} dB"


class SimulatedRooms:
    """Shoebox rooms by the image-source method of pyroomacoustics, simulated once, then each equally likely.

    A room takes 0.2 to 2 s, more for long reverberation, so that simulating one for each crop is out of the question.
    Walls follow from the reverberation time by Sabine's formula; a small bare room then rings somewhat longer than it
    promises.

    Args:
        num_rooms: How many; source and microphone have one place in each.
        min_reverberation_seconds: Shortest time in which sound falls by 60 dB.
        max_reverberation_seconds: Longest.
        sample_rate_hz: Rate of the responses.
        seed: Of sizes, places and times.

    Raises:
        ValueError: If the number or a time is out of range.
        ChnsError: If pyroomacoustics is not installed.
    """

    def __init__(
        self,
        *,
        num_rooms: int,
        min_reverberation_seconds: float,
        max_reverberation_seconds: float,
        sample_rate_hz: int,
        seed: int,
    ) -> None:
        if num_rooms < 1:
            raise ValueError(f"num_rooms must be at least 1, got {num_rooms}.")
        _require_times(min_reverberation_seconds, max_reverberation_seconds)
        library = _pyroomacoustics()
        rng = np.random.default_rng(seed)
        self._rooms = [
            _simulate(library, rng, rng.uniform(min_reverberation_seconds, max_reverberation_seconds), sample_rate_hz)
            for _ in range(num_rooms)
        ]

    def __call__(self, rng: np.random.Generator) -> tuple[Waveform, str]:
        """A response, and its room."""
        return self._rooms[rng.integers(len(self._rooms))]


def _require_times(min_reverberation_seconds: float, max_reverberation_seconds: float) -> None:
    name = "min_reverberation_seconds to max_reverberation_seconds"
    require_range(name, min_reverberation_seconds, max_reverberation_seconds, within=_SECONDS_RANGE)


def _pyroomacoustics() -> ModuleType:
    try:
        return importlib.import_module("pyroomacoustics")
    except ImportError as error:
        raise ChnsError(
            "pyroomacoustics must be installed to simulate rooms, got no such package. "
            "Run `pip install 'chns[rooms]'`, or set augmentation.reverberation.rooms to 0."
        ) from error


def _simulate(
    library: ModuleType, rng: np.random.Generator, seconds: float, sample_rate_hz: int
) -> tuple[Waveform, str]:
    size = rng.uniform([3.0, 3.0, 2.4], [10.0, 8.0, 4.0])
    surface = 2 * (size[0] * size[1] + size[0] * size[2] + size[1] * size[2])
    all_absorbing_seconds = 24 * math.log(10) / _SPEED_OF_SOUND * size.prod() / surface
    seconds = max(seconds, 1.1 * all_absorbing_seconds)
    absorption, max_order = library.inverse_sabine(seconds, size)
    room = library.ShoeBox(
        size, fs=sample_rate_hz, materials=library.Material(absorption), max_order=min(max_order, 60)
    )
    room.add_source(rng.uniform(0.5, size - 0.5))
    room.add_microphone(rng.uniform(0.5, size - 0.5))
    room.compute_rir()
    response = np.asarray(room.rir[0][0], np.float32)[: round(_LONGEST_SECONDS * sample_rate_hz)]
    name = "x".join(f"{length:.1f}" for length in size)
    return response, f"room {name} m, {seconds:.2f} s"


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
    wet = _convolved(waveform, response)[direct : direct + len(waveform)]
    wet_power = power_of(wet)
    scaled: Waveform = wet * np.float32(math.sqrt(power / wet_power) if wet_power > 0 else 1.0)
    return scaled


def _convolved(waveform: Waveform, response: Waveform) -> Waveform:
    """In blocks that are transformed together with the response: four or eight rows at once are quickest.

    Less than half the time of ``scipy.signal.oaconvolve``, which transforms one by one.
    """
    num_blocks = 7 if 10 * len(response) <= len(waveform) else 3
    block = -(-len(waveform) // num_blocks)
    points = _transform_length(block + len(response) - 1)
    starts = range(0, num_blocks * block, block)
    rows = np.zeros((num_blocks + 1, points), np.float32)
    for row, start in zip(rows, starts, strict=False):
        part = waveform[start : start + block]
        row[: len(part)] = part
    rows[num_blocks, : len(response)] = response
    spectra = scipy.fft.rfft(rows)
    spectra[:num_blocks] *= spectra[num_blocks]
    answers = scipy.fft.irfft(spectra, points)
    whole = np.zeros(starts[-1] + points, np.float32)
    for answer, start in zip(answers, starts, strict=False):
        whole[start : start + points] += answer
    return whole


def _transform_length(points: int) -> int:
    """The next 4, 5, 6 or 7 times a power of two: few lengths, for SciPy keeps its tables for the last sixteen only."""
    power = max(0, points.bit_length() - 3)
    return -(-points >> power) << power

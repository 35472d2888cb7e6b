"""A sound under the voice, noise, music or babble, and where such sounds come from.

A folder is listed once. Of a recording only the part that is needed is decoded, and its header is read when it is
drawn, not beforehand: 60,000 headers would take 5 s on a local disk and minutes on a network's, for 0.1 ms a draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import scipy.fft

from chns.core import AudioError
from chns.data.audio import EXTENSIONS, Waveform, audio_info, read_audio
from chns.data.augmentation.effects import power_of, require_probability, require_range, uniform_noise
from chns.data.manifest import Manifest
from chns.data.storage.packed import Recording

_LOWEST_NOISE_HZ, _BANDS_PER_OCTAVE = 50.0, 24
_NUM_EXCERPTS, _EXCERPT_LEVEL, _INT16_MAX = 256, 1_000, np.iinfo(np.int16).max

_Excerpt = npt.NDArray[np.int16]


class NoiseSource(Protocol):
    """Gives so many samples of sound, and their origin in words."""

    def __call__(self, num_samples: int, rng: np.random.Generator) -> tuple[Waveform, str]:
        """Samples, shape (num_samples,), of any level."""
        ...


class RecordingFolder:
    """Parts of the recordings below a folder, each file equally likely.

    Args:
        folder: Searched with all its subfolders, such as ``musan/noise``.
        sample_rate_hz: Rate of the samples.

    Raises:
        FileNotFoundError: If there is no such folder.
        AudioError: If it holds no recording.
    """

    def __init__(self, folder: Path, *, sample_rate_hz: int) -> None:
        self._folder = folder
        self._names = recordings_in(folder)
        self._sample_rate_hz = sample_rate_hz

    def __len__(self) -> int:
        """Number of recordings."""
        return len(self._names)

    def __call__(self, num_samples: int, rng: np.random.Generator) -> tuple[Waveform, str]:
        """A random part of a random recording; one that is shorter is repeated.

        Raises:
            FileNotFoundError: If the recording is gone.
            AudioError: If it cannot be read; names it.
        """
        name = self._names[rng.integers(len(self._names))]
        path = self._folder / name
        seconds = audio_info(path).duration_seconds
        return _random_part(path, 0.0, seconds, num_samples, self._sample_rate_hz, rng), name


class TrainingUtterances:
    """Parts of a manifest's utterances, each equally likely: voices for babble without a further corpus.

    Args:
        manifest: The utterances.
        sample_rate_hz: Rate of the samples.
    """

    def __init__(self, manifest: Manifest, *, sample_rate_hz: int) -> None:
        self._manifest = manifest
        self._sample_rate_hz = sample_rate_hz

    def __call__(self, num_samples: int, rng: np.random.Generator) -> tuple[Waveform, str]:
        """A random part of a random utterance; one that is shorter is repeated.

        Raises:
            FileNotFoundError: If the recording is gone.
            AudioError: If it cannot be read.
        """
        utterance = self._manifest[int(rng.integers(len(self._manifest)))]
        span = utterance.offset_seconds, utterance.duration_seconds
        part = _random_part(utterance.path, *span, num_samples, self._sample_rate_hz, rng, channel=utterance.channel)
        return part, utterance.name


class Babble:
    """Several people at once: a sum of equally loud voices.

    Voices are 256 excerpts, each read when it is first drawn and then kept, as 16-bit integers: 25 MB for 3 s at
    16 kHz. So babble reads next to nothing, from whatever storage. Each crop has its own choice of excerpts, and each
    of these begins somewhere else in every crop.

    Args:
        voices: Gives one voice a call.
        min_voices: Fewest voices.
        max_voices: Most voices.
        seed: Decides which excerpts there are.

    Raises:
        ValueError: If the numbers are out of range.
    """

    def __init__(self, voices: NoiseSource, *, min_voices: int, max_voices: int, seed: int = 0) -> None:
        if not 1 <= min_voices <= max_voices <= 100:
            raise ValueError(f"min_voices to max_voices must rise within 1 and 100, got {min_voices} to {max_voices}.")
        self._voices = voices
        self._range = (min_voices, max_voices)
        self._seed = seed
        self._excerpts: dict[tuple[int, int], _Excerpt] = {}

    def __call__(self, num_samples: int, rng: np.random.Generator) -> tuple[Waveform, str]:
        """The sum of a random number of voices; one that is silent adds nothing.

        Raises:
            FileNotFoundError: If a recording is gone.
            AudioError: If one cannot be read.
        """
        count = int(rng.integers(*self._range, endpoint=True))
        babble = np.zeros(num_samples, np.float32)
        for number in rng.choice(_NUM_EXCERPTS, count, replace=False).tolist():
            voice = self._excerpt(number, num_samples)
            start = int(rng.integers(num_samples))
            babble[: num_samples - start] += voice[start:]
            babble[num_samples - start :] += voice[:start]
        return babble, f"{count} voices"

    def _excerpt(self, number: int, num_samples: int) -> _Excerpt:
        """The same for a number and a length, whatever was asked for before."""
        excerpt = self._excerpts.get((number, num_samples))
        if excerpt is None:
            samples, _ = self._voices(num_samples, np.random.default_rng((self._seed, number)))
            excerpt = _excerpt_of(samples)
            if len(self._excerpts) == _NUM_EXCERPTS:  # of other lengths
                del self._excerpts[next(iter(self._excerpts))]
            self._excerpts[number, num_samples] = excerpt
        return excerpt


def _excerpt_of(samples: Waveform) -> _Excerpt:
    """Samples of one loudness for all; what is 30 dB above it, which no voice is, is clipped."""
    power = power_of(samples)
    if power == 0:
        return np.zeros(len(samples), np.int16)
    loud = np.clip(samples * np.float32(_EXCERPT_LEVEL / np.sqrt(power)), -_INT16_MAX, _INT16_MAX)
    excerpt: _Excerpt = np.rint(loud).astype(np.int16)
    return excerpt


class ColouredNoise:
    """Gaussian noise whose power falls as frequency^-exponent, the exponent anywhere from 0 (white) to 2 (brown).

    Fans, streets and hiss lie in between. No download is needed, and no recording repeats.

    Args:
        sample_rate_hz: Rate of the samples.
    """

    def __init__(self, *, sample_rate_hz: int) -> None:
        self._sample_rate_hz = sample_rate_hz

    def __call__(self, num_samples: int, rng: np.random.Generator) -> tuple[Waveform, str]:
        """Noise of a random colour."""
        exponent = rng.uniform(0.0, 2.0)
        noise = coloured_noise(num_samples, exponent, rng, sample_rate_hz=self._sample_rate_hz)
        return noise, f"colour {exponent:.1f}"


def coloured_noise(num_samples: int, exponent: float, rng: np.random.Generator, *, sample_rate_hz: int) -> Waveform:
    """Noise with a power density proportional to frequency^-exponent from 50 Hz on, and nothing below.

    Otherwise nearly all the power of brown noise would lie where nobody hears it, and a signal-to-noise ratio would say
    nothing. The density falls by steps, 24 in an octave, of a quarter of a decibel at most.

    Returns:
        Shape (num_samples,), of any level.
    """
    points = scipy.fft.next_fast_len(num_samples, real=True)
    widths = _band_widths(points, sample_rate_hz)
    amplitudes = np.exp2(np.arange(len(widths)) * (-exponent / 2 / _BANDS_PER_OCTAVE)).astype(np.float32)
    heard = np.repeat(amplitudes, widths)
    spectrum = np.zeros(points // 2 + 1, np.complex64)
    parts = uniform_noise(2 * len(heard), rng).view(np.complex64)  # many of them add up to Gaussian samples
    np.multiply(parts, heard, out=spectrum[len(spectrum) - len(heard) :])
    noise: Waveform = scipy.fft.irfft(spectrum, points)[:num_samples]
    return noise


@lru_cache(maxsize=4)
def _band_widths(points: int, sample_rate_hz: int) -> npt.NDArray[np.intp]:
    """How many of a spectrum's frequencies lie in each band, from the lowest that is heard on."""
    frequencies_hz = np.arange(points // 2 + 1) * (sample_rate_hz / points)
    heard = frequencies_hz[frequencies_hz >= _LOWEST_NOISE_HZ]
    return np.bincount(np.rint(_BANDS_PER_OCTAVE * np.log2(heard / _LOWEST_NOISE_HZ)).astype(np.intp))


def recordings_in(folder: Path) -> list[str]:
    """Names of the recordings below a folder, sorted.

    Raises:
        FileNotFoundError: If there is no such folder.
        AudioError: If it holds none.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"augmentation folder must exist, got {folder}.")
    recordings = (path for path in folder.rglob("*") if path.suffix.lower() in EXTENSIONS)
    names = sorted(path.relative_to(folder).as_posix() for path in recordings)
    if not names:
        raise AudioError(f"augmentation folder must hold recordings ({', '.join(EXTENSIONS)}), got none in {folder}.")
    return names


def _random_part(
    path: Recording,
    offset_seconds: float,
    duration_seconds: float,
    num_samples: int,
    sample_rate_hz: int,
    rng: np.random.Generator,
    *,
    channel: int | None = None,
) -> Waveform:
    """Read a random part of a span of a recording; a span that is too short is repeated, from a random place on."""
    wanted_seconds = num_samples / sample_rate_hz
    room_seconds = duration_seconds - wanted_seconds
    place = rng.random()
    part = read_audio(
        path,
        sample_rate_hz=sample_rate_hz,
        offset_seconds=offset_seconds + place * max(0.0, room_seconds),
        duration_seconds=min(wanted_seconds, duration_seconds),
        channel=channel,
    )
    if len(part) < num_samples:
        part = np.resize(np.roll(part, -int(place * len(part))), num_samples)
    return part


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

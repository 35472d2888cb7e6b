"""What a crop goes through, and the effects that need no other recording: gain, speed and codecs.

`Augmenter` is the chain; the rules that all effects share are here too.

A speaker heard 10 % faster has a voice 10 % higher: another voice. So speed, which changes length and pitch together as
with a tape, has two uses. `Speed` changes a crop and keeps its label; `with_speed_speakers` makes each speaker at each
speed a speaker more, in the manifest, and whatever counts speakers (batches, clusters, a classification head) sees them
as any other.

`Codec` is what a line does to speech: the telephone's band, mobile telephony, and the codecs of the web. libsndfile
encodes (MP3: LAME) and decodes in memory, so the artefacts are those of the real codecs. All of them were checked to
leave the voice where it was in time. Measured costs of a 3 s crop are in ``benchmarks/augmentation.py``.
"""

from __future__ import annotations

import hashlib
import io
import math
import threading
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from typing import Protocol

import numpy as np
import scipy.fft
import soundfile
import soxr

from chns.core import Float32Array, Float64Array, ManifestError
from chns.data.manifest import Manifest, with_columns

SPEED_COLUMN = "speed_factor"
"""Column of a manifest that says how fast an utterance is to be played; 1 where it is empty."""

MIN_FACTOR, MAX_FACTOR = 0.5, 2.0

_SPEED_PLACE, _FIRST_EFFECT_PLACE = 0, 1  # of a crop's seed

_NARROW_HZ, _WIDE_HZ = 8_000, 16_000
_TELEPHONE_BAND_HZ = (300.0, 3_400.0)
_TELEPHONE_RINGS_SAMPLES = 200  # then it has died away by 170 dB
_MU_LAW_STEPS, _MU_LAW_SCALE = 8_192, np.float32(8_191.75)  # of 14 bits, as libsndfile rounds to them
_MP3_KBPS = (24, 32, 48, 64)
_MP3_QUALITY = 7
_MP3_DELAY_SAMPLES = 1_105
_OPUS_KBPS = (8, 12, 16, 24)


def require_probability(name: str, probability: float) -> None:
    """Check a probability.

    Raises:
        ValueError: If it is not between 0 and 1.
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"{name} must be between 0 and 1, got {probability}.")


def require_range(name: str, lowest: float, highest: float, *, within: tuple[float, float]) -> None:
    """Check the two ends that something is drawn between.

    Raises:
        ValueError: If they do not rise, or leave the bounds of what makes sense.
    """
    low, high = within
    if not (math.isfinite(lowest) and math.isfinite(highest) and low <= lowest <= highest <= high):
        raise ValueError(f"{name} must rise within {low:g} and {high:g}, got {lowest} to {highest}.")


def power_of(waveform: Float32Array) -> float:
    """Mean square of the samples; no product of BLAS, which adds in the order of its threads."""
    return float(np.einsum("i,i->", waveform, waveform)) / len(waveform)


def uniform_noise(count: int, rng: np.random.Generator) -> Float32Array:
    """White noise of any level, from one random byte a number: a quarter of the time of random floats."""
    steps = rng.bit_generator.random_raw(-(-count // 8)).view(np.int8)[:count].astype(np.float32)
    steps += np.float32(0.5)  # -127.5 to 127.5
    return steps


def without_clipping(waveform: Float32Array) -> Float32Array:
    """The waveform, turned down as a whole if a sample is outside [-1, 1]."""
    peak = float(max(waveform.max(), -waveform.min()))
    return (waveform / np.float32(peak)).astype(np.float32) if peak > 1 else waveform


class Gain:
    """Turns the volume up or down.

    Log-mel features with their mean subtracted do not hear it; it matters to features that keep their mean, and to
    what is quantised after it.

    Args:
        probability: How often.
        min_gain_db: Smallest gain.
        max_gain_db: Largest gain; peaks that it would clip turn the whole crop down instead.

    Raises:
        ValueError: If a setting is out of range.
    """

    def __init__(self, *, probability: float, min_gain_db: float, max_gain_db: float) -> None:
        require_probability("gain probability", probability)
        require_range("min_gain_db to max_gain_db", min_gain_db, max_gain_db, within=(-60, 60))
        self._probability = probability
        self._range_db = (min_gain_db, max_gain_db)

    def __call__(self, waveform: Float32Array, rng: np.random.Generator) -> tuple[Float32Array, str]:
        """The waveform, changed or not, and what was done, in words."""
        if rng.random() >= self._probability:
            return waveform, ""
        gain_db = rng.uniform(*self._range_db)
        return waveform * np.float32(10 ** (gain_db / 20)), f"gain {gain_db:+.1f} dB"


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


class Codec:
    """Sends a crop through a line.

    Args:
        probability: How often.
        kinds: Names in `CODECS`, each equally likely.
        sample_rate_hz: Rate of the crops.

    Raises:
        ValueError: If the probability is out of range, or there is no kind, or none of that name.
    """

    def __init__(self, *, probability: float, kinds: Sequence[str], sample_rate_hz: int) -> None:
        require_probability("codec probability", probability)
        if not kinds or not set(kinds) <= set(CODECS):
            raise ValueError(f"codec kinds must be some of {', '.join(CODECS)}, got {', '.join(kinds) or 'none'}.")
        self._probability = probability
        self._kinds = list(kinds)
        self._sample_rate_hz = sample_rate_hz

    def __call__(self, waveform: Float32Array, rng: np.random.Generator) -> tuple[Float32Array, str]:
        """The waveform, changed or not and of the same length, and what was done, in words."""
        if rng.random() >= self._probability:
            return waveform, ""
        kind = self._kinds[rng.integers(len(self._kinds))]
        rate_hz, line = CODECS[kind]
        sent = soxr.resample(without_clipping(waveform), self._sample_rate_hz, rate_hz)
        heard, detail = line(without_clipping(sent), rng)
        return _of_length(soxr.resample(heard, rate_hz, self._sample_rate_hz), len(waveform)), f"{kind}{detail}"


def _telephone(waveform: Float32Array, _: np.random.Generator) -> tuple[Float32Array, str]:
    """300 to 3,400 Hz, then G.711's eight bits in mu-law; filtered without delay, so that nothing moves."""
    points = scipy.fft.next_fast_len(len(waveform) + _TELEPHONE_RINGS_SAMPLES, real=True)
    spectrum = scipy.fft.rfft(waveform, points) * _telephone_band(points)
    filtered = without_clipping(scipy.fft.irfft(spectrum, points)[: len(waveform)])
    heard: Float32Array = _mu_law()[np.rint(filtered * _MU_LAW_SCALE).astype(np.int16) + _MU_LAW_STEPS]
    return heard, ""


@lru_cache(maxsize=4)
def _telephone_band(points: int) -> Float32Array:
    """What is left of each frequency by a Butterworth filter of fourth order, forwards and backwards."""
    import scipy.signal

    band = scipy.signal.butter(4, _TELEPHONE_BAND_HZ, "bandpass", fs=_NARROW_HZ, output="sos")
    _, answer = scipy.signal.sosfreqz(band, scipy.fft.rfftfreq(points, 1 / _NARROW_HZ), fs=_NARROW_HZ)
    left: Float32Array = np.square(np.abs(answer)).astype(np.float32)
    return left


@cache
def _mu_law() -> Float32Array:
    """What is heard of each of the 14-bit samples that G.711 begins with, by libsndfile."""
    steps = np.arange(-_MU_LAW_STEPS, _MU_LAW_STEPS + 1, dtype=np.float32)
    return _coded(steps / _MU_LAW_SCALE, _NARROW_HZ, "WAV", "ULAW")


def _gsm(waveform: Float32Array, _: np.random.Generator) -> tuple[Float32Array, str]:
    """GSM 06.10 full rate, 13 kbit/s."""
    return _coded(waveform, _NARROW_HZ, "WAV", "GSM610"), ""


def _mp3(waveform: Float32Array, rng: np.random.Generator) -> tuple[Float32Array, str]:
    """MP3 at a constant rate, by LAME's quicker way: at quality 5, FFmpeg's default, it takes two thirds longer."""
    import lameenc  # libsndfile's own takes several times as long: its wheels bring it compiled without optimisation

    kbps = int(rng.choice(_MP3_KBPS))
    encoder = lameenc.Encoder()
    encoder.silence()
    encoder.set_in_sample_rate(_WIDE_HZ)
    encoder.set_channels(1)
    encoder.set_bit_rate(kbps)
    encoder.set_quality(_MP3_QUALITY)
    integers = np.rint(waveform * np.iinfo(np.int16).max).astype(np.int16)
    encoded = encoder.encode(integers.tobytes()) + encoder.flush()
    heard: Float32Array = soundfile.read(io.BytesIO(encoded), dtype="float32")[0]
    return heard[_MP3_DELAY_SAMPLES:], f" {kbps} kbit/s"


def _opus(waveform: Float32Array, rng: np.random.Generator) -> tuple[Float32Array, str]:
    """Opus; libsndfile counts 256 kbit/s as 0 and 6 as 1."""
    kbps = int(rng.choice(_OPUS_KBPS))
    level = 1 - (kbps - 6) / (256 - 6)
    return _coded(waveform, _WIDE_HZ, "OGG", "OPUS", level), f" {kbps} kbit/s"


CODECS: dict[str, tuple[int, Callable[[Float32Array, np.random.Generator], tuple[Float32Array, str]]]] = {
    "telephone": (_NARROW_HZ, _telephone),
    "gsm": (_NARROW_HZ, _gsm),
    "mp3": (_WIDE_HZ, _mp3),
    "opus": (_WIDE_HZ, _opus),
}
"""Name of each line, the rate that it works at, and what it does."""


def _coded(
    waveform: Float32Array, rate_hz: int, container: str, subtype: str, compression_level: float | None = None
) -> Float32Array:
    """Encode and decode in memory."""
    memory = io.BytesIO()
    soundfile.write(memory, waveform, rate_hz, format=container, subtype=subtype, compression_level=compression_level)
    memory.seek(0)
    decoded: Float32Array = soundfile.read(memory, dtype="float32")[0]
    return decoded


def _of_length(waveform: Float32Array, num_samples: int) -> Float32Array:
    """Cut what a codec's last frame added, or fill up with silence."""
    return np.pad(waveform[:num_samples], (0, max(0, num_samples - len(waveform))))


class Effect(Protocol):
    """Changes a waveform, or not, and says what it did."""

    def __call__(self, waveform: Float32Array, rng: np.random.Generator) -> tuple[Float32Array, str]:
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
        reverberation: Effect | None = None,
        background: Effect | None = None,
        codec: Codec | None = None,
        gain: Gain | None = None,
    ) -> None:
        self._speed = speed
        self._effects: list[Effect | None] = [reverberation, background, codec, gain]

    def speed_of(self, seed: Sequence[int]) -> float:
        """How fast the crop with this seed is played: how much of the recording it needs depends on it."""
        return 1.0 if self._speed is None else self._speed.draw(_random_numbers(seed, _SPEED_PLACE))

    def __call__(self, waveform: Float32Array, seed: Sequence[int]) -> tuple[Float32Array, tuple[str, ...]]:
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
        for place, effect in enumerate(self._effects, _FIRST_EFFECT_PLACE):
            if effect is not None:
                waveform, words = effect(waveform, _random_numbers(seed, place))
                done.append(words)
        return without_clipping(waveform), tuple(filter(None, done))


def seed_digest(numbers: Sequence[int], *, num_bytes: int, purpose: bytes = b"") -> bytes:
    """Bytes as good as random that follow from whole numbers, of whatever type these are; others for each purpose."""
    key = ",".join(map(str, map(int, numbers))).encode()
    return hashlib.blake2b(key, digest_size=num_bytes, person=purpose).digest()


class _Generator(threading.local):
    """One for each thread: to make another takes longer than most effects that are not applied."""

    def __init__(self) -> None:
        self.bits = np.random.PCG64(0)
        self.numbers = np.random.Generator(self.bits)


_GENERATOR = _Generator()


def _random_numbers(seed: Sequence[int], place: int) -> np.random.Generator:
    """Of one effect of one crop: independent of the crop's other numbers, whatever other effects are on.

    They come from the one generator that the thread has, so they are to be drawn before the next are asked for.
    """
    digest = seed_digest((*seed, place), num_bytes=32)
    _GENERATOR.bits.state = {
        "bit_generator": "PCG64",
        "state": {"state": int.from_bytes(digest[:16], "big"), "inc": int.from_bytes(digest[16:], "big") | 1},
        "has_uint32": 0,
        "uinteger": 0,
    }
    return _GENERATOR.numbers

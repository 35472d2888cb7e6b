"""A speaker-verification corpus made by eSpeak NG: small to install, quick to make, with known hard negatives.

A voice is a point in the unit cube; each coordinate is mapped to the range of one setting of the engine (pitch,
formant frequencies, breath, ...). A family is a random point; its members lie around it at ``family_spread``, so
speakers of one family are hard negatives of each other. An utterance is a random sentence at a random rate and pitch,
with noise, through a random microphone, at a random level: variation that a speaker model must learn to ignore.

Measured cost and difficulty: docs/decisions/0006-synthetic-speech.md.
"""

from __future__ import annotations

import importlib.metadata
import json
import multiprocessing
import re
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import soxr
from tqdm import tqdm

from chns.core import ChnsError, Float32Array, ManifestError, available_cores, write_text
from chns.data.audio import Waveform, audio_info, write_audio
from chns.data.corpora.espeak import open_engine, require_espeak
from chns.data.manifest import Manifest

_WORDS = {
    "name": "Anna Boris Clara David Emma Felix Grace Hugo Irene Jonas Karen Louis Martha Nora Oscar Paula Quentin "
    "Rosa Simon Thea Victor Wanda Yusuf Zoe",
    "person": "teacher doctor farmer driver sailor painter lawyer baker student nurse neighbour gardener visitor "
    "singer pilot judge carpenter librarian uncle daughter",
    "thing": "letter window bicycle kettle hammer carpet basket lantern violin mirror garden bottle jacket ladder "
    "engine pencil cushion blanket camera suitcase umbrella telephone notebook calendar",
    "quality": "small heavy yellow broken quiet shiny empty narrow famous wooden bitter gentle modern purple dusty "
    "cheap ancient curious frozen loyal smooth enormous familiar ordinary",
    "did": "carried found painted borrowed noticed repaired wanted dropped described measured followed collected "
    "opened avoided sold remembered lifted forgot cleaned mentioned",
    "do": "bring fetch carry open repair measure polish borrow watch move describe sell lift choose photograph",
    "place": "near the river|behind the station|in the kitchen|under the old bridge|beside the church|on the roof|"
    "at the market|outside the museum|along the coast|in the valley|across the street|next to the library",
    "time": "this morning|before lunch|after the storm|on Thursday|last winter|every evening|around noon|"
    "by the weekend|in early June|since yesterday|at half past nine|for two weeks",
    "number": "three|seven|eleven|fourteen|twenty|thirty two|forty five|sixty|ninety|two hundred",
}
_VOCABULARY = {kind: words.split("|" if "|" in words else " ") for kind, words in _WORDS.items()}
_PATTERNS = (
    "<name> <did> the <quality> <thing> <place> <time>.",
    "The <quality> <person> <did> <number> <thing>s <time>.",
    "Did the <person> <do> my <quality> <thing> <place>?",
    "Please <do> the <thing> <place> before <name> calls.",
    "<name> and the <person> <did> one <quality> <thing> <time>.",
    "We <did> <number> <quality> <thing>s <place>.",
    "Why would <name> <do> that <quality> <thing> <time>?",
    "Nobody <did> the <thing> that the <person> left <place>.",
    "My <person> says the <thing> is <quality>, but <name> never <did> it.",
    "If you <do> the <thing>, the <person> will <do> the <quality> one.",
)


def random_sentence(rng: np.random.Generator) -> str:
    """One of more than a hundred million sentences."""

    def drawn(field: re.Match[str]) -> str:
        words = _VOCABULARY[field[1]]
        return words[rng.integers(len(words))]

    return re.sub(r"<(\w+)>", drawn, _PATTERNS[rng.integers(len(_PATTERNS))])


# What a voice consists of, each with the range that speakers of the world differ in. Percentages are of the engine's
# default; the engine scales consonants and vowels by them (docs/voices.md of eSpeak NG).
_VOICE_RANGES: dict[str, tuple[float, float]] = {
    "pitch_hz": (80.0, 210.0),
    "pitch_span": (1.2, 1.6),
    "vocal_tract_percent": (90.0, 112.0),
    "roughness": (0.0, 5.0),
    "flutter": (0.0, 10.0),
    "voicing_percent": (80.0, 130.0),
    "breath": (0.0, 6.0),
    "unvoiced_consonants_percent": (60.0, 130.0),
    "voiced_consonants_percent": (60.0, 130.0),
    "tone_low": (140.0, 210.0),
    "tone_middle": (100.0, 170.0),
    "tone_high": (70.0, 150.0),
    "rate_words_per_minute": (150.0, 185.0),
    **{f"frequency_{number}_percent": (94.0, 106.0) for number in range(1, 6)},
    **{f"height_{number}_percent": (70.0, 130.0) for number in range(9)},
    **{f"width_{number}_percent": (75.0, 140.0) for number in range(6)},
}


def member_voice(
    family_rng: np.random.Generator, member_rng: np.random.Generator, *, spread: float
) -> dict[str, float]:
    """A point around the family's in the unit cube, reflected at its walls, mapped to the ranges.

    Args:
        family_rng: Draws the family's point; the same for all its members.
        member_rng: Draws the way from there.
        spread: Standard deviation of that way, as a fraction of each setting's range.

    Returns:
        Each setting by its name.
    """
    centre = family_rng.uniform(size=len(_VOICE_RANGES))
    point = np.abs(centre + spread * member_rng.standard_normal(len(_VOICE_RANGES))) % 2
    point = np.minimum(point, 2 - point)
    return {
        name: low + (high - low) * float(position)
        for (name, (low, high)), position in zip(_VOICE_RANGES.items(), point, strict=True)
    }


def variant(voice: dict[str, float]) -> str:
    """The voice as lines of an eSpeak NG variant file, which takes whole numbers only."""
    lines = [
        f"pitch {voice['pitch_hz']:.0f} {voice['pitch_hz'] * voice['pitch_span']:.0f}",
        f"roughness {voice['roughness']:.0f}",
        f"flutter {voice['flutter']:.0f}",
        f"voicing {voice['voicing_percent']:.0f}",
        "breath" + f" {voice['breath']:.0f}" * 8,
        f"consonants {voice['unvoiced_consonants_percent']:.0f} {voice['voiced_consonants_percent']:.0f}",
        f"tone 600 {voice['tone_low']:.0f} 1200 {voice['tone_middle']:.0f} 2500 {voice['tone_high']:.0f}",
    ]
    for number in range(9):
        frequency = voice["vocal_tract_percent"] * voice.get(f"frequency_{number}_percent", 100.0) / 100
        height = voice[f"height_{number}_percent"]
        width = voice.get(f"width_{number}_percent", 100.0)
        lines.append(f"formant {number} {frequency:.0f} {height:.0f} {width:.0f}")
    return "\n".join(lines)


SAMPLE_RATE_HZ = 16_000
_SIGNAL_TO_NOISE_DB = (8.0, 30.0)
_LEVEL_DB = (-34.0, -20.0)  # of the root mean square, below full scale
_PEAK = 0.95


def recorded(speech: Waveform, rng: np.random.Generator) -> Waveform:
    """Speech with background noise, through a microphone, at some level; all in one pass over the spectrum.

    Args:
        speech: Shape (samples,), at ``SAMPLE_RATE_HZ``.
        rng: Draws the noise, the channel and the level.

    Returns:
        Shape (samples,), float32, within (-1, 1).
    """
    size = -(-(len(speech) + 1024) // 4096) * 4096  # room for the filter to ring; a size that transforms fast
    frequencies_hz = np.fft.rfftfreq(size, 1 / SAMPLE_RATE_HZ).astype(np.float32)
    noise_level = _root_mean_square(speech) / _amplitude(rng.uniform(*_SIGNAL_TO_NOISE_DB))
    spectrum = np.fft.rfft(speech, size) + noise_level * _noise_spectrum(frequencies_hz, size, rng)
    waveform = np.fft.irfft(spectrum * _channel_gain(frequencies_hz, rng), size)[: len(speech)].astype(np.float32)
    level = _amplitude(rng.uniform(*_LEVEL_DB)) / _root_mean_square(waveform)
    return waveform * np.float32(min(level, _PEAK / np.abs(waveform).max()))


def _root_mean_square(waveform: Waveform) -> np.float32:
    return np.float32(np.sqrt(np.mean(waveform**2)))


def _amplitude(decibels: float) -> np.float32:
    return np.float32(10 ** (decibels / 20))


def _noise_spectrum(frequencies_hz: Float32Array, size: int, rng: np.random.Generator) -> npt.NDArray[np.complex64]:
    """A random mixture of white, pink and brown noise (power falls as 1, 1 / f, 1 / f^2), of mean square 1."""
    audible_hz = np.maximum(frequencies_hz, 60.0)
    density = np.zeros_like(audible_hz)
    for slope, share in enumerate(rng.dirichlet((1, 1, 1))):
        power = audible_hz ** np.float32(-slope)
        density += power * np.float32(share / power.sum())
    real, imaginary = rng.standard_normal((2, len(audible_hz)), dtype=np.float32)
    noise: npt.NDArray[np.complex64] = (real + np.complex64(1j) * imaginary) * np.sqrt(density) * np.float32(size / 2)
    return noise


def _channel_gain(frequencies_hz: Float32Array, rng: np.random.Generator) -> Float32Array:
    """A gentle equaliser, smooth over log frequency, and the band that a microphone or a line lets through."""
    knots_hz = np.geomspace(100, 8000, 7)
    knots_db = rng.normal(0, 3, len(knots_hz))
    hz = np.maximum(frequencies_hz, 1.0)
    equaliser = 10 ** (np.interp(np.log(hz), np.log(knots_hz), knots_db) / 20)
    lowest_hz, highest_hz = rng.uniform(40, 250), rng.uniform(3400, 8000)
    attenuation = (1 + (lowest_hz / hz) ** 4) * (1 + (hz / highest_hz) ** 16)
    gain: Float32Array = (equaliser / np.sqrt(attenuation)).astype(np.float32)
    return gain


FAMILY_SPREAD = 0.15  # hard, not hopeless, for an encoder trained for two minutes
_RECIPE = 1  # to be raised whenever the same settings would give other audio
_FAMILY_STREAM, _SPEAKER_STREAM = 0, 1  # keeps the random streams of family 7 and speaker 7 apart

Row = dict[str, object]


class _Speaker(NamedTuple):
    """All that a process needs to make one speaker's recordings."""

    name: str
    number: int
    family: int
    num_utterances: int
    family_spread: float
    seed: int
    out: Path


def prepare_synthetic(
    out: Path,
    *,
    num_speakers: int = 400,
    num_utterances: int = 12,
    num_families: int = 40,
    family_spread: float = FAMILY_SPREAD,
    seed: int = 0,
    jobs: int | None = None,
) -> Manifest:
    """Synthesise a corpus: ``out/SPEAKER/NN.flac`` (16 kHz, 16 bit) and ``out/manifest.parquet``.

    The audio depends on the settings only, not on ``jobs``. A call that was interrupted goes on where it stopped.

    Args:
        out: Folder of the corpus; made if missing.
        num_speakers: At least 2.
        num_utterances: Of each speaker; at least 2.
        num_families: Speakers are dealt evenly to so many families of similar voices; at most num_speakers.
        family_spread: Standard deviation of a member's voice settings around its family's, as a fraction of each
            setting's range, in (0, 1]. Smaller is harder; at 1 families hardly exist.
        seed: From 0. Same settings and engine version, same audio.
        jobs: Processes; by default one a core.

    Returns:
        The manifest, with the column ``family`` beside the required ones.

    Raises:
        ValueError: If a number is outside its range.
        ManifestError: If ``out`` holds a corpus made with other settings, or a damaged settings file.
        ChnsError: If the package ``espeakng-loader`` is missing, or a process dies.
    """
    _check_settings(num_speakers, num_utterances, num_families, family_spread, seed, jobs)
    require_espeak()
    settings = {
        "num_speakers": num_speakers,
        "num_utterances": num_utterances,
        "num_families": num_families,
        "family_spread": family_spread,
        "seed": seed,
        "recipe": _RECIPE,
        "espeakng_loader": importlib.metadata.version("espeakng-loader"),
    }
    _claim_folder(out / "synthetic.json", settings)
    speakers = [
        _Speaker(name, number, family, num_utterances, family_spread, seed, out)
        for number, (name, family) in enumerate(_names_and_families(num_speakers, num_families))
    ]
    jobs = min(jobs or available_cores(), num_speakers)
    rows = [row for rows in _in_processes(_make_speaker, speakers, jobs=jobs) for row in rows]
    manifest = Manifest.from_rows(rows, root=out, source=str(out))
    manifest.write(out / "manifest.parquet")
    return manifest


def _check_settings(
    num_speakers: int, num_utterances: int, num_families: int, family_spread: float, seed: int, jobs: int | None
) -> None:
    if num_speakers < 2:
        raise ValueError(f"num_speakers must be at least 2, got {num_speakers}.")
    if num_utterances < 2:
        raise ValueError(f"num_utterances must be at least 2, got {num_utterances}.")
    if not 1 <= num_families <= num_speakers:
        raise ValueError(
            f"num_families must be between 1 and the number of speakers ({num_speakers}), got {num_families}."
        )
    if not 0 < family_spread <= 1:
        raise ValueError(f"family_spread must lie in (0, 1], got {family_spread}.")
    if seed < 0:
        raise ValueError(f"seed must be at least 0, got {seed}.")
    if jobs is not None and jobs < 1:
        raise ValueError(f"jobs must be at least 1, got {jobs}.")


def _claim_folder(path: Path, settings: dict[str, Any]) -> None:
    """Write the settings file, or check that the one already there says the same."""
    if not path.exists():
        write_text(path, json.dumps(settings, indent=2) + "\n")
        return
    try:
        earlier = json.loads(path.read_text())
    except ValueError as error:
        raise ManifestError(f"settings file must be JSON, got {error} in {path}. Delete the folder.") from error
    for name, value in settings.items():
        before = earlier.get(name) if isinstance(earlier, dict) else None
        if before != value:
            raise ManifestError(
                f"{name} must be {before} like the corpus already in the folder, got {value} in {path}. "
                "Choose another folder, or delete this one."
            )


def _names_and_families(num_speakers: int, num_families: int) -> Iterator[tuple[str, int]]:
    """``f012-s03``: family 12, member 3. In sorted order; family sizes differ by one at most."""
    largest = -(-num_speakers // num_families)
    family_digits = max(3, len(str(num_families - 1)))
    member_digits = max(2, len(str(largest - 1)))
    for family in range(num_families):
        first, end = (-(-num_speakers * position // num_families) for position in (family, family + 1))
        for member in range(end - first):
            yield f"f{family:0{family_digits}}-s{member:0{member_digits}}", family


def _in_processes(make: Callable[[Any], list[Row]], tasks: Sequence[Any], *, jobs: int) -> list[list[Row]]:
    """Apply ``make`` to every task; in processes, as each holds one engine, and spawned, so that threads do no harm."""
    pool = ProcessPoolExecutor(
        jobs,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=signal.signal,  # Ctrl-C is this process's business
        initargs=(signal.SIGINT, signal.SIG_IGN),
    )
    with pool:
        try:
            return list(tqdm(pool.map(make, tasks), total=len(tasks), unit="speaker", disable=None))
        except BrokenProcessPool as error:
            raise ChnsError(
                "synthesis must not end its process, got one that died (killed, or out of memory?). "
                "Run the same command again to go on, with fewer jobs if memory is short."
            ) from error


def _make_speaker(speaker: _Speaker) -> list[Row]:
    """Write one speaker's recordings unless all are there; files appear whole, so one that exists is complete."""
    digits = max(2, len(str(speaker.num_utterances - 1)))
    paths = [f"{speaker.name}/{number:0{digits}}.flac" for number in range(speaker.num_utterances)]
    if not all((speaker.out / path).exists() for path in paths):
        for path, waveform in zip(paths, _recordings(speaker), strict=True):
            write_audio(speaker.out / path, waveform, sample_rate_hz=SAMPLE_RATE_HZ)
    return [
        {
            "utterance": path.removesuffix(".flac"),
            "speaker": speaker.name,
            "path": path,
            "offset_seconds": 0.0,
            "duration_seconds": audio_info(speaker.out / path).duration_seconds,
            "sample_rate_hz": SAMPLE_RATE_HZ,
            "family": speaker.name.partition("-")[0],
        }
        for path in paths
    ]


def _recordings(speaker: _Speaker) -> Iterator[Waveform]:
    family_rng = np.random.default_rng([speaker.seed, _FAMILY_STREAM, speaker.family])
    rng = np.random.default_rng([speaker.seed, _SPEAKER_STREAM, speaker.number])
    voice = member_voice(family_rng, rng, spread=speaker.family_spread)
    with open_engine(variant(voice), seed=int(rng.integers(2**31))) as engine:
        for _ in range(speaker.num_utterances):
            spoken = engine.synthesise(
                random_sentence(rng),
                rate_words_per_minute=round(voice["rate_words_per_minute"] * rng.uniform(0.85, 1.15)),
                pitch=round(rng.uniform(42, 58)),
                pitch_range=round(rng.uniform(35, 65)),
            )
            yield recorded(soxr.resample(spoken, engine.sample_rate_hz, SAMPLE_RATE_HZ), rng)

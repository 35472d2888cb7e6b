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
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soxr
from tqdm import tqdm

from chns.data.audio import Waveform, audio_info, write_audio
from chns.data.manifest import Manifest
from chns.data.prepare.espeak import open_engine, require_espeak
from chns.data.prepare.synthetic_recording import SAMPLE_RATE_HZ, recorded
from chns.data.prepare.synthetic_sentences import random_sentence
from chns.data.prepare.synthetic_voices import member_voice, variant
from chns.errors import ChnsError, ManifestError
from chns.files import atomic_path

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
    jobs = min(jobs or os.cpu_count() or 1, num_speakers)
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
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(settings, indent=2) + "\n")
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

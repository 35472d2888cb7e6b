"""Any folder of recordings: one folder a speaker, or the speaker's name somewhere in the path.

Google Speech Commands: ``WORD/SPEAKER_nohash_N.wav``, one spoken word a file.
"""

from __future__ import annotations

import re
import reprlib
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np

from chns.core.errors import ManifestError
from chns.data.audio import EXTENSIONS
from chns.data.corpora.scan import MIN_DURATION_SECONDS, Candidate, Rejected, ScanResult, find_files, scan_recordings
from chns.data.manifest import Manifest, relative_name

FIRST_LEVEL = r"^(?P<speaker>[^/]+)/"

_FEW_SPEAKERS, _MANY_UTTERANCES = 50, 500
_NO_PEOPLE = re.compile(r"train(ing)?|dev|val(id|idation)?|test|eval|wavs?|audio|clips|data|enrol+", re.IGNORECASE)


def prepare_folder(
    source: Path,
    *,
    speaker_pattern: str = FIRST_LEVEL,
    min_duration_seconds: float = MIN_DURATION_SECONDS,
    jobs: int | None = None,
) -> ScanResult:
    """Scan a folder whose paths name the speakers.

    Args:
        source: The folder.
        speaker_pattern: Regular expression, searched for in each path relative to ``source`` (with ``/``). Its group
            ``speaker``, or else its first group, is the speaker; by default the first folder. Files that do not match
            are rejected.
        min_duration_seconds: Shorter recordings are rejected.
        jobs: See ``scan_recordings``.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If the pattern is not a regular expression with a group.
        ManifestError: If there are no recordings, or nothing usable.
    """
    pattern = _compiled(speaker_pattern)
    group = "speaker" if "speaker" in pattern.groupindex else 1
    found = find_files(source)
    candidates, rejected = [], list(found.unread)
    for path in found.recordings:
        match = pattern.search(path)
        if match and match[group]:
            candidates.append(Candidate(relative_name(PurePosixPath(path)), match[group], path))
        else:
            rejected.append(Rejected(path, f"path must match {speaker_pattern} to name the speaker"))
    if not candidates and not rejected:
        raise ManifestError(f"corpus must hold recordings in one of {', '.join(EXTENSIONS)}, got none in {source}.")
    result = scan_recordings(
        candidates,
        root=source,
        rejected=rejected,
        min_duration_seconds=min_duration_seconds,
        jobs=jobs,
        passed_over=found.other,
    )
    return replace(result, doubt=_doubt(result.manifest)) if speaker_pattern == FIRST_LEVEL else result


def _doubt(manifest: Manifest) -> str | None:
    """Why the first folders may not be people."""
    speakers, names = manifest.speakers, manifest.column("utterance")
    share = sum("_nohash_" in name for name in names) / len(names)
    typical = int(np.median(np.bincount(manifest.speaker_labels)))
    if share > 0.5:
        return (
            f"the first folders ({reprlib.repr(speakers)}) look like the words of Speech Commands, not like speakers. "
            f"Use `chns prepare speech-commands`, or say with --speaker-pattern what names the speaker."
        )
    if len(speakers) <= _FEW_SPEAKERS and typical >= _MANY_UTTERANCES:
        return (
            f"{len(speakers)} speakers with about {typical:,} recordings each: are the first folders "
            f"({reprlib.repr(speakers)}) people, not words, sets or devices? If not, say with --speaker-pattern what "
            f"names the speaker, or use `chns prepare speech-commands`."
        )
    if len(speakers) > 1 and all(_NO_PEOPLE.fullmatch(name) for name in speakers):
        return (
            f"the first folders ({reprlib.repr(speakers)}) do not look like people. Prepare one of them, or say with "
            f"--speaker-pattern what names the speaker."
        )
    return None


def _compiled(speaker_pattern: str) -> re.Pattern[str]:
    try:
        pattern = re.compile(speaker_pattern)
    except re.error as error:
        raise ValueError(f"speaker pattern must be a regular expression, got {speaker_pattern} ({error}).") from error
    if not pattern.groups:
        raise ValueError(
            f"speaker pattern must have a group around the speaker's name, got {speaker_pattern}. "
            f"For example {FIRST_LEVEL} is the first folder."
        )
    return pattern


_NAME = re.compile(r"[^/]+/(?P<speaker>[^/]+)_nohash_\d+")
_NOISE = "_background_noise_/"


def prepare_speech_commands(
    source: Path, *, min_duration_seconds: float = MIN_DURATION_SECONDS, jobs: int | None = None
) -> ScanResult:
    """Scan the folders of words; the background noise that comes with them is passed over.

    Args:
        source: The folder of the words' folders.
        min_duration_seconds: Shorter recordings are rejected.
        jobs: See ``scan_recordings``.

    Raises:
        FileNotFoundError: If there is no such folder.
        ManifestError: If it has another layout, or holds nothing usable.
    """
    files = find_files(source)
    candidates, rejected = [], list(files.unread)
    for path in files.recordings:
        name = relative_name(PurePosixPath(path))
        if path.startswith(_NOISE):
            continue
        if match := _NAME.fullmatch(name):
            candidates.append(Candidate(name, match["speaker"], path))
        else:
            rejected.append(Rejected(path, "path must be WORD/SPEAKER_nohash_N"))
    if not candidates:
        found = f"{len(rejected)} other recordings, as {rejected[0].path}" if rejected else "no recordings at all"
        raise ManifestError(
            f"Speech Commands' folder must hold WORD/SPEAKER_nohash_N.wav, got {found} in {source}. "
            f"Point at the folder that holds one folder a word."
        )
    return scan_recordings(
        candidates,
        root=source,
        rejected=rejected,
        min_duration_seconds=min_duration_seconds,
        jobs=jobs,
        passed_over=files.other,
    )

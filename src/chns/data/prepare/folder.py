"""Any folder of recordings: one folder a speaker, or the speaker's name somewhere in the path."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from chns.data.audio import EXTENSIONS
from chns.data.manifest import relative_name
from chns.data.prepare.scan import (
    MIN_DURATION_SECONDS,
    Candidate,
    Rejected,
    ScanResult,
    find_recordings,
    scan_recordings,
)
from chns.errors import ManifestError

FIRST_LEVEL = r"^(?P<speaker>[^/]+)/"


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
    candidates, rejected = [], []
    for path in find_recordings(source):
        match = pattern.search(path)
        if match and match[group]:
            candidates.append(Candidate(relative_name(PurePosixPath(path)), match[group], path))
        else:
            rejected.append(Rejected(path, f"path must match {speaker_pattern} to name the speaker"))
    if not candidates and not rejected:
        raise ManifestError(f"corpus must hold recordings in one of {', '.join(EXTENSIONS)}, got none in {source}.")
    return scan_recordings(
        candidates, root=source, rejected=rejected, min_duration_seconds=min_duration_seconds, jobs=jobs
    )


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

"""Google Speech Commands: ``WORD/SPEAKER_nohash_N.wav``, one spoken word a file."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from chns.data.manifest import relative_name
from chns.data.prepare.scan import (
    MIN_DURATION_SECONDS,
    Candidate,
    Rejected,
    ScanResult,
    find_files,
    scan_recordings,
)
from chns.errors import ManifestError

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

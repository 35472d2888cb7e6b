"""CN-Celeb 1 and 2: ``data/idXXXXX/GENRE-NN-NNN.flac``, and the trials of CN-Celeb 1 under ``eval``.

The genre is a column of its own, and ``GENRE-NN`` of a speaker is the session. ``data`` also holds the speakers of the
evaluation; ``dev/dev.lst``, where it exists, says who may be trained on.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Literal, get_args

from chns.data.manifest import relative_name
from chns.data.prepare.cnceleb_lists import check_lists
from chns.data.prepare.scan import (
    MIN_DURATION_SECONDS,
    Candidate,
    Rejected,
    ScanResult,
    find_files,
    scan_recordings,
)
from chns.data.text_rows import text_lines
from chns.errors import ManifestError

Subset = Literal["dev", "eval"]

_DATA = re.compile(r"data/(?P<speaker>id\d+)/(?P<genre>[^/-]+)-(?P<number>\d+)-\d+")
_TEST = re.compile(r"eval/test/(?P<speaker>id\d+)-(?P<genre>[^/-]+)-(?P<number>\d+)-\d+")
_ENROLMENT = re.compile(r"eval/enroll/(?P<speaker>id\d+)-enroll")

_log = logging.getLogger(__name__)


def prepare_cnceleb(
    source: Path,
    *,
    subset: Subset = "dev",
    min_duration_seconds: float = MIN_DURATION_SECONDS,
    jobs: int | None = None,
) -> ScanResult:
    """Scan one of CN-Celeb's folders, ``CN-Celeb_flac`` or ``CN-Celeb2_flac``.

    Args:
        source: The folder that holds ``data``.
        subset: ``dev``: the speakers of ``dev/dev.lst``, all if there is no such list. ``eval``: the enrolment and
            test recordings; if there is an ``enroll.map``, also what ``data`` holds of other speakers than dev's. The
            lists of enrolments and trials are checked: what they name and is not there is among the rejected.
        min_duration_seconds: Shorter recordings are rejected.
        jobs: See ``scan_recordings``.

    Raises:
        ValueError: If subset is neither.
        FileNotFoundError: If there is no such folder.
        ManifestError: If it has another layout, a list has a malformed line, or nothing usable remains.
    """
    if subset not in get_args(Subset):
        raise ValueError(f"subset must be dev or eval, got {subset!r}.")
    if source.is_dir() and not (source / "data").is_dir() and not (source / "eval").is_dir():
        raise ManifestError(
            f"CN-Celeb's folder must hold `data` or `eval`, got {source}. Point at CN-Celeb_flac or CN-Celeb2_flac."
        )
    files = find_files(source)
    found = files.recordings
    candidates = list(_development(source, found) if subset == "dev" else _evaluation(source, found))
    folders = ("data/",) if subset == "dev" else ("eval/test/", "eval/enroll/")
    misnamed = [
        Rejected(
            path, "path must be data/idXXXXX/GENRE-NN-NNN, eval/test/idXXXXX-GENRE-NN-NNN or eval/enroll/idXXXXX-enroll"
        )
        for path in found
        if path.startswith(folders) and _candidate(path) is None
    ]
    if not candidates:
        raise ManifestError(f"CN-Celeb's {subset} part must hold recordings, got none in {source}. Only 1 has eval.")
    result = scan_recordings(
        candidates,
        root=source,
        rejected=[*misnamed, *files.unread],
        min_duration_seconds=min_duration_seconds,
        jobs=jobs,
        passed_over=files.other,
    )
    if subset == "dev":
        return result
    check = check_lists(source / "eval" / "lists", result.manifest)
    _log.info("%s", check)
    return replace(result, rejected=sorted([*result.rejected, *check.missing]))


def _development(source: Path, found: list[str]) -> Iterator[Candidate]:
    speakers = _development_speakers(source)
    for path in found:
        candidate = _candidate(path)
        if candidate and path.startswith("data/") and (speakers is None or candidate.speaker in speakers):
            yield candidate


def _evaluation(source: Path, found: list[str]) -> Iterator[Candidate]:
    has_map = (source / "eval" / "lists" / "enroll.map").is_file()
    trained = _development_speakers(source) or set()
    for path in found:
        candidate = _candidate(path)
        if candidate and (path.startswith("eval/") or (has_map and candidate.speaker not in trained)):
            yield candidate


def _development_speakers(source: Path) -> set[str] | None:
    path = source / "dev" / "dev.lst"
    if not path.is_file():
        return None
    return {line.strip() for line, _ in text_lines(path) if line.strip()}


def _candidate(path: str) -> Candidate | None:
    name = relative_name(PurePosixPath(path))
    if match := _ENROLMENT.fullmatch(name):
        return Candidate(name, match["speaker"], path)
    if match := _DATA.fullmatch(name) or _TEST.fullmatch(name):
        session = f"{match['speaker']}/{match['genre']}-{match['number']}"
        return Candidate(name, match["speaker"], path, session, {"genre": match["genre"]})
    return None

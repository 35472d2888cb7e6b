"""From files to a manifest: find recordings, read their headers, keep the good ones, report the others.

A header costs about 0.08 ms when the file is cached (Opus, 1 s long), so threads, which share one interpreter lock,
made it two times *slower*, and two processes 1.5 times faster. Starting those costs 0.8 s, hence they are used only
where each gets thousands of files.
"""

from __future__ import annotations

import csv
import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, TextIO

import pyarrow as pa
from tqdm import tqdm

from chns.data.audio import EXTENSIONS, audio_info
from chns.data.manifest import Manifest
from chns.data.manifest_checks import CONTROL_CHARACTER, UNSAFE_PATH
from chns.data.parallel import mapped
from chns.data.prepare.part import Part
from chns.errors import AudioError, ManifestError
from chns.files import atomic_path
from chns.untrusted_text import table_cell

MIN_DURATION_SECONDS = 0.5

_FILES_PER_WORKER = 5_000
_MAX_COLUMNS = 64
_NO_WIDTH = "[\u00ad\u200b-\u200f\u2060\ufeff]"


class Candidate(NamedTuple):
    """A file, or a part of one, that may become an utterance.

    Attributes:
        utterance: Its name.
        speaker: Who speaks.
        path: Where the file is, relative to the root, with ``/``.
        session: Recordings made on one occasion share it.
        columns: What else the corpus knows, by the name of the manifest's column.
        part: Which part of the file it is.
        place: The ``file:line`` that lists it, if a list does.
    """

    utterance: str
    speaker: str
    path: str
    session: str | None = None
    columns: Mapping[str, str] | None = None
    part: Part = Part()
    place: str | None = None


class _Located(NamedTuple):
    """What the header says about a candidate."""

    offset_seconds: float
    duration_seconds: float
    sample_rate_hz: int


class Rejected(NamedTuple):
    """A file that became none, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class ScanResult:
    """What a corpus holds: its usable utterances and the files that were left out."""

    manifest: Manifest
    rejected: list[Rejected]

    def write(self, path: Path) -> Path:
        """Write the manifest, and beside it ``<stem>.rejected.csv``, which has only a header if nothing was rejected.

        Returns:
            The path of the report.
        """
        report = path.with_name(f"{path.stem}.rejected.csv")
        self.manifest.write(path)
        with atomic_path(report) as temporary, _text(temporary) as file:
            writer = csv.writer(file)
            writer.writerow(Rejected._fields)
            writer.writerows(map(table_cell, map(str, row)) for row in self.rejected)
        return report


def _text(path: Path) -> TextIO:
    return path.open("w", encoding="utf-8", newline="", errors="backslashreplace")


def find_recordings(root: Path) -> list[str]:
    """Paths of all recordings below a folder, by suffix, relative to it and sorted.

    Hidden files and folders are left out. Links to folders are followed, but no folder is entered twice: not through a
    loop, and not through a link when it was there under its own name.

    Raises:
        FileNotFoundError: If there is no such folder.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"corpus must be a folder, got {root}.")
    found: list[str] = []
    seen: set[tuple[int, int]] = set()
    own, linked = [""], list[str]()
    while own or linked:
        folder = own.pop() if own else linked.pop(0)
        status = (root / folder).stat()
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(root / folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                name = f"{folder}/{entry.name}".lstrip("/")
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    own.append(name)
                elif entry.is_symlink() and (root / name).is_dir():
                    linked.append(name)
                elif PurePosixPath(name).suffix.lower() in EXTENSIONS:
                    found.append(name)
    return sorted(found)


def scan_recordings(
    candidates: Sequence[Candidate],
    *,
    root: Path,
    rejected: Sequence[Rejected] = (),
    min_duration_seconds: float = MIN_DURATION_SECONDS,
    jobs: int | None = None,
) -> ScanResult:
    """Read the header of every candidate and make a manifest of those that can be used.

    The result does not depend on the order of the candidates nor on the number of jobs. Of several files for one
    utterance the first usable one by path is kept.

    Args:
        candidates: Files below ``root``.
        root: Folder that their paths are relative to.
        rejected: Files that the corpus already left out; they go into the same report.
        min_duration_seconds: Shorter recordings are rejected.
        jobs: Processes at most; by default one a core, and none for less than 10,000 files. They are spawned: a script
            that calls this needs the usual ``if __name__ == "__main__":``.

    Raises:
        ValueError: If ``jobs`` or ``min_duration_seconds`` is out of range.
        ManifestError: If nothing usable remains, or the candidates have more than 64 further columns.
    """
    if jobs is not None and jobs < 1:
        raise ValueError(f"jobs must be at least 1, got {jobs}.")
    if not min_duration_seconds >= 0:
        raise ValueError(f"min_duration_seconds must be a number from 0, got {min_duration_seconds}.")
    candidates = [candidate._replace(speaker=one_spelling(candidate.speaker)) for candidate in candidates]
    ordered = sorted(candidates, key=lambda candidate: (candidate.utterance, candidate.path))
    files = [(root / candidate.path, candidate) for candidate in ordered]
    kept: dict[str, tuple[Candidate, _Located]] = {}
    refused = list(rejected)
    inspect = partial(_inspect, min_duration_seconds=min_duration_seconds)
    with mapped(inspect, files, jobs=jobs, items_per_worker=_FILES_PER_WORKER) as findings:
        progress = tqdm(findings, total=len(files), desc="reading headers", unit="file", disable=None)
        for candidate, finding in zip(ordered, progress, strict=True):
            if isinstance(finding, str):
                refused.append(Rejected(candidate.path, finding))
            elif candidate.utterance in kept:
                first, _ = kept[candidate.utterance]
                refused.append(Rejected(candidate.path, f"utterance must be unique, {first.path} has the same name"))
            else:
                kept[candidate.utterance] = candidate, finding
    refused.sort()
    if not kept:
        reason = f"the first is {refused[0].path}: {refused[0].reason}" if refused else "there are no recordings"
        raise ManifestError(f"corpus must hold a usable recording, got none of {len(refused)} in {root} ({reason}).")
    return ScanResult(_manifest(list(kept.values()), root), refused)


def _inspect(file: tuple[Path, Candidate], *, min_duration_seconds: float) -> _Located | str:
    """What the header says, or why the file cannot be used."""
    path, candidate = file
    try:
        return _located(path, candidate, min_duration_seconds=min_duration_seconds)
    except (AudioError, OSError) as error:
        reason = " ".join(str(error).split())
    return f"{reason} (listed in {candidate.place})" if candidate.place else reason


def _located(path: Path, candidate: Candidate, *, min_duration_seconds: float) -> _Located:
    if problem := _problem_with_names(candidate):
        raise AudioError(problem)
    info = audio_info(path)
    offset_seconds, duration_seconds = candidate.part.within(info)
    if duration_seconds < min_duration_seconds:
        raise AudioError(f"recording must last at least {min_duration_seconds:g} s, got {duration_seconds:.3f} s")
    return _Located(offset_seconds, duration_seconds, info.sample_rate_hz)


def one_spelling(speaker: str) -> str:
    """The one name of a speaker among those that look the same: accents composed, no space at the ends or of no width.

    `chns enrol` composes and refuses likewise. Unpaired surrogates stay, to be reported.
    """
    return unicodedata.normalize("NFC", re.sub(_NO_WIDTH, "", speaker)).strip()


def _problem_with_names(candidate: Candidate) -> str | None:
    columns = candidate.columns or {}
    names = "/".join([*candidate[:3], candidate.session or "", *columns, *columns.values()])
    try:
        names.encode()
    except UnicodeEncodeError:
        return "name must be UTF-8"
    if not candidate.speaker:
        return "speaker must have a name"
    if re.search(CONTROL_CHARACTER, names):
        return "name must hold no line break or other control character"
    if re.search(UNSAFE_PATH, candidate.path):
        return "path must hold no backslash and stay inside the root"
    return None


def _manifest(kept: Sequence[tuple[Candidate, _Located]], root: Path) -> Manifest:
    """With a session column, and others, only where the corpus knows them."""
    columns: dict[str, list[Any]] = {
        "utterance": [candidate.utterance for candidate, _ in kept],
        "speaker": [candidate.speaker for candidate, _ in kept],
        "path": [candidate.path for candidate, _ in kept],
        "offset_seconds": [located.offset_seconds for _, located in kept],
        "duration_seconds": [located.duration_seconds for _, located in kept],
        "sample_rate_hz": [located.sample_rate_hz for _, located in kept],
    }
    further = [_further_columns(candidate) for candidate, _ in kept]
    names = {name for values in further for name in values}
    if len(names) > _MAX_COLUMNS:
        raise ManifestError(f"further columns must be at most {_MAX_COLUMNS}, got {len(names)}. Remove some.")
    assert not names & columns.keys(), "a corpus may add columns, not replace those above"
    for name in sorted(names, key=lambda name: (name != "session", name)):
        columns[name] = [values.get(name) for values in further]
    return Manifest(pa.table(columns), root=root)


def _further_columns(candidate: Candidate) -> Mapping[str, str]:
    columns = candidate.columns or {}
    return columns if candidate.session is None else {**columns, "session": candidate.session}

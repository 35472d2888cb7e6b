"""CN-Celeb 1 and 2: ``data/idXXXXX/GENRE-NN-NNN.flac``, and the trials of CN-Celeb 1 under ``eval``, checked.

The genre is a column of its own, and ``GENRE-NN`` of a speaker is the session. ``data`` also holds the speakers of the
evaluation; ``dev/dev.lst``, where it exists, says who may be trained on.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple, get_args

from chns.core import ManifestError
from chns.data.corpora.scan import MIN_DURATION_SECONDS, Candidate, Rejected, ScanResult, find_files, scan_recordings
from chns.data.manifest import Manifest, relative_name, without_suffix
from chns.data.text_rows import text_lines

_log = logging.getLogger(__name__)


class ListCheck(NamedTuple):
    """What the lists of an evaluation come to.

    Attributes:
        num_models: Enrolment models that the lists name.
        usable_models: Those whose recordings are all there.
        num_trials: Trials that the lists name.
        usable_trials: Those whose model and test recording are there.
        missing: Every recording and model that a list names and that is not there.
    """

    num_models: int
    usable_models: int
    num_trials: int
    usable_trials: int
    missing: list[Rejected]

    def __str__(self) -> str:
        return (
            f"{self.usable_trials:,} of {self.num_trials:,} trials and {self.usable_models:,} of {self.num_models:,} "
            f"enrolment models have their recordings"
        )


def check_lists(folder: Path, manifest: Manifest) -> ListCheck:
    """Check ``enroll.lst``, ``enroll.map`` and ``trials.lst``, as far as they are there.

    A name means a recording if it is an utterance or, without suffix, the end of the path of one recording only, which
    is how ``chns evaluate`` finds it.

    Args:
        folder: Where the lists are.
        manifest: The recordings.

    Raises:
        ManifestError: If a line is not ``MODEL PATH``, ``MODEL UTTERANCE ...`` or ``MODEL PATH 0`` (or ``1``).
    """
    recordings = _Recordings(manifest)
    models: dict[str, bool] = {}
    for name in ("enroll.lst", "enroll.map"):
        for (model, *members), place in _lines(folder / name, num_fields=2 if name == "enroll.lst" else None):
            known = [recordings.has(member, place) for member in members]
            models[model] = models.get(model, True) and all(known)
    num_trials = usable_trials = 0
    for (model, test, label), place in _lines(folder / "trials.lst", num_fields=3):
        if label not in ("0", "1"):
            raise ManifestError(f"label must be 0 or 1, got {label[:80]!r} in {place}. Correct the list.")
        if model not in models:
            recordings.missing.setdefault(model, f"{place} names it, but no enrolment list does")
        num_trials += 1
        usable_trials += recordings.has(test, place) and models.get(model, False)
    missing = [Rejected(name, reason) for name, reason in recordings.missing.items()]
    return ListCheck(len(models), sum(models.values()), num_trials, usable_trials, missing)


class _Recordings:
    """Names that mean one recording, and those that were asked for in vain, with the reason."""

    def __init__(self, manifest: Manifest) -> None:
        ends: Counter[str] = Counter()
        for path in manifest.column("path"):
            parts = relative_name(PurePosixPath(path)).split("/")
            ends.update("/".join(parts[first:]) for first in range(len(parts)))
        self._names = {*manifest.column("utterance"), *(end for end, count in ends.items() if count == 1)}
        self.missing: dict[str, str] = {}

    def has(self, name: str, place: str) -> bool:
        if name in self._names or without_suffix(name) in self._names:
            return True
        self.missing.setdefault(name, f"{place} names it, but it is not among the usable recordings")
        return False


def _lines(path: Path, *, num_fields: int | None) -> Iterator[tuple[Sequence[str], str]]:
    if not path.is_file():
        return
    for line, place in text_lines(path):
        fields = line.split()
        if fields and (len(fields) < 2 if num_fields is None else len(fields) != num_fields):
            raise ManifestError(
                f"line must have {num_fields or 'at least 2'} fields, got {len(fields)} in {place}. Correct the list."
            )
        if fields:
            yield fields, place


Subset = Literal["dev", "eval"]

_DATA = re.compile(r"data/(?P<speaker>id\d+)/(?P<genre>[^/-]+)-(?P<number>\d+)-\d+")
_TEST = re.compile(r"eval/test/(?P<speaker>id\d+)-(?P<genre>[^/-]+)-(?P<number>\d+)-\d+")
_ENROLMENT = re.compile(r"eval/enroll/(?P<speaker>id\d+)-enroll")


def prepare_cnceleb(
    source: Path, *, subset: Subset = "dev", min_duration_seconds: float = MIN_DURATION_SECONDS, jobs: int | None = None
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

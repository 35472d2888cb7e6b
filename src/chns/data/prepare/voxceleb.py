"""VoxCeleb 1 and 2: ``idXXXXX/VIDEO/NNNNN.wav`` (``.m4a`` in the second), as folders or as downloaded.

Utterances are named as in VoxCeleb's trial lists, and the video is the session.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from chns.data.audio import EXTENSIONS
from chns.data.manifest import relative_name
from chns.data.prepare.scan import (
    MIN_DURATION_SECONDS,
    Candidate,
    Rejected,
    ScanResult,
    find_files,
    scan_recordings,
)
from chns.data.prepare.voxceleb_archives import check_md5, find_archives
from chns.data.prepare.voxceleb_speakers import read_speaker_tables
from chns.data.prepare.voxceleb_unpacking import unpack_archives
from chns.errors import ManifestError

_SPEAKER = re.compile(r"id\d+")
_TEST_FOLDER = re.compile(r"(vox(celeb)?\d?_)?test(_(aac|wav))?")


def prepare_voxceleb(
    source: Path,
    *,
    unpack: Path | None = None,
    md5: Path | None = None,
    speaker_tables: Sequence[Path] = (),
    min_duration_seconds: float = MIN_DURATION_SECONDS,
    jobs: int | None = None,
) -> ScanResult:
    """Scan VoxCeleb's folders, or unpack its archives first.

    Args:
        source: The folder of the ``idXXXXX`` folders, or the one above it (``vox1`` of ``vox1/wav/id10001``); with
            ``unpack`` the folder of the archives, or one of them.
        unpack: Where the archives go. What is there already, and right, is left alone.
        md5: List of MD5 sums that the archives must have.
        speaker_tables: ``vox1_meta.csv``, ``vox2_meta.csv``; their gender, nationality and set become columns.
        min_duration_seconds: Shorter recordings are rejected.
        jobs: See ``scan_recordings``.

    Raises:
        FileNotFoundError: If there is no such folder, list or table.
        ValueError: If there are MD5 sums but nothing to unpack.
        ManifestError: If an archive, a list or a table is not right, or the speakers' folders are not where they should
            be, or hold nothing usable.
    """
    speakers = read_speaker_tables(speaker_tables)
    if unpack is not None:
        archives = find_archives(source)
        if md5 is not None:
            check_md5(archives, md5)
        source = unpack_archives(archives, unpack)
    elif md5 is not None:
        raise ValueError("MD5 sums are those of archives, got none to unpack. Say where to with --unpack.")
    root = _folder_of_speakers(source)
    found = find_files(root)
    candidates, rejected = [], list(found.unread)
    for path in found.recordings:
        parts = PurePosixPath(path).parts
        if len(parts) == 3 and _SPEAKER.fullmatch(parts[0]):
            name = relative_name(PurePosixPath(path))
            session = f"{parts[0]}/{parts[1]}"
            candidates.append(Candidate(name, parts[0], path, session, speakers.get(parts[0])))
        else:
            rejected.append(Rejected(path, "path must be idXXXXX/VIDEO/NAME"))
    if not candidates:
        raise ManifestError(
            f"VoxCeleb's speakers must hold idXXXXX/VIDEO/NAME with NAME ending in one of {', '.join(EXTENSIONS)}, "
            f"got none in {root}."
        )
    return scan_recordings(
        candidates,
        root=root,
        rejected=rejected,
        min_duration_seconds=min_duration_seconds,
        jobs=jobs,
        passed_over=found.other,
    )


def set_of_folder(root: Path) -> str:
    """``test`` if one of a corpus's last two folders is named so, as in ``vox2_test_aac/aac``, else ``dev``."""
    return "test" if any(_TEST_FOLDER.fullmatch(part) for part in root.parts[-2:]) else "dev"


def _folder_of_speakers(source: Path) -> Path:
    if not source.is_dir():
        raise FileNotFoundError(f"corpus must be a folder, got {source}.")
    if _has_speakers(source):
        return source
    below = [folder for folder in _folders(source) if _has_speakers(folder)]
    if len(below) == 1:
        return below[0]
    hint = "Its name and those below look like another corpus."
    if any(source.glob("*.zip")) or any(source.glob("*_partaa")):
        hint = "It holds archives: say where to unpack them with --unpack."
    if below:
        hint = f"Choose one of {', '.join(map(str, below))}, and put their manifests together with `chns merge`."
    for folder in (source.absolute(), source.absolute().parent):
        if _SPEAKER.fullmatch(folder.name):
            hint = f"Try {folder.parent}."
    further_down = [inner for folder in _folders(source) for inner in _folders(folder) if _has_speakers(inner)]
    if further_down:
        hint = f"Try {' or '.join(map(str, further_down))}."
    raise ManifestError(f"VoxCeleb's folder must hold idXXXXX folders, or one folder that does, got {source}. {hint}")


def _folders(folder: Path) -> list[Path]:
    return sorted(inner for inner in folder.iterdir() if inner.is_dir() and not inner.name.startswith("."))


def _has_speakers(folder: Path) -> bool:
    return any(_SPEAKER.fullmatch(inner.name) and inner.is_dir() for inner in folder.iterdir())

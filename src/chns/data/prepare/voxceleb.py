"""VoxCeleb 1 and 2: ``idXXXXX/VIDEO/NNNNN.wav``.

Utterances are named as in VoxCeleb's trial lists, and the video is the session.
"""

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

_SPEAKER = re.compile(r"id\d+")


def prepare_voxceleb(
    source: Path, *, min_duration_seconds: float = MIN_DURATION_SECONDS, jobs: int | None = None
) -> ScanResult:
    """Scan VoxCeleb's folders.

    Args:
        source: The folder of the ``idXXXXX`` folders, or the one above it (``vox1`` of ``vox1/wav/id10001``).
        min_duration_seconds: Shorter recordings are rejected.
        jobs: See ``scan_recordings``.

    Raises:
        FileNotFoundError: If there is no such folder.
        ManifestError: If the speakers' folders are not where they should be, or hold nothing usable.
    """
    root = _folder_of_speakers(source)
    candidates, rejected = [], []
    for path in find_recordings(root):
        parts = PurePosixPath(path).parts
        if len(parts) == 3 and _SPEAKER.fullmatch(parts[0]):
            session = f"{parts[0]}/{parts[1]}"
            candidates.append(Candidate(relative_name(PurePosixPath(path)), parts[0], path, session))
        else:
            rejected.append(Rejected(path, "path must be idXXXXX/VIDEO/NAME"))
    if not candidates:
        raise ManifestError(
            f"VoxCeleb's speakers must hold idXXXXX/VIDEO/NAME with NAME ending in one of {', '.join(EXTENSIONS)}, "
            f"got none in {root}. Convert other formats, such as VoxCeleb2's .m4a, to one of these first."
        )
    return scan_recordings(
        candidates, root=root, rejected=rejected, min_duration_seconds=min_duration_seconds, jobs=jobs
    )


def _folder_of_speakers(source: Path) -> Path:
    if not source.is_dir():
        raise FileNotFoundError(f"corpus must be a folder, got {source}.")
    if _has_speakers(source):
        return source
    below = [folder for folder in _folders(source) if _has_speakers(folder)]
    if len(below) == 1:
        return below[0]
    hint = "Its name and those below look like another corpus."
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

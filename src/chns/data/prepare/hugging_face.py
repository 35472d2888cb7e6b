"""Data sets in the layouts of Hugging Face ``datasets`` on the local disk.

A manifest names files, so audio that is embedded in a table is written out once; a run that was stopped goes on where
it was.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import soundfile
from tqdm import tqdm

from chns.data.audio import EXTENSIONS
from chns.data.manifest import relative_name
from chns.data.prepare.hugging_face_rows import dataset_rows
from chns.data.prepare.listed import Entry, columns_of, relative_path, scan_list, text_of
from chns.data.prepare.scan import MIN_DURATION_SECONDS, Candidate, Rejected, ScanResult
from chns.errors import ManifestError
from chns.files import atomic_path

_FILES_A_FOLDER = 1_000
_SUFFIX_OF = {"WAV": ".wav", "WAVEX": ".wav", "FLAC": ".flac", "OGG": ".ogg", "MP3": ".mp3", "MPEG": ".mp3"}


class HuggingFaceColumns(NamedTuple):
    """Which column says what; an utterance without a name is called by its path, or else the number of its row."""

    audio: str = "audio"
    speaker: str = "speaker"
    utterance: str | None = None
    session: str = "session"


def prepare_hugging_face(
    source: Path,
    *,
    recordings: Path,
    names: HuggingFaceColumns | None = None,
    min_duration_seconds: float = MIN_DURATION_SECONDS,
    jobs: int | None = None,
) -> ScanResult:
    """Scan a data set; further columns of text or classes become columns of the manifest.

    Args:
        source: A ``.parquet`` or ``.arrow`` file; a folder of such files (what ``save_to_disk`` wrote, or a split);
            or a folder with ``metadata.csv`` or ``metadata.jsonl`` whose ``file_name`` are the recordings.
        recordings: Folder for embedded audio. What an earlier run wrote there is compared and left alone.
        names: Where the audio and the speakers are.
        min_duration_seconds: Shorter recordings are rejected.
        jobs: See ``scan_recordings``.

    Raises:
        FileNotFoundError: If the source does not exist.
        ChnsError: If the package ``datasets`` is missing.
        ManifestError: If the source is none of these or damaged, a column or a value is missing, some rows embed audio
            and some name files, a path is a command or leaves the source's folder, or nothing usable remains.
    """
    names = names or HuggingFaceColumns()
    folder = source if source.is_dir() else source.parent
    candidates: list[Candidate] = []
    rejected: list[Rejected] = []
    first_places: dict[Path, str] = {}
    rows = dataset_rows(source, audio=names.audio, speaker=names.speaker)
    for number, (entry, place) in enumerate(tqdm(rows, desc="reading rows", unit="row", disable=None)):
        audio = entry[names.audio]
        if isinstance(audio, Mapping) and audio.get("bytes"):
            root, path = recordings, _written(audio, recordings, number)
        else:
            root, path = folder, _listed(audio, names.audio, folder, place)
        first_places.setdefault(root, place)
        if path is None:
            reason = f"embedded audio must be in one of {', '.join(EXTENSIONS)}, got something else in {place}"
            rejected.append(Rejected(f"row {number + 1}", reason))
            continue
        if entry[names.speaker] in (None, ""):
            rejected.append(Rejected(path, f"{names.speaker} must name the speaker, got nothing in {place}"))
            continue
        default = f"{number:08d}" if root == recordings else relative_name(PurePosixPath(path))
        candidates.append(_candidate(entry, names, path, default, place))
    if len(first_places) > 1:
        raise ManifestError(
            f"rows must all embed their audio or all name files, got both: {' and '.join(first_places.values())}. "
            f"Prepare them one by one and put the manifests together with `chns merge`."
        )
    root = next(iter(first_places), folder)
    return scan_list(candidates, root=root, rejected=rejected, min_duration_seconds=min_duration_seconds, jobs=jobs)


def _candidate(entry: Entry, names: HuggingFaceColumns, path: str, default: str, place: str) -> Candidate:
    return Candidate(
        utterance=text_of(entry, names.utterance, place) if names.utterance else default,
        speaker=text_of(entry, names.speaker, place),
        path=path,
        session=text_of(entry, names.session, place) if entry.get(names.session) else None,
        columns=columns_of(entry, without=(*filter(None, names), "session")),
        place=place,
    )


def _listed(audio: Any, column: str, folder: Path, place: str) -> str:
    written = audio.get("path") if isinstance(audio, Mapping) else audio
    return relative_path(text_of({column: written}, column, place), folder, place)


def _written(audio: Mapping[str, Any], recordings: Path, number: int) -> str | None:
    """Where embedded audio is now; None if it is in no format that we read."""
    suffix = _suffix(audio)
    if suffix is None:
        return None
    path = f"{number // _FILES_A_FOLDER:05d}/{number:08d}{suffix}"
    target = recordings / path
    if not (target.is_file() and target.read_bytes() == audio["bytes"]):
        with atomic_path(target) as temporary:
            temporary.write_bytes(audio["bytes"])
    return path


def _suffix(audio: Mapping[str, Any]) -> str | None:
    suffix = PurePosixPath(str(audio.get("path") or "")).suffix.lower()
    if suffix in EXTENSIONS:
        return suffix
    try:
        return _SUFFIX_OF.get(soundfile.info(io.BytesIO(audio["bytes"])).format)
    except soundfile.LibsndfileError:
        return None

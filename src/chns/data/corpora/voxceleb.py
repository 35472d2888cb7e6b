"""What VoxCeleb publishes about its speakers: ``vox1_meta.csv`` and ``vox2_meta.csv``, and how many there are.

Both tables are separated by tabs in spite of their name, and the fields of the second end in spaces.

VoxCeleb 1 and 2: ``idXXXXX/VIDEO/NNNNN.wav`` (``.m4a`` in the second), as folders or as downloaded.

Utterances are named as in VoxCeleb's trial lists, and the video is the session.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from chns.core import ManifestError, quoted
from chns.data.audio import EXTENSIONS
from chns.data.corpora.scan import MIN_DURATION_SECONDS, Candidate, Rejected, ScanResult, find_files, scan_recordings
from chns.data.corpora.voxceleb_archives import check_md5, find_archives, unpack_archives
from chns.data.manifest import Manifest, relative_name
from chns.data.text_rows import split_rows, text_lines

_COLUMNS = ("gender", "nationality", "set")
_REQUIRED = ("gender", "set")
_SPEAKER = re.compile(r"id\d{5}")
_MAX_BYTES = 2**24

_OFFICIAL = {  # speakers, utterances
    "VoxCeleb1 dev": (1_211, 148_642),
    "VoxCeleb1 test": (40, 4_874),
    "VoxCeleb2 dev": (5_994, 1_092_009),
    "VoxCeleb2 test": (118, 36_237),
}
_VOXCELEB1, _VOXCELEB1_TEST = range(10_001, 11_252), range(10_270, 10_310)


class CorpusPart(NamedTuple):
    """How much of an official part of VoxCeleb a manifest holds.

    Attributes:
        name: Such as ``VoxCeleb2 dev``.
        speakers: Of that part in the manifest.
        utterances: Of that part in the manifest.
        official_speakers: Of the whole part.
        official_utterances: Of the whole part.
    """

    name: str
    speakers: int
    utterances: int
    official_speakers: int
    official_utterances: int

    @property
    def is_complete(self) -> bool:
        """Whether both numbers are the official ones."""
        return self[1:3] == self[3:5]

    @property
    def completeness(self) -> str:
        """``complete``, or how much of it there is."""
        if self.is_complete:
            return "complete"
        return (
            f"partial: {self.speakers:,} of {self.official_speakers:,} speakers, "
            f"{self.utterances:,} of {self.official_utterances:,} utterances"
        )


def read_speaker_table(path: Path) -> dict[str, dict[str, str]]:
    """Read a table of speakers.

    Args:
        path: Separated by tabs or commas; its header names the columns, the first being the speaker's id.

    Returns:
        For each speaker, the columns of ``gender``, ``nationality`` and ``set`` that the table has.

    Raises:
        FileNotFoundError: If there is no such file.
        ManifestError: If it has not such a header, a row has too few fields or no speaker's id, or a speaker is there
            twice.
    """
    rows = split_rows(path, delimiter=_delimiter(path))
    first, place = next(rows)
    header = [field.lower() for field in first]
    places = {name: header.index(name) for name in _COLUMNS if name in header}
    if not all(name in places for name in _REQUIRED) or "voxceleb" not in header[0]:
        raise ManifestError(
            f"table of speakers must have columns VoxCeleb ID, Gender and Set, got {', '.join(first)[:200]} in {place}."
        )
    speakers: dict[str, dict[str, str]] = {}
    for row, place in rows:
        if len(row) < len(header) or not _SPEAKER.fullmatch(row[0]):
            raise ManifestError(f"row must start with idXXXXX and have {len(header)} fields, got {row[:5]} in {place}.")
        if row[0] in speakers:
            raise ManifestError(f"speaker must be there once, got {quoted(row[0])} again in {place}.")
        speakers[row[0]] = {name: row[column] for name, column in places.items()}
    return speakers


def _delimiter(path: Path) -> str:
    """What stands between the fields of the header."""
    if not path.is_file():
        raise FileNotFoundError(f"table of speakers must be a file, got {path}.")
    if path.stat().st_size > _MAX_BYTES:
        raise ManifestError(f"table of speakers must have at most {_MAX_BYTES:,} bytes, got more in {path}.")
    header = next((line for line, _ in text_lines(path) if line.strip()), None)
    if header is None:
        raise ManifestError(f"table of speakers must have a header, got an empty file: {path}.")
    return "\t" if "\t" in header else ","


def read_speaker_tables(paths: Sequence[Path]) -> dict[str, dict[str, str]]:
    """Read several; VoxCeleb 1 and 2 share no ids."""
    speakers: dict[str, dict[str, str]] = {}
    for path in paths:
        speakers |= read_speaker_table(path)
    return speakers


def corpus_parts(manifest: Manifest, *, default_set: str) -> list[CorpusPart]:
    """Compare with the official counts of VoxCeleb's parts.

    Args:
        manifest: Speakers have their VoxCeleb ids. A column ``set`` tells ``dev`` or ``test``.
        default_set: That of VoxCeleb2's speakers without such a value; VoxCeleb1's follow from their ids.

    Returns:
        The parts that the manifest has speakers of.
    """
    sets: dict[str, str] = {}
    if "set" in manifest.column_names:
        sets = dict(zip(manifest.column("speaker"), manifest.column("set"), strict=True))
    names = [_part_of(speaker, sets.get(speaker, default_set)) for speaker in manifest.speakers]
    speakers = Counter(names)
    utterances = Counter(names[label] for label in manifest.speaker_labels.tolist())
    return [
        CorpusPart(name, speakers[name], utterances[name], *official)
        for name, official in _OFFICIAL.items()
        if name in speakers
    ]


def _part_of(speaker: str, named_set: str) -> str:
    number = int(speaker.removeprefix("id"))
    if number in _VOXCELEB1:
        return f"VoxCeleb1 {'test' if number in _VOXCELEB1_TEST else 'dev'}"
    return f"VoxCeleb2 {'test' if named_set == 'test' else 'dev'}"


_SPEAKER_FOLDER = re.compile(r"id\d+")
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
        if len(parts) == 3 and _SPEAKER_FOLDER.fullmatch(parts[0]):
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
        if _SPEAKER_FOLDER.fullmatch(folder.name):
            hint = f"Try {folder.parent}."
    further_down = [inner for folder in _folders(source) for inner in _folders(folder) if _has_speakers(inner)]
    if further_down:
        hint = f"Try {' or '.join(map(str, further_down))}."
    raise ManifestError(f"VoxCeleb's folder must hold idXXXXX folders, or one folder that does, got {source}. {hint}")


def _folders(folder: Path) -> list[Path]:
    return sorted(inner for inner in folder.iterdir() if inner.is_dir() and not inner.name.startswith("."))


def _has_speakers(folder: Path) -> bool:
    return any(_SPEAKER_FOLDER.fullmatch(inner.name) and inner.is_dir() for inner in folder.iterdir())

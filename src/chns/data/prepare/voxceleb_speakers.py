"""What VoxCeleb publishes about its speakers: ``vox1_meta.csv`` and ``vox2_meta.csv``, and how many there are.

Both tables are separated by tabs in spite of their name, and the fields of the second end in spaces.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from chns.data.manifest import Manifest
from chns.data.text_rows import split_rows, text_lines
from chns.errors import ManifestError

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
            raise ManifestError(f"speaker must be there once, got {row[0]} again in {place}.")
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

"""CSV files with one line an utterance: with columns of any names, both ways, and SpeechBrain's."""

from __future__ import annotations

import csv
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from chns.core import ManifestError, atomic_path, no_formula, plain_text
from chns.data.corpora.listed import channel_of, columns_of, file_of, further_columns, number_of, relative_path, text_of
from chns.data.corpora.scan import Candidate, Part
from chns.data.manifest import Manifest, relative_name
from chns.data.manifest_file import REQUIRED_COLUMNS
from chns.data.text_rows import split_rows

_PLACEHOLDERS = ("$data_root/", "{data_root}/")
_SPEECHBRAIN_COLUMNS = ("ID", "duration", "wav", "start", "stop", "spk_id")


class ColumnNames(NamedTuple):
    """Which column of a table says what. An utterance without a name is called as its path without the suffix.

    A column ``channel`` that holds numbers from 0, ``left``, ``right`` or ``mix`` says which channel of the file is
    meant; with other words in it, it becomes the column ``channel_name``.
    """

    path: str = "path"
    speaker: str = "speaker"
    utterance: str = "utterance"
    offset_seconds: str = "offset_seconds"
    duration_seconds: str = "duration_seconds"
    session: str = "session"


def read_csv(
    source: Path, *, root: Path, names: ColumnNames | None = None, delimiter: str = ","
) -> Iterator[Candidate]:
    """Read a table; columns that ``names`` does not mention become columns of the manifest under their own names.

    Args:
        source: The table, with a header line.
        root: Folder of the audio; see ``relative_path``.
        names: Those of the path and the speaker must be there; a table without the others is fine.
        delimiter: What stands between two fields, one character.

    Raises:
        ValueError: If the delimiter is not one character.
        FileNotFoundError: If there is no such file.
        ManifestError: If a column is missing, a line has another number of fields than the header or lacks a value,
            or a path is a command or leaves the root.
    """
    names = names or ColumnNames()
    for row, place in table_rows(source, required=(names.path, names.speaker), delimiter=delimiter):
        path = relative_path(text_of(row, names.path, place), root, place)
        yield Candidate(
            utterance=row.get(names.utterance) or relative_name(PurePosixPath(path)),
            speaker=text_of(row, names.speaker, place),
            path=path,
            session=row.get(names.session) or None,
            columns=columns_of(row, without=(*names, "session")),
            part=Part(
                number_of(row, names.offset_seconds, place) or 0.0, number_of(row, names.duration_seconds, place)
            ),
            place=place,
            channel=channel_of(row),
        )


def table_rows(
    source: Path, *, required: Sequence[str], delimiter: str = ","
) -> Iterator[tuple[Mapping[str, str], str]]:
    """Every row by the names of its columns, and its place; see ``split_rows`` and, but for tabs, `plain_text`.

    Raises:
        ValueError: If the delimiter is not one character.
        FileNotFoundError: If there is no such file.
        ManifestError: If the header lacks a column or has one twice, or a line is not as the header says.
    """
    rows = split_rows(source, delimiter=delimiter)
    header, header_place = next(rows, ([], f"{source}:1"))
    _require_columns(header, required, header_place)
    for fields, place in rows:
        if len(fields) != len(header):
            raise ManifestError(
                f"line must have {len(header)} fields as the header, got {len(fields)} in {place}. "
                + ("Remove" if delimiter == "\t" else "Put quotes around")
                + f" a field that holds {delimiter!r}."
            )
        yield dict(zip(header, fields if delimiter == "\t" else map(plain_text, fields), strict=True)), place


def _require_columns(header: Sequence[str], required: Sequence[str], place: str) -> None:
    missing = [name for name in required if name not in header]
    if missing:
        raise ManifestError(
            f"header must name the column {missing[0]}, got {reprlib.repr(', '.join(header))} in {place}. "
            f"Say which column holds what."
        )
    if len(set(header)) < len(header):
        raise ManifestError(f"columns must have different names, got {', '.join(header)} in {place}. Rename one.")


def write_csv(manifest: Manifest, path: Path) -> None:
    """Write a table with the columns of the manifest; what is not known is empty.

    ``Manifest.write`` makes a CSV that is a manifest itself, beside its audio; this one is for other programs.
    Text that begins like a formula gets an apostrophe in front, which `read_csv` takes away.

    Args:
        manifest: The utterances.
        path: The table.

    Raises:
        ManifestError: If a recording lies in a shard.
    """
    further = further_columns(manifest)
    columns = [manifest.column(name) for name in further]
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        has_channels = "channel" in manifest.column_names
        writer.writerow([*REQUIRED_COLUMNS, *(["channel"] if has_channels else []), *map(no_formula, further)])
        for row in range(len(manifest)):
            each = manifest[row]
            fields = (
                no_formula(each.name),
                no_formula(each.speaker),
                file_of(each).absolute(),
                *each[3:6],
                *([each.channel] if has_channels else []),
            )
            writer.writerow([*fields, *(no_formula(values[row]) for values in columns)])


def read_speechbrain(source: Path, *, root: Path) -> Iterator[Candidate]:
    """Read SpeechBrain's table; further columns are carried along.

    SpeechBrain's recipes write the duration of the whole file into every row, so only start and stop say which part
    an utterance is. Without them it is the whole file.

    Args:
        source: The table.
        root: Folder of the audio, which ``$data_root`` and ``{data_root}`` stand for; see ``relative_path``.

    Raises:
        FileNotFoundError: If there is no such file.
        ManifestError: If a column or a value is missing, stop is not behind start, or a path is a command or leaves
            the root.
    """
    for row, place in table_rows(source, required=("ID", "wav", "spk_id")):
        path = text_of(row, "wav", place)
        for placeholder in _PLACEHOLDERS:
            path = path.removeprefix(placeholder)
        yield Candidate(
            utterance=text_of(row, "ID", place),
            speaker=text_of(row, "spk_id", place),
            path=relative_path(path, root, place),
            columns=columns_of(row, without=_SPEECHBRAIN_COLUMNS),
            part=_part_in_samples(row, place),
            place=place,
        )


def _part_in_samples(row: Mapping[str, str], place: str) -> Part:
    start, stop = number_of(row, "start", place) or 0.0, number_of(row, "stop", place)
    if stop is None:
        return Part(start, in_samples=True)
    if stop <= start:
        raise ManifestError(f"stop must be greater than start, got {start:g} and {stop:g} in {place}. Correct it.")
    return Part(start, stop - start, in_samples=True)

"""Lists of one utterance a line: CSV of any columns and WeSpeaker's raw list, both ways; SpeechBrain's and NeMo's."""

from __future__ import annotations

import csv
import json
import reprlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from chns.core import ManifestError, atomic_path, no_formula, plain_text
from chns.data.corpora.listed import (
    Entry,
    channel_of,
    columns_of,
    file_of,
    further_columns,
    json_lines,
    located_utterances,
    number_of,
    relative_path,
    text_of,
)
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


_WESPEAKER_KEYS = {"key", "spk", "wav"}
_NEMO_KEYS = ("audio_filepath", "offset", "duration", "label", "text", "channel_selector")


def _offset(seconds: float) -> str:
    """With three decimals, and more where these would not tell two offsets apart."""
    short = f"{seconds:.3f}"
    return short if float(short) == seconds else f"{Decimal(repr(seconds)):f}"


def read_nemo(source: Path, *, root: Path) -> Iterator[Candidate]:
    """Read a manifest; further keys with text become columns.

    NeMo does not name utterances. They get the name of their file, with the offset in seconds behind it where a file
    has several, and with the channel where it has several of those. ``channel_selector`` names the channel; ``average``
    and no value mean all.

    Args:
        source: The manifest.
        root: Folder of the audio; see ``relative_path``.

    Raises:
        FileNotFoundError: If there is no such file.
        ManifestError: If a line is not JSON, lacks a key or has no proper offset or duration, or a path is a command
            or leaves the root.
    """
    candidates = [
        Candidate(
            utterance="",
            speaker=text_of(entry, "label", place),
            path=relative_path(text_of(entry, "audio_filepath", place), root, place),
            columns=columns_of(entry, without=_NEMO_KEYS),
            part=Part(number_of(entry, "offset", place) or 0.0, number_of(entry, "duration", place)),
            place=place,
            channel=_nemo_channel(entry, place),
        )
        for entry, place in json_lines(source)
    ]
    uses = Counter(candidate.path for candidate in candidates)
    channels: dict[str, set[int | None]] = {}
    for candidate in candidates:
        channels.setdefault(candidate.path, set()).add(candidate.channel)
    for candidate in candidates:
        name = relative_name(PurePosixPath(candidate.path))
        suffix = f"-{_offset(candidate.part.start)}" if uses[candidate.path] > 1 else ""
        if len(channels[candidate.path]) > 1 and candidate.channel is not None:
            suffix += f"-ch{candidate.channel}"
        yield candidate._replace(utterance=name + suffix)


def _nemo_channel(entry: Entry, place: str) -> int | None:
    """One channel, alone or as a list of one; several would be several voices in one."""
    chosen = entry.get("channel_selector")
    if isinstance(chosen, list) and len(chosen) == 1:
        chosen = chosen[0]
    if chosen is None or chosen == "average":
        return None
    if isinstance(chosen, bool) or not isinstance(chosen, int) or chosen < 0:
        raise ManifestError(
            f"channel_selector must be one channel, counted from 0, or average, got {reprlib.repr(chosen)} in {place}. "
            f"Write a line for each channel."
        )
    return chosen


def read_wespeaker(source: Path, *, root: Path) -> Iterator[Candidate]:
    """Read a raw list; further keys with text become columns of the manifest.

    Args:
        source: The list.
        root: Folder of the audio; see ``relative_path``.

    Raises:
        FileNotFoundError: If there is no such file.
        ManifestError: If a line is not JSON or lacks a key, or a path is a command or leaves the root.
    """
    for entry, place in json_lines(source):
        yield Candidate(
            utterance=text_of(entry, "key", place),
            speaker=text_of(entry, "spk", place),
            path=relative_path(text_of(entry, "wav", place), root, place),
            columns=columns_of(entry, without=("key", "spk", "wav")),
            place=place,
        )


def write_wespeaker(manifest: Manifest, path: Path) -> None:
    """Write a line of JSON an utterance, with absolute paths. Further columns become further keys.

    Args:
        manifest: The utterances, each all of its file, because the list knows no parts.
        path: The list.

    Raises:
        FileNotFoundError: If a recording is gone.
        AudioError: If one cannot be read.
        ManifestError: If an utterance is a part of its file, or one of its channels, or a column is called as one of
            the list's keys.
    """
    utterances = located_utterances(manifest)
    parts = [each for each in utterances if not each.is_whole]
    if parts:
        raise ManifestError(
            f"utterance must be a whole file for WeSpeaker's raw list, got {len(parts)} parts, the first is "
            f"{parts[0].name} of {parts[0].path}. Write kaldi or lhotse instead."
        )
    chosen = [each for each in utterances if each.channel is not None and each.info.num_channels > 1]
    if chosen:
        raise ManifestError(
            f"utterance must be all channels of its file for WeSpeaker's raw list, got channel {chosen[0].channel} of "
            f"{chosen[0].path}. Prepare with --convert first, or write kaldi or lhotse."
        )
    reserved = _WESPEAKER_KEYS.intersection(manifest.column_names)
    if reserved:
        raise ManifestError(
            f"column must not be called {', '.join(sorted(_WESPEAKER_KEYS))}, got {min(reserved)!r}. Rename it."
        )
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        for each in utterances:
            entry = {"key": each.name, "spk": each.speaker, "wav": str(each.path), **each.columns}
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")

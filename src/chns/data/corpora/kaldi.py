"""A Kaldi data directory, both ways.

Files ``utt2NAME`` beside them become columns of the manifest, such as ``utt2session``.
A data directory may come from a stranger, so a shell command in ``wav.scp`` is never run, and no path leaves the root.
The one command that such lists are full of, ``sph2pipe -f wav -p -c CHANNEL FILE |``, is not run but understood: the
file is read here, and the channel, counted from 1, is that of the utterance. ``segments`` may name a channel in a fifth
field, counted from 0.

Further columns go into files ``utt2NAME``, which ``chns prepare kaldi`` reads back.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import NamedTuple

from chns.core import ManifestError, atomic_folder, number, quoted, require_ours
from chns.data.corpora.listed import LocatedUtterance, located_utterances, relative_path, scan_list
from chns.data.corpora.scan import MIN_DURATION_SECONDS, Candidate, Part, Rejected, ScanResult
from chns.data.manifest import Manifest
from chns.data.manifest_file import REQUIRED_COLUMNS
from chns.data.text_rows import text_lines

COLUMN_PREFIX = "utt2"

_SPH2PIPE = re.compile(
    r"(?:[\w./-]*/)?sph2pipe(?P<options>(?:\s+(?:-f\s*wav|-p|-c\s*[12]))*)\s+(?P<file>[^\s|;&<>$`'\"\\-][^\s|;&<>$`'\"\\]*)\s*\|"
)
_SPACE = " \t\n\r\f\v"
_NO_COLUMNS = {"utt2spk", "utt2dur", "utt2num_frames", "utt2uniq"}


class _Span(NamedTuple):
    """An utterance as ``segments``, or in its absence ``wav.scp``, has it."""

    utterance: str
    recording: str
    part: Part
    place: str
    channel: int | None = None


def prepare_kaldi(
    source: Path,
    *,
    root: Path | None = None,
    min_duration_seconds: float = MIN_DURATION_SECONDS,
    jobs: int | None = None,
) -> ScanResult:
    """Scan the utterances of a data directory. One that lacks its recording or its speaker is rejected.

    Args:
        source: The data directory.
        root: Folder of the audio, by default the data directory. Relative paths start there; absolute ones must lie
            inside it.
        min_duration_seconds: Shorter utterances are rejected.
        jobs: See ``scan_recordings``.

    Raises:
        FileNotFoundError: If the directory, ``wav.scp`` or ``utt2spk`` is not there.
        ManifestError: If a line is malformed, repeats an utterance, holds a command or leads outside the root (names
            file and line), or nothing usable remains.
    """
    if not source.is_dir():
        raise FileNotFoundError(f"Kaldi data directory must be a folder, got {source}.")
    root = root or source
    speakers = {name: speaker for name, speaker, _ in _pairs(source / "utt2spk", "UTTERANCE SPEAKER")}
    paths: dict[str, str] = {}
    channels: dict[str, int | None] = {}
    spans = []
    for name, written, place in _pairs(source / "wav.scp", "UTTERANCE PATH"):
        file, channels[name] = _of_sph2pipe(written)
        paths[name] = relative_path(file, root, place)
        spans.append(_Span(name, name, Part(), place))
    listing = "wav.scp"
    if (source / "segments").exists():
        listing = "segments"
        spans = list(_segments(source / listing))
    columns = _columns(source)
    candidates, rejected = [], []
    for utterance, recording, part, place, channel in spans:
        path, speaker = paths.get(recording), speakers.pop(utterance, None)
        if path is None:
            rejected.append(Rejected(utterance, f"recording {recording} must be in wav.scp (listed in {place})"))
        elif speaker is None:
            rejected.append(Rejected(path, f"utterance {utterance} must have a speaker in utt2spk"))
        else:
            heard = channels[recording] if channel is None else channel
            candidates.append(Candidate(utterance, speaker, path, None, columns.get(utterance), part, place, heard))
    rejected += [Rejected(name, f"utterance of utt2spk must have a recording in {listing}") for name in speakers]
    return scan_list(candidates, root=root, rejected=rejected, min_duration_seconds=min_duration_seconds, jobs=jobs)


def _of_sph2pipe(written: str) -> tuple[str, int | None]:
    """The file and the channel of such a command; anything else is left as it is."""
    match = _SPH2PIPE.fullmatch(written)
    if match is None:
        return written, None
    chosen = re.findall(r"-c\s*([12])", match["options"])
    return match["file"], int(chosen[-1]) - 1 if chosen else None


def _segments(path: Path) -> Iterator[_Span]:
    """Decimal, because END - START in binary is not the duration that somebody added to START."""
    for utterance, rest, place in _pairs(path, "UTTERANCE RECORDING START END"):
        fields = _fields(rest)
        try:
            recording, start, end = fields[0], *map(_decimal, fields[1:3])
            channel = int(fields[3]) if fields[3:] else None
        except (ValueError, InvalidOperation):
            recording, start, end, channel = "", Decimal("NaN"), Decimal("NaN"), None
        if len(fields) > 4 or (channel is not None and channel < 0):
            raise _malformed("UTTERANCE RECORDING START END [CHANNEL]", f"{utterance} {rest}", place)
        if not (start.is_finite() and end.is_finite()):
            raise _malformed("UTTERANCE RECORDING START END", f"{utterance} {rest}", place)
        if end == -1:
            yield _Span(utterance, recording, Part(float(start)), place, channel)
        elif 0 <= start < end:
            yield _Span(utterance, recording, Part(float(start), float(end - start)), place, channel)
        else:
            raise ManifestError(
                f"segment must end behind its start, or at -1 for the recording's end, got {start} to {end} in "
                f"{place}. Correct it."
            )


def _columns(source: Path) -> dict[str, dict[str, str]]:
    """What the files ``utt2NAME`` say of each utterance."""
    columns: dict[str, dict[str, str]] = {}
    for path in sorted(source.glob(f"{COLUMN_PREFIX}*")):
        name = path.name.removeprefix(COLUMN_PREFIX)
        if path.name not in _NO_COLUMNS and name not in REQUIRED_COLUMNS and name.isidentifier():
            for utterance, value, _ in _pairs(path, "UTTERANCE VALUE"):
                columns.setdefault(utterance, {})[name] = value
    return columns


def _pairs(path: Path, line_format: str) -> Iterator[tuple[str, str, str]]:
    """Key, value and place of every line; only paths and column values may hold spaces."""
    if not path.is_file():
        raise FileNotFoundError(f"Kaldi data directory must have {path.name}, got none at {path}.")
    seen: set[str] = set()
    for line, place in text_lines(path):
        fields = _fields(line, most=2)
        if not fields:
            continue
        if len(fields) != 2 or (path.name == "utt2spk" and len(_fields(fields[1])) != 1):
            raise _malformed(line_format, line.strip(), place)
        key, value = fields
        if key in seen:
            raise ManifestError(
                f"utterance must be there once, got {quoted(key)} again in {place}. Remove one of the lines."
            )
        seen.add(key)
        yield key, value, place


def _fields(line: str, *, most: int = 0) -> list[str]:
    """Split as Kaldi does, at white space of ASCII only: a name may hold the spaces of other scripts."""
    line = line.strip(_SPACE)
    return re.split(f"[{_SPACE}]+", line, maxsplit=max(0, most - 1)) if line else []


def _malformed(line_format: str, line: str, place: str) -> ManifestError:
    return ManifestError(f"line must be `{line_format}`, got {reprlib.repr(line)} in {place}. Correct it.")


def _decimal(text: str) -> Decimal:
    number(text)  # Decimal takes the digits of all scripts
    return Decimal(text)


def write_kaldi(manifest: Manifest, folder: Path) -> None:
    """Write a data directory, sorted as Kaldi wants it. Paths are absolute.

    Args:
        manifest: The utterances. Where any is a part of its file, or one of its channels, all become segments, of
            recordings that are called by their path in the manifest.
        folder: New or empty.

    Raises:
        FileExistsError: If the folder holds something.
        FileNotFoundError: If a recording is gone.
        AudioError: If one cannot be read.
        ManifestError: If a name, a path or a column cannot be expressed between spaces.
    """
    require_ours(folder, ())
    utterances = _in_order_of_speakers(located_utterances(manifest))
    for utterance in utterances:
        _require_plain("utterance", utterance.name)
        _require_plain("speaker", utterance.speaker)
        _require_path(str(utterance.path))
    with atomic_folder(folder, ours=()) as temporary:
        if all(each.is_whole and each.channel is None for each in utterances):
            _write(temporary / "wav.scp", ((each.name, str(each.path)) for each in utterances))
        else:
            _write_segments(temporary, utterances)
        _write(temporary / "utt2spk", ((each.name, each.speaker) for each in utterances))
        _write(temporary / "spk2utt", _by_speaker(utterances))
        for column in sorted({name for each in utterances for name in each.columns}):
            if not column.isidentifier():
                raise ManifestError(f"column must be named by letters, digits and _, got {quoted(column)}. Rename it.")
            rows = [(each.name, each.columns[column]) for each in utterances if column in each.columns]
            _write(temporary / f"{COLUMN_PREFIX}{column}", rows)


def _in_order_of_speakers(utterances: Sequence[LocatedUtterance]) -> Sequence[LocatedUtterance]:
    """Sorted by utterance and thereby by speaker, as bytes, which Kaldi demands.

    Names whose order is not that of their speakers get the speaker in front. Where one speaker's name begins with
    another's, ``anna`` and ``anna-lena``, the separator must come before all characters that may follow: ``!``.
    """
    for separator in (None, "-", "!"):
        named = [
            each if separator is None else each._replace(name=f"{each.speaker}{separator}{each.name}")
            for each in utterances
        ]
        named.sort(key=lambda each: each.name.encode())
        speakers = [each.speaker.encode() for each in named]
        if speakers == sorted(speakers) and len({each.name for each in named}) == len(named):
            return named
    raise ManifestError(
        "utterances must sort as their speakers for Kaldi, got speakers whose names hold `!`. Rename them."
    )


def _write_segments(folder: Path, utterances: Sequence[LocatedUtterance]) -> None:
    recordings = {each.recording: str(each.path) for each in utterances}
    for name in recordings:
        _require_plain("path of a file with parts", name)
    _write(folder / "wav.scp", sorted(recordings.items()))
    _write(
        folder / "segments",
        ((each.name, each.recording, *_start_and_end(each), *_channel(each)) for each in utterances),
    )


def _channel(utterance: LocatedUtterance) -> tuple[str, ...]:
    """A fifth field, counted from 0."""
    return () if utterance.channel is None else (str(utterance.channel),)


def _start_and_end(utterance: LocatedUtterance) -> tuple[str, str]:
    """In decimal, so that end - start is again the duration that the manifest says, to the last digit."""
    start, duration = Decimal(repr(utterance.offset_seconds)), Decimal(repr(utterance.duration_seconds))
    return f"{start:f}", f"{start + duration:f}"


def _by_speaker(utterances: Iterable[LocatedUtterance]) -> list[tuple[str, ...]]:
    names: dict[str, list[str]] = {}
    for each in utterances:
        names.setdefault(each.speaker, []).append(each.name)
    return [(speaker, *names[speaker]) for speaker in sorted(names)]


def _write(path: Path, rows: Iterable[Sequence[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(" ".join(row) + "\n" for row in rows)


def _require_plain(what: str, name: str) -> None:
    if name.split() != [name]:
        raise ManifestError(
            f"{what} must hold no white space for Kaldi, got {quoted(name)}. Rename it, or write another format."
        )


def _require_path(path: str) -> None:
    if path != path.strip() or path.endswith("|"):
        raise ManifestError(
            f"path must not end in white space or a bar for Kaldi, got {quoted(path)}. Rename it, or write "
            "another format."
        )

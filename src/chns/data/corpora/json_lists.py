"""Lists of one JSON object a line: NeMo's manifest, read, and WeSpeaker's raw list, both ways."""

from __future__ import annotations

import json
import reprlib
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path, PurePosixPath

from chns.core import ManifestError, atomic_path
from chns.data.corpora.listed import (
    Entry,
    columns_of,
    json_lines,
    located_utterances,
    number_of,
    relative_path,
    text_of,
)
from chns.data.corpora.scan import Candidate, Part
from chns.data.manifest import Manifest, relative_name

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
            channel=_channel(entry, place),
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


def _channel(entry: Entry, place: str) -> int | None:
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

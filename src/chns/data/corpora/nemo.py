"""NeMo's manifest: lines ``{"audio_filepath": PATH, "offset": 0, "duration": 4.16, "label": SPEAKER}``."""

from __future__ import annotations

import reprlib
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path, PurePosixPath

from chns.core.errors import ManifestError
from chns.data.corpora.listed import Entry, columns_of, json_lines, number_of, relative_path, text_of
from chns.data.corpora.scan import Candidate, Part
from chns.data.manifest import relative_name

_KEYS = ("audio_filepath", "offset", "duration", "label", "text", "channel_selector")


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
            columns=columns_of(entry, without=_KEYS),
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

"""WeSpeaker's raw list: a line ``{"key": UTTERANCE, "spk": SPEAKER, "wav": PATH}`` an utterance."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from chns.data.prepare.listed import columns_of, json_lines, relative_path, text_of
from chns.data.prepare.scan import Candidate


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

"""WeSpeaker's raw list: a line ``{"key": UTTERANCE, "spk": SPEAKER, "wav": PATH}`` an utterance.

A manifest as WeSpeaker's raw list.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from chns.core.errors import ManifestError
from chns.core.files import atomic_path
from chns.data.corpora.listed import columns_of, json_lines, relative_path, text_of
from chns.data.corpora.located import located_utterances
from chns.data.corpora.scan import Candidate
from chns.data.manifest import Manifest


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


_KEYS = {"key", "spk", "wav"}


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
    reserved = _KEYS.intersection(manifest.column_names)
    if reserved:
        raise ManifestError(f"column must not be called {', '.join(sorted(_KEYS))}, got {min(reserved)!r}. Rename it.")
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        for each in utterances:
            entry = {"key": each.name, "spk": each.speaker, "wav": str(each.path), **each.columns}
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")

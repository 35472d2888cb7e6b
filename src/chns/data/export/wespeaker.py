"""A manifest as WeSpeaker's raw list."""

from __future__ import annotations

import json
from pathlib import Path

from chns.data.export.located import located_utterances
from chns.data.manifest import Manifest
from chns.errors import ManifestError
from chns.files import atomic_path

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

"""A manifest as a Kaldi data directory: ``wav.scp``, ``utt2spk``, ``spk2utt``, and ``segments`` if there are parts.

Further columns go into files ``utt2NAME``, which ``chns prepare kaldi`` reads back.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal
from pathlib import Path

from chns.data.export.located import LocatedUtterance, located_utterances, require_new_or_empty
from chns.data.manifest import Manifest
from chns.data.prepare.kaldi import COLUMN_PREFIX
from chns.errors import ManifestError
from chns.files import atomic_folder


def write_kaldi(manifest: Manifest, folder: Path) -> None:
    """Write a data directory, sorted as Kaldi wants it. Paths are absolute.

    Args:
        manifest: The utterances. Where any is a part of its file, or one of its channels, all become segments, of
            recordings that are called by their path in the manifest.
        folder: New or empty.

    Raises:
        ValueError: If the folder holds something.
        FileNotFoundError: If a recording is gone.
        AudioError: If one cannot be read.
        ManifestError: If a name, a path or a column cannot be expressed between spaces.
    """
    require_new_or_empty(folder)
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
                raise ManifestError(f"column must be named by letters, digits and _, got {column!r}. Rename it.")
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
            f"{what} must hold no white space for Kaldi, got {name!r}. Rename it, or write another format."
        )


def _require_path(path: str) -> None:
    if path != path.strip() or path.endswith("|"):
        raise ManifestError(
            f"path must not end in white space or a bar for Kaldi, got {path!r}. Rename it, or write another format."
        )

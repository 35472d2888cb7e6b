"""A Kaldi data directory: ``wav.scp`` (``UTTERANCE PATH``) and ``utt2spk`` (``UTTERANCE SPEAKER``).

A data directory may come from a stranger, so a shell command in ``wav.scp`` is never run, and no path leaves the root.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from chns.data.prepare.scan import MIN_DURATION_SECONDS, Candidate, Rejected, ScanResult, scan_recordings
from chns.errors import ManifestError


def prepare_kaldi(
    source: Path,
    *,
    root: Path | None = None,
    min_duration_seconds: float = MIN_DURATION_SECONDS,
    jobs: int | None = None,
) -> ScanResult:
    """Scan the recordings that a data directory names. An utterance that only one of the two files has is rejected.

    Args:
        source: The data directory.
        root: Folder of the audio, by default the data directory. Relative paths start there; absolute ones must lie
            inside it.
        min_duration_seconds: Shorter recordings are rejected.
        jobs: See ``scan_recordings``.

    Raises:
        FileNotFoundError: If the directory, ``wav.scp`` or ``utt2spk`` is not there.
        ManifestError: If there are ``segments``, a line is malformed, repeats an utterance, holds a command or leads
            outside the root (names file and line), or nothing usable remains.
    """
    if not source.is_dir():
        raise FileNotFoundError(f"Kaldi data directory must be a folder, got {source}.")
    if (source / "segments").exists():
        raise ManifestError(
            f"Kaldi data directory must have one recording an utterance, got {source / 'segments'}. "
            f"Segments are not supported yet: cut the recordings first."
        )
    root = root or source
    speakers = {name: speaker for name, speaker, _ in _read(source / "utt2spk", "UTTERANCE SPEAKER")}
    candidates, rejected = [], []
    for utterance, written, place in _read(source / "wav.scp", "UTTERANCE PATH"):
        path = _relative_path(written, root, place)
        if speaker := speakers.pop(utterance, None):
            candidates.append(Candidate(utterance, speaker, path))
        else:
            rejected.append(Rejected(path, f"utterance {utterance} must have a speaker in utt2spk"))
    rejected += [Rejected(name, "utterance of utt2spk must have a recording in wav.scp") for name in speakers]
    return scan_recordings(
        candidates, root=root, rejected=rejected, min_duration_seconds=min_duration_seconds, jobs=jobs
    )


def _read(path: Path, line_format: str) -> Iterator[tuple[str, str, str]]:
    """Key, value and place of every line; the value of ``wav.scp`` may hold spaces."""
    if not path.is_file():
        raise FileNotFoundError(f"Kaldi data directory must have {path.name}, got none at {path}.")
    seen: set[str] = set()
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            place = f"{path}:{number}"
            try:
                fields = line.decode().split(maxsplit=1)
            except UnicodeDecodeError as error:
                raise ManifestError(f"line must be UTF-8, got {line!r} in {place}.") from error
            if len(fields) != 2 or (path.name == "utt2spk" and len(fields[1].split()) != 1):
                raise ManifestError(f"line must be `{line_format}`, got {line.decode().strip()!r} in {place}.")
            key, value = fields[0], fields[1].strip()
            if key in seen:
                raise ManifestError(f"utterance must be there once, got {key!r} again in {place}.")
            seen.add(key)
            yield key, value, place


def _relative_path(written: str, root: Path, place: str) -> str:
    if written.endswith("|"):
        raise ManifestError(
            f"recording must be a file, got the command {written!r} in {place}. "
            f"Commands are never run: write what it prints to a file and name that."
        )
    base = os.path.abspath(root)  # noqa: PTH100 - lexical on purpose: a link inside the root may lead elsewhere
    for top in (base, os.path.realpath(base)):
        path = os.path.normpath(os.path.join(top, written))  # noqa: PTH118
        if path.startswith(os.path.join(top, "")):  # noqa: PTH118
            return os.path.relpath(path, top)
    raise ManifestError(
        f"path must stay inside {root}, got {written!r} in {place}. Name the folder of the audio with --root."
    )

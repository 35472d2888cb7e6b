"""Corpora that are a list: lines of a text file that name recordings, their parts and their speakers.

A list may come from a stranger. A shell command is never run, and no path leaves the root. How lines and fields are
told apart is the same for all of them: ``chns.data.text_rows``. What is written for other tools needs more than a
manifest says: which part of its file an utterance is, which only the file's header tells.
"""

from __future__ import annotations

import json
import math
import os
import re
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from chns.core import AudioError, ManifestError, quoted
from chns.core import number as plain_number
from chns.data.audio import AudioInfo, audio_info, channel_number
from chns.data.corpora.scan import MIN_DURATION_SECONDS, Candidate, Part, Rejected, ScanResult, scan_recordings
from chns.data.manifest import Manifest, Utterance
from chns.data.manifest_file import CHANNEL_COLUMN, CONTROL_CHARACTER, PACKED_COLUMNS, REQUIRED_COLUMNS
from chns.data.text_rows import text_lines

Entry = Mapping[str, Any]


def scan_list(
    candidates: Iterable[Candidate],
    *,
    root: Path,
    rejected: Sequence[Rejected] = (),
    min_duration_seconds: float = MIN_DURATION_SECONDS,
    jobs: int | None = None,
) -> ScanResult:
    """Scan what a list names; see ``scan_recordings``.

    Args:
        candidates: What a reader of lists yields, such as ``read_wespeaker``.
        root: Folder of the audio, the same that the reader got.
        rejected: Entries that the reader left out.
        min_duration_seconds: Shorter utterances are rejected.
        jobs: See ``scan_recordings``.

    Raises:
        ManifestError: If the list names an utterance twice, breaks its format, or nothing usable remains.
    """
    listed = list(candidates)
    seen: set[str] = set()
    for candidate in listed:
        if candidate.utterance in seen:
            raise ManifestError(
                f"utterance must be there once, got {quoted(candidate.utterance)} again in {candidate.place}. "
                f"Rename or remove one of the two."
            )
        seen.add(candidate.utterance)
    return scan_recordings(listed, root=root, rejected=rejected, min_duration_seconds=min_duration_seconds, jobs=jobs)


def json_lines(path: Path) -> Iterator[tuple[dict[str, Any], str]]:
    """The JSON object on every line that is not blank, and its place.

    Raises:
        FileNotFoundError: If there is no such file.
        ManifestError: For the reasons of ``text_lines``, or if a line is not one JSON object.
    """
    for line, place in text_lines(path):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ManifestError(
                f"line must be one JSON object, got {reprlib.repr(line.strip())} in {place} ({error}). "
                f"Write one object a line, without commas between."
            ) from error
        if not isinstance(entry, dict):
            raise ManifestError(f"line must be one JSON object, got {reprlib.repr(entry)} in {place}.")
        yield entry, place


def text_of(entry: Entry, key: str, place: str) -> str:
    """A value that must be there: text, or a whole number that is taken as text.

    Raises:
        ManifestError: If it is missing, empty or something else.
    """
    value = entry.get(key)
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        got = reprlib.repr(value) if key in entry else f"only the keys {reprlib.repr(sorted(entry))}"
        raise ManifestError(f"{key} must be text that is not empty, got {got} in {place}. Add it to the list.")
    return str(value)


def number_of(entry: Entry, key: str, place: str, *, minimum: float = 0.0) -> float | None:
    """A finite number from ``minimum``, as number or text; None if it is missing, null or empty.

    Raises:
        ManifestError: If it is something else.
    """
    value = entry.get(key)
    if value is None or value == "":
        return None
    try:
        found = math.nan if isinstance(value, bool | list | dict) else _as_number(value)
    except (ValueError, OverflowError):
        found = math.nan
    if not (math.isfinite(found) and found >= minimum):
        rule = f"a number from {minimum:g}" if math.isfinite(minimum) else "a number"
        raise ManifestError(f"{key} must be {rule}, got {reprlib.repr(value)} in {place}. Correct the list.")
    return found


def _as_number(value: Any) -> float:
    return plain_number(value) if isinstance(value, str) else float(value)


def columns_of(entry: Entry, *, without: Iterable[str]) -> dict[str, str]:
    """What else an entry says as text, on one line. What every manifest computes for itself is left out."""
    if isinstance(entry.get("channel"), str):
        words = {"channel_name": entry["channel"]} if channel_of(entry) is None and entry["channel"] != "mix" else {}
        entry = {name: value for name, value in {**words, **entry}.items() if name != "channel"}
    known = {*without, *REQUIRED_COLUMNS, *PACKED_COLUMNS}
    further = {name: value for name, value in entry.items() if name not in known and isinstance(value, str)}
    return {name: re.sub(CONTROL_CHARACTER, " ", value) for name, value in further.items() if value}


def channel_of(entry: Entry) -> int | None:
    """The channel that an entry's ``channel`` names, if it is one; a microphone or a line may be called so too."""
    value = entry.get("channel")
    try:
        return None if value in (None, "") else channel_number(value)
    except ValueError:
        return None


def relative_path(written: str, root: Path, place: str) -> str:
    """The path of a recording seen from the root; relative paths start there, absolute ones must lie inside it.

    Raises:
        ManifestError: If it is a command, or leads outside the root.
    """
    if written.rstrip().endswith("|"):
        raise ManifestError(
            f"recording must be a file, got the command {reprlib.repr(written)} in {place}. "
            f"Commands are never run: write what it prints to a file and name that."
        )
    base = os.path.abspath(root)  # noqa: PTH100 - lexical on purpose: a link inside the root may lead elsewhere
    for top in (base, os.path.realpath(base)):
        path = os.path.normpath(os.path.join(top, written))  # noqa: PTH118
        if path.startswith(os.path.join(top, "")):  # noqa: PTH118
            return os.path.relpath(path, top)
    raise ManifestError(
        f"path must stay inside {root}, got {quoted(written)} in {place}. Name the folder of the audio with --root."
    )


class LocatedUtterance(NamedTuple):
    """An utterance with the header of its file.

    Attributes:
        name: Its name.
        speaker: Who speaks.
        recording: The path of its file in the manifest, which names the file for tools that name recordings.
        path: Its file, absolute.
        offset_seconds: Where it starts in the file.
        duration_seconds: Its length.
        columns: The further columns that are not empty.
        info: What the file's header says.
        channel: The one that the utterance is; none for all of them.
    """

    name: str
    speaker: str
    recording: str
    path: Path
    offset_seconds: float
    duration_seconds: float
    columns: dict[str, str]
    info: AudioInfo
    channel: int | None

    @property
    def is_whole(self) -> bool:
        """Whether it is all of its file, to within half a sample."""
        return (
            self.offset_seconds == 0
            and abs(self.duration_seconds - self.info.duration_seconds) * self.info.sample_rate_hz < 0.5
        )


def located_utterances(manifest: Manifest) -> list[LocatedUtterance]:
    """The utterances by name; reads the header of every file, which is the only way to tell parts from wholes.

    Raises:
        FileNotFoundError: If a file is gone.
        AudioError: If a header cannot be read.
        ManifestError: If an utterance does not lie in its file.
    """
    names, paths = manifest.column("utterance"), manifest.column("path")
    further = {name: manifest.column(name) for name in further_columns(manifest)}
    root = manifest.root.resolve()
    headers: dict[str, AudioInfo] = {}
    located = []
    by_name = sorted(range(len(manifest)), key=names.__getitem__)
    for row in tqdm(by_name, desc="reading headers", unit="utterance", disable=None):
        utterance, recording = manifest[row], paths[row]
        file_of(utterance)
        path = root / recording
        if recording not in headers:
            headers[recording] = audio_info(path)
        try:
            part = Part(utterance.offset_seconds, utterance.duration_seconds).within(headers[recording])
        except AudioError as error:
            raise ManifestError(f"{error} in {path}. Prepare the corpus again: the file has changed.") from error
        columns = {name: values[row] for name, values in further.items() if values[row]}
        located.append(
            LocatedUtterance(
                names[row], utterance.speaker, recording, path, *part, columns, headers[recording], utterance.channel
            )
        )
    return located


def further_columns(manifest: Manifest) -> list[str]:
    """Names of the columns that say more than who speaks and where the audio is."""
    return [name for name in manifest.column_names if name not in REQUIRED_COLUMNS | CHANNEL_COLUMN | PACKED_COLUMNS]


def file_of(utterance: Utterance) -> Path:
    """The file of an utterance.

    Raises:
        ManifestError: If it lies in a shard, where other tools do not look.
    """
    if isinstance(utterance.path, Path):
        return utterance.path
    raise ManifestError(
        f"recordings must be files for another tool to read them, got {utterance.path} in a shard. Unpack the shards "
        f"with `tar -xf` and prepare the corpus from the files."
    )

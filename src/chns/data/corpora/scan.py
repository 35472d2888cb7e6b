"""From files to a manifest: find recordings, prove their lengths, keep the good ones, report the others.

A header alone costs about 0.08 ms when the file is cached (Opus, 1 s long) and is not believed: see `proven_info` for
what the proof costs. Threads, which share one interpreter lock,
made it two times *slower*, and two processes 1.5 times faster. Starting those costs 0.8 s, hence they are used only
where each gets thousands of files.
"""

from __future__ import annotations

import csv
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, TextIO

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from chns.core import AudioError, ManifestError, atomic_path, counted, mapped, table_cell
from chns.data.audio import (
    EXTENSIONS,
    UNREAD_EXTENSIONS,
    AudioInfo,
    Channel,
    channel_number,
    file_channels_differ,
    proven_info,
)
from chns.data.manifest import Manifest, one_spelling, same_looking, with_columns
from chns.data.manifest_file import CONTROL_CHARACTER, PACKED_COLUMNS, UNSAFE_PATH
from chns.data.storage.packed import PackedRecording, Recording, split_path

MAX_OVERSHOOT_SECONDS = 0.1


class Part(NamedTuple):
    """Where an utterance lies in its recording.

    Attributes:
        start: Where it begins.
        duration: How long it is; None: up to the end of the recording.
        in_samples: Whether both count samples at the file's own rate; otherwise they are seconds.
    """

    start: float = 0.0
    duration: float | None = None
    in_samples: bool = False

    def within(self, info: AudioInfo) -> tuple[float, float]:
        """Offset and duration in seconds.

        Lists round, and decoders differ by a few frames, so a part that ends at most 0.1 s behind its recording is
        taken to end with it.

        Raises:
            AudioError: If the part is empty or does not lie in a recording with this header.
        """
        per_second = info.sample_rate_hz if self.in_samples else 1
        offset = self.start / per_second
        room = info.duration_seconds - offset
        duration = room if self.duration is None else self.duration / per_second
        overshoot = duration - room
        if not (offset >= 0 and duration > 0 and room > 0 and overshoot <= MAX_OVERSHOOT_SECONDS):
            raise AudioError(
                f"utterance must lie within its recording of {info.duration_seconds:.3f} s, "
                f"got {offset:.3f} to {offset + duration:.3f} s"
            )
        return offset, min(duration, room) if overshoot > 0 else duration


MIN_DURATION_SECONDS = 0.5

_FILES_PER_WORKER = 5_000
_MAX_COLUMNS = 64
_NAMED_SUFFIXES = 5
_CONVERT = "Convert it, for example with `ffmpeg -i IN OUT.flac`."


class Candidate(NamedTuple):
    """A file, or a part of one, that may become an utterance.

    Attributes:
        utterance: Its name.
        speaker: Who speaks.
        path: Where the file is, relative to the root, with ``/``.
        session: Recordings made on one occasion share it.
        columns: What else the corpus knows, by the name of the manifest's column.
        part: Which part of the file it is.
        place: The ``file:line`` that lists it, if a list does.
        channel: Which channel of the file it is, from 0; none for the mean of all.
        packed: Offset and number of its bytes, if ``path`` is ``shard.tar/member``.
    """

    utterance: str
    speaker: str
    path: str
    session: str | None = None
    columns: Mapping[str, str] | None = None
    part: Part = Part()
    place: str | None = None
    channel: int | None = None
    packed: tuple[int, int] | None = None

    def recording(self, root: Path) -> Recording:
        """Where it is."""
        if self.packed is None:
            return root / self.path
        shard, member = split_path(self.path)
        return PackedRecording(root / shard, member, *self.packed)


class _Located(NamedTuple):
    """What is known of the file of a candidate."""

    offset_seconds: float
    duration_seconds: float
    sample_rate_hz: int
    num_channels: int
    channels_differ: bool


class Rejected(NamedTuple):
    """A file that became none, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class ScanResult:
    """What a corpus holds: its usable utterances and the files that were left out.

    Attributes:
        manifest: The utterances.
        rejected: The recordings that became none.
        num_channels: Of the file of each utterance; empty where it is not known.
        differing: Utterances that are the mean of channels which hold different sounds.
        passed_over: How many files of each suffix are no recordings by their names.
        doubt: Why the speakers may be none, in words.
        spellings: Names that look the same and were made one speaker, as the corpus writes them.
    """

    manifest: Manifest
    rejected: list[Rejected]
    num_channels: Sequence[int] = ()
    differing: frozenset[str] = frozenset()
    passed_over: Mapping[str, int] | None = None
    doubt: str | None = None
    spellings: Sequence[Sequence[str]] = ()

    @property
    def remarks(self) -> list[str]:
        """What deserves a look, a line each."""
        lines = [] if self.doubt is None else [f"warning: {self.doubt}"]
        if self.differing:
            lines.append(
                f"warning: {counted(len(self.differing), 'utterance is', 'utterances are')} the mean of channels that "
                f"hold different sounds, such as {min(self.differing)}. If those are different people, choose one "
                "with --channel."
            )
        if self.spellings:
            example = " and ".join(map(ascii, self.spellings[0]))
            lines.append(
                f"warning: {counted(len(self.spellings), 'speaker is', 'speakers are')} written in several ways that "
                f"look the same, such as {example}; each is taken for one person"
            )
        if self.passed_over:
            kinds = sorted(self.passed_over.items(), key=lambda item: (-item[1], item[0]))
            named = ", ".join(f"{count:,} {suffix or 'without suffix'}" for suffix, count in kinds[:_NAMED_SUFFIXES])
            more = f" and {len(kinds) - _NAMED_SUFFIXES} further kinds" if len(kinds) > _NAMED_SUFFIXES else ""
            lines.append(f"passed over, no recordings by their suffix: {named}{more}")
        return lines

    def with_channel(self, channel: Channel | None) -> ScanResult:
        """The same with one channel of every recording whose channel the corpus does not tell.

        Args:
            channel: Which; ``mix`` says that the mean of all is wanted, none leaves everything as it is.

        Returns:
            Recordings without such a channel are among the rejected.

        Raises:
            ValueError: If it is no channel.
            ManifestError: If no recording has it.
        """
        number = channel_number(channel)
        if channel is None:
            return self
        if number is None:
            return replace(self, differing=frozenset())
        told = self.manifest.channels
        is_there = [each is not None or number < has for each, has in zip(told, self.num_channels, strict=True)]
        reason = f"channel must be one of the recording's, counted from 0, got {number} of only"
        rejected = [
            Rejected(path, f"{reason} {has}")
            for path, has, there in zip(self.manifest.column("path"), self.num_channels, is_there, strict=True)
            if not there
        ]
        left = np.flatnonzero(is_there)
        if not len(left):
            raise ManifestError(f"corpus must hold a recording with channel {number}, got none of {len(is_there)}.")
        channels = pa.array([number if each is None else each for each in told], pa.int32())
        return replace(
            self,
            manifest=with_columns(self.manifest, {"channel": channels}).take(left),
            rejected=sorted([*self.rejected, *rejected]),
            num_channels=[self.num_channels[row] for row in left.tolist()],
            differing=frozenset(),
        )

    def write(self, path: Path) -> Path:
        """Write the manifest, and beside it ``<stem>.rejected.csv``, which has only a header if nothing was rejected.

        It is written always: a script that reads it need not ask whether it is there.

        Returns:
            The path of the report.
        """
        report = path.with_name(f"{path.stem}.rejected.csv")
        self.manifest.write(path)
        with atomic_path(report) as temporary, _text(temporary) as file:
            writer = csv.writer(file)
            writer.writerow(Rejected._fields)
            writer.writerows(map(table_cell, map(str, row)) for row in self.rejected)
        return report


def _text(path: Path) -> TextIO:
    return path.open("w", encoding="utf-8", newline="", errors="backslashreplace")


class FoundFiles(NamedTuple):
    """What lies below a folder.

    Attributes:
        recordings: Paths of what is read, relative to the folder and sorted.
        unread: Recordings by their suffix that nothing here reads, for the report.
        other: How many other files there are, by suffix.
    """

    recordings: list[str]
    unread: list[Rejected]
    other: Mapping[str, int]


def find_recordings(root: Path) -> list[str]:
    """Paths of all recordings below a folder, by suffix, relative to it and sorted; see `find_files`.

    Raises:
        FileNotFoundError: If there is no such folder.
    """
    return find_files(root).recordings


def find_files(root: Path) -> FoundFiles:
    """Sort everything below a folder by its suffix, in capitals or not.

    Hidden files and folders are left out. Links to folders are followed, but no folder is entered twice: not through a
    loop, and not through a link when it was there under its own name.

    Raises:
        FileNotFoundError: If there is no such folder.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"corpus must be a folder, got {root}.")
    found: list[str] = []
    unread: list[Rejected] = []
    other: Counter[str] = Counter()
    seen: set[tuple[int, int]] = set()
    own, linked = [""], list[str]()
    while own or linked:
        folder = own.pop() if own else linked.pop(0)
        status = (root / folder).stat()
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(root / folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                name = f"{folder}/{entry.name}".lstrip("/")
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    own.append(name)
                elif entry.is_symlink() and (root / name).is_dir():
                    linked.append(name)
                elif (suffix := PurePosixPath(name).suffix.lower()) in EXTENSIONS:
                    found.append(name)
                elif suffix in UNREAD_EXTENSIONS:
                    unread.append(
                        Rejected(name, f"recording must be in a format that is read, got {suffix}. {_CONVERT}")
                    )
                else:
                    other[suffix] += 1
    return FoundFiles(sorted(found), sorted(unread), other)


def scan_recordings(
    candidates: Sequence[Candidate],
    *,
    root: Path,
    rejected: Sequence[Rejected] = (),
    min_duration_seconds: float = MIN_DURATION_SECONDS,
    jobs: int | None = None,
    passed_over: Mapping[str, int] | None = None,
) -> ScanResult:
    """Look into the file of every candidate and make a manifest of those that can be used.

    The result does not depend on the order of the candidates nor on the number of jobs. Of several files for one
    utterance the first usable one by path is kept.

    Args:
        candidates: Files below ``root``.
        root: Folder that their paths are relative to.
        rejected: Files that the corpus already left out; they go into the same report.
        min_duration_seconds: Shorter recordings are rejected.
        jobs: Processes at most; by default one a core, and none for less than 10,000 files. They are spawned: a script
            that calls this needs the usual ``if __name__ == "__main__":``.
        passed_over: How many files of each suffix are no recordings.

    Raises:
        ValueError: If ``jobs`` or ``min_duration_seconds`` is out of range.
        ManifestError: If nothing usable remains, or the candidates have more than 64 further columns.
    """
    if jobs is not None and jobs < 1:
        raise ValueError(f"jobs must be at least 1, got {jobs}.")
    if not min_duration_seconds >= 0:
        raise ValueError(f"min_duration_seconds must be a number from 0, got {min_duration_seconds}.")
    spellings = same_looking({candidate.speaker for candidate in candidates})
    candidates = [candidate._replace(speaker=one_spelling(candidate.speaker)) for candidate in candidates]
    ordered = sorted(candidates, key=lambda candidate: (candidate.utterance, candidate.path))
    files = [(candidate.recording(root), candidate) for candidate in ordered]
    kept: dict[str, tuple[Candidate, _Located]] = {}
    refused = list(rejected)
    inspect = partial(_inspect, min_duration_seconds=min_duration_seconds)
    with mapped(inspect, files, jobs=jobs, items_per_worker=_FILES_PER_WORKER) as findings:
        progress = tqdm(findings, total=len(files), desc="looking into files", unit="file", disable=None)
        for candidate, finding in zip(ordered, progress, strict=True):
            if isinstance(finding, str):
                refused.append(Rejected(candidate.path, finding))
            elif candidate.utterance in kept:
                first, _ = kept[candidate.utterance]
                refused.append(Rejected(candidate.path, f"utterance must be unique, {first.path} has the same name"))
            else:
                kept[candidate.utterance] = candidate, finding
    refused.sort()
    if not kept:
        reason = f"the first is {refused[0].path}: {refused[0].reason}" if refused else "there are no recordings"
        raise ManifestError(f"corpus must hold a usable recording, got none of {len(refused)} in {root} ({reason}).")
    return ScanResult(
        _manifest(list(kept.values()), root),
        refused,
        num_channels=[located.num_channels for _, located in kept.values()],
        differing=frozenset(name for name, (_, located) in kept.items() if located.channels_differ),
        passed_over=passed_over,
        spellings=spellings,
    )


def _inspect(file: tuple[Recording, Candidate], *, min_duration_seconds: float) -> _Located | str:
    """What is known of the file, or why it cannot be used."""
    path, candidate = file
    try:
        return _located(path, candidate, min_duration_seconds=min_duration_seconds)
    except (AudioError, OSError) as error:
        reason = " ".join(str(error).split())
    return f"{reason} (listed in {candidate.place})" if candidate.place else reason


def _located(path: Recording, candidate: Candidate, *, min_duration_seconds: float) -> _Located:
    if problem := _problem_with_names(candidate):
        raise AudioError(problem)
    info = proven_info(path)
    offset_seconds, duration_seconds = candidate.part.within(info)
    if duration_seconds < min_duration_seconds:
        raise AudioError(f"recording must last at least {min_duration_seconds:g} s, got {duration_seconds:.3f} s")
    channel = candidate.channel
    if channel is not None and not channel < info.num_channels:
        raise AudioError(f"channel must be one of the recording's {info.num_channels}, counted from 0, got {channel}")
    differ = (
        info.num_channels > 1
        and channel is None
        and file_channels_differ(path, offset_seconds=offset_seconds, duration_seconds=duration_seconds)
    )
    return _Located(offset_seconds, duration_seconds, info.sample_rate_hz, info.num_channels, differ)


def _problem_with_names(candidate: Candidate) -> str | None:
    columns = candidate.columns or {}
    if candidate.channel is not None and candidate.channel < 0:
        return f"channel must be a number from 0, got {candidate.channel}"
    names = "/".join([*candidate[:3], candidate.session or "", *columns, *columns.values()])
    try:
        names.encode()
    except UnicodeEncodeError:
        return "name must be UTF-8"
    if not candidate.speaker:
        return "speaker must have a name"
    if re.search(CONTROL_CHARACTER, names):
        return "name must hold no line break or other control character"
    if re.search(UNSAFE_PATH, candidate.path):
        return "path must hold no backslash and stay inside the root"
    return None


def _manifest(kept: Sequence[tuple[Candidate, _Located]], root: Path) -> Manifest:
    """With a session column, and others, only where the corpus knows them."""
    columns: dict[str, list[Any]] = {
        "utterance": [candidate.utterance for candidate, _ in kept],
        "speaker": [candidate.speaker for candidate, _ in kept],
        "path": [candidate.path for candidate, _ in kept],
        "offset_seconds": [located.offset_seconds for _, located in kept],
        "duration_seconds": [located.duration_seconds for _, located in kept],
        "sample_rate_hz": [located.sample_rate_hz for _, located in kept],
    }
    if any(candidate.channel is not None for candidate, _ in kept):
        columns["channel"] = pa.array([candidate.channel for candidate, _ in kept], pa.int32())
    for number, name in enumerate(PACKED_COLUMNS):
        if any(candidate.packed for candidate, _ in kept):
            places = [candidate.packed and candidate.packed[number] for candidate, _ in kept]
            columns[name] = pa.array(places, pa.int64())
    further = [_further_columns(candidate) for candidate, _ in kept]
    names = {name for values in further for name in values}
    if len(names) > _MAX_COLUMNS:
        raise ManifestError(f"further columns must be at most {_MAX_COLUMNS}, got {len(names)}. Remove some.")
    assert not names & columns.keys(), "a corpus may add columns, not replace those above"
    for name in sorted(names, key=lambda name: (name != "session", name)):
        columns[name] = [values.get(name) for values in further]
    return Manifest(pa.table(columns), root=root)


def _further_columns(candidate: Candidate) -> Mapping[str, str]:
    columns = candidate.columns or {}
    return columns if candidate.session is None else {**columns, "session": candidate.session}

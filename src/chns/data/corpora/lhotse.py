"""Lhotse's manifests, both ways, and its Shar, read.

Lhotse's own readers build objects without checking them and unpack without a limit, and importing them takes 4 s. A
manifest from a stranger is therefore read as the plain JSON that it is; ``chns.data.corpora.lhotse`` writes
with Lhotse.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from tqdm import tqdm

from chns.core import ChnsError, ManifestError, atomic_folder, quoted, require_ours
from chns.data.corpora.listed import (
    Entry,
    LocatedUtterance,
    columns_of,
    json_lines,
    located_utterances,
    number_of,
    relative_path,
    scan_list,
    text_of,
)
from chns.data.corpora.scan import MIN_DURATION_SECONDS, Candidate, Part, Rejected, ScanResult
from chns.data.manifest import Manifest
from chns.data.storage.packed import ShardMember, shard_members

_CUT_TYPES = ("MonoCut", "MultiCut", "Cut")


class _Recording(NamedTuple):
    path: str
    channels: list[Any]


def read_lhotse(source: Path, *, root: Path, supervisions: Path | None = None) -> Iterator[Candidate]:
    """Read every supervision as an utterance. What its ``custom`` says as text, gender and language become columns.

    Args:
        source: A CutSet, or the recordings if there are ``supervisions``.
        root: Folder of the audio; see ``relative_path``.
        supervisions: The supervisions of the recordings.

    Raises:
        FileNotFoundError: If a file is not there.
        ManifestError: If a line is not JSON, lacks a key or a speaker, or names an unknown recording; if a recording
            is a command, a link or embedded, has transforms or leaves the root; if a supervision is of several but
            not all of its channels; if a cut is mixed or padding, or has no supervision.
    """
    return _of_cuts(source, root) if supervisions is None else _of_supervisions(source, supervisions, root)


def _of_supervisions(recordings: Path, supervisions: Path, root: Path) -> Iterator[Candidate]:
    known: dict[str, _Recording] = {}
    for entry, place in json_lines(recordings):
        name = text_of(entry, "id", place)
        if name in known:
            raise ManifestError(
                f"recording must be there once, got {quoted(name)} again in {place}. Remove one of the two."
            )
        known[name] = _recording(entry, root, place)
    for entry, place in json_lines(supervisions):
        name = text_of(entry, "recording_id", place)
        if name not in known:
            raise ManifestError(
                f"recording_id must be one of {recordings}, got {quoted(name)} in {place}. Add it there."
            )
        yield _candidate(entry, known[name], place)


def _of_cuts(cuts: Path, root: Path) -> Iterator[Candidate]:
    for cut, place in _cuts(cuts):
        yield from _of_cut(cut, _recording(_object(cut, "recording", place), root, place), place)


def _of_cut(cut: Entry, recording: _Recording, place: str) -> Iterator[Candidate]:
    start = number_of(cut, "start", place) or 0.0
    for supervision in cut["supervisions"]:
        yield _candidate(supervision, recording, place, cut=(start, _required(cut, "duration", place)))


def _cuts(path: Path) -> Iterator[tuple[Entry, str]]:
    for entry, place in json_lines(path):
        if entry.get("type") not in _CUT_TYPES:
            raise ManifestError(
                f"cut must be of type {' or '.join(_CUT_TYPES)}, got {reprlib.repr(entry.get('type'))} in {place}. "
                f"Save mixed cuts as audio first; if these are recordings, name their supervisions too."
            )
        found = entry.get("supervisions")
        if not isinstance(found, list) or not found or not all(isinstance(each, dict) for each in found):
            raise ManifestError(
                f"cut must have a supervision, which names the speaker, got {reprlib.repr(found)} in {place}. "
                f"Filter cuts without one out."
            )
        yield entry, place


def prepare_lhotse_shar(
    source: Path, *, min_duration_seconds: float = MIN_DURATION_SECONDS, jobs: int | None = None
) -> ScanResult:
    """Scan a folder that Lhotse's ``SharWriter`` wrote, with the field ``recording``; crops are read from its tars.

    ``cuts.N.jsonl.gz`` holds the cuts and ``recording.N.tar`` their audio, ``CUT.flac`` or another format and its JSON,
    which is not needed. Every supervision is an utterance.

    Args:
        source: The folder.
        min_duration_seconds: Shorter utterances are rejected.
        jobs: See ``scan_recordings``.

    Raises:
        FileNotFoundError: If there is no such folder.
        ManifestError: If cuts and tars do not belong together, a tar is compressed, cut off or damaged, for the reasons
            of `read_lhotse`, or nothing usable remains.
    """
    if not source.is_dir():
        raise FileNotFoundError(f"Shar must be a folder, got {source}.")
    cuts = {path.name.removeprefix("cuts").partition(".jsonl")[0]: path for path in source.glob("cuts*.jsonl*")}
    tars = {path.name.removeprefix("recording").removesuffix(".tar"): path for path in source.glob("recording*.tar")}
    alone = cuts.keys() ^ tars.keys()
    if alone or not cuts:
        raise ManifestError(
            f"Shar must hold a recording.N.tar for each cuts.N.jsonl.gz, got {len(tars)} and {len(cuts)}, "
            f"{quoted(min(alone))} of one alone, in {source}. Name the folder that SharWriter wrote, whole."
            if alone
            else f"Shar must hold cuts.N.jsonl.gz and recording.N.tar, got none in {source}."
        )
    candidates: list[Candidate] = []
    rejected: list[Rejected] = []
    for number in tqdm(sorted(cuts), desc="reading headers", unit="shard", disable=None):
        audio = {_cut_of(member): member for member in shard_members(tars[number]) if not _is_beside(member)}
        for cut, place in _cuts(cuts[number]):
            name = text_of(cut, "id", place)
            member = audio.get(name)
            if member is None or member.problem:
                reason = member.problem if member else "cut must have a recording, got none of its name"
                path = f"{tars[number].name}/{member.name if member else name}"
                rejected.append(Rejected(path, f"{reason} (listed in {place})"))
                continue
            channels = _channels_of(_source_of(_object(cut, "recording", place), place))
            recording = _Recording(f"{tars[number].name}/{member.name}", channels)
            packed = (member.byte_offset, member.byte_length)
            candidates += [candidate._replace(packed=packed) for candidate in _of_cut(cut, recording, place)]
    return scan_list(candidates, root=source, rejected=rejected, min_duration_seconds=min_duration_seconds, jobs=jobs)


def _cut_of(member: ShardMember) -> str:
    return member.name.rpartition(".")[0]


def _is_beside(member: ShardMember) -> bool:
    """Whether it is the description of a recording, or stands for none."""
    return PurePosixPath(member.name).suffix in (".json", ".nodata", ".nometa")


def _source_of(entry: Entry, place: str) -> Entry:
    sources = entry.get("sources")
    if not isinstance(sources, list) or len(sources) != 1 or not isinstance(sources[0], dict):
        raise ManifestError(f"recording must have one source, got {reprlib.repr(sources)} in {place}. Join them first.")
    source: Entry = sources[0]
    return source


def _channels_of(source: Entry) -> list[Any]:
    channels = source.get("channels", [0])
    return channels if isinstance(channels, list) else [channels]


def _recording(entry: Entry, root: Path, place: str) -> _Recording:
    source = _source_of(entry, place)
    if source.get("type") != "file":
        raise ManifestError(
            f"recording must be a file, got the type {reprlib.repr(source.get('type'))} in {place}. "
            f"Commands are never run and nothing is downloaded: save the audio first."
        )
    if entry.get("transforms"):
        raise ManifestError(
            f"recording must be as its file is, got the transforms {reprlib.repr(entry['transforms'])} in {place}. "
            f"Save the audio first."
        )
    return _Recording(relative_path(text_of(source, "source", place), root, place), _channels_of(source))


def _candidate(
    supervision: Entry, recording: _Recording, place: str, *, cut: tuple[float, float] | None = None
) -> Candidate:
    custom = _object(supervision, "custom", place) if supervision.get("custom") else {}
    known = {key: supervision[key] for key in ("gender", "language") if key in supervision}
    return Candidate(
        utterance=text_of(supervision, "id", place),
        speaker=text_of(supervision, "speaker", place),
        path=recording.path,
        columns=columns_of({**custom, **known}, without=()),
        part=_part(supervision, place, cut),
        place=place,
        channel=_channel(supervision.get("channel", 0), recording.channels, place),
    )


def _channel(chosen: Any, channels: list[Any], place: str) -> int | None:
    """Where in its file the one channel of a supervision is; none for all of them, or the only one."""
    if isinstance(chosen, list) and len(chosen) == 1:
        chosen = chosen[0]
    if chosen == channels or (len(channels) == 1 and chosen in (0, *channels)):
        return None
    if isinstance(chosen, bool) or chosen not in channels:
        raise ManifestError(
            f"channel must be one of {channels}, or all of the recording, got {reprlib.repr(chosen)} in {place}. "
            f"Write a supervision for each channel."
        )
    return channels.index(chosen)


def _part(supervision: Entry, place: str, cut: tuple[float, float] | None) -> Part:
    """A supervision's times count from its cut, which it may stick out of."""
    duration = _required(supervision, "duration", place)
    if cut is None:
        return Part(number_of(supervision, "start", place) or 0.0, duration)
    cut_start, cut_duration = cut
    start = number_of(supervision, "start", place, minimum=-math.inf) or 0.0
    if start < 0 or start + duration > cut_duration:
        end = min(start + duration, cut_duration)
        start = max(start, 0.0)
        duration = end - start
    return Part(cut_start + start, duration)


def _object(entry: Entry, key: str, place: str) -> Entry:
    value = entry.get(key)
    if not isinstance(value, dict):
        raise ManifestError(f"{key} must be a JSON object, got {reprlib.repr(value)} in {place}. Correct the list.")
    return value


def _required(entry: Entry, key: str, place: str) -> float:
    value = number_of(entry, key, place)
    if value is None:
        raise ManifestError(f"{key} must be a number, got none in {place}. Add it to the list.")
    return value


_FIELDS = ("gender", "language")


def write_lhotse(manifest: Manifest, folder: Path) -> None:
    """Write ``recordings.jsonl.gz``, ``supervisions.jsonl.gz`` and ``cuts.jsonl.gz``, which hold the two others.

    A file is a recording, called by its path in the manifest; an utterance is a supervision and a cut. The columns
    gender and language are fields of the supervision, all others are in its ``custom``.

    Args:
        manifest: The utterances.
        folder: New or empty.

    Raises:
        FileExistsError: If the folder holds something.
        ChnsError: If the package ``lhotse`` is missing.
        FileNotFoundError: If a recording is gone.
        AudioError: If one cannot be read.
        ManifestError: If an utterance does not lie in its file.
    """
    try:
        from lhotse import CutSet, RecordingSet, SupervisionSet
    except ImportError as error:
        raise ChnsError("lhotse must be installed, got no such package. Run `pip install 'chns[lhotse]'`.") from error
    require_ours(folder, ())
    utterances = located_utterances(manifest)
    recordings: dict[str, Any] = {}
    for each in utterances:
        if each.recording not in recordings:
            recordings[each.recording] = _lhotse_recording(each)
    with (
        atomic_folder(folder, ours=()) as temporary,
        RecordingSet.open_writer(temporary / "recordings.jsonl.gz") as recordings_file,
        SupervisionSet.open_writer(temporary / "supervisions.jsonl.gz") as supervisions_file,
        CutSet.open_writer(temporary / "cuts.jsonl.gz") as cuts_file,
    ):
        for recording in recordings.values():
            recordings_file.write(recording)
        for each in utterances:
            recording = recordings[each.recording]
            supervisions_file.write(_supervision(each, recording, start=each.offset_seconds))
            cuts_file.write(_cut(each, recording))


def _lhotse_recording(utterance: LocatedUtterance) -> Any:
    from lhotse import AudioSource, Recording

    info = utterance.info
    return Recording(
        id=utterance.recording,
        sources=[AudioSource(type="file", channels=list(range(info.num_channels)), source=str(utterance.path))],
        sampling_rate=info.sample_rate_hz,
        num_samples=info.num_frames,
        duration=info.duration_seconds,
    )


def _supervision(utterance: LocatedUtterance, recording: Any, *, start: float) -> Any:
    from lhotse import SupervisionSegment

    fields = {name: value for name, value in utterance.columns.items() if name in _FIELDS}
    custom = {name: value for name, value in utterance.columns.items() if name not in _FIELDS}
    return SupervisionSegment(
        id=utterance.name,
        recording_id=recording.id,
        start=start,
        duration=utterance.duration_seconds,
        channel=_channels(utterance, recording),
        speaker=utterance.speaker,
        custom=custom or None,
        **fields,
    )


def _cut(utterance: LocatedUtterance, recording: Any) -> Any:
    from lhotse import MonoCut, MultiCut

    kind = MonoCut if isinstance(_channels(utterance, recording), int) else MultiCut
    return kind(
        id=utterance.name,
        start=utterance.offset_seconds,
        duration=utterance.duration_seconds,
        channel=_channels(utterance, recording),
        recording=recording,
        supervisions=[_supervision(utterance, recording, start=0.0)],
    )


def _channels(utterance: LocatedUtterance, recording: Any) -> int | list[int]:
    """A multi-channel file is averaged here, so all its channels belong to the utterance, unless it is one of them."""
    if utterance.channel is not None:
        return utterance.channel
    return 0 if recording.num_channels == 1 else list(range(recording.num_channels))

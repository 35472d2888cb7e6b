"""Which recording goes into which shard, known before anything is written.

A plan depends on the manifest, the sizes of its files and the settings alone, so an interrupted run plans the same
shards again and shards can be written in any order. The rows of the manifest keep their order whatever that of the
recordings is: numbers of utterances, and with them batches, stay those of the files.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from chns.core import ManifestError
from chns.data.corpora.scan import Rejected
from chns.data.manifest import Manifest
from chns.data.storage.packed import PackedRecording, Recording, split_path
from chns.data.storage.remote import HEADER_BYTES, MAX_RECORDING_BYTES, RemoteRecording

ENCODED_RATE_HZ = 16_000


class Encoding(NamedTuple):
    """What recordings are encoded anew as: mono, at `ENCODED_RATE_HZ`, 16 bits.

    Attributes:
        suffix: Of the recordings' new names.
        bytes_per_second: About what a second of speech takes.
    """

    suffix: str
    bytes_per_second: float


ENCODINGS = {"flac": Encoding(".flac", ENCODED_RATE_HZ), "wav": Encoding(".wav", 2 * ENCODED_RATE_HZ)}


class Member(NamedTuple):
    """A recording on its way into a shard.

    Attributes:
        path: What the manifest calls it.
        name: What the shard will call it.
        source: Where it is.
        source_bytes: Its size now.
        source_mtime_ns: When it was last changed; of a packed one, when its shard was.
        channel: The one that is encoded anew; none for all, and where nothing is encoded.
    """

    path: str
    name: str
    source: Path | PackedRecording
    source_bytes: int
    source_mtime_ns: int
    channel: int | None = None


class ShardPlan(NamedTuple):
    """A shard to be written, and what goes into it, in this order."""

    path: Path
    members: list[Member]


class Plan(NamedTuple):
    """All shards, and the recordings that cannot go into any."""

    shards: list[ShardPlan]
    failures: list[Rejected]


def plan_shards(
    manifest: Manifest, out: Path, *, shard_bytes: int, speaker_groups: npt.ArrayLike | None, encoding: Encoding | None
) -> Plan:
    """Divide the recordings of a manifest among shards.

    Args:
        manifest: The utterances; several may lie in one recording, which is packed once.
        out: Folder of the shards.
        shard_bytes: About how large a shard becomes; one recording may exceed it.
        speaker_groups: Cluster of each speaker, shape (speakers,): clusters lie together, and speakers within them. By
            default only speakers do.
        encoding: What recordings are encoded anew as; by default they stay as they are.

    Raises:
        ValueError: If there is not one group a speaker.
        ManifestError: If a folder of a recording has a name like that of a shard, or recordings are in object storage.
    """
    ordered = _rows_in_order(manifest, speaker_groups, by_channel=encoding is not None)
    seconds = _seconds_needed(manifest) if encoding else {}
    plan = Plan([], [])
    owners: dict[str, str] = {}
    room = 0.0
    for (path, channel), row in tqdm(ordered, desc="looking at recordings", unit="recording", disable=None):
        member = _member(path, manifest.recording(row), encoding.suffix if encoding else None)
        if isinstance(member, Rejected):
            plan.failures.append(member)
            continue
        if channel is not None:
            name = PurePosixPath(member.name)
            member = member._replace(name=f"{name.with_suffix('')}-ch{channel}{name.suffix}", channel=channel)
        owner = owners.setdefault(member.name, path)
        if owner != path:
            reason = f"recording must have a name of its own in the shards, {owner} is called {member.name} too"
            plan.failures.append(Rejected(path, reason))
            continue
        num_bytes = float(member.source_bytes)
        if encoding:
            num_bytes = seconds[path] * encoding.bytes_per_second
        if num_bytes > room or not plan.shards:
            plan.shards.append(ShardPlan(out / f"shard-{len(plan.shards):05d}.tar", []))
            room = shard_bytes
        plan.shards[-1].members.append(member)
        room -= num_bytes + 2 * HEADER_BYTES
    return plan


def _rows_in_order(
    manifest: Manifest, speaker_groups: npt.ArrayLike | None, *, by_channel: bool
) -> list[tuple[tuple[str, int | None], int]]:
    """Each recording, or each wanted channel of it, once, with its first row: by group, speaker and name."""
    groups = np.zeros(len(manifest.speakers), np.int64) if speaker_groups is None else np.asarray(speaker_groups)
    if groups.shape != (len(manifest.speakers),):
        raise ValueError(
            f"speaker_groups must be one for each of {len(manifest.speakers)} speakers, got shape {groups.shape}. "
            f"Cluster the same manifest that is packed."
        )
    labels = manifest.speaker_labels
    first_rows: dict[tuple[str, int | None], int] = {}
    channels = manifest.channels if by_channel else [None] * len(manifest)
    for row, source in enumerate(zip(manifest.column("path"), channels, strict=True)):
        first_rows.setdefault(source, row)

    def place(item: tuple[tuple[str, int | None], int]) -> tuple[int, int, str, int]:
        (path, channel), row = item
        return int(groups[labels[row]]), int(labels[row]), path, -1 if channel is None else channel

    return sorted(first_rows.items(), key=place)


def _seconds_needed(manifest: Manifest) -> dict[str, float]:
    """Where the last utterance of each recording ends, which is about how long the recording is."""
    needed: dict[str, float] = {}
    ends = manifest.table["offset_seconds"].to_numpy() + manifest.durations_seconds
    for path, end in zip(manifest.column("path"), ends.tolist(), strict=True):
        needed[path] = max(end, needed.get(path, 0.0))
    return needed


def _member(path: str, source: Recording, suffix: str | None) -> Member | Rejected:
    if isinstance(source, RemoteRecording):
        raise ManifestError(
            f"recordings to be packed must be in files or local shards, got {source}. Copy the shards, or mount the "
            f"storage, and read the manifest from there."
        )
    file = source.shard if isinstance(source, PackedRecording) else source
    try:
        status = file.stat()
    except OSError as error:
        return Rejected(path, f"recording must be a file, got {file} ({error.strerror})")
    num_bytes = source.byte_length if isinstance(source, PackedRecording) else status.st_size
    if not file.is_file() or not 0 < num_bytes <= MAX_RECORDING_BYTES:
        return Rejected(path, f"recording must be a file of 1 byte to 8 GiB, got {num_bytes:,} bytes in {source}")
    name = PurePosixPath(_name_without_shard(path) if isinstance(source, PackedRecording) else path)
    if any(folder.endswith(".tar") for folder in name.parts[:-1]):
        raise ManifestError(
            f"folders of recordings must not be called like a shard, got {path}. Rename those that end in .tar."
        )
    name = name if suffix is None else name.with_suffix(suffix)
    return Member(path, name.as_posix(), source, num_bytes, status.st_mtime_ns)


def _name_without_shard(path: str) -> str:
    shard, member = split_path(path)
    return (PurePosixPath(shard).parent / member).as_posix()

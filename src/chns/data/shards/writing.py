"""Write one shard: a plain tar file, which `tar` and WebDataset read, and an index of what lies where.

The index is a Parquet file beside the shard and is written last. It says what the shard was made from, so a shard that
has one is whole, and it is left alone if the same recordings, unchanged, would go into it again. The bytes of a shard
depend on the recordings and their names alone: times, owners and rights are left out.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import soundfile

from chns.data.audio import audio_info, read_audio
from chns.data.prepare.scan import Rejected
from chns.data.shards.plan import Member, ShardPlan
from chns.data.shards.recording import Recording
from chns.data.shards.tar_header import HEADER_BYTES
from chns.errors import AudioError
from chns.files import atomic_path

_MAX_FLAC_HOURS = 4
_COPY_BYTES = 2**20
_MADE_FROM = ("path", "member", "source_bytes", "source_mtime_ns")
_SETTINGS_KEY, _DIGEST_KEY, _SIZE_KEY = b"chns.settings", b"chns.sha256", b"chns.bytes"

_INDEX = pa.schema(
    {
        "path": pa.string(),
        "member": pa.string(),
        "channel": pa.int32(),
        "byte_offset": pa.int64(),
        "byte_length": pa.int64(),
        "num_frames": pa.int64(),
        "source_bytes": pa.int64(),
        "source_mtime_ns": pa.int64(),
    }
)


class Shard(NamedTuple):
    """A shard that is there.

    Attributes:
        index: Columns ``path`` (that of the source's manifest), ``member``, ``byte_offset``, ``byte_length``, and
            ``num_frames`` of what was encoded anew; one row a recording.
        sha256: Of the whole shard, in hexadecimal digits.
        failures: Recordings that could not be packed.
        is_new: Whether it was written now.
    """

    index: pa.Table
    sha256: str
    failures: list[Rejected]
    is_new: bool


def write_shard(plan: ShardPlan, *, flac_rate_hz: int | None) -> Shard:
    """Write a shard, unless that was done.

    What stops the writing, like a full disk, raises; a recording that cannot be read is listed.

    Args:
        plan: Where the shard goes, and its recordings.
        flac_rate_hz: Rate that recordings get in FLAC; by default they stay as they are.
    """
    done = _already_written(plan, flac_rate_hz)
    if done is not None:
        return done
    failures: list[Rejected] = []
    with atomic_path(plan.path) as temporary:
        with temporary.open("wb") as file:
            rows = list(_added(file, plan.members, flac_rate_hz, failures))
            file.write(bytes(2 * HEADER_BYTES))
        size = temporary.stat().st_size
        with temporary.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    metadata = {_SETTINGS_KEY: str(flac_rate_hz), _DIGEST_KEY: sha256, _SIZE_KEY: str(size)}
    index = pa.Table.from_pylist(rows, schema=_INDEX.with_metadata(metadata))
    with atomic_path(_index_path(plan.path)) as temporary:
        pq.write_table(index, temporary, compression="zstd")
    return Shard(index, sha256, failures, is_new=True)


def _index_path(shard: Path) -> Path:
    return shard.with_suffix(".parquet")


def _already_written(plan: ShardPlan, flac_rate_hz: int | None) -> Shard | None:
    try:
        index = pq.read_table(_index_path(plan.path), partitioning=None, schema=_INDEX)
        metadata = pq.read_schema(_index_path(plan.path)).metadata
        is_whole = plan.path.stat().st_size == int(metadata[_SIZE_KEY])
        same_settings = metadata[_SETTINGS_KEY].decode() == str(flac_rate_hz)
        sha256 = metadata[_DIGEST_KEY].decode()
    except (OSError, pa.ArrowException, KeyError, ValueError):
        return None
    made_from = zip(*(index[name].to_pylist() for name in _MADE_FROM), strict=True)
    wanted = [(member.path, member.name, member.source_bytes, member.source_mtime_ns) for member in plan.members]
    if not is_whole or not same_settings or list(made_from) != wanted:
        return None
    return Shard(index, sha256, [], is_new=False)


def _added(
    file: BinaryIO, members: list[Member], flac_rate_hz: int | None, failures: list[Rejected]
) -> Iterator[dict[str, object]]:
    """Rows of the index."""
    for member in members:
        start = file.tell()
        try:
            offset, length, num_frames = _add(file, member, flac_rate_hz)
        except (AudioError, FileNotFoundError, PermissionError) as error:
            file.seek(start)
            file.truncate()
            failures.append(Rejected(member.path, " ".join(str(error).split())))
            continue
        yield {
            "path": member.path,
            "member": member.name,
            "channel": member.channel,
            "byte_offset": offset,
            "byte_length": length,
            "num_frames": num_frames,
            "source_bytes": member.source_bytes,
            "source_mtime_ns": member.source_mtime_ns,
        }


def _add(file: BinaryIO, member: Member, flac_rate_hz: int | None) -> tuple[int, int, int | None]:
    """Write header and content; gives where the content begins, its length, and the frames of what was encoded."""
    if flac_rate_hz is not None:
        content, num_frames = _as_flac(member.source, flac_rate_hz, member.channel)
        file.write(_header(member.name, len(content)))
        offset = file.tell()
        file.write(content)
        _pad(file)
        return offset, len(content), num_frames
    with member.source.open("rb") as source:
        file.write(_header(member.name, member.source_bytes))
        offset = file.tell()
        for block in _blocks(source, member.source):
            file.write(block)
    copied = file.tell() - offset
    if copied != member.source_bytes:
        raise AudioError(
            f"recording must not change while it is packed, got {copied:,} bytes instead of {member.source_bytes:,} in "
            f"{member.source}. Pack again."
        )
    _pad(file)
    return offset, copied, None


def _blocks(file: BinaryIO, source: Recording) -> Iterator[bytes]:
    """The content; only what goes wrong while reading is the recording's fault."""
    try:
        while block := file.read(_COPY_BYTES):
            yield block
    except OSError as error:
        raise AudioError(f"recording must be readable, got {source} ({error.strerror}).") from error


def _as_flac(source: Recording, sample_rate_hz: int, channel: int | None) -> tuple[bytes, int]:
    if audio_info(source).duration_seconds > _MAX_FLAC_HOURS * 3600:
        raise AudioError(f"recording must last at most {_MAX_FLAC_HOURS} hours to be encoded anew, got {source}.")
    waveform = read_audio(source, sample_rate_hz=sample_rate_hz, channel=channel)
    content = io.BytesIO()
    soundfile.write(content, waveform, sample_rate_hz, subtype="PCM_16", format="FLAC")
    return content.getvalue(), len(waveform)


def _header(name: str, num_bytes: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = num_bytes
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")


def _pad(file: BinaryIO) -> None:
    file.write(bytes(-file.tell() % HEADER_BYTES))

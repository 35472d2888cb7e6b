"""A recording that lies in a shard: part of a tar file, opened without looking at the rest of it.

One read fetches a recording and the tar header before it. The header must name the recording and its length, so that a
shard that was packed anew, cut or mixed up with another cannot pass off one speaker's speech as another's. Reading
costs 0.04 ms a recording from the page cache, as a file does (``benchmarks/shards.py``); a long recording is not
fetched whole: decoders seek in it.
"""

from __future__ import annotations

import io
import os
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PosixPath, PurePosixPath, WindowsPath
from typing import Any, BinaryIO, Literal, NamedTuple

from chns.core import AudioError, ManifestError, quoted
from chns.data.storage.remote import HEADER_BYTES, MAX_RECORDING_BYTES, FilePart, RemoteRecording, is_header_of

_SHARD_END = ".tar/"
_READ_WHOLE_BYTES = 2**20
_BUFFER_BYTES, _WAV_BUFFER_BYTES = 2**16, 2**12

if sys.platform == "win32":
    _FilePath = WindowsPath
else:
    _FilePath = PosixPath


class FileChannel(_FilePath):
    """One channel of a file. Whoever reads it by its path alone hears that channel, never all of them mixed.

    In all else it is the file's path, and equal to it.

    Attributes:
        channel: The channel, from 0; none for what is derived from the path, such as its folder.
    """

    channel: int | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Keep the channel where a path is sent to another process."""
        return file_channel, (os.fspath(self), self.channel)


def file_channel(path: Path | str, channel: int | None) -> Path:
    """The path of a file, or of one channel of it, from 0."""
    if channel is None:
        return path if type(path) is _FilePath else Path(path)
    file = FileChannel(path)
    file.channel = channel
    return file


@dataclass(frozen=True, slots=True)
class PackedRecording:
    """Where a recording lies.

    Attributes:
        shard: The tar file.
        member: Name of the recording in it.
        byte_offset: Where its bytes begin; the tar header lies before.
        byte_length: Number of bytes.
        channel: The one that is heard, from 0; none for the mean of all.
    """

    shard: Path
    member: str
    byte_offset: int
    byte_length: int
    channel: int | None = None

    @property
    def suffix(self) -> str:
        """The end of the name, which tells the format."""
        return PurePosixPath(self.member).suffix

    def __str__(self) -> str:
        """Shard and member, as a manifest writes them."""
        return f"{self.shard}/{self.member}"

    def open(self, mode: Literal["rb"] = "rb") -> BinaryIO:  # noqa: ARG002 - called as a path is
        """The recording as a file to read and seek in, in bounded memory.

        Raises:
            FileNotFoundError: If there is no such shard.
            AudioError: If the shard may not be read, ends before the recording does, or holds something else there.
        """
        if not self.shard.is_file():
            raise FileNotFoundError(f"shard must be a file, got {self.shard} for {self}.")
        try:
            descriptor = os.open(self.shard, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        except PermissionError as error:
            raise AudioError(f"shard must be readable, got {self.shard} for {self} ({error.strerror}).") from error
        try:
            return self._open(descriptor)
        except BaseException:
            os.close(descriptor)
            raise

    def _open(self, descriptor: int) -> BinaryIO:
        size = os.fstat(descriptor).st_size
        end = self.byte_offset + self.byte_length
        if self.byte_offset < HEADER_BYTES or end > size:
            raise AudioError(
                f"recording must lie inside its shard of {size:,} bytes, got bytes {self.byte_offset:,} to {end:,} in "
                f"{self}. The shard is cut off or not that of this manifest: copy both again."
            )
        is_wav = self.suffix == ".wav"  # of that, a crop is few bytes: the header and its own samples
        is_read_whole = self.byte_length <= _READ_WHOLE_BYTES and not is_wav
        wanted = HEADER_BYTES + (self.byte_length if is_read_whole else 0)
        content = _read_from(descriptor, wanted, self.byte_offset - HEADER_BYTES)
        header = content[:HEADER_BYTES]
        if len(content) < wanted or not is_header_of(header, member=self.member, byte_length=self.byte_length):
            raise AudioError(
                f"shard must hold the recording at byte {self.byte_offset:,}, got something else in {self}. "
                f"It is damaged or not the shard of this manifest: copy both again."
            )
        if is_read_whole:
            os.close(descriptor)
            return io.BytesIO(content[HEADER_BYTES:])
        fill = partial(_read_at, descriptor, self.byte_offset)
        part = FilePart(fill, self.byte_length, on_close=partial(os.close, descriptor))
        return io.BufferedReader(part, _WAV_BUFFER_BYTES if is_wav else _BUFFER_BYTES)


def split_path(path: str) -> tuple[str, str]:
    """The shard and the member of ``folder/shard.tar/member``; no folder of a member is called like a shard."""
    shard, _, member = path.rpartition(_SHARD_END)
    return f"{shard}.tar", member


def _read_at(descriptor: int, start: int, buffer: memoryview, position: int) -> int:
    if hasattr(os, "preadv"):
        return os.preadv(descriptor, [buffer], start + position)
    content = _read_from(descriptor, len(buffer), start + position)
    buffer[: len(content)] = content
    return len(content)


def _read_from(descriptor: int, length: int, position: int) -> bytes:
    """As ``os.pread``, which Windows does not have; the descriptor is this recording's own, so it may be moved."""
    if hasattr(os, "pread"):
        return os.pread(descriptor, length, position)
    os.lseek(descriptor, position, os.SEEK_SET)
    return os.read(descriptor, length)


class ShardMember(NamedTuple):
    """What a tar file says of a member.

    Attributes:
        name: As it is written there.
        byte_offset: Where its bytes begin.
        byte_length: Number of bytes.
        problem: Why it cannot be read there as a `PackedRecording`, in words; none if it can.
    """

    name: str
    byte_offset: int
    byte_length: int
    problem: str | None


_MEMBER_HEADERS_BYTES = 2**16


def shard_members(shard: Path) -> Iterator[ShardMember]:
    """Every member of a tar file but folders. Headers are read, contents passed over, and nothing is kept.

    Raises:
        FileNotFoundError: If there is no such file.
        ManifestError: If it is no plain tar file (a compressed one is not: nothing can be read from its middle), is
            damaged or cut off, or has more than 64 KiB of headers before a member.
    """
    if not shard.is_file():
        raise FileNotFoundError(f"shard must be a file, got {shard}.")
    with shard.open("rb") as file:
        headers = _Headers(file, shard)
        size = os.fstat(file.fileno()).st_size
        try:
            members = tarfile.TarFile(fileobj=headers)  # type: ignore[arg-type]
            while (info := members.next()) is not None:
                members.members.clear()  # type: ignore[attr-defined]  # it would remember all of them
                end = info.offset_data + info.size
                if info.size < 0 or end > size:
                    raise ManifestError(
                        f"shard must hold its members whole, got {info.size:,} bytes at byte {info.offset_data:,} of "
                        f"{size:,} for {quoted(info.name)} in {shard}. It is cut off or damaged: copy it again."
                    )
                if not info.isdir():
                    problem = _problem_with(info, headers.last)
                    yield ShardMember(info.name, info.offset_data, info.size, problem)
                headers.left = _MEMBER_HEADERS_BYTES
            file.seek(members.offset)
            block = file.read(HEADER_BYTES)
        except (tarfile.TarError, ValueError, OverflowError, LookupError, RecursionError) as error:
            raise ManifestError(
                f"shard must be a tar file that is not compressed, got another or a damaged one: {shard} "
                f"({error}). Unpack it with gunzip if it is compressed, else copy it again."
            ) from error
        if len(block) < HEADER_BYTES or any(block):
            raise ManifestError(
                f"shard must end with an empty block, got {'no header' if block else 'the end'} at byte "
                f"{members.offset:,} in {shard}. It is cut off or damaged: copy it again."
            )


class _Headers:
    """The file that ``tarfile`` reads headers from: it would follow an endless one, whatever memory that takes."""

    def __init__(self, file: BinaryIO, shard: Path) -> None:
        self._file, self._shard = file, shard
        self.left = _MEMBER_HEADERS_BYTES
        self.last = b""
        self.seek, self.tell = file.seek, file.tell

    def read(self, num_bytes: int) -> bytes:
        if not 0 <= num_bytes <= self.left:
            raise ManifestError(
                f"headers of a member must have at most {_MEMBER_HEADERS_BYTES:,} bytes, got more before byte "
                f"{self._file.tell():,} in {self._shard}. It is damaged, or no shard: copy or pack it again."
            )
        self.left -= num_bytes
        self.last = self._file.read(num_bytes)
        return self.last


def _problem_with(info: tarfile.TarInfo, header: bytes) -> str | None:
    if not info.isreg() or info.sparse is not None:
        other = f"a link to {quoted(info.linkname)}" if info.linkname else "a device"
        return f"member must be a plain file, got {'a sparse one' if info.isreg() else other}"
    if info.name.startswith("/") or _SHARD_END in info.name:
        return "member must be named by a path from the shard, without a folder that is called like one"
    if info.size > MAX_RECORDING_BYTES:
        return f"member must have at most 8 GiB, got {info.size:,} bytes"
    if not is_header_of(header, member=info.name, byte_length=info.size):
        return "member must have its name and length in the header right before it, got others"
    return None


Recording = Path | PackedRecording | RemoteRecording
"""A recording that is a file, or lies in a shard here or in object storage."""

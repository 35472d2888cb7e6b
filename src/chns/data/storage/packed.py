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
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PosixPath, PurePosixPath, WindowsPath
from typing import Any, BinaryIO, Literal

from chns.core import AudioError
from chns.data.storage.remote import HEADER_BYTES, FilePart, RemoteRecording, is_header_of

_SHARD_END = ".tar/"
_READ_WHOLE_BYTES = 2**20
_BUFFER_BYTES = 2**16

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
        return Path(path)
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
        is_read_whole = self.byte_length <= _READ_WHOLE_BYTES
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
        return io.BufferedReader(
            FilePart(fill, self.byte_length, on_close=partial(os.close, descriptor)), _BUFFER_BYTES
        )


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


Recording = Path | PackedRecording | RemoteRecording
"""A recording that is a file, or lies in a shard here or in object storage."""

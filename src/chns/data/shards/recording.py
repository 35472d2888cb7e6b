"""A recording that lies in a shard: part of a tar file, opened without looking at the rest of it.

One read fetches a recording and the tar header before it. The header must name the recording and its length, so that a
shard that was packed anew, cut or mixed up with another cannot pass off one speaker's speech as another's. Reading
costs 0.04 ms a recording from the page cache, as a file does (``benchmarks/shards.py``); a long recording is not
fetched whole: decoders seek in it.
"""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Literal

from chns.errors import AudioError

HEADER_BYTES = 512
"""Of tar."""

_SHARD_END = ".tar/"
_READ_WHOLE_BYTES = 2**20
_BUFFER_BYTES = 2**16


@dataclass(frozen=True, slots=True)
class PackedRecording:
    """Where a recording lies.

    Attributes:
        shard: The tar file.
        member: Name of the recording in it.
        byte_offset: Where its bytes begin; the tar header lies before.
        byte_length: Number of bytes.
    """

    shard: Path
    member: str
    byte_offset: int
    byte_length: int

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
            descriptor = os.open(self.shard, os.O_RDONLY)
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
        content = os.pread(descriptor, wanted, self.byte_offset - HEADER_BYTES)
        if len(content) < wanted or not self._is_named_in(content[:HEADER_BYTES]):
            raise AudioError(
                f"shard must hold the recording at byte {self.byte_offset:,}, got something else in {self}. "
                f"It is damaged or not the shard of this manifest: copy both again."
            )
        if is_read_whole:
            os.close(descriptor)
            return io.BytesIO(content[HEADER_BYTES:])
        return io.BufferedReader(_Part(descriptor, self.byte_offset, self.byte_length), _BUFFER_BYTES)

    def _is_named_in(self, header: bytes) -> bool:
        return header[:100].rstrip(b"\0") == name_field(self.member) and header[124:136] == size_field(self.byte_length)


def split_path(path: str) -> tuple[str, str]:
    """The shard and the member of ``folder/shard.tar/member``; no folder of a member is called like a shard."""
    shard, _, member = path.rpartition(_SHARD_END)
    return f"{shard}.tar", member


def name_field(member: str) -> bytes:
    """What tar's header has for a name: the whole name, if it is longer or not ASCII, is in an extended header."""
    return member.encode("ascii", "replace")[:100]


def size_field(num_bytes: int) -> bytes:
    """What tar's header has for a size."""
    return b"%011o\0" % num_bytes


class _Part(io.RawIOBase):
    """Part of an open file, as a file; closes it."""

    def __init__(self, descriptor: int, start: int, length: int) -> None:
        self._descriptor, self._start, self._length = descriptor, start, length
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._length}[whence]
        self._position = max(0, origin + offset)
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        wanted = max(0, min(len(buffer), self._length - self._position))
        got = os.preadv(self._descriptor, [memoryview(buffer)[:wanted]], self._start + self._position)
        self._position += got
        return got

    def close(self) -> None:
        if not self.closed:
            os.close(self._descriptor)
        super().close()


Recording = Path | PackedRecording
"""A recording that is a file, or lies in a shard."""

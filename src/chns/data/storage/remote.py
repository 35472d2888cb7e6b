"""Recordings in packed shards below a URL.

A manifest may come from a stranger, so only a user names such a root: none is read from a file, and a manifest's paths
are appended to it as names, whatever they look like.

Most recordings cost one request, which brings the tar header too; as in a local shard, the header must name the
recording. A request takes tens of milliseconds whatever it brings, so a recording is fetched whole up to 4 MiB (two
minutes of speech in 16 bits). Of longer ones the decoder fetches blocks, as it seeks.
"""

from __future__ import annotations

import io
import os
import re
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import PurePosixPath
from typing import BinaryIO, Literal, TypeGuard
from urllib.parse import quote, urlsplit

from chns.core import AudioError, ChnsError
from chns.data.storage.ranges import Patience, driver_range, http_range


class FilePart(io.RawIOBase):
    """A file that lies inside another one.

    Args:
        fill: Reads into a buffer from a position inside the part; gives how much it has read, 0 at the end.
        length: Number of bytes.
        on_close: Called once, when nothing will be read any more.
    """

    def __init__(self, fill: Callable[[memoryview, int], int], length: int, *, on_close: Callable[[], None]) -> None:
        self._fill, self._length, self._on_close = fill, length, on_close
        self._position = 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move; gives the new position, which is at least 0."""
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._length}[whence]
        self._position = max(0, origin + offset)
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Read up to the length of the buffer, never beyond the part; gives how much."""
        wanted = max(0, min(len(buffer), self._length - self._position))
        got = self._fill(memoryview(buffer)[:wanted], self._position)
        self._position += got
        return got

    def close(self) -> None:
        """Close, once."""
        if not self.closed:
            super().close()
            self._on_close()


def with_header(content: BinaryIO, header: bytes) -> BinaryIO:
    """A file with another header of the same length."""
    length = content.seek(0, os.SEEK_END)

    def fill(buffer: memoryview, position: int) -> int:
        if position < len(header):
            got = min(len(buffer), len(header) - position)
            buffer[:got] = header[position : position + got]
            return got
        content.seek(position)
        return content.readinto(buffer)  # type: ignore[attr-defined,no-any-return]

    return io.BufferedReader(FilePart(fill, length, on_close=lambda: None))


HEADER_BYTES = 512

MAX_RECORDING_BYTES = 2**33 - 1
"""The most that tar's plain header can say."""


def is_header_of(header: bytes, *, member: str, byte_length: int) -> bool:
    """Whether a header is a plain file's and names a recording and its length.

    Of a name of more than 100 bytes the beginning counts: the rest may be in an extended header before this one.

    Args:
        header: The bytes before the recording.
        member: Name of the recording in its shard.
        byte_length: Number of its bytes.
    """
    if header[:100].rstrip(b"\0") == name_field(member) and header[124:136] == size_field(byte_length):
        return True
    try:  # as others than Python's tarfile write it: a name in UTF-8 or with its folders apart, a size with a space
        read = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    named, whole = (name.encode("utf-8", "surrogateescape") for name in (read.name, member))
    return read.isreg() and read.size == byte_length and named in (whole, whole[:100])


def name_field(member: str) -> bytes:
    """What the header has for a name: the whole name, if it is longer or not ASCII, is in an extended header."""
    return member.encode("ascii", "replace")[:100]


def size_field(num_bytes: int) -> bytes:
    """What the header has for a size."""
    return b"%011o\0" % num_bytes


_URL = re.compile(r"([a-z][a-z0-9+.-]*)://[^\s?#]+")
_WEB = ("http", "https")


@dataclass(frozen=True)
class RemoteRoot:
    """A folder in object storage or on a web server.

    Attributes:
        url: ``https://``, ``http://``, or what fsspec has a driver for: ``s3://``, ``gs://``, ...
        patience: How long to wait for a web server; drivers have limits of their own.

    Raises:
        ValueError: If the URL is not of that form, holds a query or credentials, or nothing reads its scheme.
        ChnsError: If the package that reads it is not installed.
    """

    url: str
    patience: Patience = field(default_factory=Patience)

    def __post_init__(self) -> None:
        _require_url(self.url)
        _require_package(self._scheme)
        object.__setattr__(self, "url", self.url.rstrip("/"))

    def __str__(self) -> str:
        """The URL."""
        return self.url

    @property
    def _scheme(self) -> str:
        return self.url.partition("://")[0]

    def fetch(self, shard: str, start: int, length: int, *, place: str) -> bytes:
        """Part of a shard.

        Args:
            shard: Its path below the root.
            start: First byte.
            length: Number of bytes, at least 1.
            place: What to call it in an error.

        Returns:
            Exactly the bytes asked for.

        Raises:
            FileNotFoundError: If there is no such shard.
            AudioError: If it cannot be read, or something else than these bytes came.
        """
        if self._scheme in _WEB:
            return http_range(f"{self.url}/{quote(shard)}", start, length, place=place, patience=self.patience)
        return driver_range(self.url, shard, start, length, place=place)


def is_url(root: object) -> TypeGuard[str]:
    """Whether a root that a user gives is a URL, not a folder."""
    return isinstance(root, str) and "://" in root


def _require_url(url: str) -> None:
    try:
        match, parts = _URL.fullmatch(url), urlsplit(url)
        is_whole = match is not None and (parts.scheme not in _WEB or parts.hostname is not None)
        _ = parts.port
    except ValueError:
        is_whole = False
    if not is_whole:
        raise ValueError(
            f"root URL must read like https://bucket.example/corpus or s3://bucket/corpus, without ? or #, got {url!r}."
        )
    if parts.password is not None or (parts.scheme in _WEB and parts.username is not None):
        raise ValueError(
            f"root URL must hold no credentials, for it is written into settings and messages, got some for "
            f"{parts.hostname}. Give them to the driver instead (for s3:// and gs://, its environment variables)."
        )


def _require_package(scheme: str) -> None:
    package = "urllib3" if scheme in _WEB else "fsspec"
    if find_spec(package) is None:
        raise ChnsError(
            f"shards below {scheme}:// need the package {package}, got none. Install it with `pip install "
            f"'chns[remote]'`."
        )
    if scheme not in _WEB:
        _require_driver(scheme)


def _require_driver(scheme: str) -> None:
    from fsspec import get_filesystem_class

    try:
        get_filesystem_class(scheme)
    except ImportError as error:
        raise ChnsError(
            f"shards below {scheme}:// need fsspec's driver for it, got none ({error}). Install that with pip."
        ) from error
    except ValueError as error:
        raise ValueError(
            f"root URL must be http(s):// or one that fsspec has a driver for, like s3:// or gs://, got {scheme}://."
        ) from error


_READ_WHOLE_BYTES = 2**22
_BLOCK_BYTES = 2**18


@dataclass(frozen=True, slots=True)
class RemoteRecording:
    """Where a recording lies.

    Attributes:
        root: The URL.
        shard: Path of the tar file below it.
        member: Name of the recording in it.
        byte_offset: Where its bytes begin; the tar header lies before.
        byte_length: Number of bytes.
        utterance: Whose recording it is, for messages.
        channel: The one that is heard, from 0; none for the mean of all.
    """

    root: RemoteRoot
    shard: str
    member: str
    byte_offset: int
    byte_length: int
    utterance: str
    channel: int | None = None

    @property
    def suffix(self) -> str:
        """The end of the name, which tells the format."""
        return PurePosixPath(self.member).suffix

    def __str__(self) -> str:
        """URL of the shard, member and utterance."""
        return f"{self.root}/{self.shard}/{self.member} (utterance {self.utterance})"

    def open(self, mode: Literal["rb"] = "rb") -> BinaryIO:  # noqa: ARG002 - called as a path is
        """The recording as a file to read and seek in, in bounded memory.

        What goes wrong later, while a decoder reads a long recording, is raised when the file is closed.

        Raises:
            FileNotFoundError: If there is no such shard.
            AudioError: If the shard cannot be read, ends before the recording does, or holds something else there.
        """
        if self.byte_offset < HEADER_BYTES or not 0 < self.byte_length <= MAX_RECORDING_BYTES:
            raise AudioError(
                f"recording must lie behind a tar header and have 1 byte to 8 GiB, got {self.byte_length:,} bytes at "
                f"{self.byte_offset:,} in {self}. The manifest is damaged: upload or copy it again."
            )
        is_read_whole = self.byte_length <= _READ_WHOLE_BYTES
        content = self.fetch(-HEADER_BYTES, HEADER_BYTES + (self.byte_length if is_read_whole else 0))
        if not is_header_of(content[:HEADER_BYTES], member=self.member, byte_length=self.byte_length):
            raise AudioError(
                f"shard must hold the recording at byte {self.byte_offset:,}, got something else in {self}. "
                f"It is damaged or not the shard of this manifest: upload both again."
            )
        if is_read_whole:
            return io.BytesIO(content[HEADER_BYTES:])
        blocks = _Blocks(self)
        return io.BufferedReader(FilePart(blocks.fill, self.byte_length, on_close=blocks.finish), _BLOCK_BYTES)

    def fetch(self, position: int, length: int) -> bytes:
        """Bytes from a position that is counted from the recording's first byte.

        Raises:
            FileNotFoundError: If there is no such shard.
            AudioError: If it cannot be read, or something else than these bytes came.
        """
        return self.root.fetch(self.shard, self.byte_offset + position, length, place=str(self))


class _Blocks:
    """Fetches what a decoder asks for.

    An error cannot pass through a decoder written in C: it would print it, take the recording for ended and give less
    speech. So the error is kept and raised by ``finish``.
    """

    def __init__(self, recording: RemoteRecording) -> None:
        self._recording = recording
        self._error: AudioError | FileNotFoundError | None = None

    def fill(self, buffer: memoryview, position: int) -> int:
        """Read into the buffer; nothing at the end, and after an error."""
        wanted = min(len(buffer), _BLOCK_BYTES)
        if self._error is not None or not wanted:
            return 0
        try:
            buffer[:wanted] = self._recording.fetch(position, wanted)
        except (AudioError, FileNotFoundError) as error:
            self._error = error
            return 0
        return wanted

    def finish(self) -> None:
        """Raise what went wrong, if something did."""
        if self._error is not None:
            raise self._error

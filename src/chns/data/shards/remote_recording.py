"""A recording in a shard in object storage, fetched by range requests.

Most recordings cost one request, which brings the tar header too; as in a local shard, the header must name the
recording. A request takes tens of milliseconds whatever it brings, so a recording is fetched whole up to 4 MiB (two
minutes of speech in 16 bits). Of longer ones the decoder fetches blocks, as it seeks.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import BinaryIO, Literal

from chns.data.shards.part import Part
from chns.data.shards.remote_root import RemoteRoot
from chns.data.shards.tar_header import HEADER_BYTES, MAX_RECORDING_BYTES, is_header_of
from chns.errors import AudioError

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
    """

    root: RemoteRoot
    shard: str
    member: str
    byte_offset: int
    byte_length: int
    utterance: str

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
        return io.BufferedReader(Part(blocks.fill, self.byte_length, on_close=blocks.finish), _BLOCK_BYTES)

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

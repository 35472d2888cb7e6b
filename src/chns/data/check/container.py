"""Bytes that a file's container promises and does not have.

libsndfile shortens a cut WAV to what is there and says nothing, and takes the last page of a cut Ogg for its end, so
neither shows in a header that has been read. Both are told here from a few bytes of the file. Cut FLAC and AAC need no
help, for their decoders stumble, and a cut MP3 decodes to less than its header promises.
"""

from __future__ import annotations

import os
import struct
from typing import BinaryIO

from chns.data.shards.recording import Recording

_STREAMED_FROM = 0x7FFF0000
"""Writers that cannot go back, such as pipes, put a data size from here on, or 0, into a WAV header."""

_MOST_CHUNKS = 1_000
_OGG_TAIL_BYTES = 2**17  # a page has at most 65,307
_OGG_LAST_PAGE = 4
_OGG_MAGIC = b"OggS"
_CUT_SECONDS = 0.1


def why_cut(path: Recording) -> str | None:
    """What is missing at the end of a WAV or Ogg file, in words; none if nothing is, or for another format."""
    with path.open("rb") as file:
        magic = file.read(12)
        if magic[:4] == b"RIFF" and magic[8:] == b"WAVE":
            return _why_wav_is_cut(file)
        if magic[:4] == _OGG_MAGIC:
            return _why_ogg_is_cut(file)
    return None


def _why_wav_is_cut(file: BinaryIO) -> str | None:
    begin = file.tell()
    size = file.seek(0, os.SEEK_END)
    file.seek(begin)
    bytes_per_second = 0
    for _ in range(_MOST_CHUNKS):
        head = file.read(8)
        if len(head) < 8:
            return None
        kind, length = struct.unpack("<4sI", head)
        if kind == b"data":
            missing = length - (size - file.tell())
            is_streamed = length == 0 or length >= _STREAMED_FROM
            if is_streamed or not bytes_per_second or missing < _CUT_SECONDS * bytes_per_second:
                return None
            return f"WAV header promises {length / bytes_per_second:.2f} s, {missing / bytes_per_second:.2f} s missing"
        end = file.tell() + length + length % 2
        if kind == b"fmt ":
            content = file.read(12)
            bytes_per_second = int.from_bytes(content[8:12], "little")
        file.seek(end)
    return None


def _why_ogg_is_cut(file: BinaryIO) -> str | None:
    """The last page of a stream is marked as such."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _OGG_TAIL_BYTES))
    tail = file.read()
    start = tail.rfind(_OGG_MAGIC)
    if start < 0 or start + 5 >= len(tail):
        return "Ogg stream ends within a page"
    return None if tail[start + 5] & _OGG_LAST_PAGE else "Ogg stream has no last page"

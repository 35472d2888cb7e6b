"""The tar header before a recording: what it must say of it, and how much it can."""

from __future__ import annotations

HEADER_BYTES = 512

MAX_RECORDING_BYTES = 2**33 - 1
"""The most that tar's plain header can say."""


def is_header_of(header: bytes, *, member: str, byte_length: int) -> bool:
    """Whether a header names a recording and its length.

    Args:
        header: The bytes before the recording.
        member: Name of the recording in its shard.
        byte_length: Number of its bytes.
    """
    return header[:100].rstrip(b"\0") == name_field(member) and header[124:136] == size_field(byte_length)


def name_field(member: str) -> bytes:
    """What the header has for a name: the whole name, if it is longer or not ASCII, is in an extended header."""
    return member.encode("ascii", "replace")[:100]


def size_field(num_bytes: int) -> bytes:
    """What the header has for a size."""
    return b"%011o\0" % num_bytes

"""How long a FLAC is, by its last frame (RFC 9639): its header may leave that open, or be wrong."""

from __future__ import annotations

import os
from typing import BinaryIO, NamedTuple

FLAC_START = b"fLaC"
_INFO_BYTES = 26  # up to the number of samples
_TAIL_BYTES = 2**17
_MOST_TRIES = 8  # one in a hundred thousand bytes looks like the beginning of a frame
_CRC_8, _CRC_16 = (0x07, 8), (0x8005, 16)


class FlacInfo(NamedTuple):
    """What the header of a FLAC says.

    Attributes:
        end: Where in the file its length is told, as the last of eight bytes.
        frame_samples: Samples of each channel in a frame, where all frames but the last have as many.
        num_frames: Samples of each channel in all; 0 if it is left open.
        sample_rate_hz: Their rate.
    """

    end: int
    frame_samples: int
    num_frames: int
    sample_rate_hz: int


def flac_info(file: BinaryIO) -> FlacInfo | None:
    """What the header says; none if it is no FLAC."""
    file.seek(0)
    head = file.read(10)
    start = 10 + id3_bytes(head) if head[:3] == b"ID3" else 0
    file.seek(start)
    content = file.read(_INFO_BYTES)
    if content[:4] != FLAC_START or len(content) < _INFO_BYTES:
        return None
    bits = int.from_bytes(content[18:], "big")  # 20 of the rate, 3 of channels, 5 of bits, 36 of samples
    frame_samples = int.from_bytes(content[10:12], "big")
    return FlacInfo(start + _INFO_BYTES, frame_samples, bits & (2**36 - 1), bits >> 44)


def id3_bytes(head: bytes) -> int:
    """Length of an ID3 tag, of its first ten bytes, without these."""
    lengths = head[6:10].ljust(4, b"\0")
    return sum((byte & 0x7F) << shift for byte, shift in zip(lengths, (21, 14, 7, 0), strict=True))


def flac_with_length(file: BinaryIO) -> bytes | None:
    """A FLAC up to the number of its samples, with that number, if its writer could not go back to tell it."""
    info = flac_info(file)
    if info is None or info.num_frames:
        return None
    num_frames = flac_end(file, info)
    if num_frames is None or num_frames >= 2**36:
        return None
    file.seek(0)
    header = file.read(info.end)
    return header[:-8] + (int.from_bytes(header[-8:], "big") + num_frames).to_bytes(8, "big")


def flac_end(file: BinaryIO, info: FlacInfo) -> int | None:
    """Samples up to the end of the last frame, as its header counts them; none where no frame ends the file."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(info.end, size - _TAIL_BYTES))
    tail = file.read()
    if tail[-128:-125] == b"TAG":
        tail = tail[:-128]
    at, tries = len(tail), 0
    while (at := tail.rfind(b"\xff", 0, at)) >= 0 and tries < _MOST_TRIES:
        end = _frame_end(tail[at : at + 16], info.frame_samples)
        if end is not None:
            if 0 < end <= info.num_frames or not _crc(tail[at:], *_CRC_16):
                return end
            tries += 1
    return None


def _frame_end(head: bytes, frame_samples: int) -> int | None:
    """Samples of a FLAC up to the end of the frame that begins so; none if it is no header of a frame (RFC 9639)."""
    if len(head) < 6 or head[1] & 0xFE != 0xF8 or not head[2] >> 4 or head[2] & 0x0F == 0x0F:
        return None
    ones = 8 - (head[4] ^ 0xFF).bit_length()  # of how many bytes the number is, as in UTF-8
    if ones == 1 or ones > 7:
        return None
    number, at = head[4] & (0x7F >> ones), 4 + max(1, ones)
    for byte in head[5:at]:
        number = number << 6 | byte & 0x3F
    code = head[2] >> 4
    size_bytes = {6: 1, 7: 2}.get(code, 0)
    if size_bytes:
        samples = 1 + int.from_bytes(head[at : at + size_bytes], "big")
    else:
        samples = 192 if code == 1 else 576 << code - 2 if code < 6 else 256 << code - 8
    at += size_bytes + {12: 1, 13: 2, 14: 2}.get(head[2] & 0x0F, 0)
    if _crc(head[: at + 1], *_CRC_8):
        return None
    return (number if head[1] & 1 else number * frame_samples) + samples


def _crc(content: bytes, polynomial: int, bits: int) -> int:
    """Remainder of a cyclic redundancy check; 0 over content that ends with its own."""
    top, rest = 1 << bits - 1, 0
    for byte in content:
        rest ^= byte << bits - 8
        for _ in range(8):
            rest = (rest << 1 ^ polynomial if rest & top else rest << 1) & 2 * top - 1
    return rest

"""What a file's container says of its length, held against the bytes that are there.

libsndfile believes what it finds first: it shortens a cut WAV to what is there and says nothing, takes the last page of
a cut Ogg for its end, stops behind the first part of joined WAV, FLAC and Ogg files and where a header of WAV, AIFF,
AU, CAF or FLAC says so, and guesses the length of an MP3 without a Xing, Info or VBRI header from its first frame. All
of this is told here from the frames, pages and chunks, without decoding.
"""

from __future__ import annotations

import io
import os
import struct
from typing import BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from chns.data.flac_frames import FLAC_START, flac_end, flac_info, flac_with_length, id3_bytes
from chns.data.storage.packed import Recording

_STREAMED_FROM = 0x7FFF0000
"""Writers that cannot go back, such as pipes, put a data size from here on, or 0, into a WAV header."""

_MOST_CHUNKS = 1_000
_WAV_HEAD_BYTES = 2**12
_OGG_TAIL_BYTES = 2**17  # a page has at most 65,307
_OGG_FIRST_PAGE, _OGG_LAST_PAGE = 2, 4
_OGG_MAGIC = b"OggS"
_OGG_HEADER_BYTES = 27
_FLAC_STREAM_INFO = (b"\x00\x00\x00\x22", b"\x80\x00\x00\x22")
_BLOCK_BYTES = 2**20
_CUT_SECONDS = 0.1


class _Layout(NamedTuple):
    """How a container is made of chunks: where the first begins, its name and length, and which one has the samples."""

    first: int
    head: str
    samples: bytes
    is_even: bool = True


_RIFF = _Layout(12, "<4sI", b"data")
_LAYOUTS = {
    b"RIFF": _RIFF,
    b"RF64": _RIFF,
    b"RIFX": _Layout(12, ">4sI", b"data"),
    b"FORM": _Layout(12, ">4sI", b"SSND"),
    b"caff": _Layout(8, ">4sq", b"data", is_even=False),
}


class Claim(NamedTuple):
    """What a container says, beside what libsndfile makes of it.

    Attributes:
        surplus: Why libsndfile gives less audio than there is, or none of it, in words; none if it gives all.
        mp3_frames: Samples a channel in the frames of an MP3, the encoder's delay and filling included; none for
            another format.
    """

    surplus: str | None = None
    mp3_frames: int | None = None


def why_cut(path: Recording) -> str | None:
    """What is missing at the end of a WAV, Ogg or MP3 file, in words; none if nothing is, or for another format."""
    with path.open("rb") as file:
        magic = file.read(12)
        if magic[:4] == b"RIFF" and magic[8:] == b"WAVE":
            return _why_wav_is_cut(file)
        if magic[:4] == _OGG_MAGIC:
            return _why_ogg_is_cut(file)
        if path.suffix.lower() == ".mp3" or magic[:3] == b"ID3":
            return _why_mp3_is_cut(file)
    return None


def claim_of(path: Recording, *, container: str, seconds: float) -> Claim:
    """Look through the container for audio that libsndfile does not reach.

    Args:
        path: A recording.
        container: What libsndfile calls the format, such as ``WAV``, ``OGG``, ``FLAC``, ``MP3``; of some nothing is
            known.
        seconds: How long it takes the recording to be.
    """
    with path.open("rb") as file:
        if container == "OGG":
            return Claim(_ogg_surplus(file))
        if container == "FLAC":
            return Claim(_flac_surplus(file, seconds))
        if container == "MP3":
            walked = _walk_mp3(file)
            hole = walked.hole_bytes
            damaged = (
                f"{hole:,} bytes between its frames are none, where decoding stops" if hole > _MP3_PASSED else None
            )
            return Claim(damaged, walked.num_frames)
        if container == "AU":
            return Claim(_au_surplus(file, seconds))
        return Claim(_chunk_surplus(file, seconds))


def with_length(path: Recording) -> bytes | None:
    """The first bytes of a WAV or FLAC whose header leaves open how long it is, with the length in them.

    Returns:
        None for another file, and where there are no samples.
    """
    with path.open("rb") as file:
        return _with_data_size(file) or flac_with_length(file)


def _with_data_size(file: BinaryIO) -> bytes | None:
    """A WAV up to its samples."""
    magic = file.read(12)
    layout = _LAYOUTS.get(magic[:4])
    if layout is None or magic[8:] != b"WAVE":
        return None
    size = _size_of(file)
    found = _data_chunk(file, layout)
    if found is None or found.length or found.start >= size or found.start > _BLOCK_BYTES:
        return None
    file.seek(0)
    header = file.read(found.start)
    length = min(size - found.start, 2**32 - 2**16)
    return header[:-4] + struct.pack(f"{layout.head[0]}I", length)


class _DataChunk(NamedTuple):
    start: int
    length: int
    bytes_per_second: int
    kind: bytes = b""


class PlainWav(NamedTuple):
    """A WAV of 16 bits whose samples are all there: read without libsndfile, which takes three times as long.

    Attributes:
        file: It.
        start: Where in it the samples begin.
        num_frames: Samples of each channel.
        sample_rate_hz: Their rate.
        num_channels: How many.
    """

    file: BinaryIO
    start: int
    num_frames: int
    sample_rate_hz: int
    num_channels: int

    def read(self, start: int, wanted: int) -> npt.NDArray[np.float32]:
        """Samples from ``start`` on, as libsndfile gives them; shape (samples, channels), in [-1, 1)."""
        samples = np.empty((wanted, self.num_channels), "<i2")
        self.file.seek(self.start + start * 2 * self.num_channels)
        got = self.file.readinto(samples) // (2 * self.num_channels)  # type: ignore[attr-defined]
        return np.multiply(samples[:got], np.float32(2**-15), dtype=np.float32)


def plain_wav(file: BinaryIO) -> PlainWav | None:
    """The WAV in a file, if it is a plain one."""
    head = file.read(_WAV_HEAD_BYTES)
    if head[:4] != b"RIFF" or head[8:12] != b"WAVE":
        return None
    size = file.seek(0, os.SEEK_END)
    in_memory = io.BytesIO(head)
    in_memory.seek(12)
    data = _data_chunk(in_memory)
    if data is None:  # other chunks come first
        file.seek(12)
        data = _data_chunk(file)
    if data is None or len(data.kind) < 16 or not 0 < data.length < min(_STREAMED_FROM, size - data.start + 1):
        return None
    codec, channels, rate_hz, _, frame_bytes, bits = struct.unpack("<HHIIHH", data.kind)
    if (codec, bits, frame_bytes) != (1, 16, 2 * channels) or not channels or not 0 < rate_hz < 2**31:
        return None
    return PlainWav(file, data.start, data.length // frame_bytes, rate_hz, channels)


def _size_of(file: BinaryIO) -> int:
    begin = file.tell()
    size = file.seek(0, os.SEEK_END)
    file.seek(begin)
    return size


def _data_chunk(file: BinaryIO, layout: _Layout = _RIFF) -> _DataChunk | None:
    """The samples of a file that is read up to its first chunk; of those of RF64 another chunk tells the length."""
    format_, long_length = b"", None
    for _ in range(_MOST_CHUNKS):
        head = file.read(struct.calcsize(layout.head))
        if len(head) < struct.calcsize(layout.head):
            return None
        kind, length = struct.unpack(layout.head, head)
        if kind == layout.samples:
            is_long = long_length is not None and length == 0xFFFFFFFF
            bytes_per_second = int.from_bytes(format_[8:12], "little")
            return _DataChunk(file.tell(), long_length if is_long else length, bytes_per_second, format_)  # type: ignore[arg-type]
        if length < 0:
            return None
        end = file.tell() + length + (length % 2 if layout.is_even else 0)
        content = file.read(min(length, 16))
        if kind == b"fmt ":
            format_ = content
        elif kind == b"ds64":
            long_length = int.from_bytes(content[8:16], "little")
        file.seek(end)
    return None


def _why_wav_is_cut(file: BinaryIO) -> str | None:
    size = _size_of(file)
    data = _data_chunk(file)
    if data is None or not data.bytes_per_second or data.length == 0 or data.length >= _STREAMED_FROM:
        return None
    missing = data.length - (size - data.start)
    if missing < _CUT_SECONDS * data.bytes_per_second:
        return None
    promised, lacking = data.length / data.bytes_per_second, missing / data.bytes_per_second
    return f"WAV header promises {promised:.2f} s, {lacking:.2f} s missing"


def _chunk_surplus(file: BinaryIO, seconds: float) -> str | None:
    """What lies behind the samples must be chunks, and none of them a second set of samples."""
    size = _size_of(file)
    layout = _LAYOUTS.get(file.read(4))
    if layout is None:
        return None
    file.seek(layout.first)
    data = _data_chunk(file, layout)
    if data is None or data.length <= 0 or data.length >= _STREAMED_FROM:
        return None
    bytes_per_second = data.length / seconds
    position, head_bytes = data.start + data.length, struct.calcsize(layout.head)
    for _ in range(_MOST_CHUNKS):
        position += position % 2 if layout.is_even else 0
        rest = size - position
        if rest < _CUT_SECONDS * bytes_per_second:
            return None
        file.seek(position)
        kind, length = struct.unpack(layout.head, file.read(head_bytes).ljust(head_bytes, b"\0"))
        is_chunk = kind.isascii() and kind.decode("ascii").isprintable() and 0 <= length <= rest
        if kind in (layout.samples, *_LAYOUTS) or not is_chunk:
            if not is_chunk and not any(file.read(_BLOCK_BYTES)) and not any(kind):
                return None  # filled up with zeros
            return _told(seconds, rest / bytes_per_second)
        position += head_bytes + length
    return None


def _au_surplus(file: BinaryIO, seconds: float) -> str | None:
    """Nothing may lie behind the samples but zeros."""
    size = _size_of(file)
    order = ">" if file.read(4) == b".snd" else "<"
    start, length = struct.unpack(f"{order}II", file.read(8).ljust(8, b"\0"))
    rest = size - start - length
    if length in (0, 0xFFFFFFFF) or rest < _CUT_SECONDS * length / seconds:
        return None
    file.seek(start + length)
    return _told(seconds, rest * seconds / length) if any(file.read(_BLOCK_BYTES)) else None


def _told(seconds: float, more_seconds: float) -> str:
    return f"the header ends {seconds:.2f} s in, {more_seconds:.2f} s more follow"


def _flac_surplus(file: BinaryIO, seconds: float) -> str | None:
    """A second stream begins as the first did; the last frame counts on from all before."""
    info = flac_info(file)
    if info is None:
        return None
    file.seek(info.end)
    tail = b""
    while block := file.read(_BLOCK_BYTES):
        content = tail + block
        at = content.find(FLAC_START)
        while at >= 0:
            if content[at + 4 : at + 8] in _FLAC_STREAM_INFO:
                return "several FLAC files are joined, and only the first is read"
            at = content.find(FLAC_START, at + 1)
        tail = content[-7:]
    end = flac_end(file, info) if info.num_frames and info.sample_rate_hz else None
    if end is None or end <= info.num_frames:
        return None
    return _told(seconds, (end - info.num_frames) / info.sample_rate_hz)


def _ogg_surplus(file: BinaryIO) -> str | None:
    """Pages count on from each other, and no stream begins behind another."""
    file.seek(0)
    numbers: dict[int, int] = {}
    times: dict[int, int] = {}
    began = False
    position, size = 0, _size_of(file)
    while position + _OGG_HEADER_BYTES <= size:
        file.seek(position)
        head = file.read(_OGG_HEADER_BYTES)
        if head[:4] != _OGG_MAGIC:
            return None if not any(head) else "the Ogg pages do not follow each other, something is missing between"
        flags, time, serial, number = head[5], *struct.unpack_from("<qII", head, 6)
        if flags & _OGG_FIRST_PAGE:
            if began:
                return "several Ogg streams are chained (joined), and only the first is read"
        else:
            began = True
            if number != numbers.get(serial, number - 1) + 1:
                return "Ogg pages are missing between others"
        numbers[serial] = number
        lacing = file.read(head[26])
        is_timed = any(length < 255 for length in lacing)  # a packet ends in it
        if is_timed and time < times.get(serial, 0):
            return "an Ogg page tells an earlier time than those before, and what follows would not be read"
        times[serial] = time if is_timed else times.get(serial, 0)
        position += _OGG_HEADER_BYTES + head[26] + sum(lacing)
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


_MP3_BITRATES_KBPS = {  # of layer III, by whether the version is 1
    True: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    False: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_MP3_RATES_HZ = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
_MP3_TAG_BYTES = 200
_MP3_PASSED = 1_024  # bytes that libsndfile's decoder passes over in search of the next frame


class _Walk(NamedTuple):
    """What an MP3 holds.

    Attributes:
        num_frames: Samples a channel in all its frames.
        sample_rate_hz: Of the first.
        promised: What a header promises of them, if one does.
        hole_bytes: The most that lie between two frames and are neither sound nor a tag.
    """

    num_frames: int
    sample_rate_hz: int
    promised: int | None
    hole_bytes: int


def _why_mp3_is_cut(file: BinaryIO) -> str | None:
    walked = _walk_mp3(file)
    if walked.promised is None or not walked.sample_rate_hz:
        return None
    missing = (walked.promised - walked.num_frames) / walked.sample_rate_hz
    if missing < _CUT_SECONDS:
        return None
    return f"MP3 header promises {walked.promised / walked.sample_rate_hz:.2f} s, {missing:.2f} s missing"


def _walk_mp3(file: BinaryIO) -> _Walk:
    """From frame to frame; what is none (tags, damage) is passed over until two follow each other."""
    file.seek(0)
    size = _size_of(file)
    position = num_samples = rate_hz = hole_bytes = 0
    promised: int | None = None
    in_step, end_of_sound = False, 0
    while position + 4 <= size:
        file.seek(position)
        head = file.read(4)
        frame = _mp3_frame(head)
        if frame is not None and (in_step or _mp3_follows(file, position + frame.num_bytes, size)):
            is_header, frames = _mp3_header(file, position) if not in_step or not num_samples else (False, None)
            if is_header:
                promised = promised if frames is None else frames * frame.num_samples + (promised or 0)
            else:
                num_samples += frame.num_samples if position + frame.num_bytes <= size + 4 else 0
            rate_hz = rate_hz or frame.sample_rate_hz
            hole_bytes = max(hole_bytes, position - end_of_sound if end_of_sound else 0)
            position = end_of_sound = position + frame.num_bytes
            in_step = True
            continue
        in_step = False
        if head[:3] == b"ID3":
            file.seek(position)
            position += 10 + id3_bytes(file.read(10))
            end_of_sound = end_of_sound and position
            continue
        position = _next_sync(file, position + 1)
    return _Walk(num_samples, rate_hz, promised, hole_bytes)


class _Mp3Frame(NamedTuple):
    num_bytes: int
    num_samples: int
    sample_rate_hz: int


def _mp3_frame(head: bytes) -> _Mp3Frame | None:
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE6 != 0xE2:  # layer III
        return None
    version, bitrate, rate = head[1] >> 3 & 3, head[2] >> 4, head[2] >> 2 & 3
    if version == 1 or bitrate in (0, 15) or rate == 3:
        return None
    is_first = version == 3
    rate_hz = _MP3_RATES_HZ[version][rate]
    num_bytes = (144_000 if is_first else 72_000) * _MP3_BITRATES_KBPS[is_first][bitrate] // rate_hz
    return _Mp3Frame(num_bytes + (head[2] >> 1 & 1), 1_152 if is_first else 576, rate_hz)


def _mp3_follows(file: BinaryIO, position: int, size: int) -> bool:
    if position >= size:
        return True
    file.seek(position)
    head = file.read(4)
    return _mp3_frame(head) is not None or head[:3] in (b"TAG", b"ID3", b"APE")


def _mp3_header(file: BinaryIO, position: int) -> tuple[bool, int | None]:
    """Whether a frame is no sound but a Xing, Info or VBRI header, and how many frames that promises."""
    file.seek(position)
    content = file.read(_MP3_TAG_BYTES)
    for name in (b"Xing", b"Info"):
        at = content.find(name, 4, 48)
        if at >= 0:
            has_frames = int.from_bytes(content[at + 4 : at + 8], "big") & 1
            return True, int.from_bytes(content[at + 8 : at + 12], "big") if has_frames else None
    if content[36:40] == b"VBRI":
        return True, int.from_bytes(content[50:54], "big")
    return False, None


def _next_sync(file: BinaryIO, position: int) -> int:
    """Where the next byte is that a frame or a tag may begin with."""
    file.seek(position)
    while block := file.read(2**12):
        found = [at for at in (block.find(0xFF), block.find(b"ID3")) if at >= 0]
        if found:
            return position + min(found)
        position += len(block)
    return position

"""AAC, in MP4 (``.m4a``, ``.mp4``) or as a bare stream (``.aac``), decoded with PyAV, whose wheels bring FFmpeg.

How long a file is. An encoder puts a frame of priming before the speech and fills the last frame up behind it. In MP4
an edit list says what to drop: FFmpeg drops the priming, but gives the filling out. The length here is that of the
track after its edit list, at most what its frames hold, and decoding stops there; so the header and the decoder agree
to the sample (tested with lengths around a frame's end at five rates). The list counts milliseconds, so up to one of
filling may be left. A list of several parts, or one that begins with a pause, is refused: FFmpeg gives the length of
the whole, and crops are not where they are in it. Where that does not work the file is decoded once to count its
samples: a bare stream, a track whose clock is not the sample rate, and profiles other than LC, whose frames the header
does not tell the size of.

Seeking. A frame overlaps with the one before it, so decoding starts two frames early. The samples are then those of
the whole decoded, bit for bit, except for bands that the encoder replaced by noise of the same power: the decoder draws
it, so it depends on where decoding began (up to 0.006 in speech at 16 kHz, more in music at low bit rates). Bare
streams have no index and are decoded from their start.

Hostile files. FFmpeg is told the container, so that no playlist can name other files, and it allocates 34 bytes for
every frame that an MP4 header promises (20 million in 40 kB took 680 MB). Hence no table may promise more frames than
the file has bytes, and fragmented MP4 and compressed headers, which could hide such tables, are refused.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO, Literal, NamedTuple

import numpy as np

from chns.core import AudioError, ChnsError, Float32Array, counted
from chns.data.storage.packed import Recording

MP4_EXTENSIONS = (".m4a", ".mp4")
AAC_EXTENSIONS = (*MP4_EXTENSIONS, ".aac")

_PREROLL_SAMPLES = 2 * 1_024
_MAX_CHANNELS = 7  # PyAV 18.1 crashes the process when it hands out eight
_MAX_HEADER_BYTES = 2**26
_MAX_COUNTED_SECONDS = 101 * 3600  # more than any recording may have
_NORMAL_SPEED = 0x10000
_COUNTED_TABLES = (b"stts", b"ctts", b"stsz", b"stz2")
_HIDING_BOXES = (b"trun", b"cmov")


Mixed = int | Literal["all"] | None
"""What becomes of the channels: one is kept, or all, or their mean."""


def one_channel(block: Float32Array, mixed: Mixed) -> Float32Array:
    """Of samples with shape (samples, channels), the channel, all or the mean; shape (samples, 1), or all channels."""
    if mixed == "all" or block.shape[1] == 1:
        return block
    if mixed is not None:
        return block[:, [mixed]]
    with np.errstate(invalid="ignore", over="ignore"):  # the caller looks for what is not finite
        mean: Float32Array = block.mean(axis=1, keepdims=True)
    return mean


class AacStream:
    """An opened recording.

    Attributes:
        sample_rate_hz: As the header says.
        num_channels: As the header says.
    """

    def __init__(self, container: Any, stream: Any, path: Recording, *, is_mp4: bool) -> None:
        self._container, self._stream, self._path, self._is_mp4 = container, stream, path, is_mp4
        self.sample_rate_hz: int = stream.codec_context.sample_rate
        self.num_channels: int = stream.codec_context.channels

    @cached_property
    def num_frames(self) -> int:
        """Length in samples a channel, by the header if it can be relied upon, else counted.

        Raises:
            AudioError: If the decoder stumbles while counting.
        """
        by_header = _length_by_header(self._stream) if self._is_mp4 else None
        if by_header is not None:
            return by_header
        num_frames = 0
        with open_aac(self._path) as fresh:  # decoding moves on, and this one is still to be read
            for position, frame in fresh._frames(0):
                num_frames = position + frame.samples
                if num_frames > _MAX_COUNTED_SECONDS * self.sample_rate_hz:
                    break
        return num_frames

    def read(self, start: int, wanted: int, mixed: Mixed = None) -> Float32Array:
        """Decode from ``start``.

        Args:
            start: From 0.
            wanted: ``start + wanted`` is at most ``num_frames``.
            mixed: What becomes of the channels.

        Returns:
            Shape (wanted, 1), or (wanted, channels), float32.

        Raises:
            AudioError: If the decoder stumbles, or ends before.
        """
        parts = [np.empty((0, self.num_channels if mixed == "all" else 1), np.float32)]
        end = start + wanted
        for position, frame in self._frames(start):
            frame_end = position + frame.samples
            if frame_end > start:
                inside = _samples_of(frame)[max(0, start - position) : max(0, end - position)]
                parts.append(one_channel(inside, mixed))
            if frame_end >= end:
                break
        waveform = np.concatenate(parts)
        if len(waveform) < wanted:
            raise AudioError(
                f"recording must hold the {start + wanted} samples that its header promises, "
                f"got {start + len(waveform)} in {self._path}. It may be cut off: download or copy it again."
            )
        return waveform

    def _frames(self, start: int) -> Iterator[tuple[int, Any]]:
        """Decoded frames of PyAV with the place of their first sample; may begin before start."""
        av = _pyav()
        try:
            first_wanted = start - _PREROLL_SAMPLES
            if self._is_mp4 and first_wanted > 0:
                self._container.seek(round(first_wanted / (self._rate_of_clock())), stream=self._stream)
            position = None if self._is_mp4 else 0
            for frame in self._container.decode(self._stream):
                if frame.sample_rate != self.sample_rate_hz or frame.layout.nb_channels != self.num_channels:
                    raise AudioError(f"rate and channels must not change within a recording, they do in {self._path}.")
                if position is None:
                    position = round((frame.pts or 0) * self._rate_of_clock())
                yield position, frame
                position += frame.samples
        except av.FFmpegError as error:
            raise AudioError(
                f"recording must be decodable, got an error in {self._path} ({error.strerror}). "
                f"It may be cut off: download or copy it again."
            ) from error

    def _rate_of_clock(self) -> Fraction:
        """Samples in one tick of the track's clock."""
        return Fraction(self._stream.time_base) * self.sample_rate_hz


def _samples_of(frame: Any) -> Float32Array:
    """Shape (samples, channels), float32; of one channel the decoder's own memory, which saves a third of the time."""
    if frame.layout.nb_channels == 1 and frame.format.name == "fltp":
        return np.frombuffer(frame.planes[0], np.float32, frame.samples)[:, np.newaxis]
    return np.asarray(frame.to_ndarray(), np.float32).T


@contextmanager
def open_aac(path: Recording) -> Iterator[AacStream]:
    """Open a recording in AAC.

    Args:
        path: An existing file, or part of a shard; its suffix tells the container.

    Raises:
        ChnsError: If PyAV is not installed.
        AudioError: If the file is not MP4 or a bare stream with AAC in it, is damaged, or promises absurdly much.
    """
    av = _pyav()
    is_mp4 = path.suffix.lower() in MP4_EXTENSIONS
    if is_mp4:
        _refuse_unbounded_headers(path)
    with nullcontext(f"file:{os.fspath(path)}") if isinstance(path, Path) else path.open() as source:
        try:
            container = av.open(source, format="mov" if is_mp4 else "aac", **_metadata_options(av))
        except av.FFmpegError as error:
            raise AudioError(
                f"recording must be AAC audio in {'MP4' if is_mp4 else 'ADTS'}, got something else or a damaged or cut "
                f"file: {path} ({error.strerror}). Download or copy it again."
            ) from error
        with container:
            yield _stream_of(container, path, is_mp4=is_mp4)


def _stream_of(container: Any, path: Recording, *, is_mp4: bool) -> AacStream:
    stream: Any = next(iter(container.streams.audio), None)
    codec = stream.codec_context and stream.codec_context.name if stream else None
    if codec != "aac":
        raise AudioError(f"recording must hold AAC audio, got {codec or 'none that FFmpeg knows'} in {path}.")
    if stream.codec_context.channels > _MAX_CHANNELS:
        raise AudioError(
            f"recording must have at most {_MAX_CHANNELS} channels, got {stream.codec_context.channels} in {path}."
        )
    return AacStream(container, stream, path, is_mp4=is_mp4)


def _pyav() -> ModuleType:
    try:
        import av
    except ImportError as error:
        raise ChnsError(
            "AAC recordings (.m4a, .mp4, .aac) need the package av, got none. Install it with "
            "`pip install 'chns[aac]'`."
        ) from error
    return av


def _metadata_options(av: ModuleType) -> dict[str, str]:
    """Text in a file that is not UTF-8 is no error; from version 19 on PyAV needs not be told."""
    return {"metadata_errors": "replace"} if int(av.__version__.partition(".")[0]) < 19 else {}


def _length_by_header(stream: Any) -> int | None:
    rate_hz = stream.codec_context.sample_rate
    entries = stream.index_entries
    trusted = rate_hz and stream.time_base == Fraction(1, rate_hz) and stream.codec_context.profile == "LC"
    if not trusted or not stream.duration or not len(entries):
        return None
    return min(int(stream.duration), int(entries[len(entries) - 1].timestamp) + int(stream.codec_context.frame_size))


class _Box(NamedTuple):
    kind: bytes
    start: int
    end: int


def _refuse_unbounded_headers(path: Recording) -> None:
    """Look at all boxes but the audio itself for tables that promise more frames than the file has bytes."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        for box in _top_boxes(file, size):
            if box.kind == b"mdat":
                continue
            if box.end - box.start > _MAX_HEADER_BYTES:
                raise AudioError(
                    f"MP4 header must have at most {_MAX_HEADER_BYTES:,} bytes, got {box.end - box.start:,} in {path}."
                )
            file.seek(box.start)
            header = file.read(box.end - box.start)
            _refuse_unbounded_tables(header, size, path)
            for track in header.split(b"trak")[1:]:
                if b"soun" in track:
                    _refuse_rearranged(track, path)


def _top_boxes(file: BinaryIO, size: int) -> Iterator[_Box]:
    """The outermost boxes; what does not read as one is the last."""
    start = 0
    while start < size:
        file.seek(start)
        head = file.read(16)
        length = int.from_bytes(head[:4], "big")
        if length == 1:
            length = int.from_bytes(head[8:16], "big")
        end = min(start + length, size) if length >= 8 else size
        yield _Box(head[4:8], start, end)
        start = end


def _refuse_unbounded_tables(header: bytes, size: int, path: Recording) -> None:
    for kind in _HIDING_BOXES:
        if kind in header:
            raise AudioError(
                f"MP4 must not be fragmented or have a compressed header, got {path}. "
                f"Copy it into a plain one with `ffmpeg -i IN -c copy OUT.m4a`."
            )
    for kind in _COUNTED_TABLES:
        at = header.find(kind)
        while at >= 0:
            promised = _promised_frames(kind, header[at + 4 :])
            if promised > size:
                raise AudioError(f"MP4 header must promise frames that the file can hold, got {promised:,} in {path}.")
            at = header.find(kind, at + 4)


def _refuse_rearranged(track: bytes, path: Recording) -> None:
    """Of several parts, pauses or a still FFmpeg would give the whole in one order, and crops in another."""
    content = track[track.find(b"elst") + 4 :] if b"elst" in track else b""
    edit = struct.Struct(">QqI" if content[:1] == b"\1" else ">IiI")
    num_edits = int.from_bytes(content[4:8], "big")
    if not num_edits:
        return
    ticks, start, speed = edit.unpack_from(content[8:].ljust(edit.size, b"\0"))
    if num_edits > 1 or not ticks or start < 0 or speed != _NORMAL_SPEED:
        raise AudioError(
            f"MP4 must play its sound from one place to another, got an edit list of another kind, with "
            f"{counted(num_edits, 'part')}, in {path}. Write what is heard with `ffmpeg -i IN OUT.wav`."
        )


def _promised_frames(kind: bytes, content: bytes) -> int:
    """Frames that a table counts; one that is cut off counts what is there."""
    if kind in (b"stsz", b"stz2"):
        return int.from_bytes(content[8:12], "big")
    num_runs = min(int.from_bytes(content[4:8], "big"), (len(content) - 8) // 8)
    return sum(count for count, _ in struct.iter_unpack(">II", content[8 : 8 + 8 * max(0, num_runs)]))

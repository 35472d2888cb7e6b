"""Decode recordings: only the part that is asked for, mono, at the wanted sample rate.

libsndfile (through ``soundfile``) reads WAV, FLAC, Ogg Vorbis, Opus and MP3, and SPHERE, AIFF, AU, CAF, W64 and RF64;
``chns.data.aac`` reads AAC by its suffix; parts of WAV of 16 bits are read without a library; soxr resamples.

Seeking was measured against decoding from the start (libsndfile 1.2.2, 300 random places a format). WAV, FLAC and Ogg
Vorbis: identical samples. Opus: the right place, samples differ by up to 0.003, for the decoder carries state. MP3: the
right place, but the first 14 ms are up to 0.29 off, because a frame borrows bits from those before it; so MP3 is
decoded from a little earlier, after which samples differ by 1e-7. What libsndfile cannot seek in (GSM 6.10, G.721, ...)
is decoded from the start.

A header is a claim: ``proven_info`` holds it against the file. Memory grows with the samples that are decoded, never
with those that are promised.
"""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

import numpy as np
import soundfile
import soxr

from chns.core import AudioError, Float32Array, atomic_path
from chns.data.aac import AAC_EXTENSIONS, AacStream, Mixed, one_channel, open_aac
from chns.data.container import PlainWav, claim_of, plain_wav, with_length
from chns.data.quality import channels_differ
from chns.data.storage.packed import Recording
from chns.data.storage.remote import with_header

EXTENSIONS = (
    *(".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3"),
    *(".sph", ".aiff", ".aif", ".aifc", ".au", ".snd", ".w64", ".rf64", ".caf"),
    *AAC_EXTENSIONS,
)
UNREAD_EXTENSIONS = (
    *(".wma", ".amr", ".awb", ".3gp", ".m4b", ".webm", ".mka", ".mkv", ".mov", ".avi", ".ape", ".wv", ".tta", ".ac3"),
    *(".ra", ".spx", ".shn", ".dss", ".vox", ".gsm", ".raw", ".pcm", ".mp2", ".mp1", ".mpc", ".dsf", ".mpg", ".mpeg"),
)
"""What recordings are called that nothing here reads; a corpus with some should hear of it."""
WRITTEN_FORMATS = {".wav": ("WAV", "PCM_16"), ".flac": ("FLAC", "PCM_16"), ".opus": ("OGG", "OPUS")}

Waveform = Float32Array
Channel = int | Literal["left", "right", "mix"]
"""One channel of a recording, counted from 0, or the mean of all."""

FLAC_LEVEL = 0.0
"""The compression that is least work to undo: crops are read 1.2 times as fast, from files that are 2 % larger."""

OPUS_RATES_HZ = (8_000, 12_000, 16_000, 24_000, 48_000)
MIN_RATE_HZ, MAX_RATE_HZ = 4_000, 384_000
_MAX_HOURS = 100
_UNKNOWN_FRAMES = 2**62
_BLOCK_SAMPLES = 2**26
_MP3_PREROLL_FRAMES = 4_608
_MP3_UNCOUNTED_FRAMES = 6
"""Frames of an MP3 that its length may leave out: the encoder's delay and filling."""

_COUNTED_FRAMES = 2**18
_COMPARED_SECONDS, _COMPARED_BLOCK_SECONDS = 60.0, 5


class AudioInfo(NamedTuple):
    """What a file's header says."""

    num_frames: int
    sample_rate_hz: int
    num_channels: int

    @property
    def duration_seconds(self) -> float:
        """Length of the recording."""
        return self.num_frames / self.sample_rate_hz


def audio_info(path: Recording) -> AudioInfo:
    """Read a file's header and believe it; see `proven_info`.

    Raises:
        FileNotFoundError: If there is no such file.
        AudioError: If it may not be read, is not audio in a format we read, holds no samples, or claims a sample rate
            (outside 4 to 384 kHz) or a length (more than 100 hours, or unknown) that no recording of speech has.
    """
    with _opened(path) as file:
        return _checked_info(file, path)


def proven_info(path: Recording) -> AudioInfo:
    """The length of a recording that can be decoded at any place, not what its header claims.

    Uncompressed samples, FLAC, Ogg and AAC are read at their middle or end; of MP3 all frames are counted; what cannot
    be sought in is decoded. Chained and joined files, of which only a part would be heard, are refused.

    Raises:
        FileNotFoundError: If there is no such file.
        AudioError: For the reasons of `audio_info`, if the middle or the end cannot be decoded, or if libsndfile would
            stop before the end.
    """
    with _opened(path) as file:
        return _proven(file, _checked_info(file, path), path)


def channel_number(channel: Channel | None) -> int | None:
    """The number of a channel, from 0; none for the mean of all.

    Raises:
        ValueError: If it is neither ``left``, ``right``, ``mix`` nor a number from 0.
    """
    if channel is None or channel == "mix":
        return None
    if channel in ("left", "right"):
        return ("left", "right").index(channel)
    try:
        number = -1 if isinstance(channel, (bool, float)) else int(channel)
    except ValueError:
        number = -1
    if number < 0:
        raise ValueError(f"channel must be left, right, mix or a number from 0, got {channel!r}.")
    return number


def file_channels_differ(
    path: Recording, *, offset_seconds: float = 0.0, duration_seconds: float | None = None
) -> bool:
    """The same of any 5 s of a file: of its beginning, middle and end, 20 s each, or all of it up to a minute.

    Raises:
        FileNotFoundError: If there is no such file.
        AudioError: If it cannot be decoded.
    """
    with _opened(path) as file:
        info = _checked_info(file, path)
        if info.num_channels < 2:
            return False
        start = min(info.num_frames, math.floor(offset_seconds * info.sample_rate_hz))
        num_frames = info.num_frames - start
        if duration_seconds is not None:
            num_frames = min(num_frames, math.ceil(duration_seconds * info.sample_rate_hz))
        length = min(num_frames, round(_COMPARED_SECONDS * info.sample_rate_hz))
        starts, piece = [start], length
        if num_frames > length:
            piece = length // 3
            starts = [start, start + (num_frames - piece) // 2, start + num_frames - piece]
    parts = []
    for first in starts:
        with _opened(path) as file:
            parts.append(_decode(file, first, piece, path, "all"))
    block = _COMPARED_BLOCK_SECONDS * info.sample_rate_hz
    return any(channels_differ(part[at : at + block]) for part in parts for at in range(0, len(part), block))


def read_audio(
    path: Recording,
    *,
    sample_rate_hz: int = 16_000,
    offset_seconds: float = 0.0,
    duration_seconds: float | None = None,
    channel: int | None = None,
) -> Waveform:
    """Read part of a recording; several channels are averaged unless one is chosen.

    A part that lies inside the recording has exactly ``round(duration_seconds * sample_rate_hz)`` samples, whatever
    the file's own rate. Without a duration, ``n`` frames at ``r`` Hz give ``floor(n * sample_rate_hz / r + 0.5)``.

    Args:
        path: A recording, in a file or in a shard; AAC needs the extra ``aac``.
        sample_rate_hz: Rate of the result; the file is resampled if its own differs.
        offset_seconds: Where to start, rounded down to a frame; the file is not decoded before that point.
        duration_seconds: How much to read; by default up to the end, which of a file is then proven, see `proven_info`.
            A recording that ends sooner gives less.
        channel: The channel, from 0; by default the one that the recording names, else the mean of all.

    Returns:
        Samples, shape (samples,), float32; in [-1, 1], except that a float file may exceed it.

    Raises:
        ValueError: If a rate, an offset or a duration is not a sensible number.
        FileNotFoundError: If there is no such file.
        AudioError: For the reasons of ``audio_info``, if the file cannot be decoded, has no such channel, holds nothing
            from the offset on, or holds samples that are not finite numbers.
    """
    num_samples = _num_samples(sample_rate_hz, offset_seconds, duration_seconds)
    if channel is None:
        channel = getattr(path, "channel", None)
    with _opened(path, is_plain_wanted=True) as file:
        info = _checked_info(file, path)
        if channel is not None and not 0 <= channel < info.num_channels:
            raise AudioError(
                f"channel must be one of the recording's {info.num_channels}, counted from 0, got {channel} in {path}."
            )
        if duration_seconds is None and isinstance(path, Path) and not isinstance(file, AacStream):
            info = proven_info(path)
        start = math.floor(offset_seconds * info.sample_rate_hz + 1e-6)
        if start >= info.num_frames:
            raise AudioError(
                f"offset_seconds must lie inside the recording of {info.duration_seconds:.3f} s, "
                f"got {offset_seconds} in {path}."
            )
        wanted = info.num_frames - start
        if duration_seconds is not None:
            wanted = min(wanted, math.ceil(duration_seconds * info.sample_rate_hz - 1e-6))
        decoded = _decode(file, start, wanted, path, channel)
    waveform = decoded[:, 0]
    if info.sample_rate_hz != sample_rate_hz:
        waveform = soxr.resample(waveform, info.sample_rate_hz, sample_rate_hz)
    if not len(waveform):
        raise AudioError(f"recording must hold samples at {offset_seconds} s, got none in {path}.")
    if not isinstance(file, PlainWav) and not np.isfinite(waveform).all():  # of a plain WAV, integers were read
        raise AudioError(f"samples must be finite numbers, got NaN or infinity in {path}.")
    return waveform[:num_samples]


def write_audio(path: Path, waveform: Waveform, *, sample_rate_hz: int) -> None:
    """Write mono audio, atomically: WAV or FLAC of 16 bits, or Ogg Opus; the format follows the suffix.

    Args:
        path: Where to; ends in ``.wav``, ``.flac`` or ``.opus``.
        waveform: Samples in [-1, 1], shape (samples,); values outside are clipped.
        sample_rate_hz: Rate of the samples; Opus knows 8, 12, 16, 24 and 48 kHz.

    Raises:
        ValueError: If the suffix is another, or Opus does not know the rate.
        OSError: If the disk is full.
    """
    if path.suffix not in WRITTEN_FORMATS:
        raise ValueError(f"name of written audio must end in .wav, .flac or .opus, got {path}.")
    if path.suffix == ".opus" and sample_rate_hz not in OPUS_RATES_HZ:
        raise ValueError(f"sample rate of Opus must be one of {OPUS_RATES_HZ} Hz, got {sample_rate_hz}.")
    container, subtype = WRITTEN_FORMATS[path.suffix]
    with atomic_path(path) as temporary:
        level = FLAC_LEVEL if container == "FLAC" else None
        soundfile.write(
            os.fsencode(temporary), waveform, sample_rate_hz, subtype=subtype, format=container, compression_level=level
        )
        _require_whole(temporary, path, num_frames=len(waveform))


def _require_whole(temporary: Path, path: Path, *, num_frames: int) -> None:
    """The encoder of Opus does not tell that the disk was full."""
    try:
        found = soundfile.info(os.fsencode(temporary)).frames
    except soundfile.LibsndfileError:
        found = 0
    if found != num_frames:
        raise OSError(
            errno.ENOSPC, f"written audio must have {num_frames} samples, got {found} on the disk", os.fspath(path)
        )


def _num_samples(sample_rate_hz: int, offset_seconds: float, duration_seconds: float | None) -> int | None:
    """Length of the result if the recording is long enough; none if it goes to the end."""
    if sample_rate_hz <= 0:
        raise ValueError(f"sample_rate_hz must be positive, got {sample_rate_hz}.")
    if not 0 <= offset_seconds < math.inf:
        raise ValueError(f"offset_seconds must be a number from 0, got {offset_seconds}.")
    if duration_seconds is None:
        return None
    if not 0.5 / sample_rate_hz < duration_seconds < math.inf:
        raise ValueError(f"duration_seconds must be a number of at least one sample, got {duration_seconds}.")
    return round(duration_seconds * sample_rate_hz)


class _SoundFile(soundfile.SoundFile):  # type: ignore[misc]
    """Does not seek where a read has ended, as soundfile does for who writes there: a tenth of the time of FLAC."""

    can_seek = soundfile.SoundFile.seekable

    def seekable(self) -> bool:
        return False

    def read_frames(self, frames: int) -> Waveform:
        block: Waveform = self.read(frames, dtype="float32", always_2d=True)
        if len(block) < frames and self.can_seek():
            self.seek(self.tell())  # an error where the rest is damaged, not missing
        return block


@contextmanager
def _opened(path: Recording, *, is_plain_wanted: bool = False) -> Iterator[_SoundFile | AacStream | PlainWav]:
    if isinstance(path, Path):
        _require_readable(path)
    suffix = path.suffix.lower()
    if suffix in AAC_EXTENSIONS:
        with open_aac(path) as stream:
            yield stream
        return
    if is_plain_wanted and suffix == ".wav":
        with _content(path) as content:
            if (wav := plain_wav(content)) is not None:
                yield wav
                return
    opened = nullcontext(os.fsencode(path)) if isinstance(path, Path) else path.open()
    with opened as source, _sound_file(source, path) as file:
        if 0 < file.frames < _UNKNOWN_FRAMES or (header := with_length(path)) is None:
            yield file
            return
    with path.open("rb") as content, _sound_file(with_header(content, header), path) as file:
        yield file


def _content(path: Recording) -> BinaryIO:
    try:
        return path.open("rb")
    except PermissionError as error:
        raise AudioError(f"recording must be readable, got {path} ({error.strerror}).") from error


def _sound_file(source: bytes | BinaryIO, path: Recording) -> _SoundFile:
    try:
        return _SoundFile(source)
    except (soundfile.LibsndfileError, TypeError) as error:  # TypeError: a name in .raw, taken for headerless
        raise AudioError(
            f"recording must be WAV, FLAC, Ogg, Opus or MP3 audio, got something else or a damaged file: {path} "
            f"({error}). What FFmpeg reads, `ffmpeg -i IN OUT.wav` writes anew."
        ) from error


def _require_readable(path: Path) -> None:
    try:
        if not path.is_file():
            raise FileNotFoundError(f"recording must be a file, got {path}.")
        if not path.stat().st_size:
            raise AudioError(f"recording must hold samples, got an empty file: {path}.")
    except PermissionError as error:
        raise AudioError(f"recording must be readable, got {path} ({error.strerror}).") from error


def _checked_info(file: _SoundFile | AacStream | PlainWav, path: Recording) -> AudioInfo:
    if not isinstance(file, _SoundFile):
        info = AudioInfo(file.num_frames, file.sample_rate_hz, file.num_channels)
    else:
        info = AudioInfo(file.frames, file.samplerate, file.channels)
    if info.num_frames <= 0:
        raise AudioError(f"recording must hold samples, got none in {path}.")
    if not MIN_RATE_HZ <= info.sample_rate_hz <= MAX_RATE_HZ:
        raise AudioError(
            f"sample rate must be between {MIN_RATE_HZ} and {MAX_RATE_HZ} Hz, got {info.sample_rate_hz} in {path}."
        )
    if info.duration_seconds > _MAX_HOURS * 3600:
        raise AudioError(
            f"header must state a length of at most {_MAX_HOURS} hours, got {info.num_frames} frames in {path}. "
            f"Encode it again if it was written as a stream."
        )
    return info


def _proven(file: _SoundFile | AacStream | PlainWav, info: AudioInfo, path: Recording) -> AudioInfo:
    """The header's word with the length that can be decoded; leaves the file anywhere."""
    rate_hz, num_frames = info.sample_rate_hz, info.num_frames
    if not isinstance(file, _SoundFile):
        last = min(num_frames, 1_024)
        file.read(num_frames - last, last)
        return info
    claim = claim_of(path, container=file.format, seconds=info.duration_seconds)
    surplus = claim.surplus
    if claim.mp3_frames is not None:
        uncounted = _MP3_UNCOUNTED_FRAMES * (1_152 if rate_hz >= 32_000 else 576)
        if num_frames < claim.mp3_frames - uncounted:
            stated, whole = info.duration_seconds, claim.mp3_frames / rate_hz
            surplus = (
                f"the header stands for {stated:.2f} s and {whole:.2f} s of frames follow (joined, or without Xing)"
            )
        elif surplus is None and num_frames <= claim.mp3_frames:
            return info
    if surplus is not None:
        raise AudioError(
            f"recording must state its whole length, got {path}: {surplus}. Write it anew, for example with "
            f"`ffmpeg -i IN OUT.flac`."
        )
    try:
        counted = _counted(file) if not file.can_seek() or file.format == "MP3" else _reached(file, num_frames)
    except soundfile.LibsndfileError as error:
        raise _undecodable(path, error) from error
    if not counted:
        raise AudioError(
            f"recording must be decodable up to the {info.duration_seconds:.2f} s that its header promises, got an end "
            f"before in {path}. It may be cut off: download or copy it again."
        )
    return info._replace(num_frames=counted)


def _counted(file: _SoundFile) -> int:
    """Length by decoding all of it."""
    num_frames = 0
    file_end = file.frames
    while num_frames < file_end:
        got = len(file.read_frames(min(_COUNTED_FRAMES, file_end - num_frames)))
        if not got:
            break
        num_frames += got
    return num_frames


def _reached(file: _SoundFile, num_frames: int) -> int:
    """The length, shortened by what its last half second lacks; 0 if the middle or the end is not there."""
    middle, last = min(num_frames, 1_024), min(num_frames, file.samplerate // 2)
    file.seek((num_frames - middle) // 2)
    if len(file.read_frames(middle)) < middle:
        return 0
    file.seek(num_frames - last)
    got = len(file.read_frames(last))
    return num_frames - last + got if got else 0


def _undecodable(path: Recording, error: Exception) -> AudioError:
    return AudioError(f"recording must be decodable, got an error in {path} ({error}).")


def _decode(
    file: _SoundFile | AacStream | PlainWav, start: int, wanted: int, path: Recording, mixed: Mixed
) -> Waveform:
    """Read ``wanted`` frames from ``start``, or as many as there are; shape (samples, 1), or (samples, channels)."""
    if isinstance(file, PlainWav):
        return one_channel(file.read(start, wanted), mixed)
    if isinstance(file, AacStream):
        return file.read(start, wanted, mixed)
    try:
        return _decode_with_libsndfile(file, start, wanted, mixed)
    except soundfile.LibsndfileError as error:
        raise _undecodable(path, error) from error


def _decode_with_libsndfile(file: _SoundFile, start: int, wanted: int, mixed: Mixed) -> Waveform:
    preroll = min(start, _MP3_PREROLL_FRAMES) if file.format == "MP3" else 0
    if not file.can_seek():
        _pass_over(file, start)
    else:
        file.seek(start - preroll)
    remaining = wanted + preroll
    parts = [np.empty((0, file.channels if mixed == "all" else 1), np.float32)]
    while remaining > 0:
        block = file.read_frames(min(remaining, _BLOCK_SAMPLES // file.channels))
        if not len(block):
            break
        parts.append(one_channel(block, mixed))
        remaining -= len(block)
    whole = parts[-1] if len(parts) == 2 else np.concatenate(parts)
    return whole[preroll:]


def _pass_over(file: _SoundFile, num_frames: int) -> None:
    while num_frames > 0 and len(block := file.read_frames(min(num_frames, _COUNTED_FRAMES))):
        num_frames -= len(block)

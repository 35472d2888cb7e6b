"""Decode recordings: only the part that is asked for, mono, at the wanted sample rate.

libsndfile (through ``soundfile``) reads WAV, FLAC, Ogg Vorbis, Opus and MP3, ``chns.data.aac`` reads AAC by its suffix;
soxr resamples.

Seeking was measured against decoding from the start (libsndfile 1.2.2, 300 random places a format). WAV, FLAC and Ogg
Vorbis: identical samples. Opus: the right place, samples differ by up to 0.003, for the decoder carries state. MP3: the
right place, but the first 14 ms are up to 0.29 off, because a frame borrows bits from those before it; so MP3 is
decoded from a little earlier, after which samples differ by 1e-7.

A header is a claim. Memory grows with the samples that are decoded, never with those that are promised.
"""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from chns.data.aac import AAC_EXTENSIONS, AacStream, open_aac
from chns.data.shards.recording import Recording
from chns.errors import AudioError
from chns.files import atomic_path

EXTENSIONS = (".wav", ".flac", ".ogg", ".opus", ".mp3", *AAC_EXTENSIONS)
WRITTEN_FORMATS = {".wav": ("WAV", "PCM_16"), ".flac": ("FLAC", "PCM_16"), ".opus": ("OGG", "OPUS")}

Waveform = npt.NDArray[np.float32]

OPUS_RATES_HZ = (8_000, 12_000, 16_000, 24_000, 48_000)
MIN_RATE_HZ, MAX_RATE_HZ = 4_000, 384_000
_MAX_HOURS = 100
_BLOCK_SAMPLES = 2**26
_MP3_PREROLL_FRAMES = 4_608


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
    """Read a file's header.

    Raises:
        FileNotFoundError: If there is no such file.
        AudioError: If it may not be read, is not audio in a format we read, holds no samples, or claims a sample rate
            (outside 4 to 384 kHz) or a length (more than 100 hours, or unknown) that no recording of speech has.
    """
    with _opened(path) as file:
        return _checked_info(file, path)


def read_audio(
    path: Recording,
    *,
    sample_rate_hz: int = 16_000,
    offset_seconds: float = 0.0,
    duration_seconds: float | None = None,
) -> Waveform:
    """Read part of a recording; several channels are averaged.

    A part that lies inside the recording has exactly ``round(duration_seconds * sample_rate_hz)`` samples, whatever
    the file's own rate. Without a duration, ``n`` frames at ``r`` Hz give ``floor(n * sample_rate_hz / r + 0.5)``.

    Args:
        path: A recording, in a file or in a shard; AAC needs the extra ``aac``.
        sample_rate_hz: Rate of the result; the file is resampled if its own differs.
        offset_seconds: Where to start, rounded down to a frame; the file is not decoded before that point.
        duration_seconds: How much to read; by default up to the end. A file that ends sooner gives less.

    Returns:
        Samples, shape (samples,), float32; in [-1, 1], except that a float file may exceed it.

    Raises:
        ValueError: If a rate, an offset or a duration is not a sensible number.
        FileNotFoundError: If there is no such file.
        AudioError: For the reasons of ``audio_info``, if the file cannot be decoded, holds nothing from the offset on,
            or holds samples that are not finite numbers.
    """
    num_samples = _num_samples(sample_rate_hz, offset_seconds, duration_seconds)
    with _opened(path) as file:
        info = _checked_info(file, path)
        start = math.floor(offset_seconds * info.sample_rate_hz + 1e-6)
        if start >= info.num_frames:
            raise AudioError(
                f"offset_seconds must lie inside the recording of {info.duration_seconds:.3f} s, "
                f"got {offset_seconds} in {path}."
            )
        wanted = info.num_frames - start
        if duration_seconds is not None:
            wanted = min(wanted, math.ceil(duration_seconds * info.sample_rate_hz - 1e-6))
        waveform = _decode(file, start, wanted, path)
    if info.sample_rate_hz != sample_rate_hz:
        waveform = soxr.resample(waveform, info.sample_rate_hz, sample_rate_hz)
    if not len(waveform):
        raise AudioError(f"recording must hold samples at {offset_seconds} s, got none in {path}.")
    if not np.isfinite(waveform).all():
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
        soundfile.write(os.fsencode(temporary), waveform, sample_rate_hz, subtype=subtype, format=container)
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


@contextmanager
def _opened(path: Recording) -> Iterator[soundfile.SoundFile | AacStream]:
    if isinstance(path, Path):
        _require_readable(path)
    if path.suffix.lower() in AAC_EXTENSIONS:
        with open_aac(path) as stream:
            yield stream
        return
    with nullcontext(os.fsencode(path)) if isinstance(path, Path) else path.open() as source:
        try:
            file = soundfile.SoundFile(source)
        except (soundfile.LibsndfileError, TypeError) as error:  # TypeError: a name in .raw, taken for headerless
            raise AudioError(
                f"recording must be WAV, FLAC, Ogg, Opus or MP3 audio, got something else or a damaged file: {path} "
                f"({error})."
            ) from error
        with file:
            yield file


def _require_readable(path: Path) -> None:
    try:
        if not path.is_file():
            raise FileNotFoundError(f"recording must be a file, got {path}.")
        if not path.stat().st_size:
            raise AudioError(f"recording must hold samples, got an empty file: {path}.")
    except PermissionError as error:
        raise AudioError(f"recording must be readable, got {path} ({error.strerror}).") from error


def _checked_info(file: soundfile.SoundFile | AacStream, path: Recording) -> AudioInfo:
    if isinstance(file, AacStream):
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


def _decode(file: soundfile.SoundFile | AacStream, start: int, wanted: int, path: Recording) -> Waveform:
    """Read ``wanted`` frames from ``start``, or as many as there are, and mix the channels down."""
    if isinstance(file, AacStream):
        return file.read(start, wanted)
    try:
        return _decode_with_libsndfile(file, start, wanted)
    except soundfile.LibsndfileError as error:
        raise AudioError(f"recording must be decodable, got an error in {path} ({error}).") from error


def _decode_with_libsndfile(file: soundfile.SoundFile, start: int, wanted: int) -> Waveform:
    preroll = min(start, _MP3_PREROLL_FRAMES) if file.format == "MP3" else 0
    file.seek(start - preroll)
    remaining = wanted + preroll
    parts = [np.empty(0, np.float32)]
    while remaining > 0:
        block = file.read(min(remaining, _BLOCK_SAMPLES // file.channels), dtype="float32", always_2d=True)
        if not len(block):
            break
        with np.errstate(invalid="ignore", over="ignore"):  # the caller looks for what is not finite
            parts.append(block[:, 0] if file.channels == 1 else block.mean(axis=1))
        remaining -= len(block)
    return np.concatenate(parts)[preroll:]

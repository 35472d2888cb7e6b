"""What is measured of one utterance by decoding it, all in one pass and in bounded memory.

A digest of the decoded samples, mixed to one channel and rounded to 16 bits, tells copies. It does not depend on names,
tags or a lossless container. It does not find a copy that was encoded with loss, resampled, cut otherwise, padded or
made louder: its samples are others.
"""

from __future__ import annotations

import hashlib
import math
from typing import NamedTuple

import numpy as np
import scipy.fft

from chns.core import AudioError, Float64Array
from chns.data.audio import AudioInfo, Waveform, audio_info, proven_info
from chns.data.container import why_cut
from chns.data.manifest import Utterance
from chns.data.quality import Quality, joint_quality, measure_quality
from chns.data.resumable import read_windows
from chns.data.storage.packed import Recording

DURATION_TOLERANCE_SECONDS = 0.1
"""Lists round, and decoders differ by a frame or two; a part of a recording may overshoot as much."""

TELEPHONE_BAND_HZ = 4_250
"""Above half of the 8 kHz that telephones sample at, and the slope of a resampling filter."""

_BAND_FRAME_SECONDS = 0.032
_LOWEST_BAND_HZ = 100
_LOWEST_DB = -120.0
_NOT_FINITE = "samples must be finite"


class Measures(NamedTuple):
    """What one utterance was found to be.

    Attributes:
        problem: Why the rest is not known: ``missing``, ``undecodable``, ``not_finite``; or ``truncated`` or
            ``misstated``, and the rest is of what is there. None for an utterance that is whole.
        detail: The problem in words.
        sample_rate_hz: Rate of the file.
        duration_seconds: Length of what was decoded.
        level_dbfs: See `Quality`, as the two shares.
        clipped_share: Of the samples.
        silent_share: Of the 10 ms frames.
        peak: Largest absolute sample; full scale is 1.
        dc_offset: Mean sample.
        high_band_db: Power above the telephone band relative to all power above 100 Hz, at least -120; none for a file
            that has no such band, or less than one frame of 32 ms.
        digest: Hash of the samples.
    """

    problem: str | None = None
    detail: str = ""
    sample_rate_hz: int | None = None
    duration_seconds: float | None = None
    level_dbfs: float | None = None
    clipped_share: float | None = None
    silent_share: float | None = None
    peak: float | None = None
    dc_offset: float | None = None
    high_band_db: float | None = None
    digest: bytes | None = None


def measure_utterance(utterance: Utterance, *, whole_file: bool) -> Measures:
    """Decode an utterance and measure it.

    Args:
        utterance: A row of a manifest.
        whole_file: Whether the file must be the utterance and nothing else; it is then decoded to its end, whatever
            the manifest says. Otherwise the part that the manifest names is.
    """
    try:
        return _measured(utterance, whole_file)
    except FileNotFoundError as error:
        return Measures("missing", _in_one_line(error))
    except (AudioError, OSError) as error:
        detail = _in_one_line(error)
        return Measures("not_finite" if detail.startswith(_NOT_FINITE) else "undecodable", detail)


def _measured(utterance: Utterance, whole_file: bool) -> Measures:
    info = audio_info(utterance.path)
    misstated = None
    try:
        info = proven_info(utterance.path)
    except AudioError as error:  # what of it can be decoded shows what is wrong
        misstated = _in_one_line(error)
    room = info.duration_seconds - utterance.offset_seconds
    promised = room if whole_file else min(room, utterance.duration_seconds)
    if promised * info.sample_rate_hz < 0.5:
        raise AudioError(
            f"offset_seconds must lie inside the recording of {info.duration_seconds:.3f} s, "
            f"got {utterance.offset_seconds} in {utterance.path}."
        )
    measuring = _Measuring(info)
    for waveform in read_windows(
        utterance.path,
        sample_rate_hz=info.sample_rate_hz,
        offset_seconds=utterance.offset_seconds,
        duration_seconds=promised,
        channel=utterance.channel,
    ):
        measuring.add(waveform)
    why_truncated = _why_truncated(utterance.path, promised, measuring.seconds, whole_file)
    if why_truncated is not None:
        return measuring.finish("truncated", why_truncated)
    return measuring.finish("misstated" if misstated else None, misstated or "")


def _why_truncated(path: Recording, promised_seconds: float, decoded_seconds: float, whole_file: bool) -> str | None:
    if decoded_seconds < promised_seconds - DURATION_TOLERANCE_SECONDS:
        return f"header promises {promised_seconds:.2f} s, {decoded_seconds:.2f} s can be decoded"
    return why_cut(path) if whole_file else None


class _Measuring:
    """Sums over the windows of an utterance."""

    def __init__(self, info: AudioInfo) -> None:
        self._rate_hz = info.sample_rate_hz
        self._has_high_band = info.sample_rate_hz > 2 * TELEPHONE_BAND_HZ
        self._num_samples = 0
        self._sum = self._peak = 0.0
        self._band_powers = np.zeros(2)
        self._qualities: list[Quality] = []
        self._hash = hashlib.blake2b(str(info.sample_rate_hz).encode(), digest_size=16)

    @property
    def seconds(self) -> float:
        return self._num_samples / self._rate_hz

    def add(self, waveform: Waveform) -> None:
        self._num_samples += len(waveform)
        self._sum += float(waveform.sum(dtype=np.float64))
        self._peak = max(self._peak, float(waveform.max()), -float(waveform.min()))
        self._qualities.append(measure_quality(waveform, sample_rate_hz=self._rate_hz))
        self._hash.update(np.rint(np.clip(waveform * 2.0**15, -(2**15), 2**15 - 1)).astype("<i2"))
        if self._has_high_band:
            self._band_powers += _band_powers(waveform, self._rate_hz)

    def finish(self, problem: str | None, detail: str) -> Measures:
        quality = joint_quality(self._qualities)
        high, total = self._band_powers
        return Measures(
            problem=problem,
            detail=detail,
            sample_rate_hz=self._rate_hz,
            duration_seconds=self.seconds,
            level_dbfs=quality.level_dbfs,
            clipped_share=quality.clipped_share,
            silent_share=quality.silent_share,
            peak=self._peak,
            dc_offset=self._sum / self._num_samples,
            high_band_db=max(_LOWEST_DB, 10 * math.log10(max(high / total, 1e-30))) if total else None,
            digest=self._hash.digest(),
        )


def _band_powers(waveform: Waveform, rate_hz: int) -> Float64Array:
    """Power above the telephone band, and above 100 Hz; frames do not overlap, which is enough for a mean."""
    frame_samples = round(_BAND_FRAME_SECONDS * rate_hz)
    num_frames = len(waveform) // frame_samples
    frames = waveform[: num_frames * frame_samples].reshape(num_frames, frame_samples)
    spectrum = scipy.fft.rfft(frames * np.hanning(frame_samples).astype(np.float32), axis=1)
    powers = (spectrum.real**2 + spectrum.imag**2).sum(axis=0, dtype=np.float64)
    first_high, first = (math.ceil(hz * _BAND_FRAME_SECONDS) for hz in (TELEPHONE_BAND_HZ, _LOWEST_BAND_HZ))
    return np.array([powers[first_high:].sum(), powers[first:].sum()])


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split())

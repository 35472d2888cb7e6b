"""Speech that the small model learns from: decoded once, then cut, joined, sped up and mixed into endless clips.

The speakers of three corpora are held out by a fixed rule, for choosing, for calibration and for the numbers of the
model card. VoxCeleb2's excerpts are never trained on.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.fft

from chns.data.audio import Waveform, read_audio
from chns.data.augmentation.background import mix_at_snr
from chns.data.augmentation.effects import change_speed

SAMPLE_RATE_HZ = 16_000
SHARES = {"librispeech": 0.5, "speechocean": 0.2, "words": 0.25, "synthetic": 0.05}
"""How often a clip comes from each corpus."""

_MIXED_SHARE = 0.12
_SPED_SHARE = 0.8
_SLOWEST, _FASTEST = 0.78, 1.28
_WARPED_SHARE = 0.7
_TRIMMED_SHARE = 0.75
_SILENT_DB, _KEPT_SAMPLES = 30.0, 800
_JOINT_SAMPLES = 160
_WINDOW, _HOP, _LIFTER = 512, 128, 32
_LOW_FORMANT_HZ, _HIGH_FORMANT_HZ = 1_500, 3_500


class Source(NamedTuple):
    """One recording of the training material.

    Attributes:
        corpus: A name in `SHARES`.
        speaker: Its speaker's name within the corpus.
        path: The file.
    """

    corpus: str
    speaker: str
    path: Path


def held_out(corpus: str, speaker: str) -> bool:
    """Whether a speaker is kept out of the training: a tenth of those of the words, a fifth of those who read."""
    every = {"words": 10, "speechocean": 5}.get(corpus)
    return every is not None and zlib.crc32(speaker.encode()) % every == 0


def for_choosing(speaker: str) -> bool:
    """Whether a speaker who is not trained on is for choosing and calibration, rather than for the numbers reported."""
    return hashlib.sha256(speaker.encode()).digest()[0] % 2 == 0


def corpora_below(data: Path, synthetic: Path | None = None) -> Iterator[Source]:
    """All recordings of the corpora, of held-out speakers too."""
    for path in sorted((data / "librispeech-251").glob("*/*.opus")):
        yield Source("librispeech", path.parent.name, path)
    for folder in ("speech-commands-mini", "speech-commands-more"):
        for path in sorted((data / folder).glob("*/*.opus")):
            yield Source("words", path.name.partition("_")[0], path)
    for line in (data / "speechocean762-train" / "wav.scp").read_text().splitlines():
        name = line.split()[1]
        yield Source("speechocean", Path(name).parent.name, data / "speechocean762-train" / name)
    if synthetic is not None:
        for path in sorted(synthetic.glob("*/*.flac")):
            yield Source("synthetic", path.parent.name, path)


def decode(sources: list[Source], folder: Path) -> None:
    """Write all samples of the sources, one after another, and where each begins, into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    lengths = []
    with (folder / "samples.int16").open("wb") as file:
        for source in sources:
            samples = as_int16(read_audio(source.path, sample_rate_hz=SAMPLE_RATE_HZ))
            lengths.append(len(samples))
            file.write(samples.tobytes())
    np.savez(
        folder / "index.npz",
        ends=np.cumsum(lengths),
        corpora=np.array([source.corpus for source in sources]),
        speakers=np.array([f"{source.corpus}/{source.speaker}" for source in sources]),
    )


def as_int16(waveform: Waveform) -> npt.NDArray[np.int16]:
    """Samples of 16 bits."""
    return np.rint(np.clip(waveform, -1, 1) * 32_767).astype(np.int16)


class Voice(NamedTuple):
    """Whose clips, and what makes another voice of them.

    Attributes:
        rows: The recordings of a speaker.
        speed: How fast they are played: moves pitch and formants together.
        warp: Moves the formants alone; see `warped_formants`.
    """

    rows: npt.NDArray[np.int64]
    speed: float
    warp: tuple[float, float] | None


class Material:
    """What `decode` wrote, as endless clips.

    Args:
        folder: Where it was written.
        clip_samples: Length of a clip.
    """

    def __init__(self, folder: Path, *, clip_samples: int) -> None:
        index = np.load(folder / "index.npz")
        self._samples = np.memmap(folder / "samples.int16", np.int16, "r")
        self._ends = index["ends"]
        self._starts = self._ends - np.diff(self._ends, prepend=0)
        self._clip_samples = clip_samples
        self._of_speaker: dict[str, list[npt.NDArray[np.int64]]] = {corpus: [] for corpus in SHARES}
        for speaker in np.unique(index["speakers"]):
            rows = np.flatnonzero(index["speakers"] == speaker)
            self._of_speaker[str(index["corpora"][rows[0]])].append(rows)
        self._corpora = [corpus for corpus in SHARES if self._of_speaker[corpus]]
        shares = np.array([SHARES[corpus] for corpus in self._corpora])
        self._shares = shares / shares.sum()

    def pair(self, rng: np.random.Generator) -> list[Waveform]:
        """Two different clips of one voice: of one speaker, at one speed, or of the same two speakers mixed."""
        voices = [self._voice(rng)]
        if rng.random() < _MIXED_SHARE:
            voices.append(self._voice(rng))
        clips = []
        for _ in range(2):
            clip, *others = [self._clip(voice, rng) for voice in voices]
            for other in others:
                clip = mix_at_snr(clip, other, rng.uniform(0.0, 12.0))
            clips.append(_at_sensible_level(clip, rng))
        return clips

    def _voice(self, rng: np.random.Generator) -> Voice:
        corpus = self._corpora[rng.choice(len(self._corpora), p=self._shares)]
        speakers = self._of_speaker[corpus]
        rows = speakers[rng.integers(len(speakers))]
        speed, warp = 1.0, None
        if rng.random() < _SPED_SHARE:
            speed = float(np.exp(rng.uniform(np.log(_SLOWEST), np.log(_FASTEST))))
        if rng.random() < _WARPED_SHARE:
            low = float(np.exp(np.clip(rng.normal(0, 0.08), -0.2, 0.2)))
            warp = low, low * float(np.exp(np.clip(rng.normal(0, 0.05), -0.12, 0.12)))
        return Voice(rows, speed, warp)

    def _clip(self, voice: Voice, rng: np.random.Generator) -> Waveform:
        rows, speed, warp = voice
        wanted = int(np.ceil(self._clip_samples * speed)) + 8
        parts: list[Waveform] = []
        missing = wanted
        trimmed = rng.random() < _TRIMMED_SHARE
        for row in np.resize(rng.permutation(rows), 50):  # nobody has 50 that are shorter than a fiftieth of a clip
            start, end = self._starts[row], self._ends[row]
            if end - start > missing:
                start += rng.integers(end - start - missing)
            part = self._samples[start : min(end, start + missing)].astype(np.float32) / 32_768
            if trimmed:
                part = without_silent_ends(part)
            parts.append(part if not parts else _faded_in(part))
            missing -= len(part)
            if missing <= 0:
                break
        clip = np.concatenate(parts)
        clip = np.resize(clip, wanted) if len(clip) < wanted else clip
        clip = (change_speed(clip, speed) if speed != 1.0 else clip)[: self._clip_samples]
        return clip if warp is None else warped_formants(clip, *warp)


def warped_formants(clip: Waveform, low: float, high: float) -> Waveform:
    """Move the formants and leave the pitch: the spectral envelope is warped under the harmonics.

    Args:
        clip: Shape (samples,).
        low: What was at this times `_LOW_FORMANT_HZ` is at `_LOW_FORMANT_HZ` afterwards.
        high: The same at `_HIGH_FORMANT_HZ`; frequencies between are interpolated, the ends stay.
    """
    bins = _WINDOW // 2 + 1
    padded = np.pad(clip, (_WINDOW, _WINDOW + -len(clip) % _HOP))
    window = np.hanning(_WINDOW + 1)[:-1].astype(np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::_HOP] * window
    spectrum = scipy.fft.rfft(frames)
    cepstrum = scipy.fft.irfft(np.log(np.abs(spectrum) + 1e-5))
    cepstrum[:, _LIFTER : _WINDOW - _LIFTER + 1] = 0
    envelope = scipy.fft.rfft(cepstrum).real
    hz = np.linspace(0, SAMPLE_RATE_HZ / 2, bins)
    knots = np.array([0, _LOW_FORMANT_HZ, _HIGH_FORMANT_HZ, SAMPLE_RATE_HZ / 2])
    from_bins = np.interp(hz, knots, knots * [1, low, high, 1]) / hz[1]
    below = np.minimum(from_bins.astype(int), bins - 2)
    share = (from_bins - below).astype(np.float32)
    warped = envelope[:, below] * (1 - share) + envelope[:, below + 1] * share
    moved = scipy.fft.irfft(spectrum * np.exp(np.clip(warped - envelope, -2.5, 2.5))).astype(np.float32) * window
    summed = np.zeros(len(padded), np.float32)
    for place in range(_WINDOW // _HOP):  # frames that do not overlap are added at once
        part = moved[place :: _WINDOW // _HOP].ravel()
        summed[place * _HOP : place * _HOP + len(part)] += part
    return summed[_WINDOW : _WINDOW + len(clip)] / np.float32(1.5)  # the squared windows add up to that


def without_silent_ends(part: Waveform) -> Waveform:
    """Without what is far below the loudest moment, before the first and after the last sound, but for 50 ms."""
    blocks = np.square(part[: len(part) // 160 * 160].reshape(-1, 160)).mean(axis=1)
    if not len(blocks) or blocks.max() == 0:
        return part
    loud = np.flatnonzero(blocks > blocks.max() * 10 ** (-_SILENT_DB / 10))
    return part[max(0, 160 * loud[0] - _KEPT_SAMPLES) : 160 * (loud[-1] + 1) + _KEPT_SAMPLES]


def _faded_in(part: Waveform) -> Waveform:
    """Without a click where two recordings are joined."""
    ramp = min(_JOINT_SAMPLES, len(part))
    part[:ramp] *= np.linspace(0, 1, ramp, dtype=np.float32)
    return part


def _at_sensible_level(clip: Waveform, rng: np.random.Generator) -> Waveform:
    peak = float(np.abs(clip).max())
    return clip * np.float32(rng.uniform(0.2, 0.8) / peak) if peak > 0 else clip

"""What a line does to speech: the telephone's band, mobile telephony, and the codecs of the web.

libsndfile encodes and decodes in memory, so the artefacts are those of the real codecs. All of them were checked to
leave the voice where it was in time. Measured costs of a 3 s crop are in ``benchmarks/augmentation.py``.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

import numpy as np
import scipy.signal
import soundfile
import soxr

from chns.data.audio import Waveform
from chns.data.augmentation.level import require_probability, without_clipping

_NARROW_HZ, _WIDE_HZ = 8_000, 16_000
_TELEPHONE_BAND_HZ = (300.0, 3_400.0)
_MP3_KBPS = (24, 32, 48, 64)
_MP3_DELAY_SAMPLES = 1_105
_OPUS_KBPS = (8, 12, 16, 24)


class Codec:
    """Sends a crop through a line.

    Args:
        probability: How often.
        kinds: Names in `CODECS`, each equally likely.
        sample_rate_hz: Rate of the crops.

    Raises:
        ValueError: If the probability is out of range, or there is no kind, or none of that name.
    """

    def __init__(self, *, probability: float, kinds: Sequence[str], sample_rate_hz: int) -> None:
        require_probability("codec probability", probability)
        if not kinds or not set(kinds) <= set(CODECS):
            raise ValueError(f"codec kinds must be some of {', '.join(CODECS)}, got {', '.join(kinds) or 'none'}.")
        self._probability = probability
        self._kinds = list(kinds)
        self._sample_rate_hz = sample_rate_hz

    def __call__(self, waveform: Waveform, rng: np.random.Generator) -> tuple[Waveform, str]:
        """The waveform, changed or not and of the same length, and what was done, in words."""
        if rng.random() >= self._probability:
            return waveform, ""
        kind = self._kinds[rng.integers(len(self._kinds))]
        rate_hz, line = CODECS[kind]
        sent = soxr.resample(without_clipping(waveform), self._sample_rate_hz, rate_hz)
        heard, detail = line(without_clipping(sent), rng)
        return _of_length(soxr.resample(heard, rate_hz, self._sample_rate_hz), len(waveform)), f"{kind}{detail}"


def _telephone(waveform: Waveform, _: np.random.Generator) -> tuple[Waveform, str]:
    """300 to 3,400 Hz, then G.711's eight bits in mu-law; filtered forwards and backwards, so that nothing moves."""
    band = scipy.signal.butter(4, _TELEPHONE_BAND_HZ, "bandpass", fs=_NARROW_HZ, output="sos")
    filtered = scipy.signal.sosfiltfilt(band, waveform, padlen=min(27, len(waveform) - 1)).astype(np.float32)
    return _coded(without_clipping(filtered), _NARROW_HZ, "WAV", "ULAW"), ""


def _gsm(waveform: Waveform, _: np.random.Generator) -> tuple[Waveform, str]:
    """GSM 06.10 full rate, 13 kbit/s."""
    return _coded(waveform, _NARROW_HZ, "WAV", "GSM610"), ""


def _mp3(waveform: Waveform, rng: np.random.Generator) -> tuple[Waveform, str]:
    """MP3 at a constant rate; libsndfile counts 160 kbit/s as 0 and 8 as 1.

    Its decoder removes the codec's delay and padding if the first frame says how long they are. At low rates that frame
    has no room for it; the padding that is still there tells that the delay is too.
    """
    kbps = int(rng.choice(_MP3_KBPS))
    level = 1 - (kbps - 8) / (160 - 8)
    heard = _coded(waveform, _WIDE_HZ, "MP3", "MPEG_LAYER_III", level, "CONSTANT")
    if len(heard) > len(waveform):
        heard = heard[_MP3_DELAY_SAMPLES:]
    return heard, f" {kbps} kbit/s"


def _opus(waveform: Waveform, rng: np.random.Generator) -> tuple[Waveform, str]:
    """Opus; libsndfile counts 256 kbit/s as 0 and 6 as 1."""
    kbps = int(rng.choice(_OPUS_KBPS))
    level = 1 - (kbps - 6) / (256 - 6)
    return _coded(waveform, _WIDE_HZ, "OGG", "OPUS", level), f" {kbps} kbit/s"


CODECS: dict[str, tuple[int, Callable[[Waveform, np.random.Generator], tuple[Waveform, str]]]] = {
    "telephone": (_NARROW_HZ, _telephone),
    "gsm": (_NARROW_HZ, _gsm),
    "mp3": (_WIDE_HZ, _mp3),
    "opus": (_WIDE_HZ, _opus),
}
"""Name of each line, the rate that it works at, and what it does."""


def _coded(
    waveform: Waveform,
    rate_hz: int,
    container: str,
    subtype: str,
    compression_level: float | None = None,
    bitrate_mode: str | None = None,
) -> Waveform:
    """Encode and decode in memory."""
    memory = io.BytesIO()
    soundfile.write(
        memory,
        waveform,
        rate_hz,
        format=container,
        subtype=subtype,
        compression_level=compression_level,
        bitrate_mode=bitrate_mode,
    )
    memory.seek(0)
    decoded: Waveform = soundfile.read(memory, dtype="float32")[0]
    return decoded


def _of_length(waveform: Waveform, num_samples: int) -> Waveform:
    """Cut what a codec's last frame added, or fill up with silence."""
    return np.pad(waveform[:num_samples], (0, max(0, num_samples - len(waveform))))

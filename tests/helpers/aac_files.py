"""Encode AAC with PyAV, for tests."""

from pathlib import Path

import av
import numpy as np


def write_aac(
    path: Path, samples: np.ndarray, sample_rate_hz: int = 16_000, *, noise_substitution: bool = True, **options: str
) -> Path:
    """Write samples, shape (samples,) or (channels, samples), as AAC; options are those of FFmpeg's muxer."""
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.ascontiguousarray(np.atleast_2d(samples), dtype=np.float32)
    layout = "mono" if len(samples) == 1 else "stereo"
    container = {".m4a": "ipod", ".mp4": "mp4", ".aac": "adts"}[path.suffix]
    with av.open(str(path), "w", format=container, options=options) as file:
        stream = file.add_stream(
            "aac", rate=sample_rate_hz, layout=layout, options={"aac_pns": str(int(noise_substitution))}
        )
        stream.bit_rate = 64_000 * len(samples)
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=layout)
        frame.sample_rate, frame.pts = sample_rate_hz, 0
        for part in (frame, None):
            file.mux(stream.encode(part))
    return path


def write_surround(path: Path) -> Path:
    """Write a second of silence in eight channels."""
    container = {".m4a": "ipod", ".mp4": "mp4", ".aac": "adts"}[path.suffix]
    # Interleaved samples: PyAV cannot handle eight planes.
    frame = av.AudioFrame.from_ndarray(np.zeros((1, 8 * 16_000), np.float32), format="flt", layout="7.1")
    frame.sample_rate, frame.pts = 16_000, 0
    with av.open(str(path), "w", format=container) as file:
        stream = file.add_stream("aac", rate=16_000, layout="7.1")
        for part in (frame, None):
            file.mux(stream.encode(part))
    return path

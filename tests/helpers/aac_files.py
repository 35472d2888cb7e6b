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
    # Interleaved samples: PyAV cannot handle eight planes.
    frame = av.AudioFrame.from_ndarray(np.zeros((1, 8 * 16_000), np.float32), format="flt", layout="7.1")
    frame.sample_rate, frame.pts = 16_000, 0
    if path.suffix == ".aac":  # FFmpeg's muxer of this format writes eight channels no more since PyAV 19
        encoder = av.CodecContext.create("aac", "w")
        encoder.sample_rate, encoder.layout, encoder.format = 16_000, "7.1", "fltp"
        frames = av.AudioResampler(format="fltp", layout="7.1", frame_size=1_024).resample(frame)
        packets = [bytes(packet) for part in (*frames[:-1], None) for packet in encoder.encode(part)]
        path.write_bytes(b"".join(_adts_header(len(packet)) + packet for packet in packets))
        return path
    container = {".m4a": "ipod", ".mp4": "mp4"}[path.suffix]
    with av.open(str(path), "w", format=container) as file:
        stream = file.add_stream("aac", rate=16_000, layout="7.1")
        for part in (frame, None):
            file.mux(stream.encode(part))
    return path


def _adts_header(packet_bytes: int) -> bytes:
    """Of a frame of AAC LC, 16 kHz, in channel configuration 7, which is 7.1."""
    fields = [(0xFFF, 12), (0, 3), (1, 1), (1, 2), (8, 4), (0, 1), (7, 3), (0, 4), (packet_bytes + 7, 13), (0x7FF, 11)]
    bits = "".join(f"{value:0{width}b}" for value, width in [*fields, (0, 2)])
    return int(bits, 2).to_bytes(7, "big")

"""A graph for sherpa-onnx, which computes the features itself and passes them in.

sherpa-onnx takes a speaker model whose input is log-mel features, and its own differ from ours in three ways:

- 80 mels reach from 20 Hz to 400 Hz below half the sample rate; ours to half the sample rate unless a model was trained
  with another ``high_hz``. The graph interpolates between sherpa's mels to get those that the model knows.
- Frames are centred at multiples of the hop and mirror the signal at its ends, ours start at its beginning. The graph
  drops the first and the last frame, the mirrored ones; there remain as many as we have, 2.5 ms later.
- The mean over time is subtracted or not; the graph takes them as they are and does it itself.

Only the first matters if left alone, together with the mirrored ends: ``docs/decisions/0008-export.md`` has how far
apart embeddings are. Training with ``high_hz: 7600`` makes the interpolation exact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from chns.bundle.bundle import Architecture
from chns.bundle.bundle_graph import LARGEST_DISTANCE, MADE_BY, checked_distance
from chns.bundle.graph import Graph, largest_distance, model_graph, onnx_graph
from chns.bundle.onnx_file import OPSET, write_onnx
from chns.core import ConfigError, Float32Array, atomic_path
from chns.encoders import SpeakerEncoder
from chns.features import LogMel
from chns.inference.export import Exported, require_suffix

_NUM_MELS = 80
_LOW_HZ = 20.0
_BELOW_HALF_RATE_HZ = 400.0
_FEATURES = "chns.features.LogMel"
_FIXED_SETTINGS = {"num_mels": _NUM_MELS, "frame_seconds": 0.025, "hop_seconds": 0.010, "window": "povey"}


class SherpaEncoder(nn.Module):
    """sherpa-onnx's features to embeddings: (batch, frames, 80) -> (batch, embedding_dim).

    Args:
        model: Whose encoder it is.
        low_hz: Lower edge of the lowest filter that the model was trained with.
        high_hz: Upper edge of the highest.
    """

    features_from_theirs: Tensor

    def __init__(self, model: SpeakerEncoder, *, low_hz: float, high_hz: float) -> None:
        super().__init__()
        self.encoder = model.encoder
        self.subtract_mean = model.features.subtract_mean
        theirs = (_LOW_HZ, model.sample_rate_hz / 2 - _BELOW_HALF_RATE_HZ)
        mels = _interpolation(_centres(*theirs), _centres(low_hz, high_hz))
        self.register_buffer("features_from_theirs", mels, persistent=False)

    def forward(self, frames: Tensor) -> Tensor:
        """Embed a batch; of fewer than three frames nothing remains."""
        features = frames[:, 1:-1] @ self.features_from_theirs
        if self.subtract_mean:
            features = features - features.mean(1, keepdim=True)
        embeddings: Tensor = self.encoder(features)
        return embeddings


def export_for_sherpa(
    model: SpeakerEncoder, architecture: Architecture, path: Path, *, check: Sequence[Float32Array], comment: str = ""
) -> tuple[Exported, float]:
    """Write a model for sherpa-onnx, and check the file before it gets its name.

    Args:
        model: Put on the CPU and into evaluation mode.
        architecture: How it was built.
        path: The file.
        check: Waveforms to compare on, each of shape (batch, samples).
        comment: Goes into the file's metadata.

    Returns:
        What was written, with the distance to the same computed by torch; and the largest cosine distance to the
        model on its own features, which sherpa-onnx's way of framing makes larger.

    Raises:
        ValueError: If the path does not end in .onnx.
        ConfigError: If the model's features are too far from sherpa-onnx's.
        ChnsError: If a package is missing.
        ExportError: If the file does not compute what torch does.
    """
    require_suffix(path, ".onnx")
    if architecture.features != _FEATURES:
        raise ConfigError(f"features must be {_FEATURES} for sherpa-onnx, got {architecture.features}. Export as onnx.")
    model.cpu().eval()
    encoder = SherpaEncoder(model, **_mel_range(architecture.feature_settings, model)).eval()
    example = torch.zeros(2, 100, _NUM_MELS)
    with torch.inference_mode():
        dim = encoder(example).shape[1]
    metadata = {
        "framework": "wespeaker",
        "language": "unspecified",
        "url": "",
        "comment": comment,
        "sample_rate": str(model.sample_rate_hz),
        "output_dim": str(dim),
        "normalize_samples": "0",  # samples times 32768, as in our features
        MADE_BY: "chns",
    }
    with atomic_path(path) as temporary:
        write_onnx(encoder, example, temporary, input_name="x", axes=("batch", "frames", None), metadata=metadata)
        graph = sherpa_graph(temporary, model.sample_rate_hz)
        reference = _in_front_of(model_graph(encoder), model.sample_rate_hz)
        distance = checked_distance(graph, reference, check, limit=LARGEST_DISTANCE)
        to_own_features = largest_distance(graph, model_graph(model), check)
    exported = Exported(path=path, num_bytes=path.stat().st_size, opset=OPSET, distance=distance)
    return exported, to_own_features


def sherpa_graph(path: Path, sample_rate_hz: int) -> Graph:
    """A file for sherpa-onnx, from waveforms on: with the features that sherpa-onnx would compute."""
    return _in_front_of(onnx_graph(path), sample_rate_hz)


def sherpa_features(sample_rate_hz: int) -> nn.Module:
    """Waveforms (batch, samples) to the features (batch, frames, 80) that sherpa-onnx computes.

    As many frames as there are hops in the waveform, rounded; each is centred in its hop, and at the ends the waveform
    is mirrored. No mean is subtracted.
    """
    return _MirroredLogMel(
        LogMel(sample_rate_hz=sample_rate_hz, high_hz=sample_rate_hz / 2 - _BELOW_HALF_RATE_HZ, subtract_mean=False)
    )


class _MirroredLogMel(nn.Module):
    def __init__(self, features: LogMel) -> None:
        super().__init__()
        self.features = features

    def forward(self, waveforms: Tensor) -> Tensor:
        frame, hop = self.features.frame_samples, self.features.hop_samples
        num_samples = waveforms.shape[1]
        num_frames = (num_samples + hop // 2) // hop
        before = (frame - hop) // 2
        after = max(0, (num_frames - 1) * hop + frame - before - num_samples)
        start, end = waveforms[:, :before].flip(1), waveforms[:, num_samples - after :].flip(1)
        features: Tensor = self.features(torch.cat([start, waveforms, end], dim=1))
        return features[:, :num_frames]


def _in_front_of(graph: Graph, sample_rate_hz: int) -> Graph:
    features = sherpa_features(sample_rate_hz)

    def run(waveforms: Float32Array) -> Float32Array:
        with torch.inference_mode():
            frames: Float32Array = features(torch.from_numpy(waveforms)).numpy()
        return graph(frames)

    return run


def _mel_range(settings: Mapping[str, Any], model: SpeakerEncoder) -> dict[str, float]:
    for name, wanted in _FIXED_SETTINGS.items():
        if settings.get(name, wanted) != wanted:
            raise ConfigError(f"{name} must be {wanted}, as sherpa-onnx has it, got {settings[name]}. Export as onnx.")
    high_hz = settings.get("high_hz")
    return {
        "low_hz": settings.get("low_hz", _LOW_HZ),
        "high_hz": model.sample_rate_hz / 2 if high_hz is None else high_hz,
    }


def _centres(low_hz: float, high_hz: float) -> Tensor:
    """Centres of the filters on the mel scale, shape (80,)."""
    low, high = (1127.0 * np.log1p(hz / 700.0) for hz in (low_hz, high_hz))
    return torch.linspace(low, high, _NUM_MELS + 2, dtype=torch.float64)[1:-1]


def _interpolation(given: Tensor, wanted: Tensor) -> Tensor:
    """Matrix M such that ``x @ M`` is x, known at the rising places ``given``, at the places ``wanted``.

    Linear between two places; beyond the ends the last value. Shape (given, wanted).
    """
    columns = [np.interp(wanted.numpy(), given.numpy(), row) for row in np.eye(len(given))]
    return torch.from_numpy(np.stack(columns)).float()

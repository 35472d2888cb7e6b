"""Run a graph that carries sherpa-onnx's metadata as it is: features to embedding, with the features computed here.

sherpa-onnx feeds every model its own features, an approximation of what each was trained on. Here a model hears what
its toolkit computes, which is Kaldi's filterbank for both toolkits that are known: 80 mels from 20 Hz to half the
sample rate, of whole frames, less their mean. docs/decisions/0016 has why, and what that is worth.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from chns.bundle.bundle_graph import GraphBundle
from chns.bundle.graph import LARGEST_GRAPH_BYTES, read_untrusted_graph
from chns.core import Float32Array, ModelFileError, quoted
from chns.features.filterbank import Filterbank, Window

MADE_BY = "made_by"  # a key of our own exports, which undo sherpa-onnx's features

_WINDOWS: Mapping[str, Window] = {"wespeaker": "hamming", "3d-speaker": "povey"}  # of the toolkits, by framework
_NUM_MELS = 80
_RATES_HZ = ("8000", "16000")
_FULL_SCALE = np.float32(2.0**15)


def read_sherpa_graph(path: Path, *, num_threads: int | None = None) -> GraphBundle:
    """Get such a graph ready.

    Args:
        path: The ONNX file; untrusted.
        num_threads: As `read_untrusted_graph`.

    Raises:
        ModelFileError: If it lacks the metadata, is of another framework or made for other features, or holds what
            `chns.bundle.graph` refuses.
    """
    if path.stat().st_size > LARGEST_GRAPH_BYTES:
        raise ModelFileError(f"graph must be at most {LARGEST_GRAPH_BYTES:,} bytes, got more in {path}.")
    content = path.read_bytes()
    graph = read_untrusted_graph(content, source=str(path), input_axes=3, num_threads=num_threads)
    stated = graph.metadata
    if MADE_BY in stated:
        raise ModelFileError(
            f"graph must hear what its toolkit computes, got {path}, which `chns export` made for sherpa-onnx's own "
            "features. Use the model that it was exported from."
        )
    _require(stated, "framework", tuple(_WINDOWS), path)
    _require(stated, "sample_rate", _RATES_HZ, path)
    _require(stated, "feature_normalize_type", ("global-mean", ""), path, default="")
    _require(stated, "normalize_samples", ("0", "1"), path, default="0")
    rate_hz = int(stated["sample_rate"])
    features = Filterbank(num_mels=_NUM_MELS, sample_rate_hz=rate_hz, window=_WINDOWS[stated["framework"]])
    scale = _FULL_SCALE if stated.get("normalize_samples") == "1" else np.float32(1)

    def run(waveforms: Float32Array) -> Float32Array:
        made = np.concatenate([graph.run(frames[None]) for frames in features(waveforms / scale)])  # some take only one
        _require(stated, "output_dim", (str(made.shape[1]),), path)
        return made

    return GraphBundle(run, rate_hz, features.frame_samples, hashlib.sha256(content).hexdigest(), {})


def _require(
    stated: Mapping[str, str], name: str, allowed: tuple[str, ...], path: Path, *, default: str | None = None
) -> None:
    value = stated.get(name, default)
    if value not in allowed:
        got = "none" if value is None else quoted(value)
        wanted = " or ".join(filter(None, allowed))
        raise ModelFileError(f"{name} must be {wanted}, got {got} in the metadata of {path}.")

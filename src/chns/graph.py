"""Run a model as a function from arrays to arrays: the trained one, or a graph exported from it.

Nothing is imported before it is needed, so that a graph in ONNX runs without torch.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from chns.core.arrays import Float32Array, Float64Array

if TYPE_CHECKING:
    import torch

Graph = Callable[[Float32Array], Float32Array]
"""Waveforms, shape (batch, samples), to embeddings, shape (batch, dim)."""


def model_graph(model: Callable[[torch.Tensor], torch.Tensor]) -> Graph:
    """The trained model itself, called like an exported one."""
    import torch

    def run(inputs: Float32Array) -> Float32Array:
        with torch.inference_mode():
            embeddings: Float32Array = model(torch.from_numpy(inputs)).numpy()
        return embeddings

    return run


def onnx_graph(path: Path) -> Graph:
    """An ONNX file of our own making, of one input. `chns.untrusted_graph` reads one of a stranger's."""
    import onnxruntime

    return session_graph(onnxruntime.InferenceSession(path, session_options(), providers=["CPUExecutionProvider"]))


def session_options() -> Any:
    """Of onnxruntime, with as many threads as ``OMP_NUM_THREADS`` says or else as this process may use."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = _num_threads()
    options.log_severity_level = 4  # warnings are about which optimisations applied; errors are raised too
    return options


def session_graph(session: Any) -> Graph:
    """A session of onnxruntime with one input and one output."""
    name = session.get_inputs()[0].name

    def run(inputs: Float32Array) -> Float32Array:
        (embeddings,) = session.run(None, {name: inputs})
        return np.asarray(embeddings, np.float32)

    return run


def torch_export_graph(path: Path) -> Graph:
    """A ``.pt2`` file of ``torch.export``."""
    import torch

    return model_graph(torch.export.load(path).module())


def largest_distance(graph: Graph, reference: Graph, batches: Sequence[Float32Array]) -> float:
    """The largest cosine distance between what two graphs make of the same utterance.

    Args:
        graph: One.
        reference: The other.
        batches: Waveforms, each of shape (batch, samples).

    Returns:
        Largest 1 - cosine; NaN if a graph gives anything that is not a number.
    """
    return float(np.max(np.concatenate([_distances(graph(batch), reference(batch)) for batch in batches])))


def _distances(embeddings: Float32Array, others: Float32Array) -> Float64Array:
    a, b = embeddings.astype(np.float64), others.astype(np.float64)
    a /= np.linalg.norm(a, axis=1, keepdims=True)
    b /= np.linalg.norm(b, axis=1, keepdims=True)
    distances: Float64Array = np.square(a - b).sum(axis=1) / 2  # 1 - cosine, without cancellation
    return distances


def _num_threads() -> int:
    stated = os.environ.get("OMP_NUM_THREADS", "")
    if stated.isdigit() and int(stated) > 0:
        return int(stated)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

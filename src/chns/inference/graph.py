"""Run exported graphs the way a product would: from the file alone, without the code that made it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from chns.inference.onnx_file import require_export_packages

FloatArray = npt.NDArray[np.float32]
Graph = Callable[[FloatArray], FloatArray]
"""Waveforms, shape (batch, samples), to embeddings, shape (batch, dim)."""


def model_graph(model: torch.nn.Module) -> Graph:
    """The trained model itself, called like an exported one."""
    return _torch_graph(model)


def onnx_graph(path: Path) -> Graph:
    """An ONNX file of one input, on as many threads as torch uses.

    Raises:
        ChnsError: If onnxruntime is missing.
    """
    require_export_packages()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # warnings are about which optimisations applied
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(inputs: FloatArray) -> FloatArray:
        (embeddings,) = session.run(None, {name: inputs})
        return np.asarray(embeddings, np.float32)

    return run


def torchscript_graph(path: Path) -> Graph:
    """A TorchScript file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch would rather have the other format
        return _torch_graph(torch.jit.load(path))  # type: ignore[no-untyped-call]


def torch_export_graph(path: Path) -> Graph:
    """A ``.pt2`` file of ``torch.export``."""
    return _torch_graph(torch.export.load(path).module())


def largest_distance(graph: Graph, reference: Graph, batches: Sequence[FloatArray]) -> float:
    """The largest cosine distance between what two graphs make of the same utterance.

    Args:
        graph: One.
        reference: The other.
        batches: Waveforms, each of shape (batch, samples).

    Returns:
        Largest 1 - cosine; NaN if a graph gives anything that is not a number.
    """
    return float(np.max(np.concatenate([_distances(graph(batch), reference(batch)) for batch in batches])))


def _distances(embeddings: FloatArray, others: FloatArray) -> npt.NDArray[np.float64]:
    a, b = embeddings.astype(np.float64), others.astype(np.float64)
    a /= np.linalg.norm(a, axis=1, keepdims=True)
    b /= np.linalg.norm(b, axis=1, keepdims=True)
    distances: npt.NDArray[np.float64] = np.square(a - b).sum(axis=1) / 2  # 1 - cosine, without cancellation
    return distances


def _torch_graph(module: Callable[[torch.Tensor], torch.Tensor]) -> Graph:
    def run(inputs: FloatArray) -> FloatArray:
        with torch.inference_mode():
            embeddings: FloatArray = module(torch.from_numpy(inputs)).numpy()
        return embeddings

    return run

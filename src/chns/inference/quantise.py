"""Weights of an ONNX file as 8-bit integers.

Convolutions and matrix products get 8-bit weights; what flows between them is quantised anew for every input
("dynamic"), so no calibration data is needed. Weights are unsigned: with signed ones ONNX Runtime's integer convolution
is three to four times slower on x86. The features stay in float, because their matrix spans too large a range (a cosine
distance of 0.98 otherwise). What it brings is in ``docs/decisions/0008-export.md``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from chns.bundle_graph import checked_distance
from chns.core.arrays import Float32Array
from chns.files import atomic_path
from chns.graph import Graph
from chns.inference.export import Exported, require_suffix
from chns.onnx_file import OPSET, require_export_packages

LARGEST_INT8_DISTANCE = 0.02

_FEATURES_PREFIX = "features"


def export_int8(source: Path, path: Path, *, load: Callable[[Path], Graph], check: Sequence[Float32Array]) -> Exported:
    """Write an ONNX file again with 8-bit weights, and check the file before it gets its name.

    Args:
        source: Written by `chns.inference.export` or `chns.inference.export_sherpa`.
        path: The new file.
        load: Reads such files: `chns.graph.onnx_graph`, say.
        check: Waveforms to compare on, each of shape (batch, samples).

    Returns:
        What was written, with the distance to the source.

    Raises:
        ValueError: If the path does not end in .onnx.
        ChnsError: If a package is missing.
        ExportError: If an embedding is further than `LARGEST_INT8_DISTANCE` from the source's.
    """
    require_suffix(path, ".onnx")
    with atomic_path(path) as temporary:
        _quantise(source, temporary)
        distance = checked_distance(load(temporary), load(source), check, limit=LARGEST_INT8_DISTANCE)
    return Exported(path=path, num_bytes=path.stat().st_size, opset=OPSET, distance=distance)


def _quantise(source: Path, path: Path) -> None:
    require_export_packages()
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    nodes = onnx.load(source).graph.node
    of_features = [node.name for node in nodes if any(name.startswith(_FEATURES_PREFIX) for name in node.input)]
    root = logging.getLogger()
    root.addFilter(_not_from_onnxruntime)
    try:
        quantize_dynamic(source, path, weight_type=QuantType.QUInt8, nodes_to_exclude=of_features)
    finally:
        root.removeFilter(_not_from_onnxruntime)


def _not_from_onnxruntime(record: logging.LogRecord) -> bool:
    """Drop its advice to prepare the graph, which the exporter has done, and what it says about single tensors."""
    return "onnxruntime" not in record.pathname

"""Make a bundle's graph small: weights of four bits as such, the other large ones of sixteen, and nothing beside it.

    python recipes/small_model/pack_graph.py MODEL OUT

All four-bit weights lie in one array of bytes and their scales in another; the graph unpacks them with standard
operators that any ONNX Runtime since 1.14 folds into constants when it loads the file.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
from four_bits import BLOCK
from onnx import TensorProto, helper, numpy_helper

from chns.bundle.bundle import load_bundle
from chns.bundle.bundle_graph import built_in_signal, checked_distance, write_waveform_graph
from chns.bundle.graph import model_graph, read_untrusted_graph

_FEWEST_NUMBERS = 64
_UNIT = 16
_LARGEST_DISTANCE = 2e-4


class Packed:
    """Numbers of all weights of one kind, one after another, and the nodes that take them apart.

    Args:
        name: Of the values that are taken apart.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.parts: list[np.ndarray] = []
        self.nodes: list[onnx.NodeProto] = []
        self.shapes: list[onnx.TensorProto] = []
        self.outputs: list[str] = []
        self.scales: list[np.ndarray] = []

    def add(self, flat: np.ndarray, shape: tuple[int, ...], target: str, *, scale: np.ndarray | None = None) -> None:
        """Numbers that become ``target``; with a scale, rows of them are multiplied by it before."""
        part = f"{self.name}{len(self.parts)}"
        self.parts.append(flat)
        self.outputs.append(part)
        source = part
        if scale is not None:
            self.scales.append(scale)
            self._reshape(part, (len(scale), BLOCK), f"{part}r")
            inputs = [f"{part}r", f"{part}s"]  # a runtime keeps this node, and so the weight as bytes
            self.nodes.append(helper.make_node("DequantizeLinear", inputs, [f"{part}m"], axis=0))
            source = f"{part}m"
        self._reshape(source, shape, target)

    def moved(self, last_to: int, ndim: int) -> None:
        """Move the last axis of the value that was just added."""
        reshape = self.nodes[-1]
        target = reshape.output[0]
        reshape.output[0] = f"{self.outputs[-1]}t"
        order = [*range(last_to), ndim - 1, *range(last_to, ndim - 1)]
        self.nodes.append(helper.make_node("Transpose", [reshape.output[0]], [target], perm=order))

    def split(self, whole: str) -> list[onnx.NodeProto]:
        """All nodes, from the whole array on."""
        sizes = numpy_helper.from_array(np.array([len(part) for part in self.parts], np.int64), f"{self.name}_sizes")
        self.shapes.append(sizes)
        return [helper.make_node("Split", [whole, sizes.name], self.outputs, axis=0), *self.nodes]

    def split_scales(self, whole: str) -> onnx.NodeProto:
        """The node that takes the scales apart."""
        sizes = numpy_helper.from_array(np.array([len(scale) for scale in self.scales], np.int64), "scale_sizes")
        self.shapes.append(sizes)
        return helper.make_node("Split", [whole, sizes.name], [f"{part}s" for part in self.outputs], axis=0)

    def _reshape(self, source: str, shape: tuple[int, ...], target: str) -> None:
        wanted = numpy_helper.from_array(np.array(shape, np.int64), f"{target}_shape")
        self.shapes.append(wanted)
        self.nodes.append(helper.make_node("Reshape", [source, wanted.name], [target]))


def on_grid(weight: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Codes from -8 to 7 and scales of a weight that has four bits, blocks last; None if it has more.

    A block's largest number is one to eight scales, so there are eight candidates; the largest that fits is taken.
    """
    if weight.ndim < 2 or weight.shape[axis] % BLOCK:
        return None
    blocks = np.moveaxis(weight, axis, -1)
    blocks = blocks.reshape(*blocks.shape[:-1], -1, BLOCK).astype(np.float64)
    largest = np.abs(blocks).max(axis=-1, keepdims=True)
    scale = np.zeros_like(largest)
    for steps in range(8, 0, -1):
        candidate = np.maximum(largest / steps, 1e-12)
        codes = blocks / candidate
        fits = np.abs(codes - np.rint(codes)).max(axis=-1, keepdims=True) < 0.02
        fits &= (codes.max(axis=-1, keepdims=True) < 7.5) & (codes.min(axis=-1, keepdims=True) > -8.5)
        scale = np.where(fits, candidate, scale)
    if not (scale > 0).all():
        return None
    return np.rint(blocks / scale).astype(np.int8), scale[..., 0]


def pack(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph with its numbers packed."""
    graph = model.graph
    constants = _with_unit_statistics(graph)
    fours, halves = Packed("q"), Packed("h")
    kept = []
    for initializer in graph.initializer:
        values = numpy_helper.to_array(initializer)
        if values.dtype != np.float32 or values.size < _FEWEST_NUMBERS:
            kept.append(initializer)
            continue
        found = [(axis, packed) for axis in (1, 0) if values.size >= 4_000 and (packed := on_grid(values, axis))]
        if found:
            axis, (codes, scale) = found[0]
            rest = [size for place, size in enumerate(values.shape) if place != axis]
            plain = all(size == 1 for size in values.shape[axis + 1 :])  # the last axis is the last that counts
            shape = values.shape if plain else (*rest, values.shape[axis])
            fours.add(codes.ravel(), shape, initializer.name, scale=scale.ravel())
            if not plain:
                fours.moved(axis, values.ndim)
        else:
            halves.add(values.ravel(), values.shape, initializer.name)
    codes = np.concatenate(fours.parts).view(np.uint8)
    half = len(codes) // 2
    arrays = {
        "codes": (codes[:half] & 15) | (codes[half:] << 4),
        "scales": np.concatenate(fours.scales).astype(np.float16),
        "halves": np.concatenate(halves.parts).astype(np.float16),
        "upper": np.array(0xF0, np.uint8),
        "four": np.array(4, np.uint8),
        "unit": np.array(1 / _UNIT, np.float32),
    }
    # A half byte in the upper place is, as a signed byte, sixteen times its number.
    unpack = [
        helper.make_node("BitShift", ["codes", "four"], ["low"], direction="LEFT"),
        helper.make_node("BitwiseAnd", ["codes", "upper"], ["high"]),
        helper.make_node("Concat", ["low", "high"], ["both"], axis=0),
        helper.make_node("Cast", ["both"], ["fours"], to=TensorProto.INT8),
        helper.make_node("Cast", ["scales"], ["scales of one"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["scales of one", "unit"], ["steps"]),
        fours.split_scales("steps"),
        *fours.split("fours"),
        helper.make_node("Cast", ["halves"], ["wide"], to=TensorProto.FLOAT),
        *halves.split("wide"),
    ]
    nodes = [*unpack, *constants, *graph.node]
    for node in nodes:
        node.doc_string = ""
        del node.metadata_props[:]
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(nodes)
    graph.initializer.extend([*kept, *fours.shapes, *halves.shapes])
    graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())
    _shorten_names(graph)
    onnx.checker.check_model(model)
    return model


def _with_unit_statistics(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Put the running statistics of normalisations into their scales and offsets; nodes that make zeros and ones."""
    arrays = {value.name: numpy_helper.to_array(value).astype(np.float64) for value in graph.initializer}
    changed, sizes = {}, set()
    for node in graph.node:
        if node.op_type != "BatchNormalization":
            continue
        epsilon = next((attribute.f for attribute in node.attribute if attribute.name == "epsilon"), 1e-5)
        scale, offset, mean, variance = (arrays[name] for name in node.input[1:])
        changed[node.input[1]] = scale * np.sqrt((1 + epsilon) / (variance + epsilon))
        changed[node.input[2]] = offset - mean * scale / np.sqrt(variance + epsilon)
        node.input[3], node.input[4] = f"zeros{len(scale)}", f"ones{len(scale)}"
        sizes.add(len(scale))
    used = {name for node in graph.node for name in node.input}
    kept = [value for value in graph.initializer if value.name in used and value.name not in changed]
    kept += [numpy_helper.from_array(array.astype(np.float32), name) for name, array in changed.items()]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    graph.initializer.extend(numpy_helper.from_array(np.array([size], np.int64), f"size{size}") for size in sizes)
    return [
        helper.make_node(
            "ConstantOfShape", [f"size{size}"], [f"{name}{size}"], value=helper.make_tensor("", 1, [1], [x])
        )
        for size in sizes
        for name, x in (("zeros", 0.0), ("ones", 1.0))
    ]


def _shorten_names(graph: onnx.GraphProto) -> None:
    """Call every inner value by a number: thousands of long names are a tenth of a megabyte."""
    kept = {value.name for value in (*graph.input, *graph.output)} | {""}
    names: dict[str, str] = {name: name for name in kept}
    for value in graph.initializer:
        value.name = names.setdefault(value.name, f"{len(names):x}")
    for node in graph.node:
        node.name = ""
        for values in (node.input, node.output):
            values[:] = [names.setdefault(name, f"{len(names):x}") for name in values]


def main() -> None:
    """Export, pack, compare with the model on the built-in signal, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    bundle = load_bundle(arguments.model)
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / "model.onnx"
    write_waveform_graph(bundle.model, path, metadata={"weights_sha256": bundle.digest})
    packed = pack(onnx.load(path)).SerializeToString()
    graph = read_untrusted_graph(packed, source=str(path)).run
    distance = checked_distance(
        graph, model_graph(bundle.model), built_in_signal(bundle.model), limit=_LARGEST_DISTANCE
    )
    path.write_bytes(packed)
    description = json.loads((arguments.model / "config.json").read_text())
    frame_samples = bundle.model.features.frame_samples
    description["graph"] = {"sha256": hashlib.sha256(packed).hexdigest(), "frame_samples": frame_samples}
    (arguments.out / "config.json").write_text(json.dumps(description, indent=2) + "\n")
    print(f"{len(packed):,} bytes, cosine distance {distance:.2g} to the model")


if __name__ == "__main__":
    main()

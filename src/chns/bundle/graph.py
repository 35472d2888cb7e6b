"""A model as a function from arrays to arrays, also where it is a graph that comes from a stranger.

What onnxruntime would do at the graph's word is ruled out before it sees the graph: reading other files (external
data), expanding a few bytes into gigabytes (sparse tensors), calling operators beyond the standard ones (custom
operators, functions) and running for ever (loops, in subgraphs). For that the file, which is a protocol buffer, is
walked here; the walk goes four levels deep, takes no byte twice and copies no weights. What a graph of standard
operators may still ask for is memory, of which the whole process's such graphs get `LARGEST_MEMORY_BYTES` together,
and time: a product of large matrices cannot be told from a large network. Whoever must bound that too runs the graph in
a process of its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from chns.core import Float32Array, Float64Array, ModelFileError, available_cores

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
    """An ONNX file of our own making, of one input. `chns.bundle.graph` reads one of a stranger's."""
    import onnxruntime

    return session_graph(onnxruntime.InferenceSession(path, session_options(), providers=["CPUExecutionProvider"]))


def session_options(num_threads: int | None = None) -> Any:
    """Of onnxruntime, with so many threads for one run, or `available_threads`."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads or available_threads()
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


def available_threads() -> int:
    """As many threads as ``OMP_NUM_THREADS`` says, or else as this process may use."""
    stated = os.environ.get("OMP_NUM_THREADS", "")
    if stated.isdigit() and int(stated) > 0:
        return int(stated)
    return available_cores()


LARGEST_GRAPH_BYTES = 2**30
LARGEST_MEMORY_BYTES = 2**32
LOWEST_OPSET, HIGHEST_OPSET = 13, 24

_MOST_NODES = 20_000
_MOST_FIELDS = 2_000_000  # a few for each node and tensor
_LARGEST_FOLDED_BYTES = 2**26
_OUR_DOMAINS = (b"", b"ai.onnx")

# Fields of the messages in onnx.proto3 that are looked at.
_MODEL_GRAPH, _MODEL_OPSET, _MODEL_METADATA, _MODEL_TRAINING, _MODEL_FUNCTIONS = 7, 8, 14, 20, 25
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_SPARSE = 1, 5, 15
_NODE_OPERATOR, _NODE_ATTRIBUTE, _NODE_DOMAIN = 4, 5, 7
_ATTRIBUTE_TENSOR, _ATTRIBUTE_TENSORS = 5, 10
_ATTRIBUTE_GRAPHS, _ATTRIBUTE_SPARSE = (6, 11), (22, 23)
_TENSOR_EXTERNAL, _TENSOR_LOCATION = 13, 14


class UntrustedGraph(NamedTuple):
    """A graph that may be run.

    Attributes:
        run: From waveforms, or features, to embeddings.
        metadata: What the file says of itself.
    """

    run: Graph
    metadata: dict[str, str]


def read_untrusted_graph(
    content: bytes, *, source: str, input_axes: int = 2, num_threads: int | None = None
) -> UntrustedGraph:
    """Check a graph, and get it ready.

    Args:
        content: The ONNX file.
        source: Its name, for error messages.
        input_axes: 2 if it takes waveforms, (batch, samples); 3 if it takes features, (batch, frames, mels).
        num_threads: Of one run; by default `available_threads`.

    Raises:
        ModelFileError: If it is no ONNX graph from one batch of waveforms to one of embeddings, or holds anything that
            is not to be trusted.
    """
    require_harmless(content, source=source)
    import onnxruntime

    _bound_memory()
    options = session_options(num_threads)
    options.add_session_config_entry("session.use_env_allocators", "1")
    options.add_session_config_entry("session.load_model_format", "ONNX")
    options.add_session_config_entry(
        "optimization.constant_folding_max_output_size_in_bytes", str(_LARGEST_FOLDED_BYTES)
    )
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no base but this
        reason = str(error).partition("\n")[0][:300]
        raise ModelFileError(
            f"graph must be one that onnxruntime {onnxruntime.__version__} can run, got an error in {source} "
            f"({reason})."
        ) from error
    given, made = session.get_inputs(), session.get_outputs()
    shapes = [(value.type, len(value.shape)) for value in (*given, *made)]
    if len(given) != 1 or shapes != [("tensor(float)", input_axes), ("tensor(float)", 2)]:
        taken = "waveforms (batch, samples)" if input_axes == 2 else "features (batch, frames, mels)"
        raise ModelFileError(
            f"graph must take {taken} and give embeddings (batch, dim), got {shapes!s:.200} in {source}."
        )
    return UntrustedGraph(session_graph(session), dict(session.get_modelmeta().custom_metadata_map))


def require_harmless(content: bytes, *, source: str) -> None:
    """Make sure of all that can be told from the file alone.

    Raises:
        ModelFileError: If it is too large, no protocol buffer, of an unsuitable opset, or refers to files, operators
            or graphs beyond itself.
    """
    if len(content) > LARGEST_GRAPH_BYTES:
        raise ModelFileError(f"graph must be at most {LARGEST_GRAPH_BYTES:,} bytes, got more in {source}.")
    try:
        wrong = _first_wrong(memoryview(content), iter(range(_MOST_FIELDS)))
    except _DamagedError as error:
        raise ModelFileError(
            f"graph must be an ONNX file, got something else, a damaged one or one of too many parts: {source}."
        ) from error
    if wrong is not None:
        raise ModelFileError(f"graph must {wrong} in {source}.")


class _DamagedError(Exception):
    """Bytes that are no protocol buffer."""


def _first_wrong(content: memoryview, budget: Iterator[int]) -> str | None:
    """A broken rule and what was found; None if there is none."""
    opsets = []
    for field, value in _fields(content, budget):
        if field in (_MODEL_TRAINING, _MODEL_FUNCTIONS):
            return "hold no functions or training graphs, got one"
        if field == _MODEL_OPSET:
            entry = dict(_fields(_message(value), budget))
            if bytes(entry.get(1, b"")) in _OUR_DOMAINS:
                opsets.append(entry.get(2, 0))
        elif field == _MODEL_GRAPH:
            wrong = _wrong_in_graph(_message(value), budget)
            if wrong is not None:
                return wrong
    if len(opsets) != 1 or not isinstance(opsets[0], int) or not LOWEST_OPSET <= opsets[0] <= HIGHEST_OPSET:
        found = ", ".join(str(opset)[:30] for opset in opsets[:3]) or "none"
        return f"be of one opset from {LOWEST_OPSET} to {HIGHEST_OPSET}, got {found}"
    return None


def _wrong_in_graph(graph: memoryview, budget: Iterator[int]) -> str | None:
    num_nodes = 0
    for field, value in _fields(graph, budget):
        if field == _GRAPH_SPARSE:
            return "hold no sparse tensors, got one"
        if field == _GRAPH_INITIALIZER and _is_external(_message(value), budget):
            return "hold all its weights, got some in another file"
        if field == _GRAPH_NODE:
            num_nodes += 1
            wrong = _wrong_in_node(_message(value), budget)
            if wrong is not None:
                return wrong
    return None if num_nodes <= _MOST_NODES else f"have at most {_MOST_NODES:,} nodes, got {num_nodes:,}"


def _wrong_in_node(node: memoryview, budget: Iterator[int]) -> str | None:
    operator = b""
    for field, value in _fields(node, budget):
        if field == _NODE_OPERATOR:
            operator = bytes(_message(value))
        elif field == _NODE_DOMAIN and bytes(_message(value)) not in _OUR_DOMAINS:
            return f"use standard operators only, got one of {bytes(_message(value))!r:.100}"
        elif field == _NODE_ATTRIBUTE:
            for kind, content in _fields(_message(value), budget):
                if kind in _ATTRIBUTE_GRAPHS:
                    return f"have no loops or branches, got {operator.decode(errors='replace')!r:.100}"
                if kind in _ATTRIBUTE_SPARSE:
                    return "hold no sparse tensors, got one"
                if kind in (_ATTRIBUTE_TENSOR, _ATTRIBUTE_TENSORS) and _is_external(_message(content), budget):
                    return "hold all its weights, got some in another file"
    return None


def _is_external(tensor: memoryview, budget: Iterator[int]) -> bool:
    return any(
        field == _TENSOR_EXTERNAL or (field == _TENSOR_LOCATION and value != 0)
        for field, value in _fields(tensor, budget)
    )


def _fields(message: memoryview, budget: Iterator[int]) -> Iterator[tuple[int, int | memoryview]]:
    """Number and value of each field of a protocol buffer; a number, or the bytes of a string or of a message."""
    position = 0
    while position < len(message):
        if next(budget, None) is None:
            raise _DamagedError
        key, position = _number(message, position)
        kind = key & 7
        if kind == 0:
            value, position = _number(message, position)
            yield key >> 3, value
            continue
        if kind == 2:
            length, position = _number(message, position)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise _DamagedError
        if length > len(message) - position:
            raise _DamagedError
        yield key >> 3, message[position : position + length]
        position += length


def _number(message: memoryview, position: int) -> tuple[int, int]:
    """A number of variable length, and where it ends."""
    number = 0
    for place in range(10):
        if position >= len(message):
            raise _DamagedError
        byte = message[position]
        position += 1
        number |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return number, position
    raise _DamagedError


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise _DamagedError
    return value


@cache
def _bound_memory() -> None:
    """Give the process one allocator with a limit, used by no session that does not ask for it."""
    import onnxruntime

    memory = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    as_requested = 1  # grow by what is asked for, not by powers of two
    onnxruntime.create_and_register_allocator(
        memory, onnxruntime.OrtArenaCfg({"max_mem": LARGEST_MEMORY_BYTES, "arena_extend_strategy": as_requested})
    )

"""The graph that a bundle carries: the model in ONNX from waveform to embedding, run without torch.

``model.onnx`` lies beside the weights. ``config.json`` states its SHA-256, and the graph states the digest of the
weights that it was made from, so a graph of other weights is refused. It is written only if it computes what the model
does on a built-in signal of several lengths. Neither proves that a stranger's graph computes what his weights do: a
bundle is trusted to hear as it says, but not with the machine (`chns.bundle.graph`).

A graph that carries sherpa-onnx's metadata is run as it is, features to embedding, with the features computed here.
sherpa-onnx feeds every model its own, an approximation of what each was trained on. Here a model hears what its toolkit
computes, which is Kaldi's filterbank for both toolkits that are known: 80 mels from 20 Hz to half the sample rate, of
whole frames, less their mean. docs/decisions/0016 has why, and what that is worth.

``torch.onnx.export`` is called on the module itself, not through TorchScript, so a layer that cannot be expressed is an
error here rather than a wrong graph later. Opset 18 is what the exporter speaks natively and every ONNX Runtime since
1.14 (2023) understands.
"""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from chns.bundle.bundle import put_graph, read_description, weights_digest
from chns.bundle.finding import GRAPH_FILE, bundle_folder
from chns.bundle.graph import LARGEST_GRAPH_BYTES, Graph, largest_distance, model_graph, read_untrusted_graph
from chns.core import ChnsError, Float32Array, ModelFileError, quoted
from chns.features.filterbank import Filterbank, Window

if TYPE_CHECKING:
    from torch import Tensor, nn

    from chns.encoders import SpeakerEncoder

_log = logging.getLogger(__name__)

PACKAGED_MODEL = Path(__file__).parents[1] / "models" / "small"

LARGEST_DISTANCE = 1e-4

_LENGTHS_SECONDS = (0.5, 1.0, 2.7)
_BUILT_IN_SECONDS = 8.0
_LOWEST_RATE_HZ, _HIGHEST_RATE_HZ = 4_000, 48_000
_LONGEST_FRAME_SAMPLES = 2_048

MADE_BY = "made_by"  # a key of our own exports, which undo sherpa-onnx's features

_WINDOWS: Mapping[str, Window] = {"wespeaker": "hamming", "3d-speaker": "povey"}  # of the toolkits, by framework
_NUM_MELS = 80
_RATES_HZ = ("8000", "16000")
_FULL_SCALE = np.float32(2.0**15)


OPSET = 18

_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_CHATTY = ("torch.onnx._internal.exporter._registration", "onnx_ir", "onnxscript")  # of missing operators, and merges


class ExportError(ChnsError, ValueError):
    """An exported graph does not compute what the model does."""


class GraphBundle(NamedTuple):
    """A bundle's graph, ready to run.

    Attributes:
        run: Waveforms, shape (batch, samples), to embeddings, shape (batch, dim), not normalised.
        sample_rate_hz: Rate of the waveforms.
        frame_samples: The fewest samples that it takes.
        digest: Of the weights that it was made from: the identity of the encoder.
        metrics: As in `chns.bundle.bundle.Bundle`.
    """

    run: Graph
    sample_rate_hz: int
    frame_samples: int
    digest: str
    metrics: dict[str, Any]


def add_graph(folder: Path, model: SpeakerEncoder) -> float:
    """Write a bundle's graph, or write it anew, and check it before the bundle gets it.

    Args:
        folder: What `chns.bundle.bundle.save_bundle` wrote.
        model: What it was written of; put on the CPU and into evaluation mode.

    Returns:
        The largest cosine distance to the model on the built-in signal.

    Raises:
        FileNotFoundError: If the folder or one of its files is missing.
        ModelFileError: If the bundle holds other weights, or the graph has what `chns.bundle.graph` refuses.
        ChnsError: If a package is missing, or the exporter cannot express a layer.
        ExportError: If an embedding is further than `LARGEST_DISTANCE` from the model's.
    """
    distance = np.nan
    digest = weights_digest(model.encoder)
    model.cpu().eval()

    def write(path: Path) -> Mapping[str, Any]:
        nonlocal distance
        write_waveform_graph(model, path, metadata={"weights_sha256": digest})
        content = path.read_bytes()
        graph = read_untrusted_graph(content, source=str(folder / GRAPH_FILE)).run
        distance = checked_distance(graph, model_graph(model), built_in_signal(model), limit=LARGEST_DISTANCE)
        return {"sha256": hashlib.sha256(content).hexdigest(), "frame_samples": model.features.frame_samples}

    put_graph(folder, write, digest=digest)
    return distance


def add_graph_if_possible(folder: Path, model: SpeakerEncoder, *, called: str | None = None) -> None:
    """The same at the end of other work, which shall not fail for it: a warning tells why there is no graph.

    Args:
        folder: As of `add_graph`.
        model: The same.
        called: What the model is called if the folder is none of the user's.
    """
    _log.info("exporting %s to a graph, with which it is used without torch", called or folder)
    try:
        add_graph(folder, model)
    except ChnsError as error:
        _log.warning(
            "%s gets no graph, so that using it takes torch: %s%s",
            called or folder,
            error,
            "" if called else f" Later, `chns export {folder} --into-bundle` writes one.",
        )


def load_graph_bundle(model: Path | str, *, num_threads: int | None = None) -> GraphBundle | None:
    """Read a bundle's graph and what is needed to use it; nothing of torch is imported.

    Args:
        model: A folder, or ``hf://owner/name[@revision]``.
        num_threads: Of one run of the graph; by default all that this process may use.

    Returns:
        None if the bundle has no graph.

    Raises:
        ModelFileError: If the bundle or its graph is damaged, the graph belongs to other weights, or is not to be
            trusted.
        FileNotFoundError, ValueError, ChnsError, HubError: As `chns.bundle.finding.bundle_folder`.
    """
    folder = bundle_folder(model)
    if folder.is_file():
        return _read_sherpa_graph(folder, num_threads=num_threads)
    description = read_description(folder)
    path = folder / GRAPH_FILE
    if "graph" not in description or not path.is_file():
        return None
    stated = _stated(description, path)
    if path.stat().st_size > LARGEST_GRAPH_BYTES:
        raise ModelFileError(f"graph must be at most {LARGEST_GRAPH_BYTES:,} bytes, got more in {path}.")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != stated["sha256"]:
        raise ModelFileError(
            f"graph must have the digest that config.json states, got another in {path}. "
            f"Write it anew with `chns export {folder} --into-bundle`."
        )
    graph = read_untrusted_graph(content, source=str(path), num_threads=num_threads)
    wanted = {name: str(description[name]) for name in ("weights_sha256", "sample_rate_hz")}
    for name, value in wanted.items():
        if graph.metadata.get(name) != value:
            raise ModelFileError(
                f"graph must be of the bundle's {name}, {value[:12]}, got {graph.metadata.get(name, 'none')[:12]} in "
                f"{path}. Write it anew with `chns export {folder} --into-bundle`."
            )
    return GraphBundle(
        graph.run,
        description["sample_rate_hz"],
        stated["frame_samples"],
        description["weights_sha256"],
        description["metrics"],
    )


def _read_sherpa_graph(path: Path, *, num_threads: int | None = None) -> GraphBundle:
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
    _require_stated(stated, "framework", tuple(_WINDOWS), path)
    _require_stated(stated, "sample_rate", _RATES_HZ, path)
    _require_stated(stated, "feature_normalize_type", ("global-mean", ""), path, default="")
    _require_stated(stated, "normalize_samples", ("0", "1"), path, default="0")
    rate_hz = int(stated["sample_rate"])
    features = Filterbank(num_mels=_NUM_MELS, sample_rate_hz=rate_hz, window=_WINDOWS[stated["framework"]])
    scale = _FULL_SCALE if stated.get("normalize_samples") == "1" else np.float32(1)

    def run(waveforms: Float32Array) -> Float32Array:
        made = np.concatenate([graph.run(frames[None]) for frames in features(waveforms / scale)])  # some take only one
        _require_stated(stated, "output_dim", (str(made.shape[1]),), path)
        return made

    return GraphBundle(run, rate_hz, features.frame_samples, hashlib.sha256(content).hexdigest(), {})


def _require_stated(
    stated: Mapping[str, str], name: str, allowed: tuple[str, ...], path: Path, *, default: str | None = None
) -> None:
    value = stated.get(name, default)
    if value not in allowed:
        got = "none" if value is None else quoted(value)
        wanted = " or ".join(filter(None, allowed))
        raise ModelFileError(f"{name} must be {wanted}, got {got} in the metadata of {path}.")


def checked_distance(graph: Graph, reference: Graph, check: Sequence[Float32Array], *, limit: float) -> float:
    """The largest cosine distance of a graph to its reference, if it is small enough.

    Raises:
        ValueError: If there is nothing to check on.
        ExportError: If it is not.
    """
    if not check:
        raise ValueError("check must hold at least one batch of waveforms, got none.")
    distance = largest_distance(graph, reference, check)
    if not distance < limit:  # also if it is not a number
        raise ExportError(
            f"cosine distance of the exported graph to the model must be below {limit:g}, got {distance:.2g}. "
            f"No file was written; export to another format, or report this."
        )
    return distance


def built_in_signal(model: SpeakerEncoder) -> list[Float32Array]:
    """Batches to compare on: gliding harmonics that come and go in noise, always the same.

    Returns:
        Waveforms of 0.5, 1, 2.7 and 8 s, each of shape (2, samples), as of `several_lengths`.
    """
    return several_lengths(_gliding_harmonics(model.sample_rate_hz), model.sample_rate_hz)


def several_lengths(waveform: Float32Array, sample_rate_hz: int) -> list[Float32Array]:
    """Batches of a waveform: its first 0.5, 1 and 2.7 s where it is longer, and all of it.

    Returns:
        Waveforms, each of shape (2, samples): the utterance, and the same at half its level.
    """
    lengths = [round(seconds * sample_rate_hz) for seconds in _LENGTHS_SECONDS]
    crops = [waveform[:length] for length in lengths if length < len(waveform)]
    return [np.stack([crop, 0.5 * crop]).astype(np.float32) for crop in (*crops, waveform)]


def _stated(description: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """What a description says of the graph, and that the rate is one."""
    stated, rate_hz = description["graph"], description.get("sample_rate_hz")
    if not isinstance(stated, dict) or not isinstance(stated.get("sha256"), str):
        raise ModelFileError(f"graph must be described by its sha256, got {stated!r:.100} for {path}.")
    if type(rate_hz) is not int or not _LOWEST_RATE_HZ <= rate_hz <= _HIGHEST_RATE_HZ:
        raise ModelFileError(
            f"sample_rate_hz must be an integer between {_LOWEST_RATE_HZ} and {_HIGHEST_RATE_HZ}, got "
            f"{rate_hz!r:.100} for {path}."
        )
    frame_samples = stated.get("frame_samples")
    if type(frame_samples) is not int or not 1 <= frame_samples <= _LONGEST_FRAME_SAMPLES:
        raise ModelFileError(
            f"frame_samples must be an integer between 1 and {_LONGEST_FRAME_SAMPLES}, got {frame_samples!r:.100} for "
            f"{path}."
        )
    return stated


def _gliding_harmonics(sample_rate_hz: int) -> Float32Array:
    rng = np.random.default_rng(0)
    times = np.arange(round(_BUILT_IN_SECONDS * sample_rate_hz)) / sample_rate_hz
    pitch_hz = 140 + 40 * np.sin(2 * np.pi * 0.4 * times)
    phase = 2 * np.pi * np.cumsum(pitch_hz) / sample_rate_hz
    harmonics = sum(np.sin(number * phase) / number for number in range(1, 20))
    syllables = np.square(np.sin(2 * np.pi * 2 * times))
    waveform: Float32Array = (0.1 * syllables * harmonics + 0.003 * rng.normal(size=len(times))).astype(np.float32)
    return waveform


def require_export_packages() -> None:
    """Make sure that the optional packages are there.

    Raises:
        ChnsError: If one is missing.
    """
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise ChnsError(
            f"{', '.join(missing)} must be installed for ONNX, got no such package. Run `pip install 'chns[export]'`."
        )


def write_waveform_graph(model: SpeakerEncoder, path: Path, *, metadata: Mapping[str, str] | None = None) -> None:
    """Write a model from waveforms to embeddings, with free batch and length, and its rate in the metadata.

    Args:
        model: In evaluation mode, on the CPU.
        path: The file.
        metadata: Goes into the file too.

    Raises:
        ChnsError: As `write_onnx`.
    """
    import torch

    told = {"sample_rate_hz": str(model.sample_rate_hz), "input": "waveforms in [-1, 1]", **(metadata or {})}
    example = torch.zeros(2, model.sample_rate_hz)
    write_onnx(
        model,
        example,
        path,
        input_name="waveforms",
        axes={0: ("batch", 1), 1: ("samples", model.features.frame_samples)},
        metadata=told,
    )


def write_onnx(
    module: nn.Module,
    example: Tensor,
    path: Path,
    *,
    input_name: str,
    axes: Mapping[int, tuple[str, int]],
    metadata: Mapping[str, str],
) -> None:
    """Write a module of one input and one output, ``embeddings``.

    Args:
        module: In evaluation mode, on the CPU.
        example: An input that it is run on once; sizes other than the first along a named axis are not kept.
        path: The file.
        input_name: What a runtime passes the input by.
        axes: By number, the axes of the input whose size may vary: their names, and the smallest sizes. Where the
            module asks for more, the exporter finds out, by tracing it twice.
        metadata: Goes into the file.

    Raises:
        ChnsError: If a package is missing, or the installed versions cannot write the module.
    """
    require_export_packages()
    try:
        with _quiet_exporter():
            program = _exported(module, example, input_name, axes)
    except Exception as error:  # the exporter's own, its packages' and torch's have no base but this
        versions = ", ".join(f"{name} {version(name)}" for name in ("torch", *_PACKAGES))
        reason = next(filter(None, map(str.strip, str(error).splitlines())), type(error).__name__)[:200]
        raise ChnsError(
            f"model must be one that the installed versions can write as ONNX, got an error ({reason}) with "
            f"{versions}. Upgrade them with `pip install -U 'chns[export]'`; --debug shows more."
        ) from error
    program.model.metadata_props.update(metadata)
    program.save(path)


def _exported(module: nn.Module, example: Tensor, input_name: str, axes: Mapping[int, tuple[str, int]]) -> Any:
    import torch

    dimensions = {axis: torch.export.Dim(name, min=smallest) for axis, (name, smallest) in axes.items()}
    program = torch.onnx.export(
        module,
        (example,),
        input_names=[input_name],
        output_names=["embeddings"],
        opset_version=OPSET,
        dynamo=True,
        dynamic_shapes=(dimensions,),
        verbose=False,
    )
    assert program is not None
    _fold_sliced_weights(program.model)
    return program


def _fold_sliced_weights(model: Any) -> None:
    """Store the slices of weights that a module takes, which the optimiser leaves to the runtime if they are large.

    The quantiser looks for weights that are stored.
    """
    from onnxscript import optimizer

    no_limit = 2**31
    optimizer.optimize_ir(
        model,
        input_size_limit=no_limit,
        output_size_limit=no_limit,
        should_fold=lambda node: True if node.op_type == "Slice" else None,
    )


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Silence what the exporter says about its own insides."""
    loggers = [logging.getLogger(name) for name in _CHATTY]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)

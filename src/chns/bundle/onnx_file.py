"""Write a torch module as one ONNX file.

``torch.onnx.export`` is called on the module itself, not through TorchScript, so a layer that cannot be expressed is an
error here rather than a wrong graph later. Opset 18 is what the exporter speaks natively and every ONNX Runtime since
1.14 (2023) understands.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from chns.core.errors import ChnsError
from chns.encoders import SpeakerEncoder

OPSET = 18

_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_CHATTY = ("torch.onnx._internal.exporter._registration", "onnx_ir", "onnxscript")  # of missing operators, and merges


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
    told = {"sample_rate_hz": str(model.sample_rate_hz), "input": "waveforms in [-1, 1]", **(metadata or {})}
    example = torch.zeros(2, model.sample_rate_hz)
    write_onnx(model, example, path, input_name="waveforms", axes=("batch", "samples"), metadata=told)


def write_onnx(
    module: nn.Module,
    example: Tensor,
    path: Path,
    *,
    input_name: str,
    axes: Sequence[str | None],
    metadata: Mapping[str, str],
) -> None:
    """Write a module of one input and one output, ``embeddings``.

    Args:
        module: In evaluation mode, on the CPU.
        example: An input that it is run on once; sizes other than the first along a named axis are not kept.
        path: The file.
        input_name: What a runtime passes the input by.
        axes: For each axis of the input its name if its size may vary, else None.
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


def _exported(module: nn.Module, example: Tensor, input_name: str, axes: Sequence[str | None]) -> Any:
    dimensions = {axis: torch.export.Dim(name) for axis, name in enumerate(axes) if name is not None}
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

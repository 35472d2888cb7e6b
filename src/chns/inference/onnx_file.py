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
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from chns.errors import ChnsError

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
        ChnsError: If a package is missing.
    """
    require_export_packages()
    dimensions = {axis: torch.export.Dim(name) for axis, name in enumerate(axes) if name is not None}
    with _quiet_exporter():
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
    program.model.metadata_props.update(metadata)
    program.save(path)


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

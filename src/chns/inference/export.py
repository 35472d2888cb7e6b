"""Write a trained model as one graph from waveform to embedding, for runtimes that do not have this package.

The features are inside, so nothing can be computed differently elsewhere; batch and length are free. A file appears
only if what it computes was checked: it is loaded again and must agree with the model on speech of several lengths.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from chns.bundle_graph import LARGEST_DISTANCE, checked_distance
from chns.core.arrays import Float32Array
from chns.encoders import SpeakerEncoder
from chns.files import atomic_path
from chns.graph import Graph, model_graph, onnx_graph, torch_export_graph
from chns.onnx_file import OPSET, write_waveform_graph


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A file that was written and checked.

    Attributes:
        path: The file.
        num_bytes: Its size.
        opset: Of ONNX; None for torch's own formats.
        distance: Largest cosine distance to the model on the speech it was checked with.
    """

    path: Path
    num_bytes: int
    opset: int | None
    distance: float


class _Form(NamedTuple):
    suffix: str
    write: Callable[[SpeakerEncoder, Path], None]
    load: Callable[[Path], Graph]
    opset: int | None = None


def export_model(model: SpeakerEncoder, path: Path, *, form: str, check: Sequence[Float32Array]) -> Exported:
    """Write a model, and check the file before it gets its name.

    Args:
        model: Waveforms to embeddings; put on the CPU and into evaluation mode.
        path: The file. One that exists is replaced, but not if the check fails.
        form: One of `FORMS`: "onnx" (a file in .onnx) or "torch-export" (.pt2).
        check: Waveforms to compare on, each of shape (batch, samples); `chns.bundle_graph.built_in_signal` gives some.

    Raises:
        ValueError: If there is no such form, the path ends otherwise, or there is nothing to check on.
        ChnsError: If the packages for ONNX are missing.
        ExportError: If an embedding is further than `LARGEST_DISTANCE` from the model's.
    """
    if form not in FORMS:
        raise ValueError(f"form must be one of {', '.join(FORMS)}, got {form!r}.")
    chosen = FORMS[form]
    require_suffix(path, chosen.suffix)
    model.cpu().eval()
    with atomic_path(path) as temporary:
        chosen.write(model, temporary)
        distance = checked_distance(chosen.load(temporary), model_graph(model), check, limit=LARGEST_DISTANCE)
    return Exported(path=path, num_bytes=path.stat().st_size, opset=chosen.opset, distance=distance)


def require_suffix(path: Path, suffix: str) -> None:
    """Make sure that a file will be taken for what it is.

    Raises:
        ValueError: If its name ends in another suffix.
    """
    if path.suffix != suffix:
        raise ValueError(f"name of the exported file must end in {suffix}, got {path}.")


def _write_torch_export(model: SpeakerEncoder, path: Path) -> None:
    """Two frames at least: with a single one torch would special-case sizes of one."""
    shortest = model.features.frame_samples + model.features.hop_samples
    dimensions = {0: torch.export.Dim("batch"), 1: torch.export.Dim("samples", min=shortest)}
    program = torch.export.export(
        model,
        (torch.zeros(2, model.sample_rate_hz),),
        dynamic_shapes={"waveforms": dimensions},
        prefer_deferred_runtime_asserts_over_guards=True,  # else every way unfold might be laid out becomes a condition
    )
    torch.export.save(program, path)


FORMS = {
    "onnx": _Form(".onnx", write_waveform_graph, onnx_graph, OPSET),
    "torch-export": _Form(".pt2", _write_torch_export, torch_export_graph),
}

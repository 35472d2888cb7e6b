"""What the processes of a run exchange, and the gradients that one process would compute.

Negatives must come from the whole batch, not from the slice that a device holds. Every process gathers all embeddings
and computes the same loss; gradients flow back to its own slice only. Data-parallel training then *averages* the
encoder's gradients over the processes where their *sum* is the gradient of the loss, so the slice's gradient is
multiplied by the number of processes here. Parameters of the loss itself (a temperature, class weights) already get
their whole gradient in every process and must not be scaled, which is why the factor cannot simply go onto the loss.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor

from chns.core.errors import ConfigError

Result = TypeVar("Result")
Number = TypeVar("Number", bound=np.generic)


def world_size() -> int:
    """Number of processes of the run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def gather_rows(rows: Tensor, lengths: Sequence[int] | None = None) -> list[Tensor]:
    """The rows of every process, in the order of their ranks; their numbers may differ.

    Args:
        rows: Shape (any, ...), equal on all processes but for the first axis.
        lengths: How many rows each process has, if that is known; else they tell each other, and wait for their GPUs.
    """
    if world_size() == 1:
        return [rows]
    if lengths is None:
        told = [torch.zeros(1, dtype=torch.int64, device=rows.device) for _ in range(world_size())]
        dist.all_gather(told, torch.tensor([len(rows)], device=rows.device))
        lengths = [int(length) for length in told]
    # Collectives exchange equal shapes only.
    padded = rows.new_zeros((max(lengths), *rows.shape[1:]))
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in lengths]
    dist.all_gather(parts, padded)
    return [part[:length] for part, length in zip(parts, lengths, strict=True)]


def gather_array(rows: npt.NDArray[Number], device: torch.device | str) -> npt.NDArray[Number]:
    """The rows of every process as one array, in the order of their ranks."""
    if world_size() == 1:
        return rows
    parts = gather_rows(torch.from_numpy(rows).to(device))
    gathered: npt.NDArray[Number] = torch.cat(parts).cpu().numpy()
    return gathered


def average_gradients(parameters: list[torch.nn.Parameter]) -> None:
    """Replace each gradient by its mean over the processes; all are exchanged at once."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if world_size() == 1 or not gradients:
        return
    together = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(together)
    together /= world_size()
    for gradient, mean in zip(gradients, torch.split(together, [g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def average_buffers(module: torch.nn.Module) -> None:
    """Replace each floating-point buffer (running statistics) by its mean over the processes."""
    if world_size() > 1:
        for buffer in module.buffers():
            if buffer.is_floating_point():
                dist.all_reduce(buffer)
                buffer.div_(world_size())


def any_process(flag: bool, device: torch.device) -> bool:
    """Whether the flag is set in some process; all get the same answer."""
    if world_size() == 1:
        return flag
    votes = torch.tensor([int(flag)], device=device)
    dist.all_reduce(votes)
    return bool(votes.item())


def largest_anywhere(number: int, device: torch.device) -> int:
    """The largest of the processes' numbers."""
    if world_size() == 1:
        return number
    largest = torch.tensor([number], device=device)
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return int(largest.item())


def from_first_process(make: Callable[[], Result]) -> Result:
    """Let the first process make something and give it to all; if it fails, it fails in all.

    Args:
        make: Called in the first process only.

    Raises:
        Exception: What ``make`` raised, in every process, so that none waits for another that has given up.
    """
    if world_size() == 1:
        return make()
    outcome: list[Result | Exception | None] = [None]
    if rank() == 0:
        try:
            outcome[0] = make()
        except (ValueError, OSError) as error:
            outcome[0] = error
    dist.broadcast_object_list(outcome)
    if isinstance(outcome[0], Exception):
        raise outcome[0]
    return outcome[0]  # type: ignore[return-value]  # what make returned, None included


class _Gather(torch.autograd.Function):
    """Concatenate over processes; the backward pass keeps the own slice."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, embeddings: Tensor, lengths: Sequence[int] | None) -> Tensor:
        parts = gather_rows(embeddings, lengths)
        ctx.first = sum(len(part) for part in parts[: rank()])  # type: ignore[attr-defined]
        ctx.length = len(embeddings)  # type: ignore[attr-defined]
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        own = gradient[ctx.first : ctx.first + ctx.length]  # type: ignore[attr-defined]
        return own * world_size(), None


def gather_batch(
    embeddings: Tensor, speaker_labels: Tensor, lengths: Sequence[int] | None = None
) -> tuple[Tensor, Tensor]:
    """The embeddings and labels of all processes, in the order of their ranks.

    Args:
        embeddings: Of this process, shape (n, dim); n may differ between processes.
        speaker_labels: Shape (n,).
        lengths: n of each process, if known; see `gather_rows`.

    Returns:
        Shapes (N, dim) and (N,), with N the sum of n; with one process, what was given.
    """
    if world_size() == 1:
        return embeddings, speaker_labels
    gathered: Tensor = _Gather.apply(embeddings, lengths)  # type: ignore[no-untyped-call]
    return gathered, torch.cat(gather_rows(speaker_labels, lengths))


def require_device(name: str, precision: str) -> None:
    """Make sure that this machine has the device of ``train.device``, and that this computes in ``train.precision``.

    Raises:
        ConfigError: If it does not.
    """
    there = ["auto", "cpu"]
    if torch.cuda.is_available():
        there += ["cuda", "gpu"]
    if torch.backends.mps.is_available():
        there.append("mps")
    if name not in there:
        raise ConfigError(
            f"train.device must be one that this machine has ({', '.join(there)}), got {name!r}. With auto, the best "
            "is taken."
        )
    if precision == "16-mixed" and (name == "cpu" or len(there) == 2):  # Fabric would take bf16 without an error
        raise ConfigError(
            "train.precision must be 32-true or bf16-mixed on a CPU, got '16-mixed'. Take bf16-mixed, or a GPU."
        )


def cpu_has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 itself. One that does not takes longer for it than for float32."""
    if platform.machine().lower() not in ("x86_64", "amd64") or not hasattr(torch.cpu, "get_capabilities"):
        return True
    there = torch.cpu.get_capabilities()
    return any(there.get(name, True) for name in ("avx512_bf16", "amx_bf16"))


def launched_world(devices: int | None, num_nodes: int | None) -> tuple[int, int]:
    """Processes on this machine, and machines: as set in ``train``, or as torchrun has started them.

    Raises:
        ConfigError: If torchrun has started others than are set.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return devices or 1, num_nodes or 1
    local = int(os.environ["LOCAL_WORLD_SIZE"])
    nodes = int(os.environ["WORLD_SIZE"]) // local
    for name, wanted, started in (("devices", devices, local), ("num_nodes", num_nodes, nodes)):
        if wanted is not None and wanted != started:
            raise ConfigError(
                f"train.{name} must be the {started} that torchrun has started, got {wanted}. "
                "Leave it out with torchrun."
            )
    return local, nodes

"""Losses over the embeddings of all processes, with the gradients that one process would compute.

Negatives must come from the whole batch, not from the slice that a device holds. Every process gathers all embeddings
and computes the same loss; gradients flow back to its own slice only. Data-parallel training then *averages* the
encoder's gradients over the processes where their *sum* is the gradient of the loss, so the slice's gradient is
multiplied by the number of processes here. Parameters of the loss itself (a temperature, class weights) already get
their whole gradient in every process and must not be scaled, which is why the factor cannot simply go onto the loss.
"""

from __future__ import annotations

import torch
from torch import Tensor

from chns.distributed import gather_rows, rank, world_size


class _Gather(torch.autograd.Function):
    """Concatenate over processes; the backward pass keeps the own slice."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, embeddings: Tensor) -> Tensor:
        parts = gather_rows(embeddings)
        ctx.first = sum(len(part) for part in parts[: rank()])  # type: ignore[attr-defined]
        ctx.length = len(embeddings)  # type: ignore[attr-defined]
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> Tensor:
        (gradient,) = gradients
        own = gradient[ctx.first : ctx.first + ctx.length]  # type: ignore[attr-defined]
        return own * world_size()


def gather_batch(embeddings: Tensor, speaker_labels: Tensor) -> tuple[Tensor, Tensor]:
    """The embeddings and labels of all processes, in the order of their ranks.

    Args:
        embeddings: Of this process, shape (n, dim); n may differ between processes.
        speaker_labels: Shape (n,).

    Returns:
        Shapes (N, dim) and (N,), with N the sum of n; with one process, what was given.
    """
    if world_size() == 1:
        return embeddings, speaker_labels
    gathered: Tensor = _Gather.apply(embeddings)  # type: ignore[no-untyped-call]
    return gathered, torch.cat(gather_rows(speaker_labels))

"""The gradients of one batch: in one go or in chunks, in one process or in many, always the same.

A contrastive loss compares every utterance of a batch with every other, so a batch that does not fit into memory cannot
be split by accumulating gradients of smaller batches: that is another loss. Instead (Gao, Zhang, Han, Callan, "Scaling
deep contrastive learning batch size under memory limited setup", 2021): embed the batch in chunks without a graph,
compute the loss of all embeddings and its gradient for each of them, then embed each chunk again, now with a graph,
and send its embeddings' gradients back. Memory is that of one chunk; the price is a second forward pass.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.wrappers import _FabricModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from chns.core import average_gradients, gather_batch, gather_rows, largest_anywhere, rank


class StepResult(NamedTuple):
    """What a step computed, over all processes.

    Attributes:
        loss: Of the batch, a scalar without graph.
        embeddings: Of the batch, shape (N, dim), without graph.
        speaker_labels: Shape (N,).
        encoder_seconds: Time in the encoder, forward and backward. On a GPU, exact only if the step was timed.
        loss_seconds: The same for the loss, with the exchange of embeddings between processes.
    """

    loss: Tensor
    embeddings: Tensor
    speaker_labels: Tensor
    encoder_seconds: float
    loss_seconds: float


class TrainingStep:
    """Computes the gradients of one batch into the parameters of model and loss.

    With ``16-mixed``, all gradients are scaled once, those of the loss's parameters too, and are to be unscaled before
    anything looks at them.

    Batch normalisation uses the statistics of a chunk and, with several processes, of a process's slice; running
    statistics are updated by the first pass only. Random numbers (dropout, masking) are seeded for each step, chunk and
    process, so the second pass repeats those of the first.

    Args:
        fabric: Device, precision and processes.
        model: Waveforms to embeddings, set up by ``fabric``.
        loss: Of embeddings and speaker labels. If it has a method ``taught``, that is given each slice's waveforms, and
            the loss what it makes of them, of all processes, as a third argument.
        chunk_size: Segments embedded at a time; None for all.
        seed: Of the random numbers.
        slice_sizes: Segments of each process, if every batch is cut alike; else processes tell each other at each
            step, and wait for their GPUs to do so.

    Raises:
        ValueError: If chunk_size is below 1.
    """

    def __init__(
        self,
        fabric: Fabric,
        model: _FabricModule,
        loss: nn.Module,
        *,
        chunk_size: int | None,
        seed: int,
        slice_sizes: Sequence[int] | None = None,
    ) -> None:
        if chunk_size is not None and chunk_size < 1:
            raise ValueError(f"chunk_size must be at least 1, got {chunk_size}.")
        self._fabric = fabric
        self._model = model
        self._loss = loss
        self._taught: Callable[[Tensor], Tensor] | None = getattr(loss, "taught", None)
        self._chunk_size = chunk_size
        self._seed = seed
        self._slice_sizes = slice_sizes

    def __call__(self, waveforms: Tensor, speaker_labels: Tensor, *, step: int, timed: bool = False) -> StepResult:
        """Add the gradients of a batch to those that are there.

        Args:
            waveforms: This process's slice of the batch, shape (n, samples).
            speaker_labels: Shape (n,).
            step: Number of the step, which the random numbers follow.
            timed: Whether to wait for the GPU where a time is taken.
        """
        clock = _Clock(waveforms.device if timed else None)
        begin = clock.read()
        chunk_size = self._chunk_size or len(waveforms)
        # All processes must agree: data-parallel training exchanges gradients where the wrapped model is called.
        whole = self._chunk_size is None or self._largest_slice(waveforms) <= chunk_size
        chunks = torch.split(waveforms, chunk_size)
        if whole:
            outputs = self._embedded(self._model, waveforms, step, 0)
        else:
            with torch.no_grad():
                outputs = torch.cat([self._alone(chunk, step, number) for number, chunk in enumerate(chunks)])
        leaf = outputs.detach().requires_grad_()

        begin_loss = clock.read()
        embeddings, labels = gather_batch(leaf, speaker_labels, self._slice_sizes)
        if self._taught is None:
            loss = self._loss(embeddings, labels)
        else:
            with self._fabric.autocast():
                taught = self._taught(waveforms)
            loss = self._loss(embeddings, labels, torch.cat(gather_rows(taught, self._slice_sizes)))
        self._fabric.backward(loss)
        average_gradients(list(self._loss.parameters()))
        end_loss = clock.read()

        assert leaf.grad is not None
        gradient = leaf.grad
        if (scaler := gradient_scaler(self._fabric)) is not None:  # Fabric scales at each backward call
            gradient = gradient / scaler.scale(torch.ones((), device=gradient.device))
        if whole:
            self._fabric.backward(outputs, gradient)
        else:
            self._second_pass(chunks, torch.split(gradient, chunk_size), step)
        loss_seconds = end_loss - begin_loss
        encoder_seconds = clock.read() - begin - loss_seconds
        return StepResult(loss.detach(), embeddings.detach(), labels, encoder_seconds, loss_seconds)

    @torch.no_grad()
    def embeddings_in_evaluation(self, waveforms: Tensor, speaker_labels: Tensor) -> Tensor:
        """The whole batch's embeddings as the model's users get them, shape (N, dim); nothing of the model changes.

        Args:
            waveforms: This process's slice of the batch, shape (n, samples).
            speaker_labels: Shape (n,).
        """
        self._model.eval()
        try:
            with self._fabric.autocast():
                parts = [
                    self._model.module(chunk) for chunk in torch.split(waveforms, self._chunk_size or len(waveforms))
                ]
        finally:
            self._model.train()
        return gather_batch(torch.cat(parts).float(), speaker_labels, self._slice_sizes)[0]

    @property
    def has_running_statistics(self) -> bool:
        """Whether the encoder normalises by running statistics that it learns."""
        return bool(_learnt_norms(self._model))

    @torch.no_grad()
    def restate(self, batches: Iterable[tuple[Tensor, Tensor]], *, step: int) -> None:
        """Take the running statistics anew, as the mean of those of batches; weights stay as they are.

        Args:
            batches: This process's slices of waveforms, and labels, which are not used.
            step: Together with seed and number it decides what is masked.
        """
        with _statistics_anew(_learnt_norms(self._model)):
            for number, (waveforms, _) in enumerate(batches):
                for chunk in torch.split(waveforms, self._chunk_size or len(waveforms)):
                    self._alone(chunk, step, number)

    def _largest_slice(self, waveforms: Tensor) -> int:
        if self._slice_sizes is not None:
            return max(self._slice_sizes)
        return largest_anywhere(len(waveforms), waveforms.device)

    def _second_pass(self, chunks: Sequence[Tensor], gradients: Sequence[Tensor], step: int) -> None:
        last = len(chunks) - 1
        with _frozen_running_statistics(self._model):
            with self._fabric.no_backward_sync(self._model):
                for number in range(last):
                    self._fabric.backward(self._alone(chunks[number], step, number), gradients[number])
            self._fabric.backward(self._embedded(self._model, chunks[last], step, last), gradients[last])

    def _alone(self, chunk: Tensor, step: int, number: int) -> Tensor:
        """Embed without the wrapper, which waits for the other processes; they may have other numbers of chunks."""
        with self._fabric.autocast():
            embeddings = self._embedded(self._model.module, chunk, step, number)
        return embeddings.to(torch.promote_types(embeddings.dtype, torch.float32))

    def _embedded(self, model: nn.Module, chunk: Tensor, step: int, number: int) -> Tensor:
        seed = np.random.SeedSequence([self._seed, step, number, rank()]).generate_state(1, np.uint64)
        torch.manual_seed(int(seed[0]))
        embeddings: Tensor = model(chunk)
        return embeddings


def gradient_scaler(fabric: Fabric) -> torch.amp.GradScaler | None:
    """What keeps gradients of 16-mixed within float16's range; None where nothing is scaled."""
    return getattr(fabric.strategy.precision, "scaler", None)


class BadStep(NamedTuple):
    """A step whose loss or gradient is not finite.

    Attributes:
        step: Its number, from 0.
        loss: Of its batch.
        norm: Of its gradients.
    """

    step: int
    loss: float
    norm: float


class FiniteWatch:
    """Notes the first step whose loss or gradient is not finite, without waiting for a GPU until it is asked.

    Args:
        device: Where losses are.
    """

    def __init__(self, device: torch.device) -> None:
        self._step = torch.full((), -1, dtype=torch.int64, device=device)
        self._loss = torch.zeros((), dtype=torch.float64 if device.type != "mps" else torch.float32, device=device)
        self._norm = torch.zeros_like(self._loss)

    def note(self, step: int, loss: Tensor, norm: Tensor, *, scale: Tensor | None = None) -> None:
        """Look at a step.

        Args:
            step: Its number, from 0.
            loss: A scalar.
            norm: Of all gradients, a scalar.
            scale: What gradients were multiplied by to stay within float16's range, or None. As long as it is above 1,
                it can be lowered, so a norm that is not finite is no reason to stop.
        """
        judged = loss + norm if scale is None else torch.where(scale <= 1, loss + norm, loss)
        first = ~judged.isfinite() & (self._step < 0)
        self._step = torch.where(first, step, self._step)
        self._loss = torch.where(first, loss.detach().to(self._loss.dtype), self._loss)
        self._norm = torch.where(first, norm.detach().to(self._norm.dtype), self._norm)

    def found(self) -> BadStep | None:
        """The first bad step, of any process; waits for the GPU."""
        step = largest_anywhere(int(self._step), self._step.device)
        return None if step < 0 else BadStep(step, float(self._loss), float(self._norm))


class _Clock:
    """Seconds; waits for the GPU first if it is given one."""

    def __init__(self, device: torch.device | None) -> None:
        self._waits = device is not None and device.type == "cuda"

    def read(self) -> float:
        if self._waits:
            torch.cuda.synchronize()
        return time.perf_counter()


def _learnt_norms(model: nn.Module) -> list[_NormBase]:
    norms = [module for module in model.modules() if isinstance(module, _NormBase) and module.track_running_stats]
    return [norm for norm in norms if not getattr(norm, "keeps_statistics", False)]


@contextmanager
def _statistics_anew(norms: Sequence[_NormBase]) -> Iterator[None]:
    """Forget the running statistics, and give each batch from now on the same weight in them."""
    momenta = [norm.momentum for norm in norms]
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


@contextmanager
def _frozen_running_statistics(model: nn.Module) -> Iterator[None]:
    """In training mode, normalise by the batch without updating the running statistics."""
    norms = [module for module in model.modules() if isinstance(module, _NormBase) and module.track_running_stats]
    try:
        for norm in norms:
            norm.track_running_stats = False
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True

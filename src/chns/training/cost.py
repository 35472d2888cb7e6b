"""What a training step costs: operations, bytes moved and memory, counted; and what that makes on other hardware.

Two forward and backward passes, of two and of four segments, run on this machine's CPU while each operation is looked
at: its floating-point operations by torch's own formulas for products and convolutions (a multiplication and an
addition are two), the bytes of its inputs and outputs, each moved once, and the tensors that autograd keeps. All three
are straight lines in the number of segments, so a whole batch need not be run. An operation cannot be faster than its
arithmetic at the device's peak, nor than its bytes at the memory's: the sum over all is the least time of a step
(Williams, Waterman, Patterson, "Roofline", 2009), without fused kernels, which would move less.
"""

from __future__ import annotations

import copy
import math
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from chns.encoders import SpeakerEncoder

_FEW, _MORE = 2, 4  # segments that are counted
_BYTES_OF_A_PARAMETER = 16  # itself, its gradient and two moments of Adam, in float32
_BYTES_OF_AN_UPDATE = 28  # Adam reads all four, and writes three
_PEAK_OVER_KEPT = 1.25  # 4.55 GB where 3.66 were counted, see docs/performance.md
_MOST_WORKERS = 8
_BATCHES_OF_A_WORKER = 3  # two that wait to be fetched, and one on its way
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108
_GPU_SHARE, _CPU_SHARE = 0.85, 0.4  # of the memory, for the batch; of a CPU's 24 GB, .6 was too much


@dataclass(frozen=True, kw_only=True)
class Accelerator:
    """What a device can do at best, by its maker's data sheet.

    Attributes:
        name: Its name.
        flops: Dense products a second, by precision.
        bytes_per_second: Of its memory.
        memory_bytes: Size of its memory.
    """

    name: str
    flops: dict[str, float]
    bytes_per_second: float
    memory_bytes: float

    @property
    def usable_bytes(self) -> float:
        """Memory that a batch may take."""
        return _GPU_SHARE * self.memory_bytes


def _flops(half: float, single: float) -> dict[str, float]:
    return {"bf16-mixed": half * 1e12, "16-mixed": half * 1e12, "32-true": single * 1e12}


ACCELERATORS = (
    Accelerator(name="H100 80 GB", flops=_flops(989, 67), bytes_per_second=3.35e12, memory_bytes=80e9),
    Accelerator(name="A100 80 GB", flops=_flops(312, 19.5), bytes_per_second=2.04e12, memory_bytes=80e9),
    Accelerator(name="RTX 4090 24 GB", flops=_flops(165, 82.6), bytes_per_second=1.01e12, memory_bytes=24e9),
)


@dataclass(frozen=True)
class _Line:
    """A count that is a straight line in the number of segments."""

    constant: float
    of_a_segment: float

    @classmethod
    def through(cls, few: float, more: float) -> _Line:
        """From the counts of `_FEW` and of `_MORE` segments."""
        slope = (more - few) / (_MORE - _FEW)
        return cls(few - _FEW * slope, slope)

    def at(self, num_segments: int) -> float:
        """The count of so many segments."""
        return max(0.0, self.constant + self.of_a_segment * num_segments)


# Floating-point operations and bytes moved of each operation, in the order in which they ran.
_Counts = Sequence[tuple[float, float]]


@dataclass(frozen=True, eq=False, kw_only=True)
class EncoderCost:
    """What an encoder costs, by operation and as lines in the number of segments; see `count_encoder`."""

    precision: str
    embedding_dim: int
    num_parameters: int
    forward: Sequence[tuple[_Line, _Line]]
    backward: Sequence[tuple[_Line, _Line]]
    kept: _Line


@dataclass(frozen=True, eq=False, kw_only=True)
class StepCost:
    """What a step costs.

    Attributes:
        num_segments: Of the batch.
        precision: As in ``train.precision``.
        forward: Operations of the encoder's forward pass: floating-point operations and bytes moved.
        others: Those of its backward pass, of the loss and of the optimiser.
        kept: Bytes that the encoder keeps for its backward pass, by segments.
        fixed_bytes: Of weights, gradients, moments and of what the loss keeps.
    """

    num_segments: int
    precision: str
    forward: _Counts
    others: _Counts
    kept: _Line
    fixed_bytes: float

    @property
    def flop(self) -> float:
        """Floating-point operations of a step."""
        return sum(flop for flop, _ in (*self.forward, *self.others))

    @property
    def moved_bytes(self) -> float:
        """Bytes that a step's operations read and write."""
        return sum(moved for _, moved in (*self.forward, *self.others))

    def memory_bytes(self, chunk_size: int | None = None) -> float:
        """Memory of a step, of which the encoder embeds so many segments at a time."""
        held = self.kept.at(min(chunk_size or self.num_segments, self.num_segments))
        return self.fixed_bytes + _PEAK_OVER_KEPT * held

    def chunk_size(self, usable_bytes: float, *, num_processes: int = 1) -> int | None:
        """The largest power of two of segments at a time for which memory is enough; None if the batch fits.

        Args:
            usable_bytes: Memory of each process.
            num_processes: Which share the batch.
        """
        if self.memory_bytes(-(-self.num_segments // num_processes)) <= usable_bytes:
            return None
        size = 1
        while self.memory_bytes(2 * size) <= usable_bytes:
            size *= 2
        return size

    def least_seconds(self, device: Accelerator, *, chunk_size: int | None = None) -> float:
        """Least time of a step there; with chunks, there is a second forward pass."""
        operations = [*self.forward, *self.others, *(self.forward if chunk_size else ())]
        flops, rate = device.flops[self.precision], device.bytes_per_second
        return sum(max(flop / flops, moved / rate) for flop, moved in operations)


def count_encoder(model: SpeakerEncoder, *, crop_seconds: float, precision: str) -> EncoderCost:
    """Count the passes of an encoder.

    Args:
        model: Waveforms to embeddings; a copy of it runs, and random numbers stay as they are.
        crop_seconds: Length of a segment.
        precision: As in ``train.precision``.
    """
    samples = round(crop_seconds * model.sample_rate_hz)
    with torch.random.fork_rng(devices=[]):
        copied = copy.deepcopy(model).cpu().train()
        few, more = (_passes(copied, 0.1 * torch.randn(n, samples), precision) for n in (_FEW, _MORE))
    return EncoderCost(
        precision=precision,
        embedding_dim=few.embedding_dim,
        num_parameters=sum(parameter.numel() for parameter in copied.parameters()),
        forward=_lines(few.forward, more.forward),
        backward=_lines(few.backward, more.backward),
        kept=_Line.through(few.kept, more.kept),
    )


def count_step(encoder: EncoderCost, loss: nn.Module, *, num_speakers: int, utterances_per_speaker: int) -> StepCost:
    """Count a step: the encoder's passes, the loss on a batch of its size, and Adam.

    Args:
        encoder: Counted.
        loss: Of embeddings and speaker labels; a copy of it runs.
        num_speakers: Speakers of a batch.
        utterances_per_speaker: Utterances of each.
    """
    num_segments = num_speakers * utterances_per_speaker
    with torch.random.fork_rng(devices=[]):
        copied = copy.deepcopy(loss).cpu().train()
        embeddings = torch.randn(num_segments, encoder.embedding_dim, requires_grad=True)
        kept = _Kept(copied)
        with torch.autograd.graph.saved_tensors_hooks(kept, _same), _Counter() as counter:
            copied(embeddings, torch.arange(num_speakers).repeat_interleave(utterances_per_speaker)).backward()
    parameters = encoder.num_parameters + sum(parameter.numel() for parameter in copied.parameters())
    backward = [(flop.at(num_segments), moved.at(num_segments)) for flop, moved in encoder.backward]
    return StepCost(
        num_segments=num_segments,
        precision=encoder.precision,
        forward=[(flop.at(num_segments), moved.at(num_segments)) for flop, moved in encoder.forward],
        others=[*backward, *counter.operations, (0.0, float(_BYTES_OF_AN_UPDATE * parameters))],
        kept=encoder.kept,
        fixed_bytes=_BYTES_OF_A_PARAMETER * parameters + kept.num_bytes,
    )


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Floating-point operations and bytes of every operation that runs."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: list[tuple[float, float]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        formula = flop_registry.get(func._overloadpacket)
        flop = 0.0 if formula is None else float(formula(*args, **kwargs, out_val=out))
        is_view = any(one.alias_info and not one.alias_info.is_write for one in func._schema.arguments)
        moved = 0.0 if is_view else float(sum(map(_num_bytes, tree_leaves((args, kwargs, out)))))
        self.operations.append((flop, moved))
        return out


def _num_bytes(value: Any) -> int:
    return value.numel() * value.element_size() if isinstance(value, Tensor) else 0


class _Kept:
    """Bytes of the tensors that autograd keeps, each once; parameters are there anyway."""

    def __init__(self, module: nn.Module) -> None:
        self._known = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
        self._held: list[Tensor] = []  # or another tensor could get the place of one that is gone
        self.num_bytes = 0.0

    def __call__(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._known:
            self._known.add(storage.data_ptr())
            self._held.append(tensor.detach())
            self.num_bytes += storage.nbytes()
        return tensor


def _same(tensor: Tensor) -> Tensor:
    return tensor


@dataclass(frozen=True, eq=False)
class _Passes:
    forward: _Counts
    backward: _Counts
    kept: float
    embedding_dim: int


def _passes(model: SpeakerEncoder, waveforms: Tensor, precision: str) -> _Passes:
    kept = _Kept(model)
    mixed = torch.autocast("cpu", torch.bfloat16, enabled=precision != "32-true")
    with torch.autograd.graph.saved_tensors_hooks(kept, _same), _Counter() as forward, mixed:
        embeddings = model(waveforms)
    total = embeddings.float().sum()
    with _Counter() as backward:
        total.backward()
    return _Passes(forward.operations, backward.operations, kept.num_bytes, embeddings.shape[1])


def _lines(few: _Counts, more: _Counts) -> list[tuple[_Line, _Line]]:
    """A line an operation; where an encoder takes other steps for other batches, one line for all of them."""
    if len(few) != len(more):
        few, more = ([(sum(flop for flop, _ in one), sum(moved for _, moved in one))] for one in (few, more))
    return [
        (_Line.through(flop, more_flop), _Line.through(moved, more_moved))
        for (flop, moved), (more_flop, more_moved) in zip(few, more, strict=True)
    ]


def usable_memory_bytes(device: torch.device | str) -> float:
    """Memory of a device, or of this machine, that a batch may take."""
    if torch.device(device).type == "cuda":
        return _GPU_SHARE * torch.cuda.get_device_properties(device).total_memory
    sizes = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    with suppress(OSError, ValueError):  # "max" where a container has no limit
        sizes.append(int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
    return _CPU_SHARE * min(sizes)


def free_memory_bytes() -> float:
    """What nobody holds of this machine's memory; infinite where the system does not tell."""
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return 1024.0 * int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1])
    return math.inf


def loader_workers(given: int | None, cores: int, *, num_processes: int, batch_bytes: float) -> tuple[int, str | None]:
    """How many processes decode, and in words why, where there is something to say.

    Args:
        given: As set by the user, which stays; None for as many as there are cores, and room for what they hand over.
        cores: That this process may use.
        num_processes: Training processes on this machine, each of which has so many.
        batch_bytes: Of one process's slice of a batch. Workers hand batches over in shared memory, which a container
            may have little of; where it is full, the system ends a worker without a word.
    """
    room = _room_for_workers(batch_bytes * num_processes)
    if given is not None:
        if room is None or given <= room:
            return given, None
        return given, (
            f"{given} as set, though {_SHARED_MEMORY} has room for the batches of {room}: make it larger (docker run "
            f"--shm-size), or set {room}"
        )
    workers = max(0, min(_MOST_WORKERS, cores // num_processes - 1))
    if room is not None and room < workers:
        return room, f"{room}, as {_SHARED_MEMORY} has room for no more: make it larger (docker run --shm-size)"
    return workers, f"{workers}, for {cores} core{'' if cores == 1 else 's'}"


def _room_for_workers(batch_bytes: float) -> int | None:
    """Workers whose batches fit into shared memory; None where the system has no such limit."""
    if not _SHARED_MEMORY.is_dir():
        return None
    return int(shutil.disk_usage(_SHARED_MEMORY).free // (_BATCHES_OF_A_WORKER * max(1.0, batch_bytes)))

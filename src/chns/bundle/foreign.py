"""Match another toolkit's tensors with the names and shapes of an encoder of ours.

Read the tensors of another toolkit's checkpoint, which comes from a stranger.

Only torch's zip format is read, mapped into memory and by torch's restricted unpickler, so nothing of the file is run.
Sizes are checked before a tensor is touched: a few bytes can describe a tensor of terabytes, and a compressed archive
can unfold to them.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError  # what torch.load raises; nothing is unpickled
from typing import NamedTuple

import torch
from torch import Tensor, nn

from chns.bundle.bundle import Architecture
from chns.core.errors import ModelFileError

Weights = Mapping[str, Tensor]
Rules = Sequence[tuple[str, str | Callable[[re.Match[str]], str]]]

_SHOWN = 6


class Foreign(NamedTuple):
    """What another toolkit's checkpoint turned out to be.

    Attributes:
        architecture: How the same network is built here.
        rules: Patterns and replacements that turn our names into theirs, applied in order.
        ignored: Start of their names that are no part of the encoder, such as a classification head.
        reordered: For names of ours, what is done to their tensor so that its channels are in our order.
    """

    architecture: Architecture
    rules: Rules
    ignored: tuple[str, ...] = ()
    reordered: Mapping[str, Callable[[Tensor], Tensor]] = {}


def size(weights: Weights, name: str, axis: int) -> int:
    """One size of a tensor that tells how wide the network is.

    Raises:
        ModelFileError: If there is no such tensor, or it has no such axis.
    """
    tensor = weights.get(name)
    if tensor is None or tensor.ndim <= axis or tensor.numel() == 0:
        got = "none" if tensor is None else f"shape {tuple(tensor.shape)}"
        raise ModelFileError(f"checkpoint must hold a tensor {name!r} of more than {axis} axes, got {got}.")
    return tensor.shape[axis]


def count(weights: Weights, pattern: str) -> int:
    """How many tensors have names of that pattern, with ``{}`` for 0, 1, 2 and so on."""
    number = 0
    while pattern.format(number) in weights:
        number += 1
    return number


def our_weights(weights: Weights, foreign: Foreign, encoder: nn.Module) -> dict[str, Tensor]:
    """The state dict of an encoder of ours, from their tensors.

    Args:
        weights: Theirs.
        foreign: What they are.
        encoder: Gives names and shapes; may be on the meta device.

    Raises:
        ModelFileError: If a tensor is missing, left over or of another shape; all are listed, under their names.
    """
    missing, misshapen = [], []
    ours: dict[str, Tensor] = {}
    used = set()
    for name, wanted in encoder.state_dict().items():
        their_name = _renamed(name, foreign.rules)
        used.add(their_name)
        tensor = weights.get(their_name)
        if tensor is None and name.endswith("num_batches_tracked"):  # absent from old checkpoints
            tensor = torch.tensor(0)
        if tensor is None:
            missing.append(their_name)
        elif _without_last_ones(tensor) != _without_last_ones(wanted):
            misshapen.append(f"{their_name} {tuple(tensor.shape)} instead of {tuple(wanted.shape)}")
        else:
            reorder = foreign.reordered.get(name)
            shaped = tensor.reshape(wanted.shape)
            ours[name] = shaped if reorder is None else reorder(shaped)
    unexpected = sorted(name for name in weights if name not in used and not name.startswith(foreign.ignored))
    found = {"missing": missing, "unexpected": unexpected, "of another shape": misshapen}
    if any(found.values()):
        listed = "; ".join(f"{len(names)} {what}: {_shown(names)}" for what, names in found.items() if names)
        raise ModelFileError(f"checkpoint must hold exactly the tensors of that encoder, got {listed}.")
    return ours


def _renamed(name: str, rules: Rules) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def _without_last_ones(tensor: Tensor) -> tuple[int, ...]:
    """A linear layer and a convolution of one frame hold the same numbers."""
    shape = list(tensor.shape)
    while shape and shape[-1] == 1:
        shape.pop()
    return tuple(shape)


def _shown(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


LARGEST_BYTES = 2**30
LARGEST_NUMBER_OF_TENSORS = 10_000


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, on the CPU; floating-point ones as float32.

    Args:
        path: A state dict that `torch.save` wrote.

    Raises:
        FileNotFoundError: If there is no such file.
        ModelFileError: If it is something else, larger than `LARGEST_BYTES`, or holds values that are not finite.
    """
    _check_archive(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, UnpicklingError, ValueError, EOFError, KeyError, OSError) as error:
        raise ModelFileError(
            f"checkpoint must be a state dict of tensors and nothing else, got {path} ({_first_line(error)}). Load it "
            f"with its own toolkit and save the encoder with `torch.save(encoder.state_dict(), PATH)`."
        ) from error
    if not isinstance(content, dict) or not content:
        raise ModelFileError(f"checkpoint must be a state dict of tensors, got {type(content).__name__} in {path}.")
    if len(content) > LARGEST_NUMBER_OF_TENSORS:
        raise ModelFileError(f"checkpoint must hold at most {LARGEST_NUMBER_OF_TENSORS} tensors, got more in {path}.")
    for name, tensor in content.items():
        _check_kind(name, tensor, path)
    num_bytes = sum(4 * tensor.numel() for tensor in content.values())
    if num_bytes > LARGEST_BYTES:
        raise ModelFileError(
            f"checkpoint must hold at most {LARGEST_BYTES} bytes of weights, got {num_bytes} in {path}."
        )
    weights = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in content.items()}
    for name, tensor in weights.items():
        if not torch.isfinite(tensor).all():
            raise ModelFileError(f"weights must be finite, got others in {name!r} in {path}.")
    return weights


def _check_archive(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint must be a file, got {path}.")
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise ModelFileError(
            f"checkpoint must be in torch's zip format, got another in {path} ({error}). If torch before 1.6 wrote it, "
            f"load it and save it again."
        ) from error
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise ModelFileError(f"checkpoint must not be compressed, as torch never does, got {path}. Do not trust it.")
    num_bytes = path.stat().st_size
    if num_bytes > LARGEST_BYTES:
        raise ModelFileError(f"checkpoint must be at most {LARGEST_BYTES} bytes, got {num_bytes} in {path}.")


def _check_kind(name: object, tensor: object, path: Path) -> None:
    usable = (
        isinstance(name, str)
        and isinstance(tensor, Tensor)
        and tensor.layout == torch.strided
        and tensor.device.type == "cpu"
        and not tensor.is_quantized
        and (tensor.is_floating_point() or tensor.dtype == torch.int64)
    )
    if not usable:
        kind = f"{tensor.dtype} on {tensor.device}" if isinstance(tensor, Tensor) else type(tensor).__name__
        raise ModelFileError(
            f"checkpoint must hold plain tensors by name, got {str(name)[:80]!r} of {kind} in {path}. If the "
            f"state dict is inside, save it alone with `torch.save`."
        )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]

"""Match another toolkit's tensors with the names and shapes of an encoder of ours."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from chns.checkpoint import Architecture
from chns.errors import ModelFileError

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

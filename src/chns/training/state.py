"""The state of a training in one file, from which a run that was stopped goes on as if it had not been."""

from __future__ import annotations

import logging
import signal
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError  # what torch.load raises; nothing is unpickled
from types import FrameType, TracebackType
from typing import Any, Protocol

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from chns.bundle import require_finite
from chns.core import ModelFileError, any_process, atomic_path

_FORMAT = "chns-training-2"


class LastEpochs:
    """The mean of a model's weights and running statistics at the ends of the last epochs.

    Args:
        model: In training; after the last epoch it has the mean.
        first: The first epoch that counts.
        last: The last one.

    Source:
        Izmailov et al., "Averaging weights leads to wider optima and better generalization", UAI 2018, with the mean of
        the running statistics in place of new ones; recipes of the field average their last checkpoints so.
    """

    def __init__(self, model: nn.Module, *, first: int, last: int) -> None:
        self._model, self._first, self._last = model, first, last
        self._mean = AveragedModel(model, use_buffers=True)

    def end_epoch(self, epoch: int) -> None:
        """Take the model as it is now; after the last epoch, give it the mean."""
        if epoch < self._first:
            return
        if epoch == self._first:
            self._mean.n_averaged.zero_()
        self._mean.update_parameters(self._model)
        if epoch == self._last:
            self._model.load_state_dict(self._mean.module.state_dict())

    def state_dict(self) -> dict[str, Any]:
        """The mean so far."""
        return self._mean.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Go on from such a mean."""
        self._mean.load_state_dict(state_dict)


class Stateful(Protocol):
    """A part of a training: model, loss, optimiser, plan of the batches, meter."""

    def state_dict(self) -> dict[str, Any]:
        """What is to be kept of it: tensors, numbers, texts and containers of these."""

    def load_state_dict(self, state_dict: Any, /) -> Any:
        """Go on from a kept state."""


def save_training(path: Path, parts: Mapping[str, Stateful], *, step: int, num_steps: int) -> None:
    """Write the state, atomically.

    Args:
        path: Where to.
        parts: All that changes while training, by name.
        step: Steps that are done.
        num_steps: Steps of the whole run.

    Raises:
        NonFiniteError: If a weight or a running statistic is NaN or infinite; a file that is there stays.
    """
    states = {name: part.state_dict() for name, part in parts.items()}
    for part in ("model", "loss"):
        require_finite(states[part], f"in the {part} at step {step}")
    with atomic_path(path) as temporary:
        torch.save({"format": _FORMAT, "num_steps": num_steps, "step": step, **states}, temporary)


def load_training(path: Path, parts: Mapping[str, Stateful], *, num_steps: int, steps_per_epoch: int = 1) -> int:
    """Bring the parts of a training to where the file left them.

    Args:
        path: What `save_training` wrote.
        parts: As then.
        num_steps: Steps of the whole run; more than then make it longer.
        steps_per_epoch: Of the run.

    Returns:
        Steps that are done.

    Raises:
        ModelFileError: If the file is damaged, or of another run or version.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if state["format"] != _FORMAT:
            raise ModelFileError(
                f"checkpoint must be of format {_FORMAT}, got {state['format']}, of another version of chns, in "
                f"{path}. Start in another folder."
            )
        if state["num_steps"] > num_steps or state["num_steps"] % steps_per_epoch:
            raise ModelFileError(
                f"checkpoint must be of a run of {num_steps} steps, got one of {state['num_steps']} in "
                f"{path}. Start in another folder, with --train.start_from {path.parent / 'model'} from its weights."
            )
        for name, part in parts.items():
            part.load_state_dict(state[name])
        step: int = state["step"]
        if state["num_steps"] < num_steps:
            _log.info(
                "made longer, from %d steps to %d: the learning rate goes on where the longer schedule has it",
                state["num_steps"],
                num_steps,
            )
    except (RuntimeError, KeyError, TypeError, EOFError, OSError, UnpicklingError) as error:
        raise ModelFileError(
            f"checkpoint must be one that this run wrote, got a damaged or foreign file {path} "
            f"({error}). Delete it to start anew."
        ) from error
    return step


_log = logging.getLogger(__name__)

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """While it is entered, Ctrl-C and SIGTERM are only noted; a second one stops at once."""

    def __init__(self) -> None:
        self._noted = False
        self._handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequest:
        self._handlers = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def is_made(self, device: torch.device) -> bool:
        """Whether some process of the run was asked to stop; all must ask at the same step, and get the same answer."""
        return any_process(self._noted, device)

    def _note(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if self._noted:
            raise KeyboardInterrupt
        self._noted = True
        _log.info("stopping after this step; the same command goes on from here")

    @staticmethod
    def outlive(worker: int) -> None:  # noqa: ARG004
        """Of a loader's worker: what a terminal or a job scheduler sends to all processes alike, it survives once.

        The run needs its crops to finish the step. torch itself asks twice where a worker does not end.
        """

        def first(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
            for each in _SIGNALS:
                signal.signal(each, signal.SIG_DFL)

        for number in _SIGNALS:
            signal.signal(number, first)

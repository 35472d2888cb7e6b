"""Stop between two steps instead of within one."""

from __future__ import annotations

import logging
import signal
from types import FrameType, TracebackType
from typing import Any

import torch

from chns.distributed import any_process

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

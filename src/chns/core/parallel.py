"""``map`` over processes, safe against Ctrl-C and the death of the parent; and parts of a job for many machines.

Processes are spawned, because fork is unsafe once a library has started threads. A worker leaves Ctrl-C to the parent,
which cancels what has not begun. It ends itself when the parent is killed: it would otherwise wait for work for ever.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def available_cores() -> int:
    """Cores that this process may use, which in a container or a job of a cluster can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class JobPart(NamedTuple):
    """One of the equal parts of a job that several machines share: every ``of``-th piece of it.

    Parts know nothing of each other. Each keeps what it has done where a stopped run would keep it, on storage that all
    see; the same call without a part finds everything there, does what is missing and puts the result together.

    Attributes:
        number: Which part, from 1.
        of: How many there are.
    """

    number: int
    of: int

    @classmethod
    def read(cls, text: str) -> JobPart:
        """What ``3/8`` means.

        Raises:
            ValueError: If it means nothing.
        """
        found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
        part = cls(*map(int, found.groups())) if found else cls(0, 0)
        if not 1 <= part.number <= part.of:
            raise ValueError(f"part must be I/N, such as 3/8, with I from 1 to N, got {text!r}.")
        return part

    def own(self, pieces: Sequence[Item]) -> Sequence[Item]:
        """The pieces of this part: every part gets a like share, whatever lies at the start or the end."""
        return pieces[self.number - 1 :: self.of]

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


@contextmanager
def mapped(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    jobs: int | None,
    items_per_worker: int,
    items_per_call: int = 16,
) -> Iterator[Iterator[Result]]:
    """Apply a function to all items, in order, in as many processes as they are worth.

    Args:
        function: At the top level of a module, or a partial of such a one.
        items: Can be pickled, as results can.
        jobs: Processes at most; by default one a core. With one, everything happens in this process.
        items_per_worker: A process is started only where it gets that many, for a start costs about a second.
        items_per_call: How many a process is handed at a time.

    Yields:
        The results; leaving the block before the last of them drops what has not begun.

    Raises:
        ValueError: If jobs is below 1.
    """
    if jobs is not None and jobs < 1:
        raise ValueError(f"jobs must be at least 1, got {jobs}.")
    workers = min(jobs or available_cores(), len(items) // items_per_worker)
    if workers <= 1:
        yield map(function, items)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _set_up_worker) as pool:
        try:
            yield pool.map(function, items, chunksize=items_per_call)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _set_up_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)

"""How much memory this process holds, and how much more a call needs at its peak. Reads Linux's /proc."""

import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


def resident_megabytes(field: str) -> float:
    """VmRSS is what this process holds, VmHWM the most it ever held (getrusage's maximum counts its parent's too)."""
    kilobytes = re.search(rf"{field}:\s*(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    assert kilobytes is not None
    return int(kilobytes[1]) / 1024


def megabytes_more(call: Callable[[], object]) -> float:
    """The most that a call holds at a time beyond what was held before it.

    The kernel is asked to forget the process's earlier peak; one that does not permit it reports too much for a process
    that once was larger.
    """
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = resident_megabytes("VmRSS")
    call()
    return max(0.0, resident_megabytes("VmHWM") - before)

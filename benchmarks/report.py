"""What the benchmarks share: timing in turns, a table, and JSON with the versions and the machine.

A shared machine changes its speed while it measures, so the sides of a comparison take turns, and a ratio is that of
their median turns. The fastest turn is reported beside the median: where the two are far apart, the machine was busy.
`OMP_NUM_THREADS` sets the number of threads of every library that is measured.
"""

import argparse
import importlib
import importlib.metadata
import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch

MEASURED = (
    "Resemblyzer",
    "av",
    "faiss-cpu",
    "kaldi-native-fbank",
    "lightning-fabric",
    "numpy",
    "onnxruntime",
    "pytorch-metric-learning",
    "scikit-learn",
    "scipy",
    "soundfile",
    "speechbrain",
    "torch",
    "torchmetrics",
)


class Timing(NamedTuple):
    """Seconds of a call over all its turns."""

    median: float
    fastest: float


class Ratio(NamedTuple):
    """A claim, and its bound if it has one."""

    name: str
    value: float
    at_most: float | None = None
    at_least: float | None = None

    def __str__(self) -> str:
        if self.at_most is not None:
            verdict = f"   at most {self.at_most}: {'met' if self.value <= self.at_most else 'MISSED'}"
        elif self.at_least is not None:
            verdict = f"   at least {self.at_least}: {'met' if self.value >= self.at_least else 'MISSED'}"
        else:
            verdict = ""
        return f"  {self.name:<64}{self.value:>9.4g}{verdict}"


def parser(description: str | None, *, out: str, repeats: int) -> argparse.ArgumentParser:
    """The options of every benchmark."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--out", type=Path, default=Path(out))
    made.add_argument("--repeats", type=int, default=repeats, help="turns of each side")
    return made


def peer(module: str) -> ModuleType | None:
    """A module of another project, or None, with a line, where it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        print(f"{module} is left out: {error}")
        return None


def seconds_of(call: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """How long a call takes."""
    start = clock()
    call()
    return clock() - start


def take_turns(
    sides: Mapping[str, Callable[[], object]], *, repeats: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, Timing]:
    """Time every side once a turn, after one turn that warms up.

    With ``time.process_time`` as the clock, what waits for other work on the machine does not count; it is for sides
    that are this process alone.
    """
    for call in sides.values():
        call()
    turns = [[seconds_of(call, clock) for call in sides.values()] for _ in range(repeats)]
    columns = zip(np.median(turns, axis=0).tolist(), np.min(turns, axis=0).tolist(), strict=True)
    return {name: Timing(*column) for name, column in zip(sides, columns, strict=True)}


def machine() -> dict[str, object]:
    """Hardware, threads, load, and versions of what may be measured."""
    load = os.getloadavg() if hasattr(os, "getloadavg") else ()
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average_1_minute": load[0] if load else None,
        "python": platform.python_version(),
        "versions": {name: version for name in MEASURED if (version := _version(name))},
    }


def publish(
    out: Path, title: str, rows: Mapping[str, Mapping[str, float]], ratios: list[Ratio], **settings: object
) -> None:
    """Print a table of named rows, then the ratios; write all of it as JSON.

    Args:
        out: The JSON file.
        title: What the numbers are.
        rows: For each name, its values by column; a column may be missing.
        ratios: The claims.
        settings: What was measured: sizes, types.
    """
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    widths = [max(22, len(column) + 2) for column in columns]
    print(f"\n{title}\n  {'':<44}" + "".join(map(str.rjust, columns, widths)))
    for name, row in rows.items():
        cells = (f"{row[column]:.4g}" if column in row else "" for column in columns)
        print(f"  {name:<44}" + "".join(map(str.rjust, cells, widths)))
    if ratios:
        print("ratios")
    for ratio in ratios:
        print(ratio)
    content = {
        "machine": machine(),
        "settings": settings,
        "rows": rows,
        "ratios": {ratio.name: {k: v for k, v in ratio._asdict().items() if k != "name"} for ratio in ratios},
    }
    out.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def milliseconds(timings: Mapping[str, Timing]) -> dict[str, dict[str, float]]:
    """Rows for `publish`."""
    return {
        name: {"median, ms": 1e3 * timing.median, "fastest, ms": 1e3 * timing.fastest}
        for name, timing in timings.items()
    }


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None

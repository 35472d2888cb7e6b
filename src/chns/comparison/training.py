"""Train the runs of a comparison: one after the other in this process, or several beside each other in their own.

A run's own process is a `chns train` of the same settings on its share of the cores, so a run is the same however it
was started, up to the order of additions, which the number of threads changes. Worker processes of `multiprocessing`
would do as well, but what they say could not be told apart, and a run that fails could not be repeated by hand.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from chns.comparison.plan import PlannedRun
from chns.errors import ConfigError, RunFolderError
from chns.training.run import train

_log = logging.getLogger(__name__)

# `chns train`, which is asked to stop when the process that started it ends, however it ends: by its parent-death
# signal, which this program sets before anything else. A parent that has ended by then is seen by its number.
_PR_SET_PDEATHSIG = 1
_TRAIN = f"""
import ctypes, os, signal, sys
parent = int(os.environ.pop("CHNS_COMPARE_PID"))
if ctypes.CDLL(None).prctl({_PR_SET_PDEATHSIG}, signal.SIGTERM) or os.getppid() != parent:
    raise SystemExit("chns: error: the comparison that started this training must go on, got none.")
from chns.cli import main
raise SystemExit(main(["train", *sys.argv[1:]]))
"""
_COMMAND = (sys.executable, "-c", _TRAIN)
_POLL_SECONDS = 0.2


def train_runs(runs: Sequence[PlannedRun], *, jobs: int = 1) -> Generator[PlannedRun]:
    """Train what is not trained yet, going on with what was begun; yield each run when it is finished.

    Closing the iterator, or an error, asks the processes that are training to stop after their step and waits for them.

    Args:
        runs: What to train, in this order.
        jobs: How many train at the same time. With more than one, what each says goes to ``train.log`` in its folder.

    Raises:
        ConfigError: If jobs is below 1.
        KeyboardInterrupt: After Ctrl-C or SIGTERM, once all checkpoints are written.
        RunFolderError: If a run in its own process failed. In this process, whatever `chns.training.run.train` raises.
    """
    if jobs < 1:
        raise ConfigError(f"jobs must be at least 1, got {jobs}.")
    numbered = {run: f"run {number} of {len(runs)}: {run}" for number, run in enumerate(runs, start=1)}
    if jobs > 1:
        yield from _beside_each_other(numbered, jobs)
        return
    for run, title in numbered.items():
        _log.info("%s: %s", title, "already trained" if run.is_finished else "training")
        if not run.is_finished:
            train(run.settings, run.folder)
        yield run


def _beside_each_other(numbered: dict[PlannedRun, str], jobs: int) -> Generator[PlannedRun]:
    waiting = []
    for run, title in numbered.items():
        if run.is_finished:
            _log.info("%s: already trained", title)
            yield run
        else:
            waiting.append(run)
    with _processes() as training:
        while waiting or training:
            while waiting and len(training) < jobs:
                run = waiting.pop(0)
                training[_start(run, jobs)] = run
                _log.info("%s: training, see %s", numbered[run], _log_path(run))
            time.sleep(_POLL_SECONDS)
            for process in [process for process in training if process.poll() is not None]:
                run = training.pop(process)
                if process.returncode:
                    raise RunFolderError(
                        f"training of {run} must come to its end, got exit code {process.returncode} "
                        f"({_last_line(_log_path(run))}) in {_log_path(run)}. The same command goes on."
                    )
                _log.info("%s: trained", numbered[run])
                yield run


@contextmanager
def _processes() -> Iterator[dict[subprocess.Popen[bytes], PlannedRun]]:
    """Running trainings. Those that are left when the block ends stop after their step; all are waited for.

    They have sessions of their own, so that Ctrl-C reaches them once, through here: a second signal would stop them in
    mid-step.
    """
    training: dict[subprocess.Popen[bytes], PlannedRun] = {}
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield training
    finally:
        for process in training:
            process.terminate()
        for process in training:
            process.wait()
        signal.signal(signal.SIGTERM, before)


def _start(run: PlannedRun, jobs: int) -> subprocess.Popen[bytes]:
    threads = str(max(1, (os.cpu_count() or 1) // jobs))
    words = ("--config", json.dumps(asdict(run.settings)), "--out", str(run.folder))
    run.folder.mkdir(parents=True, exist_ok=True)
    with _log_path(run).open("ab") as output:
        return subprocess.Popen(  # noqa: S603 - our own command, without a shell
            (*_COMMAND, *words),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": threads, "CHNS_COMPARE_PID": str(os.getpid())},
            start_new_session=True,
        )


def _log_path(run: PlannedRun) -> Path:
    return run.folder / "train.log"


def _last_line(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"

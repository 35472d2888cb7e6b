"""Trainings in processes of their own: how many at a time, what happens when one fails, and that none is left behind.

The processes are small scripts in place of `chns train`; test_compare.py has the real one.
"""

import json
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from chns.comparison import runs as training
from chns.comparison.runs import PlannedRun, train_runs
from chns.core import ConfigError, RunFolderError, available_cores
from chns.training.settings import TrainSettings

FINISH = """
import json, os, pathlib, sys, time
settings, out = json.loads(sys.argv[2]), pathlib.Path(sys.argv[4])
(out / "started").write_text(f"{time.time()} {os.environ['OMP_NUM_THREADS']}")
time.sleep(0.3)
(out / "ended").write_text(str(time.time()))
"""
FAIL = "print('hello'); print('chns: error: no such thing'); raise SystemExit(2)"
SILENT = "raise SystemExit(3)"
STOP_WHEN_TOLD = """
import pathlib, signal, sys, time
def stop(*_):
    (out / "stopped").touch()
    raise SystemExit(130)
out = pathlib.Path(sys.argv[4])
signal.signal(signal.SIGTERM, stop)
(out / "started").touch()
time.sleep(60)
"""


@pytest.fixture
def runs(tmp_path):
    return [
        PlannedRun(strategy="s", settings=replace(TrainSettings(), seed=seed), folder=tmp_path / f"seed-{seed}")
        for seed in range(4)
    ]


@pytest.fixture
def command(monkeypatch):
    """Lets a script stand for ``chns train``."""

    def use(script: str) -> None:
        monkeypatch.setattr(training, "_COMMAND", (sys.executable, "-S", "-c", script))

    return use


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_never_more_than_jobs_train_at_a_time_and_all_do(runs, command):
    command(FINISH)
    trained = list(train_runs(runs, jobs=2))
    assert {run.folder for run in trained} == {run.folder for run in runs}
    spans = []
    for run in runs:
        started, threads = (run.folder / "started").read_text().split()
        spans.append((float(started), float((run.folder / "ended").read_text())))
        assert threads == str(max(1, available_cores() // 2))
    for start, _ in spans:
        assert sum(first <= start < last for first, last in spans) <= 2


def test_a_finished_run_is_not_started_again(runs, command):
    command(FAIL)
    for run in runs:
        run.folder.mkdir()
        (run.folder / "config.yaml").write_text("{}")
        (run.folder / "summary.json").write_text(json.dumps({}))
    assert list(train_runs(runs, jobs=2)) == runs


@pytest.mark.parametrize(
    ("script", "words"), [(FAIL, r"code 2 \(chns: error: no such thing\)"), (SILENT, r"code 3 \(it said nothing\)")]
)
def test_a_failure_is_named_with_its_last_words(runs, command, script, words):
    command(script)
    with pytest.raises(
        RunFolderError, match=rf"training of s, seed 0 must come to its end, got exit {words} in .*train\.log"
    ):
        list(train_runs(runs[:1], jobs=2))


def test_what_each_says_is_passed_on_once(runs, command, caplog):
    command("print('step 1', flush=True); import time; time.sleep(0.5); print('caf', end='\\xe9'); print('!')")
    runs[0].folder.mkdir()
    (runs[0].folder / "train.log").write_text("of yesterday\n")
    with caplog.at_level("INFO", "chns"):
        list(train_runs(runs[:2], jobs=2))
    said = [record.getMessage() for record in caplog.records]
    for run in runs[:2]:
        assert [line for line in said if line.startswith(f"{run}: ")] == [f"{run}: step 1", f"{run}: café!"]
    assert said.index("s, seed 1: step 1") < said.index("run 1 of 2: s, seed 0: trained")
    assert (runs[0].folder / "train.log").read_text() == "of yesterday\nstep 1\ncafé!\n"


def test_an_interrupt_stops_the_others_gently_and_waits_for_them(runs, command, monkeypatch):
    command(STOP_WHEN_TOLD)
    sleep = time.sleep

    def interrupt(seconds):
        for run in runs[:2]:
            wait_for(run.folder / "started")
        sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)
        sleep(seconds)

    monkeypatch.setattr(training.time, "sleep", interrupt)
    monkeypatch.setattr(sys.modules[__name__], "time", type("Clock", (), {"monotonic": time.monotonic, "sleep": sleep}))
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        list(train_runs(runs, jobs=2))
    assert [(run.folder / "stopped").exists() for run in runs] == [True, True, False, False]
    assert signal.getsignal(signal.SIGTERM) is before


def test_jobs_must_be_positive():
    with pytest.raises(ConfigError, match="jobs must be at least 1, got 0"):
        next(train_runs([], jobs=0))

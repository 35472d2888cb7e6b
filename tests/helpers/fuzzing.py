"""Use many damaged files in processes of their own, which are replaced when they die, hang or take too much memory."""

import json
import queue
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import NamedTuple

WORKER = Path(__file__).parent / "fuzz_worker.py"


class Outcomes(NamedTuple):
    """How often what came of a case, and what was wrong where something was."""

    counts: Counter
    violations: list[str]
    errors: Counter


class _Worker:
    def __init__(self, kind):
        self._process = subprocess.Popen(
            [sys.executable, str(WORKER), kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._lines = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        assert self._lines.get(timeout=60) == "ready\n"

    def _read(self):
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def ask(self, path, *, seconds):
        """Kind and text of what came of a path."""
        self._process.stdin.write(json.dumps(str(path)) + "\n")
        self._process.stdin.flush()
        try:
            line = self._lines.get(timeout=seconds)
        except queue.Empty:
            return "violation", f"a hang of more than {seconds} s"
        return json.loads(line) if line else ("violation", f"a crash, exit code {self._process.wait()}")

    def stop(self):
        self._process.kill()
        self._process.communicate()


def outcomes(kind, cases, *, undamaged=(), seconds=10):
    """Use each of the cases.

    Args:
        kind: "audio" or "bundle".
        cases: Pairs of a name and a path; a path is used before the next is asked for.
        undamaged: Paths that must give results, else there would be nothing to damage; they are not counted.
        seconds: What takes longer is a hang.
    """
    counts, violations, errors = Counter(), [], Counter()
    worker = _Worker(kind)
    try:
        for path in undamaged:
            assert worker.ask(path, seconds=seconds)[0] == "result", path
        for name, path in cases:
            what, text = worker.ask(path, seconds=seconds)
            counts[what] += 1
            if what == "error":
                errors[text.partition(",")[0][:90]] += 1
            elif what == "violation":
                violations.append(f"{name}: {text}")
                worker.stop()
                worker = _Worker(kind)
    finally:
        worker.stop()
    return Outcomes(counts, violations, errors)

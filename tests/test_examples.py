"""The examples run as their docstrings say."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def output_of(*words):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *map(str, words)], capture_output=True, text=True, check=True, env=environment
    ).stdout


def test_hard_batches_are_harder_and_are_learnt_in_a_loop_of_ones_own():
    losses = [float(value) for value in re.findall(r"loss ([\d.]+)", output_of(ROOT / "examples" / "own_loop.py"))]
    assert len(losses) == 8
    assert losses[3] < losses[0]
    assert losses[4] > losses[3]
    assert losses[7] < losses[4]

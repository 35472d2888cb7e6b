"""The examples run as their docstrings say."""

import os
import re
import runpy
import subprocess
import sys
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from chns.sampling import BatchShape, RandomSpeakerBatches

ROOT = Path(__file__).parents[1]
IDENTITIES = np.arange(200).repeat(10), BatchShape(40, 2, steps_per_epoch=5)
AUTHORS = np.arange(60).repeat(8), BatchShape(20, 2, steps_per_epoch=4)


def output_of(*words):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *map(str, words)], capture_output=True, text=True, check=True, env=environment, timeout=300
    ).stdout


@pytest.mark.slow
def test_hard_batches_are_harder_and_are_learnt_in_a_loop_of_ones_own(capsys):
    runpy.run_path(str(ROOT / "examples" / "own_loop.py"), run_name="__main__")
    output = capsys.readouterr().out
    losses = [float(value) for value in re.findall(r"loss ([\d.]+)", output)]
    assert len(losses) == 8
    assert losses[3] < losses[0]
    assert losses[4] > losses[3]
    assert losses[7] < losses[4]


def rows_of(output):
    """Rows of each (rank, epoch, step)."""
    found = re.findall(r"rank (\d+), epoch (\d+), step (\d+): rows \[([\d, ]+)\]", output)
    return {(int(r), int(e), int(s)): [int(row) for row in rows.split(",")] for r, e, s, rows in found}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "data", "world_size"),
    [
        ("accelerate_loop", IDENTITIES, 2),
        ("lightning_module", IDENTITIES, 1),
        ("lightning_module", IDENTITIES, 2),
        ("huggingface_trainer", AUTHORS, 2),
        ("sentence_transformers_training", AUTHORS, 2),
    ],
)
def test_in_another_engine_ranks_take_slices_of_one_batch_and_epochs_differ(name, data, world_size):
    labels, shape = data
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world_size}"]
    rows = rows_of(output_of(*(launcher if world_size > 1 else []), ROOT / "examples" / f"{name}.py"))
    steps = range(shape.steps_per_epoch)
    assert set(rows) == {(rank, epoch, step) for rank in range(world_size) for epoch in range(2) for step in steps}
    random = RandomSpeakerBatches(labels, shape)
    whole = {(e, s): list(chain(*(rows[rank, e, s] for rank in range(world_size)))) for e in range(2) for s in steps}
    for step in steps:
        assert whole[0, step] == random.batch(0, step)
        assert len(set(whole[1, step])) == shape.speakers_per_batch * 2  # no row on two ranks
        assert len(set(labels[whole[1, step]].tolist())) == shape.speakers_per_batch
        assert whole[1, step] not in [random.batch(epoch, step) for epoch in range(2)]

"""Segments a second of two processes of one thread against one process of one thread.

Every process embeds equally many segments: of one batch, each of two would take half, and halves are faster by
themselves (tensors above 32 MB come from the system anew each time), which would pass for scaling. Embeddings are
gathered and gradients averaged as `chns train` does (Fabric's DDP over gloo). One and two take turns as whole runs; a
run gives the median of its steps, and the table the median of the runs. Needs two idle cores.

    python benchmarks/scaling.py [--segments 32] [--steps 6] [--out scaling.json]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from report import Ratio, parser, publish

from chns.core.distributed import rank
from chns.encoders import SpeakerEncoder, ecapa_tdnn_mobile
from chns.features import LogMel
from chns.losses import SupConLoss
from chns.training.step import TrainingStep

RATE_HZ = 16_000


def train(processes: int, segments: int, seconds: float, steps: int) -> float | None:
    """Median segments a second of all processes together, after a step that warms up; None in all but the first."""
    torch.set_num_threads(1)
    fabric = Fabric(accelerator="cpu", devices=processes, strategy="ddp" if processes > 1 else "auto")
    fabric.launch()
    torch.manual_seed(0)
    model, loss = SpeakerEncoder(LogMel(), ecapa_tdnn_mobile()), SupConLoss()
    optimizer = torch.optim.Adam([*model.parameters(), *loss.parameters()], fused=True)
    wrapped, optimizer = fabric.setup(model, optimizer)
    compute_gradients = TrainingStep(fabric, wrapped, loss, chunk_size=None, seed=0)
    torch.manual_seed(rank())
    waveforms = 0.1 * torch.randn(segments, round(seconds * RATE_HZ))
    labels = rank() * segments + torch.arange(segments // 2).repeat_interleave(2)
    times = []
    for number in range(steps + 1):
        start = time.perf_counter()
        optimizer.zero_grad()
        compute_gradients(waveforms, labels, step=number)
        optimizer.step()
        times.append(time.perf_counter() - start)
    return processes * segments / float(np.median(times[1:])) if rank() == 0 else None


def in_processes(arguments: argparse.Namespace, processes: int) -> float:
    """A whole run; Fabric starts the second process by the same command."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "speed.json"
        words = ["--segments", arguments.segments, "--seconds", arguments.seconds, "--steps", arguments.steps]
        command = [sys.executable, Path(__file__), *words, "--processes", processes, "--out", out]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run([*map(str, command)], check=True, env=environment, stderr=subprocess.DEVNULL)
        speed: float = json.loads(out.read_text(encoding="utf-8"))
    return speed


def main() -> None:
    """Measure, print, write."""
    options = parser(__doc__, out="scaling.json", repeats=3)
    options.add_argument("--segments", type=int, default=32, help="of each process")
    options.add_argument("--seconds", type=float, default=3.0)
    options.add_argument("--steps", type=int, default=6)
    options.add_argument("--processes", type=int, help=argparse.SUPPRESS)
    arguments = options.parse_args()
    if arguments.processes:
        speed = train(arguments.processes, arguments.segments, arguments.seconds, arguments.steps)
        if speed is not None:
            arguments.out.write_text(json.dumps(speed), encoding="utf-8")
        return
    turns = [[in_processes(arguments, processes) for processes in (1, 2)] for _ in range(arguments.repeats)]
    one, two = np.median(turns, axis=0).tolist()
    fastest = np.max(turns, axis=0).tolist()
    rows = {
        name: {"segments/s, median": median, "segments/s, fastest": best}
        for name, median, best in zip(("1 process", "2 processes"), (one, two), fastest, strict=True)
    }
    ratios = [Ratio("2 processes / 1, segments a second", two / one, at_least=1.7)]
    title = f"training on {arguments.segments} x {arguments.seconds} s a step and process, one thread each"
    publish(arguments.out, title, rows, ratios, segments=arguments.segments, steps=arguments.steps)


if __name__ == "__main__":
    main()

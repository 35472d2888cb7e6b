"""Peak memory of one step with gradient caching against the whole batch at once, and that the loss is the same.

Each size runs in a process of its own: memory is the peak of its resident set, less what it held once imports, model
and waveforms were there. `--segments 1300 --chunk 64` is a batch of the paper; the default keeps its share of a chunk
in a fifth of its memory. Chunks have batch statistics of their own, so the loss of a training step differs; a second
step, with batch normalisation by its running statistics, is where both losses must be equal. Reads Linux's /proc.

    python benchmarks/memory.py [--segments 256] [--chunk 12] [--out memory.json]
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import torch
from lightning_fabric import Fabric
from process_memory import resident_megabytes
from report import Ratio, parser, publish, seconds_of

from chns.encoders import SpeakerEncoder, ecapa_tdnn_mobile
from chns.features import LogMel
from chns.losses import SupConLoss
from chns.training.step import StepResult, TrainingStep

RATE_HZ = 16_000
CALIBRATION_SEGMENTS = 16
MEMORY, SECONDS, LOSS, RUNNING_LOSS = "memory, MB", "seconds", "loss", "loss, running"


def steps_in_this_process(segments: int, chunk: int, seconds: float) -> dict[str, float]:
    """Memory, seconds and loss of a training step, and the loss of one with running statistics."""
    torch.manual_seed(0)
    model = SpeakerEncoder(LogMel(), ecapa_tdnn_mobile())
    fabric = Fabric(accelerator="cpu", devices=1)
    step = TrainingStep(fabric, fabric.setup_module(model), SupConLoss(), chunk_size=chunk, seed=0)
    waveforms = 0.1 * torch.randn(segments, round(seconds * RATE_HZ))
    labels = torch.arange(segments // 2).repeat_interleave(2)
    results: list[StepResult] = []
    before = resident_megabytes("VmRSS")
    duration = seconds_of(lambda: results.append(step(waveforms, labels, step=0)))
    memory = resident_megabytes("VmHWM") - before
    use_statistics_of(model, waveforms[:CALIBRATION_SEGMENTS])
    running_loss = float(step(waveforms, labels, step=0).loss)
    return {MEMORY: memory, SECONDS: duration, LOSS: float(results[0].loss), RUNNING_LOSS: running_loss}


def use_statistics_of(model: torch.nn.Module, waveforms: torch.Tensor) -> None:
    """Make the running statistics those of some waveforms, whatever was before, and normalise by them."""
    for norm in model.modules():
        if isinstance(norm, torch.nn.BatchNorm1d):
            norm.momentum = 1.0
    with torch.no_grad():
        model(waveforms)
    model.eval()


def in_a_process(arguments: argparse.Namespace, chunk: int) -> dict[str, float]:
    """The same in a fresh process."""
    words = ["--segments", arguments.segments, "--seconds", arguments.seconds, "--alone", chunk]
    command = [sys.executable, str(Path(__file__)), *map(str, words)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    """Measure, print, write."""
    options = parser(__doc__, out="memory.json", repeats=1)
    options.add_argument("--segments", type=int, default=256)
    options.add_argument("--chunk", type=int, default=12)
    options.add_argument("--seconds", type=float, default=3.0)
    options.add_argument("--alone", type=int, metavar="CHUNK", help="measure one size in this process, print JSON")
    arguments = options.parse_args()
    if arguments.alone:
        print(json.dumps(steps_in_this_process(arguments.segments, arguments.alone, arguments.seconds)))
        return
    small, large = (
        min((in_a_process(arguments, size) for _ in range(arguments.repeats)), key=lambda result: result[MEMORY])
        for size in (arguments.chunk, arguments.segments)
    )
    running = abs(small[RUNNING_LOSS] - large[RUNNING_LOSS])
    ratios = [
        Ratio("memory, chunks / whole", small[MEMORY] / large[MEMORY], at_most=0.15),
        Ratio("seconds, chunks / whole", small[SECONDS] / large[SECONDS]),
        Ratio("loss by running statistics, difference", running, at_most=1e-4),
        Ratio("loss by batch statistics, difference", abs(small[LOSS] - large[LOSS])),
    ]
    rows = {f"chunks of {arguments.chunk}": small, f"whole batch of {arguments.segments}": large}
    title = f"one step of {arguments.segments} segments of {arguments.seconds} s, mobile ECAPA-TDNN"
    publish(arguments.out, title, rows, ratios, segments=arguments.segments, chunk=arguments.chunk)


if __name__ == "__main__":
    main()

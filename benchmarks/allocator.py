"""What keeping freed memory does for a training step on a CPU: glibc as it is, as `chns train` asks it, by environment.

A step is that of `encoder.py`, mobile ECAPA-TDNN in float32. glibc gives blocks above 32 MB back to the system when
they are freed, and the next step fetches them anew, a page at a time. Each side is processes of its own, in turns, one
thread each; seconds are those of the processor, which other work does not lengthen much.

    python benchmarks/allocator.py [--batch 32] [--seconds 3] [--steps 4] [--out allocator.json]
"""

import json
import os
import resource
import subprocess
import sys
import time

import numpy as np
import torch
from encoder import FRAMES_PER_SECOND, NUM_MELS, SINGLE, training_step
from report import Ratio, parser, publish

from chns.encoders import ecapa_tdnn_mobile
from chns.training.run import keep_freed_memory

AS_IT_IS, ASKED, ENVIRONMENT = "glibc as it is", "chns train", "environment"
VARIABLES = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "2147483647"}


def one_process(batch: int, seconds: float, steps: int, *, asked: bool) -> dict[str, float]:
    """Processor seconds and page faults of a step, after one that warms up, and the most memory."""
    if asked:
        keep_freed_memory()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    features = torch.randn(batch, int(seconds * FRAMES_PER_SECOND), NUM_MELS)
    step = training_step(ecapa_tdnn_mobile(), features, SINGLE)
    step()
    before, begin = resource.getrusage(resource.RUSAGE_SELF), time.process_time()
    for _ in range(steps):
        step()
    after = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "CPU seconds a step": (time.process_time() - begin) / steps,
        "page faults a step": (after.ru_minflt - before.ru_minflt) / steps,
        "peak MB": after.ru_maxrss / 1024,
    }


def main() -> None:
    """Measure, print, write."""
    options = parser(__doc__, out="allocator.json", repeats=3)
    options.add_argument("--batch", type=int, default=32)
    options.add_argument("--seconds", type=float, default=3.0)
    options.add_argument("--steps", type=int, default=4)
    options.add_argument("--side", choices=[AS_IT_IS, ASKED, ENVIRONMENT], help="one process, which prints JSON")
    arguments = options.parse_args()
    if arguments.side is not None:
        asked = arguments.side == ASKED
        print(json.dumps(one_process(arguments.batch, arguments.seconds, arguments.steps, asked=asked)))
        return
    plain = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    turns: dict[str, list[dict[str, float]]] = {AS_IT_IS: [], ASKED: [], ENVIRONMENT: []}
    for _ in range(arguments.repeats):
        for side, measured in turns.items():
            environment = plain | (VARIABLES if side == ENVIRONMENT else {})
            command = [sys.executable, *sys.argv, "--side", side]
            result = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
            measured.append(json.loads(result.stdout))
    rows = {
        side: {name: float(np.median([one[name] for one in measured])) for name in measured[0]}
        for side, measured in turns.items()
    }
    seconds = {side: row["CPU seconds a step"] for side, row in rows.items()}
    ratios = [Ratio(f"{AS_IT_IS} / {side}", seconds[AS_IT_IS] / seconds[side]) for side in (ASKED, ENVIRONMENT)]
    title = f"A training step of {arguments.batch} x {arguments.seconds:g} s"
    publish(arguments.out, title, rows, ratios, batch=arguments.batch, seconds=arguments.seconds)


if __name__ == "__main__":
    main()

"""What keeping freed memory does for a training step on a CPU, ours and SpeechBrain's: each as each would be run.

glibc as it is, as `chns train` asks it, by environment. A step is that of `encoder.py`, mobile ECAPA-TDNN in float32,
ours also in bf16 on a CPU that has it.
glibc gives blocks above 32 MB back to the system when they are freed, and the next step fetches them anew, a page at a
time. Each side is processes of its own, in turns, one thread each; seconds are those of the processor, which other work
does not lengthen much. A row is the median of the processes, with the least and the most seconds of them.

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
from encoder import FRAMES_PER_SECOND, HALF, KINDS, NUM_MELS, OURS, PEER, SINGLE, speechbrain_encoder, training_step
from report import Ratio, parser, publish
from torch import nn

from chns.encoders import ecapa_tdnn_mobile
from chns.training.run import keep_freed_memory

AS_IT_IS, ASKED, ENVIRONMENT = "glibc as it is", "as chns train asks it", "by environment"
OURS_HALF = f"{OURS} in {HALF}"
MEMORY_OF = {OURS: (AS_IT_IS, ASKED, ENVIRONMENT), OURS_HALF: (AS_IT_IS, ASKED), PEER: (AS_IT_IS, ASKED)}
SECONDS = "CPU seconds a step"
VARIABLES = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "2147483647"}


def one_process(encoder: nn.Module, kind: str, batch: int, seconds: float, steps: int) -> dict[str, float]:
    """Processor seconds and page faults of a step, after one that warms up, and the most memory."""
    features = torch.randn(batch, round(seconds * FRAMES_PER_SECOND) - 2, NUM_MELS)
    step = training_step(encoder, features, kind)
    step()
    before, begin = resource.getrusage(resource.RUSAGE_SELF), time.process_time()
    for _ in range(steps):
        step()
    after = resource.getrusage(resource.RUSAGE_SELF)
    return {
        SECONDS: (time.process_time() - begin) / steps,
        "page faults a step": (after.ru_minflt - before.ru_minflt) / steps,
        "peak MB": after.ru_maxrss / 1024,
    }


def summary(turns: list[dict[str, float]]) -> dict[str, float]:
    """The row of a side."""
    seconds = [turn[SECONDS] for turn in turns]
    medians = {name: float(np.median([turn[name] for turn in turns])) for name in turns[0]}
    return medians | {"least": min(seconds), "most": max(seconds)}


def main() -> None:
    """Measure, print, write."""
    options = parser(__doc__, out="allocator.json", repeats=3)
    options.add_argument("--batch", type=int, default=32)
    options.add_argument("--seconds", type=float, default=3.0)
    options.add_argument("--steps", type=int, default=4)
    options.add_argument("--side", nargs=2, metavar=("WHOSE", "MEMORY"), help="one process, which prints JSON")
    arguments = options.parse_args()
    if arguments.side is not None:
        whose, memory = arguments.side
        torch.set_num_threads(1)
        torch.manual_seed(0)
        encoder = speechbrain_encoder() if whose == PEER else ecapa_tdnn_mobile()
        assert encoder is not None
        if memory == ASKED:
            keep_freed_memory()
        kind = HALF if whose == OURS_HALF else SINGLE
        print(json.dumps(one_process(encoder, kind, arguments.batch, arguments.seconds, arguments.steps)))
        return
    plain = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    whose_there_are = [OURS] + [OURS_HALF] * (HALF in KINDS) + [PEER] * (speechbrain_encoder() is not None)
    turns: dict[tuple[str, str], list[dict[str, float]]]
    turns = {(whose, memory): [] for whose in whose_there_are for memory in MEMORY_OF[whose]}
    for _ in range(arguments.repeats):
        for (whose, memory), measured in turns.items():
            environment = plain | (VARIABLES if memory == ENVIRONMENT else {})
            command = [sys.executable, *sys.argv, "--side", whose, memory]
            result = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True)
            measured.append(json.loads(result.stdout.splitlines()[-1]))
    rows = {f"{whose}, {memory}": summary(measured) for (whose, memory), measured in turns.items()}
    seconds = {side: row[SECONDS] for side, row in rows.items()}
    ours = {memory: seconds[f"{OURS}, {memory}"] for memory in MEMORY_OF[OURS]}
    ratios = [Ratio(f"{OURS}: {AS_IT_IS} / {memory}", ours[AS_IT_IS] / ours[memory]) for memory in (ASKED, ENVIRONMENT)]
    if PEER in whose_there_are:
        theirs = {memory: seconds[f"{PEER}, {memory}"] for memory in MEMORY_OF[PEER]}
        ratios += [
            Ratio(f"{OURS} as chns train runs / {PEER} as it comes", ours[ASKED] / theirs[AS_IT_IS], at_most=0.45),
            Ratio(f"{OURS} / {PEER}, both with {AS_IT_IS}", ours[AS_IT_IS] / theirs[AS_IT_IS]),
            Ratio(f"{OURS} / {PEER}, freed memory kept for both", ours[ASKED] / theirs[ASKED]),
        ]
    if PEER in whose_there_are and OURS_HALF in whose_there_are:
        half = {memory: seconds[f"{OURS_HALF}, {memory}"] for memory in MEMORY_OF[OURS_HALF]}
        name = f"{OURS_HALF} as chns train runs / {PEER} in {SINGLE} as it comes"
        ratios += [
            Ratio(name, half[ASKED] / theirs[AS_IT_IS], at_most=0.18),
            Ratio(f"{OURS_HALF} / {PEER} in {SINGLE}, both with {AS_IT_IS}", half[AS_IT_IS] / theirs[AS_IT_IS]),
        ]
    title = f"A training step of {arguments.batch} x {arguments.seconds:g} s"
    publish(arguments.out, title, rows, ratios, batch=arguments.batch, seconds=arguments.seconds)


if __name__ == "__main__":
    main()

"""The whole method over very many speakers: random batches, groups, hard batches, a refresh; clusters and neighbours.

Embeddings are made up: a direction of each of 2,000 families, of each speaker and of each utterance, drawn anew at each
epoch as a network that learns would. `HardBatches` asks for them and makes everything else, as `chns train` does.
Batches of 650 x 2, two utterances a speaker. Seconds are those of the processor, which other work does not lengthen
much; memory is the most that is resident beyond labels and embeddings. Reads Linux's /proc.

    OMP_NUM_THREADS=1 python benchmarks/million_speakers.py [--speakers 1000000] [--out million_speakers.json]
"""

import sys
import time
from collections.abc import Callable

import numpy as np
from process_memory import megabytes_more
from report import Ratio, parser, publish

from chns.sampling import BatchShape, ClusterGroups, HardBatches, NeighbourGroups, StartAt

DIM, FAMILIES, UTTERANCES, STEPS = 192, 2_000, 2, 50


def voices(num_speakers: int) -> np.ndarray:
    """One a speaker, shape (speakers, dim): of a family, and own."""
    rng = np.random.default_rng(0)
    families = rng.standard_normal((FAMILIES, DIM), np.float32)
    made = rng.standard_normal((num_speakers, DIM), np.float32)
    made += families[rng.integers(FAMILIES, size=num_speakers)]
    return made


def measured(call: Callable[[], object]) -> dict[str, float]:
    """Seconds of the processor, and memory."""
    begin = time.process_time()
    megabytes = megabytes_more(call)
    return {"CPU seconds": time.process_time() - begin, "MB more": megabytes}


def phases(speakers: np.ndarray, kind: ClusterGroups | NeighbourGroups, name: str) -> dict[str, dict[str, float]]:
    """A row for each thing that a run does."""
    rng = np.random.default_rng(1)

    def embed(rows: np.ndarray) -> np.ndarray:
        embeddings = 0.5 * rng.standard_normal((len(rows), DIM), np.float32)
        embeddings += speakers[rows // UTTERANCES]
        return embeddings

    batches = HardBatches(
        np.arange(len(speakers)).repeat(UTTERANCES),
        embed=embed,
        shape=BatchShape(min(650, len(speakers) // 10), UTTERANCES, steps_per_epoch=STEPS),
        groups=kind,
        schedule=StartAt(epoch=1, regroup_every=1),
    )
    rows = {}
    for epoch, doing in enumerate(("warm-up", "first groups", "refresh")):
        begun = measured(lambda epoch=epoch: batches.begin(epoch))
        if epoch:
            rows[f"{name}: {doing}"] = begun
        drawn: list[list[int]] = []
        took = measured(lambda drawn=drawn: drawn.extend(batches))
        rows[f"{name}: {STEPS} batches after {doing}"] = took | {"cosine of a batch": likeness(speakers, drawn)}
        print(f"{name}: {doing} took {begun['CPU seconds']:.0f} CPU seconds", file=sys.stderr)
    return rows


def likeness(speakers: np.ndarray, drawn: list[list[int]]) -> float:
    """Mean cosine between different speakers of a batch."""
    means = []
    for batch in drawn[:10]:
        units = speakers[np.unique(np.asarray(batch) // UTTERANCES)]
        units /= np.linalg.norm(units, axis=1, keepdims=True)
        cosines = units @ units.T
        means.append(cosines[~np.eye(len(cosines), dtype=bool)].mean())
    return float(np.mean(means))


def main() -> None:
    """Measure, print, write."""
    options = parser(__doc__, out="million_speakers.json", repeats=1)
    options.add_argument("--speakers", type=int, default=1_000_000)
    arguments = options.parse_args()
    speakers = voices(arguments.speakers)
    rows = phases(speakers, ClusterGroups(), "clusters") | phases(speakers, NeighbourGroups(), "neighbours")
    clusters, neighbours = (rows[f"{name}: refresh"]["CPU seconds"] for name in ("clusters", "neighbours"))
    ratios = [Ratio("a refresh, neighbours / clusters", neighbours / clusters)]
    title = f"{arguments.speakers:,} speakers x {UTTERANCES}, {DIM} dimensions"
    publish(arguments.out, title, rows, ratios, speakers=arguments.speakers)


if __name__ == "__main__":
    main()

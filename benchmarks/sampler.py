"""What a batch costs as the number of speakers grows, against a plain version of the paper's procedure.

Batches of 650 speakers x 2 utterances, hard ratio 1, one cluster for every 120 speakers, ten utterances a speaker. The
plain version pours Python lists of speakers together, as one writes it first. Prints a table and writes JSON.

    python benchmarks/sampler.py [--out sampler.json]
"""

import argparse
import json
import platform
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from chns.sampling import ClusterSpeakerBatches, RandomSpeakerBatches, SpeakerClusters

SPEAKERS_PER_BATCH, UTTERANCES_EACH = 650, 10


def plain_batches(members: list[list[int]], utterances: list[list[int]], seed: int) -> Iterator[list[int]]:
    """The procedure in plain Python: pool whole clusters, sample, pick two utterances of each speaker."""
    rng = random.Random(seed)
    while True:
        pool: list[int] = []
        for cluster in rng.sample(range(len(members)), len(members)):
            pool += members[cluster]
            if len(pool) >= SPEAKERS_PER_BATCH:
                break
        hard = rng.sample(pool, SPEAKERS_PER_BATCH)
        taken = set(hard)
        others = [speaker for cluster in members for speaker in cluster if speaker not in taken]
        chosen = hard + rng.sample(others, SPEAKERS_PER_BATCH - len(hard))
        yield [utterance for speaker in chosen for utterance in rng.sample(utterances[speaker], 2)]


def milliseconds(make_batch: Callable[[], object], *, seconds: float = 1.0) -> float:
    """Median time of a call, over so many seconds after a warm-up."""
    make_batch()
    times = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 5:
        start = time.perf_counter()
        make_batch()
        times.append(time.perf_counter() - start)
    return 1e3 * float(np.median(times))


def measure(num_speakers: int) -> dict[str, float]:
    """Milliseconds a batch, by sampler."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(num_speakers), UTTERANCES_EACH)
    num_clusters = num_speakers // 120
    clusters = SpeakerClusters(
        labels=rng.integers(0, num_clusters, num_speakers),
        centres=rng.normal(size=(num_clusters, 192)).astype(np.float32),
        seed=0,
    )
    shape = {"speakers_per_batch": SPEAKERS_PER_BATCH, "steps_per_epoch": 10**6}
    samplers = {
        "random": iter(RandomSpeakerBatches(labels, **shape)),
        "clusters, random pooling": iter(ClusterSpeakerBatches(labels, clusters, **shape)),
        "clusters, nearest pooling": iter(ClusterSpeakerBatches(labels, clusters, pooling="nearest", **shape)),
    }
    results = {name: milliseconds(sampler.__next__) for name, sampler in samplers.items()}
    members = [np.flatnonzero(clusters.labels == cluster).tolist() for cluster in range(min(num_clusters, 10_000))]
    utterances = np.arange(len(labels)).reshape(-1, UTTERANCES_EACH).tolist()
    results["plain Python"] = milliseconds(plain_batches(members, utterances, 0).__next__)
    return results


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("sampler.json"))
    parser.add_argument("--speakers", type=int, nargs="+", default=[6_000, 120_000, 1_000_000])
    arguments = parser.parse_args()
    table = {num_speakers: measure(num_speakers) for num_speakers in arguments.speakers}
    names = list(next(iter(table.values())))
    print(f"{'ms a batch':>12}" + "".join(f"{name:>28}" for name in names))
    for num_speakers, results in table.items():
        print(f"{num_speakers:>12,}" + "".join(f"{results[name]:>28.3f}" for name in names))
    versions = {"python": platform.python_version(), "numpy": np.__version__, "machine": platform.processor()}
    arguments.out.write_text(json.dumps({"versions": versions, "milliseconds": table}, indent=2) + "\n")


if __name__ == "__main__":
    main()

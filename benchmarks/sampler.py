"""What a batch costs as the number of speakers grows, against other ways to draw one.

Batches of 650 speakers x 2 utterances, hard ratio 1, one cluster for every 120 speakers, ten utterances a speaker. Ours
at all sizes take turns, so that the growth is measured on one machine. The plain version pours Python lists of
speakers together, as one writes it first; pytorch-metric-learning's MPerClassSampler draws speakers at random only.

    python benchmarks/sampler.py [--speakers 6000 120000 1000000] [--out sampler.json]
"""

import random
from collections.abc import Callable, Iterator

import numpy as np
from report import Ratio, Timing, parser, peer, publish, seconds_of, take_turns

from chns.sampling import (
    BatchShape,
    ClusterSpeakerBatches,
    NeighbourSpeakerBatches,
    RandomSpeakerBatches,
    SpeakerClusters,
    SpeakerNeighbours,
)

SPEAKERS_PER_BATCH, UTTERANCES_EACH, SPEAKERS_PER_CLUSTER = 650, 10, 120
PLAIN, PEER = "plain Python", "MPerClassSampler"
PEER_BATCHES = 4


def labels_of(num_speakers: int) -> np.ndarray:
    """Speaker of every utterance."""
    return np.repeat(np.arange(num_speakers), UTTERANCES_EACH)


def clusters_of(num_speakers: int) -> SpeakerClusters:
    """Random clusters of 120 speakers on average."""
    rng = np.random.default_rng(0)
    num_clusters = num_speakers // SPEAKERS_PER_CLUSTER
    return SpeakerClusters(
        labels=rng.integers(0, num_clusters, num_speakers),
        centres=rng.normal(size=(num_clusters, 192)).astype(np.float32),
        seed=0,
    )


def neighbours_of(num_speakers: int) -> SpeakerNeighbours:
    """Random neighbours, 16 of each speaker."""
    further = np.random.default_rng(0).integers(1, num_speakers, (num_speakers, 16))
    return SpeakerNeighbours(indices=((np.arange(num_speakers)[:, None] + further) % num_speakers).astype(np.int32))


def our_samplers(num_speakers: int) -> dict[str, Callable[[], object]]:
    """Calls that draw one batch."""
    labels, clusters, neighbours = labels_of(num_speakers), clusters_of(num_speakers), neighbours_of(num_speakers)
    shape = BatchShape(SPEAKERS_PER_BATCH, steps_per_epoch=10**9)
    return {
        "random": iter(RandomSpeakerBatches(labels, shape)).__next__,
        "random pooling": iter(ClusterSpeakerBatches(labels, clusters, shape)).__next__,
        "nearest pooling": iter(ClusterSpeakerBatches(labels, clusters, shape, pooling="nearest")).__next__,
        "even pooling": iter(ClusterSpeakerBatches(labels, clusters, shape, pooling="even")).__next__,
        "neighbours": iter(NeighbourSpeakerBatches(labels, neighbours, shape)).__next__,
    }


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


def plain_python(num_speakers: int, *, repeats: int) -> Timing:
    """Time the plain version."""
    clusters = clusters_of(num_speakers)
    by_cluster = np.split(np.argsort(clusters.labels, kind="stable"), np.cumsum(clusters.sizes)[:-1])
    utterances = np.arange(num_speakers * UTTERANCES_EACH).reshape(-1, UTTERANCES_EACH).tolist()
    batches = plain_batches([members.tolist() for members in by_cluster], utterances, 0)
    return take_turns({PLAIN: batches.__next__}, repeats=repeats)[PLAIN]


def metric_learning(num_speakers: int, *, repeats: int) -> Timing | None:
    """Time the peer, which draws all batches of an epoch at once; a turn is one of several."""
    samplers = peer("pytorch_metric_learning.samplers")
    if samplers is None:
        return None
    size = 2 * SPEAKERS_PER_BATCH
    sampler = samplers.MPerClassSampler(labels_of(num_speakers), 2, size, length_before_new_iter=PEER_BATCHES * size)
    times = [seconds_of(lambda: iter(sampler)) / PEER_BATCHES for _ in range(repeats)]
    return Timing(float(np.median(times)), min(times))


def main() -> None:
    """Measure, print, write."""
    options = parser(__doc__, out="sampler.json", repeats=1_000)
    options.add_argument("--speakers", type=int, nargs="+", default=[6_000, 120_000, 1_000_000])
    options.add_argument("--peer-repeats", type=int, default=5, help="turns of the others, which are slow")
    arguments = options.parse_args()

    sides = {
        (name, num_speakers): call
        for num_speakers in arguments.speakers
        for name, call in our_samplers(num_speakers).items()
    }
    timings = take_turns(sides, repeats=arguments.repeats)
    rows: dict[str, dict[str, float]] = {}
    for (name, num_speakers), timing in timings.items():
        rows.setdefault(f"{num_speakers:,} speakers", {})[f"{name}, ms"] = 1e3 * timing.median
    del sides
    for num_speakers in arguments.speakers:
        for name, measure in ((PLAIN, plain_python), (PEER, metric_learning)):
            others = measure(num_speakers, repeats=arguments.peer_repeats)
            if others is not None:
                rows[f"{num_speakers:,} speakers"][f"{name}, ms"] = 1e3 * others.median
    smallest, largest = min(arguments.speakers), max(arguments.speakers)
    growth = f"{largest:,} / {smallest:,} speakers"
    ratios = [
        Ratio(f"{name}: {growth}", timings[name, largest].median / timings[name, smallest].median, at_most=2.0)
        for name in dict.fromkeys(name for name, _ in timings)
    ]
    publish(arguments.out, "a batch of 650 x 2, median of the turns", rows, ratios, speakers=arguments.speakers)


if __name__ == "__main__":
    main()

"""The graph of nearest speakers against k-means: cost of building, of drawing a batch, and how hard the batches are.

Made-up centroids, the same at every run: noise around 200 voices, on the sphere, where the k-th of the dimensions has a
variance of 1 / k, so that some twenty dimensions matter. `--voices 0` leaves noise only, hard for a search that
looks into the nearest cells. 30 neighbours; one cluster for every 160 speakers, one initialisation of k-means (by
default `cluster_speakers` takes the best of 5). Each is built once, in a process of its own: memory is the peak of its
resident set, less what it held once the centroids were there. CPU seconds count all threads, and say more than seconds
where the machine is busy.

Batches are of 650 x 2, hard ratio 1. "negatives" is the mean cosine between the centroids of a batch's speakers,
"hardest" the mean of each speaker's largest, "hardest 10" that of the ten largest; "seen" is the share of speakers that
comes in as many batches as would show everybody once. The graph is compared with the true
neighbours of 1,000 speakers: recall, and the mean cosine that is lost; "tightness" is the mean cosine between a
speaker and the centre of its cluster. Reads Linux's /proc.

    python benchmarks/neighbours.py [--speakers 6000 100000 1000000] [--out neighbours.json]
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import faiss
import numpy as np
from process_memory import resident_megabytes
from report import Ratio, parser, publish, seconds_of, take_turns

from chns.sampling import (
    BatchShape,
    ClusterSpeakerBatches,
    NeighbourSpeakerBatches,
    RandomSpeakerBatches,
    SpeakerClusters,
    SpeakerNeighbours,
    cluster_speakers,
    find_neighbours,
    similarity_to_centre,
)

DIM, NEIGHBOURS, SPEAKERS_PER_CLUSTER = 192, 30, 160
SPEAKERS_PER_BATCH, UTTERANCES_EACH = 650, 10
JUDGED_BATCHES, JUDGED_SPEAKERS = 20, 1_000
GRAPH, K_MEANS = "graph", "k-means"
SECONDS, CPU_SECONDS, MEMORY, BATCH = "seconds", "CPU seconds", "memory, MB", "a batch, ms"

Sampler = RandomSpeakerBatches | ClusterSpeakerBatches | NeighbourSpeakerBatches


def centroids_of(num_speakers: int, num_voices: int) -> np.ndarray:
    """Unit-length centroids; filled part by part, so that making them takes no more memory than holding them."""
    rng = np.random.default_rng(0)
    scale = np.arange(1, DIM + 1, dtype=np.float32) ** -0.5
    voices = rng.standard_normal((num_voices, DIM), dtype=np.float32)
    points = np.empty((num_speakers, DIM), np.float32)
    for first in range(0, num_speakers, 10_000):
        part = points[first : first + 10_000]
        part[:] = rng.standard_normal(part.shape, dtype=np.float32)
        if num_voices:
            part += voices[rng.integers(num_voices, size=len(part))]
        part *= scale
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return points


def build(what: str, points: np.ndarray, path: Path) -> dict[str, float]:
    """Make the graph or the clusters in this process and save them."""
    made: list[SpeakerNeighbours | SpeakerClusters] = []

    def make() -> None:
        if what == GRAPH:
            made.append(find_neighbours(points, num_neighbours=NEIGHBOURS))
        else:
            num_clusters = len(points) // SPEAKERS_PER_CLUSTER
            made.append(cluster_speakers(points, num_clusters=num_clusters, num_initialisations=1))

    before, cpu_before = resident_megabytes("VmRSS"), time.process_time()
    seconds = seconds_of(make)
    cost = {
        SECONDS: seconds,
        CPU_SECONDS: time.process_time() - cpu_before,
        MEMORY: resident_megabytes("VmHWM") - before,
    }
    made[0].save(path)
    return cost


def built_in_a_process(what: str, path: Path, num_speakers: int, num_voices: int) -> dict[str, float]:
    """The same in a fresh process."""
    words = ["--alone", what, path, "--speakers", num_speakers, "--voices", num_voices]
    done = subprocess.run([sys.executable, __file__, *map(str, words)], check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def samplers_of(num_speakers: int, clusters: SpeakerClusters, neighbours: SpeakerNeighbours) -> dict[str, Sampler]:
    """The ways to compose a batch."""
    labels = np.repeat(np.arange(num_speakers), UTTERANCES_EACH)
    return {
        "random": RandomSpeakerBatches(labels, BatchShape(SPEAKERS_PER_BATCH)),
        "clusters, random": ClusterSpeakerBatches(labels, clusters, BatchShape(SPEAKERS_PER_BATCH)),
        "clusters, nearest": ClusterSpeakerBatches(labels, clusters, BatchShape(SPEAKERS_PER_BATCH), pooling="nearest"),
        "clusters, even": ClusterSpeakerBatches(labels, clusters, BatchShape(SPEAKERS_PER_BATCH), pooling="even"),
        "neighbours": NeighbourSpeakerBatches(labels, neighbours, BatchShape(SPEAKERS_PER_BATCH)),
    }


def speakers_at(batches: Sampler, step: int) -> np.ndarray:
    """The speakers of one batch."""
    return np.array(batches.batch(0, step)[::2]) // UTTERANCES_EACH


def hardness(points: np.ndarray, batches: Sampler) -> dict[str, float]:
    """How alike the speakers of a batch are."""
    means = []
    for step in range(JUDGED_BATCHES):
        chosen = points[speakers_at(batches, step)]
        cosines = chosen @ chosen.T
        np.fill_diagonal(cosines, -np.inf)
        descending = -np.sort(-cosines, axis=1)[:, :-1]
        means.append([descending[:, :count].mean() for count in (None, 10, 1)])
    return dict(zip(("negatives", "hardest 10", "hardest"), np.mean(means, axis=0).tolist(), strict=True))


def share_seen(num_speakers: int, batches: Sampler) -> float:
    """Share of speakers that comes while random batches show nearly everybody once."""
    seen = np.zeros(num_speakers, bool)
    for step in range(num_speakers // SPEAKERS_PER_BATCH):
        seen[speakers_at(batches, step)] = True
    return float(seen.mean())


def quality(points: np.ndarray, neighbours: SpeakerNeighbours) -> dict[str, float]:
    """Share of the true neighbours of some speakers that the graph names, and how much less near those are it names."""
    chosen = np.random.default_rng(1).choice(len(points), min(len(points), JUDGED_SPEAKERS), replace=False)
    cosines, found = faiss.knn(points[chosen], points, NEIGHBOURS + 1, metric=faiss.METRIC_INNER_PRODUCT)
    named = neighbours.indices[chosen]
    shares = [len({*exact[1:].tolist()} & {*row.tolist()}) for exact, row in zip(found, named, strict=True)]
    named_cosines = np.einsum("sd,snd->sn", points[chosen], points[named])
    return {
        "recall": float(np.mean(shares)) / NEIGHBOURS,
        "cosine lost": float(cosines[:, 1:].mean() - named_cosines[named >= 0].mean()),
    }


def rows_of(num_speakers: int, *, num_voices: int, repeats: int) -> dict[str, dict[str, float]]:
    """Everything about one number of speakers."""
    with tempfile.TemporaryDirectory() as folder:
        paths = {what: Path(folder) / f"{what}.safetensors" for what in (GRAPH, K_MEANS)}
        rows = {what: built_in_a_process(what, path, num_speakers, num_voices) for what, path in paths.items()}
        neighbours, clusters = SpeakerNeighbours.load(paths[GRAPH]), SpeakerClusters.load(paths[K_MEANS])
    points = centroids_of(num_speakers, num_voices)
    rows[GRAPH] |= quality(points, neighbours)
    rows[K_MEANS]["tightness"] = float(similarity_to_centre(points, clusters).mean())
    samplers = samplers_of(num_speakers, clusters, neighbours)
    endless = {name: iter(range(10**9)) for name in samplers}
    timings = take_turns(
        {name: lambda name=name: samplers[name].batch(0, next(endless[name])) for name in samplers}, repeats=repeats
    )
    for name, batches in samplers.items():
        rows[name] = {
            BATCH: 1e3 * timings[name].median,
            **hardness(points, batches),
            "seen": share_seen(num_speakers, batches),
        }
    return rows


def main() -> None:
    """Measure, print, write."""
    options = parser(__doc__, out="neighbours.json", repeats=300)
    options.add_argument("--speakers", type=int, nargs="+", default=[6_000, 100_000, 1_000_000])
    options.add_argument("--voices", type=int, default=200)
    options.add_argument("--alone", nargs=2, metavar=("WHAT", "PATH"), help="build one in this process, print JSON")
    arguments = options.parse_args()
    if arguments.alone:
        what, path = arguments.alone
        points = centroids_of(arguments.speakers[0], arguments.voices)
        print(json.dumps(build(what, points, Path(path))))
        return
    rows, ratios = {}, []
    for num_speakers in arguments.speakers:
        measured = rows_of(num_speakers, num_voices=arguments.voices, repeats=arguments.repeats)
        rows |= {f"{num_speakers:,}: {name}": row for name, row in measured.items()}
        for column in (CPU_SECONDS, MEMORY):
            ratio = measured[GRAPH][column] / measured[K_MEANS][column]
            ratios.append(Ratio(f"{num_speakers:,}: {column}, graph / k-means", ratio))
        batch = measured["neighbours"][BATCH] / measured["clusters, random"][BATCH]
        ratios.append(Ratio(f"{num_speakers:,}: a batch, neighbours / clusters, random", batch))
    settings = {"speakers": arguments.speakers, "voices": arguments.voices}
    publish(arguments.out, f"graph of nearest speakers and clusters, {settings}", rows, ratios, **settings)


if __name__ == "__main__":
    main()

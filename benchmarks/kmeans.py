"""What clustering the speakers costs against scikit-learn's k-means, and how tight each result is.

Both take the best of 5 initialisations. The centroids are noise around a number of voices, on the sphere. Tightness is
the mean cosine between a speaker and the centre of the speaker's cluster.

    python benchmarks/kmeans.py [--speakers 5994] [--clusters 50] [--out kmeans.json]
"""

from types import ModuleType

import numpy as np
from report import Ratio, milliseconds, parser, peer, publish, take_turns

from chns.sampling.clusters import cluster_speakers

OURS, PEER = "chns cluster_speakers", "scikit-learn KMeans"
INITIALISATIONS = 5


def voices(num_speakers: int, dim: int) -> np.ndarray:
    """Unit-length centroids around 200 directions."""
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((200, dim))
    points = directions[rng.integers(200, size=num_speakers)] + 1.5 * rng.standard_normal((num_speakers, dim))
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)


def tightness(points: np.ndarray, labels: np.ndarray) -> float:
    """Mean cosine of points and the direction of their cluster's mean."""
    sums = np.zeros((labels.max() + 1, points.shape[1]))
    np.add.at(sums, labels, points)
    return float(np.linalg.norm(sums, axis=1).sum() / len(points))


def scikit_labels(cluster: ModuleType, points: np.ndarray, num_clusters: int) -> np.ndarray:
    """Its clusters of the same points."""
    labels: np.ndarray = cluster.KMeans(num_clusters, n_init=INITIALISATIONS, random_state=0).fit(points).labels_
    return labels


def main() -> None:
    """Measure, print, write."""
    options = parser(__doc__, out="kmeans.json", repeats=5)
    options.add_argument("--speakers", type=int, default=5_994)
    options.add_argument("--dim", type=int, default=192)
    options.add_argument("--clusters", type=int, default=50)
    arguments = options.parse_args()
    points = voices(arguments.speakers, arguments.dim)
    sides = {
        OURS: lambda: (
            cluster_speakers(
                points, num_clusters=arguments.clusters, seed=0, num_initialisations=INITIALISATIONS
            ).labels
        )
    }
    scikit = peer("sklearn.cluster")
    if scikit is not None:
        sides[PEER] = lambda: scikit_labels(scikit, points, arguments.clusters)
    timings = take_turns(sides, repeats=arguments.repeats)
    rows = milliseconds(timings)
    for name, make_labels in sides.items():
        rows[name]["tightness"] = tightness(points, make_labels())
    ratios = []
    if scikit is not None:
        ratios = [
            Ratio(f"{OURS} / {PEER}", timings[OURS].median / timings[PEER].median),
            Ratio("tightness, ours / theirs", rows[OURS]["tightness"] / rows[PEER]["tightness"]),
        ]
    shape = {"speakers": arguments.speakers, "dim": arguments.dim, "clusters": arguments.clusters}
    publish(arguments.out, f"k-means, {shape}", rows, ratios, **shape)


if __name__ == "__main__":
    main()

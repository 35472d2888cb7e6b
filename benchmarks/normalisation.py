"""What AS-norm costs: chosen cohort scores from some recordings at a time against sorted ones from all at once.

By default 50,000 trials among 10,000 recordings against 1,000 cohort speakers, top 300. "All at once" keeps the scores
of all recordings against the whole cohort and sorts them, as it is often written. Peak memory is what each side
allocates at most beyond embeddings, rows and scores.

    python benchmarks/normalisation.py [--trials 50000] [--utterances 10000] [--cohort 1000] [--out normalisation.json]
"""

import tracemalloc
from collections.abc import Callable

import numpy as np
from report import Ratio, milliseconds, parser, publish, take_turns

from chns.evaluation.normalisation import normalise
from chns.evaluation.scoring import cosine_scores

OURS, PLAIN = "chns normalise", "numpy, sorted, all at once"
TARGET_SECONDS = 2.0


def all_at_once(
    scores: np.ndarray, enrolment: np.ndarray, test: np.ndarray, embeddings: np.ndarray, cohort: np.ndarray, top_k: int
) -> np.ndarray:
    """AS-norm as one writes it first."""
    unit, unit_cohort = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (embeddings, cohort))
    top = np.sort(unit @ unit_cohort.T, axis=1)[:, -top_k:]
    mean, deviation = top.mean(axis=1), top.std(axis=1)
    sides = [(scores - mean[rows]) / deviation[rows] for rows in (enrolment, test)]
    normalised: np.ndarray = (sides[0] + sides[1]) / 2
    return normalised


def peak_megabytes(call: Callable[[], object]) -> float:
    """Most memory that numpy held during a call."""
    tracemalloc.start()
    call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 2**20


def main() -> None:
    """Measure, print, write."""
    options = parser(__doc__, out="normalisation.json", repeats=5)
    options.add_argument("--trials", type=int, default=50_000)
    options.add_argument("--utterances", type=int, default=10_000)
    options.add_argument("--cohort", type=int, default=1_000)
    options.add_argument("--top-k", type=int, default=300)
    options.add_argument("--dim", type=int, default=192)
    arguments = options.parse_args()
    rng = np.random.default_rng(0)
    embeddings = rng.standard_normal((arguments.utterances, arguments.dim), dtype=np.float32)
    cohort = rng.standard_normal((arguments.cohort, arguments.dim), dtype=np.float32)
    enrolment, test = rng.integers(arguments.utterances, size=(2, arguments.trials))
    scores, top_k = cosine_scores(embeddings, enrolment, test), arguments.top_k
    sides = {
        OURS: lambda: normalise(scores, enrolment, test, embeddings, cohort, kind="as", top_k=top_k),
        PLAIN: lambda: all_at_once(scores, enrolment, test, embeddings, cohort, top_k),
    }
    np.testing.assert_allclose(sides[OURS](), sides[PLAIN](), atol=1e-3)
    timings = take_turns(sides, repeats=arguments.repeats)
    rows = milliseconds(timings)
    for name, side in sides.items():
        rows[name]["peak memory, MB"] = peak_megabytes(side)
    ratios = [
        Ratio("seconds, chns", timings[OURS].median, at_most=TARGET_SECONDS),
        Ratio(f"{OURS} / {PLAIN}", timings[OURS].median / timings[PLAIN].median),
    ]
    shape = {name: getattr(arguments, name) for name in ("trials", "utterances", "cohort", "top_k", "dim")}
    publish(arguments.out, f"AS-norm of {shape}", rows, ratios, **shape)


if __name__ == "__main__":
    main()

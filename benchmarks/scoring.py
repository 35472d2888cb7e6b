"""What scoring trials from embeddings costs, in small blocks against all at once.

VoxCeleb1-E's size: 580,000 trials of 145,000 utterances. "All at once" gathers both sides of every trial before it
multiplies; peak memory is what each side allocates at most beyond the embeddings and the rows.

    python benchmarks/scoring.py [--trials 580000] [--utterances 145000] [--out scoring.json]
"""

import tracemalloc
from collections.abc import Callable

import numpy as np
from report import Ratio, milliseconds, parser, publish, take_turns

from chns.evaluation.scoring import cosine_scores

OURS, PLAIN = "chns cosine_scores", "numpy, all at once"
TARGET_SECONDS = 2.0


def all_at_once(embeddings: np.ndarray, enrolment: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Cosine of each pair, as one writes it first."""
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    scores: np.ndarray = (unit[enrolment] * unit[test]).sum(axis=1)
    return scores


def peak_megabytes(call: Callable[[], object]) -> float:
    """Most memory that numpy held during a call."""
    tracemalloc.start()
    call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 2**20


def main() -> None:
    """Measure, print, write."""
    options = parser(__doc__, out="scoring.json", repeats=7)
    options.add_argument("--trials", type=int, default=580_000)
    options.add_argument("--utterances", type=int, default=145_000)
    options.add_argument("--dim", type=int, default=192)
    arguments = options.parse_args()
    rng = np.random.default_rng(0)
    embeddings = rng.standard_normal((arguments.utterances, arguments.dim), dtype=np.float32)
    enrolment, test = rng.integers(arguments.utterances, size=(2, arguments.trials))
    sides = {
        OURS: lambda: cosine_scores(embeddings, enrolment, test),
        PLAIN: lambda: all_at_once(embeddings, enrolment, test),
    }
    np.testing.assert_allclose(sides[OURS](), sides[PLAIN](), atol=1e-5)
    timings = take_turns(sides, repeats=arguments.repeats)
    rows = milliseconds(timings)
    for name, side in sides.items():
        rows[name]["peak memory, MB"] = peak_megabytes(side)
    ratios = [
        Ratio("seconds, chns", timings[OURS].median, at_most=TARGET_SECONDS),
        Ratio(f"{OURS} / {PLAIN}", timings[OURS].median / timings[PLAIN].median),
    ]
    shape = {"trials": arguments.trials, "utterances": arguments.utterances, "dim": arguments.dim}
    publish(arguments.out, f"cosine of {shape}", rows, ratios, **shape)


if __name__ == "__main__":
    main()

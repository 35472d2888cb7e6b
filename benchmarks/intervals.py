"""What bootstrap intervals over speakers cost, against sorting each resample anew.

The list is as large as VoxCeleb1-E: 580,000 trials of 1,251 speakers, half of them targets. Every side gets the same
resamples and must agree on EER and minDCF at two priors to 1e-9. The slow sides run on a few resamples only.

    OMP_NUM_THREADS=1 python benchmarks/intervals.py [--trials 580000] [--out intervals.json]
"""

from collections.abc import Callable, Iterator

import numpy as np
from report import Ratio, Timing, parser, peer, publish, take_turns

from chns.evaluation import bootstrap_metrics
from chns.evaluation.metrics import REPORTED_P_TARGETS, verification_metrics

OURS, PAIR = "chns, one system", "chns, two systems, paired"
REPEATED, SCIKIT = "trials repeated, metrics of the list", "scikit-learn roc_curve, sample_weight"
TARGET_SECONDS = 8.0

Trials = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def trial_list(num_trials: int, num_speakers: int) -> Trials:
    """Scores of two systems, shape (2, trials), labels, and both speakers of each trial; the EER is near 2 %."""
    rng = np.random.default_rng(0)
    is_target = rng.permutation(num_trials) % 2 == 0
    enrolment = rng.integers(num_speakers, size=num_trials)
    other = (enrolment + rng.integers(1, num_speakers, size=num_trials)) % num_speakers
    test = np.where(is_target, enrolment, other)
    ease = rng.normal(scale=0.3, size=num_speakers)
    shared = 4.3 * is_target + ease[enrolment] + ease[test] + 0.8 * rng.normal(size=num_trials)
    return shared + 0.6 * rng.normal(size=(2, num_trials)), is_target, enrolment, test


def weights(trials: Trials, num_resamples: int) -> Iterator[np.ndarray]:
    """The same draws as `bootstrap_metrics` makes with seed 0, as one weight a trial."""
    _, is_target, enrolment, test = trials
    num_speakers = int(max(enrolment.max(), test.max())) + 1
    rng = np.random.default_rng(0)
    for _ in range(num_resamples):
        multiplicities = np.bincount(rng.integers(num_speakers, size=num_speakers), minlength=num_speakers)
        yield np.where(is_target, multiplicities[test], multiplicities[enrolment] * multiplicities[test])


def by_repeating(trials: Trials, num_resamples: int) -> np.ndarray:
    """Make the list of trials of each resample, and its metrics."""
    scores, is_target = trials[0][0], trials[1]
    metrics = (verification_metrics(scores.repeat(w), is_target.repeat(w)) for w in weights(trials, num_resamples))
    return np.array([(m.eer, *m.min_dcf.values()) for m in metrics]).T


def by_curves(roc_curve: Callable[..., tuple[np.ndarray, ...]], trials: Trials, num_resamples: int) -> np.ndarray:
    """Read the metrics off scikit-learn's weighted curve."""
    found = []
    for weight in weights(trials, num_resamples):
        false_alarm, hit, _ = roc_curve(trials[1], trials[0][0], sample_weight=weight, drop_intermediate=False)
        miss = 1 - hit
        after = int(np.argmax(false_alarm >= miss))
        (before, gap_before), gap = (miss[after - 1], miss[after - 1] - false_alarm[after - 1]), false_alarm - miss
        eer = before + gap_before / (gap_before + gap[after]) * (miss[after] - before)
        found.append((eer, *(np.min(p * miss + (1 - p) * false_alarm) / min(p, 1 - p) for p in REPORTED_P_TARGETS)))
    return np.array(found).T


def main() -> None:
    """Measure, print, write."""
    options = parser(__doc__, out="intervals.json", repeats=3)
    options.add_argument("--trials", type=int, default=580_000)
    options.add_argument("--speakers", type=int, default=1_251)
    options.add_argument("--resamples", type=int, default=1_000)
    options.add_argument("--slow-resamples", type=int, default=5, help="resamples of the sides that sort each anew")
    arguments = options.parse_args()
    trials = trial_list(arguments.trials, arguments.speakers)
    scores, *rest = trials

    def ours(num_resamples: int, systems: int) -> np.ndarray:
        resampled = bootstrap_metrics(scores[:systems], *rest, num_resamples=num_resamples).resampled
        return np.stack(list(resampled.values()))[:, 0]

    few, many = arguments.slow_resamples, arguments.resamples
    slow = {REPEATED: lambda: by_repeating(trials, few)}
    scikit = peer("sklearn.metrics")
    if scikit is not None:
        slow[SCIKIT] = lambda: by_curves(scikit.roc_curve, trials, few)
    expected = ours(few, 1)
    for name, side in slow.items():
        assert np.allclose(side(), expected, rtol=0, atol=1e-9), f"{name} has other metrics"

    timings = take_turns({OURS: lambda: ours(many, 1), PAIR: lambda: ours(many, 2)}, repeats=arguments.repeats)
    slow_timings = take_turns(slow, repeats=arguments.repeats)
    timings |= {name: Timing(*(many / few * seconds for seconds in timing)) for name, timing in slow_timings.items()}
    rows = {name: {"median, s": timing.median, "fastest, s": timing.fastest} for name, timing in timings.items()}
    ratios = [Ratio("seconds, one system", timings[OURS].median, at_most=TARGET_SECONDS)]
    ratios += [Ratio(f"{OURS} / {name}", timings[OURS].median / timings[name].median) for name in slow]
    title = f"{many:,} resamples of {arguments.speakers:,} speakers in {arguments.trials:,} trials, three metrics"
    publish(arguments.out, title, rows, ratios, **{k: v for k, v in vars(arguments).items() if k != "out"})


if __name__ == "__main__":
    main()

"""What EER and minDCF cost, against the curves of scikit-learn and torchmetrics; then every other metric alone.

All sides get the same scores and must agree on the EER to 1e-4 and on minDCF to 1e-5. The scores are log-likelihood
ratios, so that all metrics mean something. A metric alone includes the sort that it needs.

`--file` also writes a score file of all trials and measures `chns metrics` on it, imports included, in a process of its
own: seconds, and the peak of its resident set (reads Linux's /proc).

    python benchmarks/metrics.py [--trials 580000] [--file scores.txt] [--out metrics.json]
"""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from report import Ratio, milliseconds, parser, peer, publish, take_turns

from chns.evaluation.calibration_metrics import actual_dcf, cllr, min_cllr
from chns.evaluation.metrics import REPORTED_P_TARGETS, det_curve, error_rates, min_dcf, verification_metrics

OURS, SCIKIT, TORCHMETRICS = "chns verification_metrics", "scikit-learn roc_curve", "torchmetrics binary_roc"
TARGET_SECONDS = 0.3
FILE_SECONDS, FILE_MEGABYTES = "seconds, chns metrics on a file", "peak MB, chns metrics on a file"

Metrics = tuple[float, ...]


def off_a_curve(false_alarm: np.ndarray, hit: np.ndarray) -> Metrics:
    """EER at the crossing of both rates, and minDCF at each prior."""
    miss = 1 - hit
    crossing = int(np.argmin(np.abs(miss - false_alarm)))
    costs = (np.min(p * miss + (1 - p) * false_alarm) / min(p, 1 - p) for p in REPORTED_P_TARGETS)
    return float(miss[crossing] + false_alarm[crossing]) / 2, *map(float, costs)


def each_alone(scores: np.ndarray, is_target: np.ndarray) -> dict[str, Callable[[], object]]:
    """Every metric by its name."""
    return {
        "EER": lambda: error_rates(scores, is_target).equal_error_rate(),
        "EER, convex hull": lambda: error_rates(scores, is_target).rocch_equal_error_rate(),
        "EER, nearest threshold": lambda: error_rates(scores, is_target).nearest_equal_error_rate(),
        "minDCF": lambda: min_dcf(scores, is_target, p_target=0.05),
        "actual DCF": lambda: actual_dcf(scores, is_target, p_target=0.05),
        "Cllr": lambda: cllr(scores, is_target),
        "minCllr": lambda: min_cllr(scores, is_target),
        "DET curve": lambda: det_curve(scores, is_target),
    }


def write_file(path: Path, scores: np.ndarray, is_target: np.ndarray) -> None:
    """A score file with names like VoxCeleb's, of 5,000 utterances."""
    names = [f"id{10270 + number // 50}/5r0dWxy17C8/{number % 50:05d}.wav" for number in range(5_000)]
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for trial, (score, target) in enumerate(zip(scores.tolist(), is_target.tolist(), strict=True)):
            label = "target" if target else "nontarget"
            file.write(f"{names[trial % 4_999]} {names[trial * 7 % 5_000]} {score:.6f} {label}\n")


ALONE = """
import json, re, sys, time
started = time.perf_counter()
from chns.cli import main
assert main(["metrics", sys.argv[1]]) == 0
seconds = time.perf_counter() - started
peak = re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())
print(json.dumps([seconds, int(peak[1]) / 1024]))
"""


def on_a_file_alone(path: Path) -> list[Ratio]:
    """Seconds and peak memory of the command in a process that does nothing else."""
    done = subprocess.run([sys.executable, "-c", ALONE, str(path)], check=True, stdout=subprocess.PIPE, text=True)
    seconds, megabytes = json.loads(done.stdout.splitlines()[-1])
    return [Ratio(FILE_SECONDS, seconds, at_most=8), Ratio(FILE_MEGABYTES, megabytes, at_most=600)]


def main() -> None:
    """Measure, print, write."""
    options = parser(__doc__, out="metrics.json", repeats=15)
    options.add_argument("--trials", type=int, default=580_000)
    options.add_argument("--file", type=Path, metavar="SCORES", help="also write a score file and measure the command")
    arguments = options.parse_args()
    rng = np.random.default_rng(0)
    is_target = rng.permutation(arguments.trials) % 2 == 0
    scores = 4 * (rng.standard_normal(arguments.trials) + np.where(is_target, 2, -2))

    def ours() -> Metrics:
        metrics = verification_metrics(scores, is_target)
        return metrics.eer, *metrics.min_dcf.values()

    sides = {OURS: ours}
    scikit = peer("sklearn.metrics")
    if scikit is not None:
        sides[SCIKIT] = lambda: off_a_curve(*scikit.roc_curve(is_target, scores, drop_intermediate=False)[:2])
    torchmetrics = peer("torchmetrics.functional.classification")
    if torchmetrics is not None:
        predictions, labels = torch.from_numpy(scores), torch.from_numpy(is_target.astype(np.int64))

        def theirs() -> Metrics:
            false_alarm, hit, _ = torchmetrics.binary_roc(predictions, labels)
            return off_a_curve(false_alarm.double().numpy(), hit.double().numpy())

        sides[TORCHMETRICS] = theirs

    expected = ours()
    for name, side in sides.items():
        eer, *costs = side()
        assert abs(eer - expected[0]) < max(1e-4, 2 / arguments.trials), f"{name} has an EER of {eer}"
        assert np.allclose(costs, expected[1:], atol=1e-5), f"{name} has costs of {costs}"
    timings = take_turns(sides, repeats=arguments.repeats)
    alone = take_turns(each_alone(scores, is_target), repeats=arguments.repeats)
    ratios = [Ratio("seconds, chns", timings[OURS].median, at_most=TARGET_SECONDS)]
    ratios.append(Ratio("seconds, slowest metric alone", max(t.median for t in alone.values()), at_most=TARGET_SECONDS))
    ratios += [
        Ratio(f"{OURS} / {name}", timings[OURS].median / timing.median)
        for name, timing in timings.items()
        if name != OURS
    ]
    if arguments.file is not None:
        write_file(arguments.file, scores, is_target)
        ratios += on_a_file_alone(arguments.file)
    title = f"EER and minDCF at {REPORTED_P_TARGETS}, then each metric alone, of {arguments.trials:,} trials"
    publish(arguments.out, title, milliseconds(timings | alone), ratios, trials=arguments.trials)


if __name__ == "__main__":
    main()

"""How long a report of many trials takes, and how large its page is: from the folders of runs to the page.

Six runs, two strategies with three seeds each, and a list of a million trials, whose scores are drawn at random:
reading the score files, judging them, drawing and writing. Training speakers are left out: embedding them is a matter
of the encoder (`benchmarks/encoder.py`). Seconds are those of the process on a core, so that others who use the machine
do not count.

    OMP_NUM_THREADS=1 python benchmarks/report_page.py
"""

import tempfile
import time
from pathlib import Path

import numpy as np
import report
import yaml

from chns.evaluation import Trials, write_scores
from chns.report.collect import collect_findings
from chns.report.page import write_report
from chns.training.log import RunLog

NUM_RECORDINGS = 20_000


def make_run(folder: Path, kind: str, seed: int, trials: Trials) -> Path:
    """A folder as a training leaves it, without a model."""
    folder.mkdir(parents=True)
    settings = {"data": {"train": "gone.parquet"}, "batches": {"kind": kind}, "seed": seed}
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    rng = np.random.default_rng(seed)
    with RunLog(folder, first_step=0) as log:
        for step in range(20, 10_001, 20):
            log.write(step, step // 500, {"loss": 4 / step, "hard_ratio": 0.0, "negative_similarity_mean": 0.1})
    scores = rng.normal(size=len(trials)) + 3 * np.asarray(trials.is_target)
    write_scores(folder / "scores" / "list.txt", trials, scores)
    return folder


def measure(folders: list[Path], out: Path) -> dict[str, float]:
    """Seconds of a core to read and to draw the report of some runs, and the size of its page."""
    start = time.process_time()
    findings = collect_findings(folders)
    read = time.process_time()
    write_report(out, findings)
    drawn = time.process_time()
    return {"reading, s": read - start, "page, s": drawn - read, "page, MB": (out / "report.html").stat().st_size / 1e6}


def main() -> None:
    """Measure, print, write."""
    arguments = report.parser(__doc__, out="benchmarks/report_page.json", repeats=1)
    arguments.add_argument("--trials", type=int, default=1_000_000)
    options = arguments.parse_args()
    rng = np.random.default_rng(0)
    first, second = rng.integers(NUM_RECORDINGS, size=(2, options.trials))
    names = [f"id{number // 20:05}/video{number % 20:02}/{number % 7:05}.wav" for number in range(NUM_RECORDINGS)]
    is_target = rng.random(options.trials) < 0.5
    trials = Trials([names[i] for i in first], [names[i] for i in second], is_target)
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        folders = [
            make_run(root / kind / f"seed-{seed}", kind, seed, trials)
            for kind in ("random", "clustered")
            for seed in range(3)
        ]
        one, all_of_them = (measure(folders[:number], root / "report") for number in (1, len(folders)))
    ratios = [
        report.Ratio("one run: seconds of a core", one["reading, s"] + one["page, s"], at_most=10.0),
        report.Ratio("six runs / one run, seconds", sum(list(all_of_them.values())[:2]) / sum(list(one.values())[:2])),
        report.Ratio("six runs: megabytes of the page", all_of_them["page, MB"], at_most=5.0),
    ]
    rows = {"one run": one, "six runs": all_of_them}
    report.publish(options.out, f"A report of {options.trials:,} trials", rows, ratios, trials=options.trials)


if __name__ == "__main__":
    main()

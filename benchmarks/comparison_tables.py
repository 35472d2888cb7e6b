"""Tables and intervals of the runs that frozen_training.py, logmel_training.py and tail_training.py made.

    python benchmarks/comparison_tables.py RUNS out.json --baseline random --title "what it is called in figures"

Differences are paired by seed and by resample of the speakers (chns.evaluation.intervals.mean_over_seeds); only seeds
that the strategy and the baseline both have count. Printed is a Markdown table, written are all numbers and the curves.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from vector_training import compare


def read(folder: Path) -> dict[str, dict[int, Path]]:
    """The runs of a folder, by strategy and seed."""
    runs: dict[str, dict[int, Path]] = defaultdict(dict)
    for path in sorted(folder.glob("*-*.json")):
        name, seed = path.stem.rsplit("-", 1)
        runs[name][int(seed)] = path
    return runs


def mean_curve(paths: list[Path]) -> list[dict[str, Any]]:
    """Mean over seeds of what the curves have in common."""
    curves = [json.loads(path.read_text())["curve"] for path in paths]
    rows = []
    for at in zip(*curves, strict=False):
        known = [key for key in at[0] if at[0][key] is not None]
        rows.append({key: np.round(np.mean([one[key] for one in at], axis=0), 5).tolist() for key in known})
    return rows


def sides(names: Any, title: str) -> tuple[np.ndarray, np.ndarray]:
    """Speakers on either side of the trials of a list."""
    return names[f"{title} first"], names[f"{title} second"]


def of_list(
    runs: dict[str, dict[int, Path]],
    speakers: tuple[np.ndarray, np.ndarray],
    title: str,
    baseline: str,
    num_resamples: int,
) -> Any:
    """Rows of a trial list; each strategy is compared on the seeds that it shares with the baseline."""
    common: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for name, of_seed in runs.items():
        common[tuple(sorted(set(of_seed) & set(runs[baseline])))].append(name)
    rows = {}
    for seeds, names in common.items():
        if seeds:
            wanted = dict.fromkeys([baseline, *names])
            scores = {n: np.stack([np.load(runs[n][s].with_suffix(".npz"))[title] for s in seeds]) for n in wanted}
            found = compare(speakers, scores, baseline=baseline, num_resamples=num_resamples)
            rows |= {name: found[name] for name in names}
    return rows


def printed(row: dict[str, Any]) -> str:
    """EER and minDCF, each with its relative difference, bold where the interval leaves out zero."""
    cells = []
    for text, key in ((f"{100 * row['eer']:.2f} %", "eer_relative"), (f"{row['min_dcf']:.3f}", "min_dcf_relative")):
        mean, low, high = (100 * v for v in row.get(key, (0, 0, 0)))
        change = f"{mean:+.0f} [{low:+.0f}, {high:+.0f}] %"
        bold = f"**{change}**" if low > 0 or high < 0 else change
        cells.append(f"{text} {bold}" if key in row else text)
    return "; ".join(cells)


def main() -> None:
    """Print the table, write the numbers."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("runs", type=Path), p.add_argument("out", type=Path)
    p.add_argument("--baseline", default="random")
    p.add_argument("--resamples", type=int, default=400)
    p.add_argument("--title", help="what evidence_figure.py calls it")
    a = p.parse_args()
    runs = read(a.runs)
    names = np.load(a.runs / "trials.npz")
    titles = sorted({key.rsplit(" ", 1)[0] for key in names.files})
    lists = {t: of_list(runs, sides(names, t), t, a.baseline, a.resamples) for t in titles}
    curves = {name: mean_curve(list(of_seed.values())) for name, of_seed in runs.items()}
    first = json.loads(next(iter(runs[a.baseline].values())).read_text())
    written = {"arguments": first.get("arguments"), "baseline": a.baseline, "lists": lists, "curves": curves}
    if a.title:
        written["title"] = a.title
    a.out.write_text(json.dumps(written, indent=1) + "\n")
    print("| | seeds | easy |", " | ".join(titles), "|")
    print("|---|---|---|" + "---|" * len(titles))
    for name in runs:
        if name in lists[titles[0]]:
            cells = [printed(lists[t][name]) for t in titles]
            easy = f"{100 * curves[name][-1]['easy_random']:.0f} %"
            print(f"| {name} | {lists[titles[0]][name]['seeds']} | {easy} |", " | ".join(cells), "|")


if __name__ == "__main__":
    main()

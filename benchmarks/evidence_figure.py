"""One picture of all comparisons with random batches: docs/results/summary.csv and the JSON of comparison_tables.py.

    python benchmarks/evidence_figure.py docs/results/summary.csv docs/images/evidence.svg --add docs/results/words-*

A row is a corpus, a trial list and a kind of batches: the change of the EER against random batches at equal steps, as a
share of it, with its 95 % interval over speakers and seeds. Of added files, rows are the test speakers' lists.
"""

import argparse
import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def summarised(path: Path) -> list[dict[str, Any]]:
    """Rows of the table, numbers as numbers."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [row | {key: float(row[key]) for key in ("mean", "low", "high")} for row in rows]


def added(path: Path, strategies: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of a comparison on words."""
    of = json.loads(path.read_text())
    given = of["arguments"]
    name = f"{given['joined']} word{'s' if given['joined'] != '1' else ''}, {given['speakers']} speakers a batch"
    rows = []
    for title in ("test random", "test hard"):
        for strategy in strategies:
            found = of["lists"][title].get(strategy)
            if found and "eer_relative" in found:
                mean, low, high = (100 * value for value in found["eer_relative"])
                trials = "like voices" if title.endswith("hard") else "random"
                row = {"corpus": name, "trials": trials, "batches": strategy, "seeds": found["seeds"]}
                rows.append(row | {"mean": mean, "low": low, "high": high})
    return rows


def draw(rows: Sequence[dict[str, Any]], out: Path) -> None:
    """A line a row, coloured where the interval leaves out zero."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "chns"
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(9, 0.8 + 0.24 * len(rows)), layout="constrained")
    for place, row in enumerate(rows):
        colour = "tab:green" if row["high"] < 0 else "tab:red" if row["low"] > 0 else "grey"
        around = [[row["mean"] - row["low"]], [row["high"] - row["mean"]]]
        axis.errorbar(row["mean"], -place, xerr=around, fmt="o", color=colour, ms=4, lw=1.5)
    names = [f"{row['corpus']}; {row['trials']} trials; {row['batches']} ({row['seeds']})" for row in rows]
    axis.set_yticks([-place for place in range(len(rows))], labels=names, fontsize=8)
    axis.axvline(0, color="black", lw=0.8)
    axis.set(xlim=(-60, 60), xlabel="change of the EER against random batches, % (fewer errors to the left)")
    figure.savefig(out, metadata={"Date": None})


def main() -> None:
    """Draw."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("summary", type=Path), p.add_argument("out", type=Path)
    p.add_argument("--add", nargs="*", type=Path, default=[])
    p.add_argument("--strategies", nargs="+", default=["neighbours", "chns", "neighbours_half", "auto"])
    a = p.parse_args()
    rows = summarised(a.summary)
    for path in a.add:
        rows += added(path, a.strategies)
    draw(rows, a.out)


if __name__ == "__main__":
    main()

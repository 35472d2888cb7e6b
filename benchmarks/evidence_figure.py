r"""One picture of all comparisons with random batches: docs/results/summary.csv and the JSON of comparison_tables.py.

    python benchmarks/evidence_figure.py docs/results/summary.csv docs/images/evidence.svg \
        --strategies chns auto --add docs/results/{words-1-16,words-3-16,words-3-4}-unseen.json \
        docs/results/{whole,whole-32,sound-whole,sound-whole-16}-anew.json docs/results/sound-tail.json
    python benchmarks/evidence_figure.py docs/results/whole.json docs/images/whole.svg --curves

A row is a corpus, a trial list and a kind of batches: the change of the EER (and of minDCF, for added files) against
random batches at equal steps, as a share of it, with its 95 % interval over speakers and seeds. Of added files, rows
are the lists of unseen speakers, or, where there are none, of test speakers; `auto` is the one that begins at 80 % easy
anchors where a file has that (`auto_80`), and else the one of before, at 90 %. Curves are the error rates of every kind
of batches over the steps.
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
    return [row | {"eer": [float(row[key]) for key in ("mean", "low", "high")]} for row in rows]


def added(path: Path, strategies: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of a comparison on words."""
    of = json.loads(path.read_text())
    given = of["arguments"]
    name = of.get("title")
    if name is None:
        name = f"{given['joined']} word{'s' if given['joined'] != '1' else ''}, {given['speakers']} speakers a batch"
        name = f"whole encoders, {name}" if "channels" in given else name
    people = "unseen" if "unseen hard" in of["lists"] else "test"
    rows = []
    for title in (f"{people} random", f"{people} hard"):
        for strategy in strategies:
            later = of["lists"][title].get(f"{strategy}_80")
            found = later or of["lists"][title].get(strategy)
            if found and "eer_relative" in found:
                trials = f"{people} {'like voices' if title.endswith('hard') else 'random'}"
                row = {"corpus": name, "trials": trials, "batches": strategy, "seeds": found["seeds"]}
                for rate in ("eer", "min_dcf"):
                    row[rate] = [100 * value for value in found[f"{rate}_relative"]]
                rows.append(row)
    return rows


def draw(rows: Sequence[dict[str, Any]], out: Path) -> None:
    """A line a row, coloured where the interval leaves out zero."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "chns"
    from matplotlib import pyplot as plt

    size = (10, 0.8 + 0.24 * len(rows))
    figure, axes = plt.subplots(1, 2, figsize=size, sharey=True, layout="constrained")
    for axis, rate, title in zip(axes, ("eer", "min_dcf"), ("EER", "minDCF, p_target 0.05"), strict=True):
        for place, row in enumerate(rows):
            if rate in row:
                mean, low, high = row[rate]
                colour = "tab:green" if high < 0 else "tab:red" if low > 0 else "grey"
                axis.errorbar(mean, -place, xerr=[[mean - low], [high - mean]], fmt="o", color=colour, ms=4, lw=1.5)
        axis.axvline(0, color="black", lw=0.8)
        axis.set(xlim=(-60, 60), title=title, xlabel="change against random batches, %")
    names = [f"{row['corpus']}; {row['trials']} trials; {row['batches']} ({row['seeds']})" for row in rows]
    axes[0].set_yticks([-place for place in range(len(rows))], labels=names, fontsize=8)
    figure.savefig(out, metadata={"Date": None})


def draw_curves(of: dict[str, Any], out: Path) -> None:
    """EER and minDCF on random and hard trials over the steps, a line a kind of batches."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "chns"
    from matplotlib import pyplot as plt

    first = next(iter(of["curves"].values()))
    titles = sorted((t for t in first[0] if isinstance(first[0][t], list)), reverse=True)  # measured at every look
    figure, axes = plt.subplots(2, len(titles), figsize=(4 * len(titles), 6), sharex=True, layout="constrained")
    for name, rows in of["curves"].items():
        for column, title in enumerate(titles):
            for line, scale in enumerate((100, 1)):
                values = [scale * row[title][line] for row in rows]
                axes[line][column].plot([row["step"] for row in rows], values, label=name, lw=1.3)
            axes[0][column].set_title(
                title.replace("hard", "speakers, like voices").replace("random", "speakers, random trials")
            )
            axes[1][column].set_xlabel("steps")
    axes[0][0].set_ylabel("EER, %")
    axes[1][0].set_ylabel("minDCF, p_target 0.05")
    axes[0][-1].legend(fontsize=7)
    figure.savefig(out, metadata={"Date": None})


def main() -> None:
    """Draw."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("summary", type=Path), p.add_argument("out", type=Path)
    p.add_argument("--add", nargs="*", type=Path, default=[])
    p.add_argument("--strategies", nargs="+", default=["neighbours", "chns", "neighbours_half", "auto", "auto_pairs"])
    p.add_argument("--curves", action="store_true", help="draw those of a comparison's JSON, given as the summary")
    a = p.parse_args()
    if a.curves:
        draw_curves(json.loads(a.summary.read_text()), a.out)
        return
    rows = summarised(a.summary)
    for path in a.add:
        rows += added(path, a.strategies)
    draw(rows, a.out)


if __name__ == "__main__":
    main()

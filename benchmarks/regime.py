"""When hard batches pay: a cheap model of the problem, swept; a map of the gain with axes that a user knows.

    python benchmarks/regime.py sweep docs/results/regime.json --points 150 --jobs 2
    python benchmarks/regime.py rules docs/results/regime_rules.json
    python benchmarks/regime.py draw docs/results/regime.json docs/images/regime.svg

A speaker is a point of 48 dimensions whose variances fall, so that a few directions tell most speakers apart and many
tell the rest. An utterance is the speaker, a shift within the same dimensions, and what is said (one of 30 contents).
They are mixed by a random network into the 64 numbers that are seen. A small perceptron learns to embed them with the
real samplers and the real loss, by random batches and by hard ones that begin after a quarter of the steps; 250 other
speakers test it. What is drawn at random for each point: speakers, P, utterances a speaker, noise, steps, hard share,
group size and band. The gain is 1 less the ratio of the error rates.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from strategies import STRATEGIES
from tqdm import tqdm
from vector_training import Plan, Strategy, make_trials, rates, train

from chns.sampling import NeighbourGroups, StartAt

_DIM, _SEEN, _CONTENTS = 48, 64, 30
_TEST_SPEAKERS, _TEST_UTTERANCES = 250, 6


class Voices:
    """The model of the problem: the same mixing and contents for all speakers."""

    def __init__(self, noise: float, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        fixed = np.random.default_rng(0)
        self.scale = (1 + np.arange(_DIM, dtype=np.float32)) ** -0.4
        self.noise = noise * fixed.permutation(self.scale)
        self.contents = 1.0 * fixed.standard_normal((_CONTENTS, 16), dtype=np.float32)
        self.first = fixed.standard_normal((_DIM + 16, 128), dtype=np.float32) / np.sqrt(_DIM + 16)
        self.second = fixed.standard_normal((128, _SEEN), dtype=np.float32) / np.sqrt(128)

    def speak(self, num_speakers: int, utterances: int) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
        """Vectors of utterances, their speakers, and who the speakers are."""
        who = self.scale * self.rng.standard_normal((num_speakers, _DIM), dtype=np.float32)
        labels = np.repeat(np.arange(num_speakers), utterances)
        inner = who[labels] + self.noise * self.rng.standard_normal((len(labels), _DIM), dtype=np.float32)
        said = self.contents[self.rng.integers(_CONTENTS, size=len(labels))]
        seen = np.tanh(1.5 * np.concatenate([inner, said], 1) @ self.first) @ self.second
        return torch.from_numpy(seen.astype(np.float32)), labels, who


def drawn_point(rng: np.random.Generator, most: float = 2e4) -> dict[str, Any]:
    """One combination of what is swept, of 1,000 to about so many speakers."""
    speakers = round(10 ** rng.uniform(3, round(np.log10(most), 1)))
    point = {
        "speakers": speakers,
        "P": int(2 ** rng.integers(2, 8)),
        "utterances": int(rng.choice([4, 6, 10, 20] if speakers < 10_000 else [4, 6, 10])),
        "noise": float(rng.uniform(0.15, 0.9)),
        "steps": int(2 ** rng.integers(8, 12)),
        "hard_ratio": float(rng.choice([0.5, 1.0])),
        "group_size": int(rng.choice([4, 8, 16])),
        "skipped": int(rng.choice([0, 0, 8])),
        "width": int(rng.choice([64, 256])),
    }
    point["group_size"] = min(point["group_size"], max(2, int(point["hard_ratio"] * point["P"])))
    while point["steps"] * point["P"] > 20_000:  # what a core does in seconds
        point["steps"] //= 2
    return point


def measured(point: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Error rates of one training by random and one by hard batches at a point."""
    first = point["skipped"]
    groups = NeighbourGroups(point["group_size"], band=(first, first + 2 * point["group_size"]))
    schedule = StartAt(4, hard_ratio=point["hard_ratio"])
    hard = Strategy(
        batches=lambda loss: {"groups": groups, "schedule": schedule, "separate_same_person": False}  # noqa: ARG005
    )
    return compared(point, seed, {"random": Strategy(), "hard": hard})


def compared(point: Mapping[str, Any], seed: int, strategies: Mapping[str, Strategy]) -> dict[str, Any]:
    """Error rates of one training by each strategy at a point."""
    torch.set_num_threads(1)
    voices = Voices(point["noise"], seed)
    vectors, labels, _ = voices.speak(point["speakers"], point["utterances"])
    tested, test_labels, who = voices.speak(_TEST_SPEAKERS, _TEST_UTTERANCES)
    scale = vectors.mean(0), vectors.std(0)
    vectors, tested = (vectors - scale[0]) / scale[1], (tested - scale[0]) / scale[1]
    lists = {
        "random": make_trials(test_labels, nontargets=40000, seed=seed),
        "hard": make_trials(test_labels, judge=who[test_labels], nontargets=40000, seed=seed),
    }
    plan = Plan(
        [_SEEN, point["width"], 48],
        speakers=point["P"],
        steps=point["steps"],
        steps_per_epoch=point["steps"] // 16,
        learning_rate=2e-3,
        norm="batch",
        look_every=4,
    )
    networks, curves, _ = train(plan, [(of, seed) for of in strategies.values()], vectors, labels)
    row = dict(point, seed=seed)
    for run, name in enumerate(strategies):
        row[f"{name}_easy"] = [at["easy_random"] for at in curves[run]]
        row[f"{name}_easy_in_batch"] = curves[run][-1]["easy"]
        row[f"{name}_ratio"] = curves[run][-1]["hard_ratio"]
        for title, trials in lists.items():
            scores = trials.scores(lambda x: networks.embed(run, x), tested)  # noqa: B023  # called at once
            row[f"{name}_eer_{title}"] = round(float(rates(scores, trials.is_target)[0]), 5)
    return row


def rules(out: Path, points: int, seed: int) -> None:
    """`auto` with groups of eight and with pairs, at points where random batches become easy."""
    strategies = {name: STRATEGIES[name](4) for name in ("random", "auto", "auto_pairs")}
    rng = np.random.default_rng(seed)
    rows = json.loads(out.read_text()) if out.exists() else []
    drawn = [drawn_point(rng) | {"noise": float(rng.uniform(0.15, 0.35))} for _ in range(points)]
    for number in tqdm(range(len(rows), points), disable=None):
        rows.append(compared(drawn[number], number, strategies))
        out.write_text("[\n" + ",\n".join(json.dumps(r) for r in rows) + "\n]\n")
    begun = [r for r in rows if r["auto_ratio"] > 0]
    print(f"auto began at {len(begun)} of {len(rows)} points")
    for name in ("auto", "auto_pairs"):
        for title in ("random", "hard"):
            found = [100 * gains(r, title, name) for r in begun]
            print(
                name, title, "gain, %: median, lowest, highest", np.round([np.median(found), min(found), max(found)], 1)
            )


def sweep(out: Path, points: int, jobs: int, seed: int, most: float) -> None:
    """Measure so many points, keep what is there."""
    rows = json.loads(out.read_text()) if out.exists() else []
    rng = np.random.default_rng(seed)
    drawn = [drawn_point(rng, most) for _ in range(points)][len(rows) :]
    with ProcessPoolExecutor(jobs) as pool:
        for row in tqdm(pool.map(measured, drawn, range(len(rows), points)), total=len(drawn), disable=None):
            rows.append(row)
            out.write_text("[\n" + ",\n".join(json.dumps(r) for r in rows) + "\n]\n")


def gains(row: Mapping[str, Any], title: str, name: str = "hard") -> float:
    """Share of the errors of random batches that others do not make."""
    return 1 - row[f"{name}_eer_{title}"] / max(row[f"random_eer_{title}"], 1e-4)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Medians of the gain by easy anchors and speakers / P, as Markdown."""
    edges_easy, edges_ratio = (0, 0.85, 0.93, 0.97, 1.01), (0, 50, 200, 800, 10**9)
    names = [f"{a:g} to {b:g}" if b < 10**9 else f"above {a:g}" for a, b in pairwise(edges_ratio)]
    lines = ["| easy anchors \\ speakers / P | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    for low, high in pairwise(edges_easy):
        cells = []
        for least, most in pairwise(edges_ratio):
            found = [
                (gains(r, "random"), gains(r, "hard"))
                for r in rows
                if low <= r["random_easy"][-1] < high and least <= r["speakers"] / r["P"] < most
            ]
            medians = 100 * np.median(found, axis=0) if len(found) >= 3 else None
            cells.append(
                f"{len(found)}" if medians is None else f"{medians[0]:+.0f}, {medians[1]:+.0f} % ({len(found)})"
            )
        lines.append(f"| {100 * low:.0f} to {min(100, 100 * high):.0f} % | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(rows: Sequence[Mapping[str, Any]], out: Path, measured_points: Sequence[Mapping[str, Any]]) -> None:
    """The map: gain over easy anchors and over speakers / P, on random and on hard trials."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "chns"
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
    for axis, title in zip(axes, ("random", "hard"), strict=True):
        easy = [100 * r["random_easy"][-1] for r in rows]
        gain = [100 * gains(r, title) for r in rows]
        colour = [np.log10(r["speakers"] / r["P"]) for r in rows]
        size = [22 if r["hard_ratio"] == 1 else 9 for r in rows]
        dots = axis.scatter(easy, np.clip(gain, -60, 60), c=colour, s=size, cmap="viridis", vmin=1, vmax=3.5, alpha=0.8)
        for at in measured_points:
            mean, low, high = (-100 * v for v in at[title])
            axis.errorbar(100 * at["easy"], mean, [[mean - high], [low - mean]], fmt="D", color="crimson", ms=4, lw=1)
        axis.axhline(0, color="grey", lw=0.8)
        axis.set(xlabel="easy anchors of random batches at the end, %", title=f"{title} trials")
    axes[0].set_ylabel("fewer errors than random batches, %")
    bar = figure.colorbar(dots, ax=axes)
    bar.set_ticks([1, 2, 3], labels=["10", "100", "1,000"])
    bar.set_label("speakers / P")
    figure.savefig(out, metadata={"Date": None})


def main() -> None:
    """Sweep, or draw what was swept."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    of = p.add_subparsers(dest="what", required=True)
    s = of.add_parser("sweep")
    s.add_argument("out", type=Path), s.add_argument("--points", type=int, default=150)
    s.add_argument("--jobs", type=int, default=1), s.add_argument("--seed", type=int, default=0)
    s.add_argument("--most", type=float, default=2e4, help="speakers")
    r = of.add_parser("rules")
    r.add_argument("out", type=Path), r.add_argument("--points", type=int, default=12)
    r.add_argument("--seed", type=int, default=1)
    d = of.add_parser("draw")
    d.add_argument("rows", type=Path, nargs="+"), d.add_argument("out", type=Path)
    d.add_argument("--measured", type=Path, help="points that were measured on speech")
    a = p.parse_args()
    if a.what == "rules":
        rules(a.out, a.points, a.seed)
        return
    if a.what == "sweep":
        sweep(a.out, a.points, a.jobs, a.seed, a.most)
        return
    rows = [row for path in a.rows for row in json.loads(path.read_text())]
    draw(rows, a.out, json.loads(a.measured.read_text()) if a.measured else [])
    print(table(rows))


if __name__ == "__main__":
    main()

"""Trains a small network on a frozen model's vectors of real words: every strategy and several seeds in minutes.

    python benchmarks/frozen_training.py VECTORS OUT --strategies random chns auto --seeds 0 1 2 --speakers 16

VECTORS holds what `frozen_features.py` wrote of train, dev, test and others: speakers of the train split with four to
nine utterances, on whom nobody trains. "unseen" are those of test and these. Non-targets of the hard trials are of each
speaker's ten nearest by a judge that shares nothing with the frozen model but the log-mels: a perceptron trained on how
much each of these moves (OUT/judge.npz). Runs that OUT has are not made again; `comparison_tables.py` makes tables with
intervals of them.
"""

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from strategies import STRATEGIES, begins
from vector_training import Perceptrons, Plan, Strategy, Trials, make_trials, rates, save_trials, train

from chns.sampling.same_person import persons_of, suspected_pairs

TESTS = ("dev", "test", "unseen")
KEYS = ("embedding", "block1", "front")
_JUDGE_KEYS, _JUDGE_DIM = ("mels",), 100
_NOT_SETTINGS = ("seeds", "strategies", "vectors", "out")


def _whitening(vectors: np.ndarray, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean, and the matrix that standardises and then whitens the leading components."""
    mean, deviation = vectors.mean(0), vectors.std(0) + 1e-6
    some = ((vectors - mean) / deviation)[::4]
    variances, directions = np.linalg.eigh(some.T @ some / len(some))
    leading = directions[:, -dim:] / np.sqrt(variances[-dim:])
    return mean, (leading / deviation[:, None]).astype(np.float32)


def load(path: Path, keys: Sequence[str], dim: int, scale: Any = None) -> tuple[torch.Tensor, np.ndarray, Any]:
    """Whitened vectors, speakers' numbers, and the whitening, which is the train split's."""
    file = np.load(path)
    vectors = np.concatenate([file[key].astype(np.float32) for key in keys], axis=1)
    scale = scale or _whitening(vectors, dim)
    return torch.from_numpy((vectors - scale[0]) @ scale[1]), np.unique(file["speakers"], return_inverse=True)[1], scale


def cached(folder: Path, keys: Sequence[str], dim: int) -> dict[str, tuple[torch.Tensor, np.ndarray]]:
    """Vectors and speakers of all splits; whitened once, kept beside what they were made of."""
    cache = folder / f"whitened-{'-'.join(keys)}-{dim}-unseen.npz"
    if not cache.exists():
        vectors, labels, scale = load(folder / "train.npz", keys, dim)
        arrays = {"train": vectors.numpy(), "train labels": labels}
        for split in ("dev", "test", "others"):
            vectors, labels, _ = load(folder / f"{split}.npz", keys, dim, scale)
            arrays |= {split: vectors.numpy(), f"{split} labels": labels}
        arrays["unseen"] = np.concatenate([arrays["test"], arrays.pop("others")])
        apart = arrays["test labels"].max() + 1 + arrays.pop("others labels")
        arrays["unseen labels"] = np.concatenate([arrays["test labels"], apart])
        np.savez(cache, **arrays)
    with np.load(cache) as file:
        return {split: (torch.from_numpy(file[split]), file[f"{split} labels"]) for split in ("train", *TESTS)}


def judge_embeddings(folder: Path, cache: Path) -> dict[str, np.ndarray]:
    """Embeddings of dev, test and unseen by the independent judge; trained once."""
    if not cache.exists():
        vectors, labels, scale = load(folder / "train.npz", _JUDGE_KEYS, _JUDGE_DIM)
        plan = Plan([_JUDGE_DIM, 256, 64], speakers=64, noise=0.3, norm="batch", look_every=30)
        networks, _, _ = train(plan, [(Strategy(), 1000)], vectors, labels)
        found = {}
        for split in ("dev", "test", "others"):
            found[split] = networks.embed(0, load(folder / f"{split}.npz", _JUDGE_KEYS, _JUDGE_DIM, scale)[0])
        found["unseen"] = np.concatenate([found["test"], found.pop("others")])
        np.savez(cache, **found)
    with np.load(cache) as file:
        return {split: file[split] for split in file.files}


def trial_lists(labels: Mapping[str, np.ndarray], judges: Mapping[str, np.ndarray], joined: int) -> dict[str, Trials]:
    """Random and hard trials of each split."""
    lists = {}
    for split, of_split in labels.items():
        lists[f"{split} random"] = make_trials(of_split, joined=joined)
        lists[f"{split} hard"] = make_trials(of_split, joined=joined, judge=judges[split])
    return lists


def main() -> None:
    """Make the runs."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("vectors", type=Path), p.add_argument("out", type=Path)
    p.add_argument("--strategies", nargs="+", default=["random", "neighbours", "auto"], choices=list(STRATEGIES))
    p.add_argument("--seeds", nargs="+", type=int, default=[0])
    p.add_argument("--speakers", type=int, default=16)
    p.add_argument("--utterances", type=int, default=2)
    p.add_argument("--steps", type=int, default=1500)
    p.add_argument("--start", type=float, default=0.25, help="share of the steps before a fixed hard phase")
    p.add_argument("--joined", type=int, default=1)
    p.add_argument("--noise", type=float, default=0.0)
    p.add_argument("--dropout", type=float, default=0.0)
    p.add_argument("--hidden", type=int, nargs="*", default=[])
    p.add_argument("--norm", default="none", choices=["batch", "layer", "none"])
    p.add_argument("--rate", type=float, default=1e-3)
    p.add_argument("--decay", type=float, default=1e-4)
    p.add_argument("--keys", nargs="+", default=KEYS)
    p.add_argument("--dim", type=int, default=256, help="leading components of the vectors")
    p.add_argument("--least", type=int, default=10, help="train on speakers of at least so many utterances")
    p.add_argument("--train-speakers", type=int, help="only so many of them")
    p.add_argument("--merged", action="store_true", help="ids that the frozen model takes for one person are one")
    a = p.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    splits = cached(a.vectors, a.keys, a.dim)
    vectors, labels = splits["train"]
    counts = np.bincount(labels)
    kept = np.flatnonzero(counts >= a.least)[: a.train_speakers]
    rows = np.isin(labels, kept)
    vectors, labels = vectors[rows], np.unique(labels[rows], return_inverse=True)[1]
    if a.merged:
        embeddings = np.load(a.vectors / "train.npz")["embedding"][rows].astype(np.float32)
        labels = persons_of(int(labels.max()) + 1, suspected_pairs(embeddings - embeddings.mean(0), labels))[labels]
        print(len(kept) - len(np.unique(labels)), "ids are others' second names")
    tests = {split: splits[split] for split in TESTS}
    judges = judge_embeddings(a.vectors, a.out / "judge.npz")
    lists = trial_lists({split: of[1] for split, of in tests.items()}, judges, a.joined)
    save_trials(a.out / "trials.npz", lists)
    plan = Plan(
        [a.dim, *a.hidden, 192],
        speakers=a.speakers,
        utterances=a.utterances,
        steps=a.steps,
        steps_per_epoch=max(5, a.steps // 60),
        learning_rate=a.rate,
        weight_decay=a.decay,
        joined=a.joined,
        noise=a.noise,
        dropout=a.dropout,
        norm=a.norm,
        look_every=10,
    )
    settings = {k: str(v) for k, v in vars(a).items() if k not in _NOT_SETTINGS}
    wanted = [(name, seed) for seed in a.seeds for name in a.strategies if not (a.out / f"{name}-{seed}.json").exists()]
    last: dict[tuple[int, str], np.ndarray] = {}

    def look(networks: Perceptrons, run: int) -> dict[str, list[float]]:
        found = {}
        for title, trials in lists.items():
            scores = trials.scores(lambda x: networks.embed(run, x), tests[title.split()[0]][0])
            last[run, title] = scores.astype(np.float32)
            found[title] = [round(float(v), 5) for v in rates(scores, trials.is_target)]
        return found

    def validate(networks: Perceptrons, run: int) -> float:
        trials = lists["dev random"]
        return rates(trials.scores(lambda x: networks.embed(run, x), tests["dev"][0]), trials.is_target)[0]

    strategies = {name: STRATEGIES[name](begins(a.start, plan)) for name in a.strategies}
    for loss in sorted({strategy.loss for strategy in strategies.values()}):
        stack = [(name, seed) for name, seed in wanted if strategies[name].loss == loss]
        if not stack:
            continue
        started = time.process_time()
        pairs = [(strategies[name], seed) for name, seed in stack]
        _, curves, decisions = train(plan, pairs, vectors, labels, look=look, validate=validate)
        seconds = round((time.process_time() - started) / len(stack), 1)
        for run, (name, seed) in enumerate(stack):
            stem = a.out / f"{name}-{seed}"
            np.savez(stem.with_suffix(".npz"), **{title: last[run, title] for title in lists})
            written = {"arguments": settings, "seconds": seconds, "decisions": decisions[run], "curve": curves[run]}
            stem.with_suffix(".json").write_text(json.dumps(written, indent=1))
            end = curves[run][-1]
            found = (f"{t}: {100 * end[t][0]:.2f} % {end[t][1]:.3f}" for t in lists)
            print(stem.name, f"{seconds} s, easy {end['easy_random']:.2f}", *found, flush=True)


if __name__ == "__main__":
    main()

"""Fine-tunes the last layers of CAM++ on words by every strategy: what lies before them is frozen and computed once.

    python benchmarks/tail_training.py VECTORS BUNDLE OUT --strategies random chns neighbours auto --seeds 1 2 3

VECTORS holds what `frozen_features.py --tail N` wrote of train, dev, test and others; "unseen" are the speakers of test
and others. BUNDLE is the model they were made with. Trained are its last N dense layers, transition, pooling's norm and
embedding, with the running statistics of the batch norms as they are: what `chns train --train.start_from BUNDLE` with
`optimizer.rates` of 0 for the rest trains, without augmentation. Non-targets of the hard trials are by the judge of
`frozen_training.py`, which shares nothing with CAM++ but the mels. Step 0 of a curve is CAM++ as it came. Runs that OUT
has are not made again; `comparison_tables.py` makes tables of them.
"""

import argparse
import copy
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from frozen_training import TESTS, judge_embeddings, trial_lists
from strategies import STRATEGIES
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm
from vector_training import Plan, Strategy, Trials, easy_anchors, random_batches, rates, save_trials

from chns.bundle.bundle import load_model
from chns.encoders.cam_plus_plus import CamPlusPlus
from chns.losses import HSCLLoss, SupConLoss
from chns.sampling import BatchShape, HardBatches


class Tail(nn.Module):
    """What CAM++ does with the input of one of the layers of its last block: (B, T, C) -> (B, embedding_dim)."""

    def __init__(self, encoder: CamPlusPlus, channels: int) -> None:
        super().__init__()
        own = copy.deepcopy(encoder)
        self.layers = nn.ModuleList(layer for layer in own.blocks[-1] if layer.norm1.num_features >= channels)
        self.transition, self.last_norm = own.transitions[-1], own.last_norm
        self.pooling, self.embedding, self.embedding_norm = own.pooling, own.embedding, own.embedding_norm
        self.eval()  # the running statistics stay

    def forward(self, signal: Tensor) -> Tensor:
        """As `CamPlusPlus.forward`, from there on."""
        x = signal.mT
        segments = torch.ones(x.shape[2], 1)  # a word is shorter than a segment
        for layer in self.layers:
            x = layer(x, None, segments)
        return self.embedding_norm(self.embedding(self.pooling(self.last_norm(self.transition(x)).relu(), None)))


class Signals:
    """Inputs of the tail, in half precision on disk, and the speakers' numbers of a split."""

    def __init__(self, folder: Path, *splits: str) -> None:
        self.parts = [np.load(folder / f"{split}.tail.npy", mmap_mode="r") for split in splits]
        names = [np.load(folder / f"{split}.npz")["speakers"] for split in splits]
        self.ends = np.cumsum([len(part) for part in self.parts])
        self.labels = np.unique(np.concatenate(names), return_inverse=True)[1]
        self.channels = self.parts[0].shape[2]

    def __getitem__(self, rows: np.ndarray) -> Tensor:
        """Shape (rows, frames, channels)."""
        out = np.empty((len(rows), *self.parts[0].shape[1:]), np.float32)
        of = np.searchsorted(self.ends, rows, side="right")
        for i, part in enumerate(self.parts):
            out[of == i] = part[rows[of == i] - (self.ends[i] - len(part))]
        return torch.from_numpy(out)


@torch.no_grad()
def embed(tail: Tail, signals: Signals, rows: np.ndarray) -> np.ndarray:
    """Unit length, shape (rows, embedding_dim)."""
    blocks = [F.normalize(tail(signals[rows[i : i + 64]]), dim=1).numpy() for i in range(0, len(rows), 64)]
    return np.concatenate(blocks)


def train(
    plan: Plan, strategy: Strategy, seed: int, tail: Tail, signals: Signals, look: Any
) -> tuple[list[dict[str, Any]], list[str]]:
    """Train a tail in place; returns its curve and the sampler's decisions."""
    torch.manual_seed(seed)
    loss = {"supcon": SupConLoss, "hscl": HSCLLoss}[strategy.loss]()
    optimizer = torch.optim.Adam(
        [*tail.parameters(), *loss.parameters()], lr=plan.learning_rate, weight_decay=plan.weight_decay, fused=True
    )
    warm = max(1, int(plan.warm_up * plan.steps))
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min((s + 1) / warm, 0.5 * (1 + np.cos(np.pi * max(0, s - warm) / (plan.steps - warm))))
    )
    shape = BatchShape(plan.speakers, plan.utterances, steps_per_epoch=plan.steps_per_epoch, seed=seed)
    sampler = HardBatches(
        signals.labels, embed=lambda rows: embed(tail, signals, rows), shape=shape, **strategy.batches(None)
    )
    reference = random_batches(plan, signals.labels, seed, 50)
    labels = torch.from_numpy(signals.labels)
    curve: list[dict[str, Any]] = []

    def looked(epoch: int, easy: float | None) -> None:
        z = torch.from_numpy(embed(tail, signals, reference.flatten().numpy())).unflatten(0, reference.shape)
        row = {
            "step": epoch * plan.steps_per_epoch,
            "easy": easy,
            "hard_ratio": sampler.hard_ratio_at(max(0, epoch - 1)),
        }
        row["easy_random"] = round(float(easy_anchors(z, plan.utterances).mean()), 4)
        curve.append(row | look(tail))

    for epoch in range(plan.steps // plan.steps_per_epoch):
        sampler.begin(epoch)
        if not epoch:
            looked(0, None)
        easy = []
        for indices in sampler:
            rows = torch.tensor(indices)
            z = F.normalize(tail(signals[rows.numpy()]), dim=1)
            value = loss(z, labels[rows])
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            optimizer.step()
            rate.step()
            easy.append(float(easy_anchors(z.detach()[None], plan.utterances)))
        sampler.end(epoch, easy_anchor_share=float(np.mean(easy)))
        if (epoch + 1) % plan.look_every == 0:
            looked(epoch + 1, round(float(np.mean(easy)), 4))
    return curve, sampler.decisions


def scored(tail: Tail, tests: Mapping[str, Signals], lists: Mapping[str, Trials]) -> dict[str, np.ndarray]:
    """Cosine of each trial of each list."""
    found = {}
    for split, signals in tests.items():
        z = embed(tail, signals, lists[f"{split} random"].samples[:, 0])  # those of the hard trials are the same
        for title in (t for t in lists if t.startswith(split)):
            trials = lists[title]
            found[title] = np.einsum("td,td->t", z[trials.first], z[trials.second]).astype(np.float32)
    return found


def main() -> None:
    """Make the runs."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("vectors", type=Path), p.add_argument("bundle", type=Path), p.add_argument("out", type=Path)
    p.add_argument("--strategies", nargs="+", default=["random", "neighbours", "auto"], choices=list(STRATEGIES))
    p.add_argument("--seeds", nargs="+", type=int, default=[0])
    p.add_argument("--speakers", type=int, default=8)
    p.add_argument("--steps", type=int, default=600)
    p.add_argument("--epoch", type=int, default=30, help="steps of an epoch of the schedules")
    p.add_argument("--start", type=int, default=2, help="epoch in which a fixed hard phase begins")
    p.add_argument("--rate", type=float, default=1e-4)
    p.add_argument("--look", type=int, default=10, help="epochs between looks at the error rates")
    a = p.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    plan = Plan([], a.speakers, 2, a.steps, a.epoch, learning_rate=a.rate, weight_decay=1e-5, look_every=a.look)
    signals = Signals(a.vectors, "train")
    tests = {"dev": Signals(a.vectors, "dev"), "test": Signals(a.vectors, "test")}
    tests["unseen"] = Signals(a.vectors, "test", "others")
    judges = judge_embeddings(a.vectors, a.out / "judge.npz")
    lists = trial_lists({split: tests[split].labels for split in TESTS}, judges, 1)
    save_trials(a.out / "trials.npz", lists)
    encoder = load_model(a.bundle).encoder
    settings = {k: str(v) for k, v in vars(a).items() if k not in ("seeds", "strategies", "vectors", "bundle", "out")}
    for seed in a.seeds:
        for name in a.strategies:
            stem = a.out / f"{name}-{seed}"
            if stem.with_suffix(".json").exists():
                continue
            tail, last = Tail(encoder, signals.channels), {}

            def look(tail: Tail, name: str = name, seed: int = seed, last: Any = last) -> dict[str, list[float]]:
                last.update(scored(tail, tests, lists))
                found = {t: [round(float(v), 5) for v in rates(s, lists[t].is_target)] for t, s in last.items()}
                tqdm.write(f"{name}-{seed} " + " ".join(f"{t}: {100 * v[0]:.2f} {v[1]:.3f}" for t, v in found.items()))
                return found

            started = time.process_time()
            curve, decisions = train(plan, STRATEGIES[name](a.start), seed, tail, signals, look)
            np.savez(stem.with_suffix(".npz"), **last)
            of = {"arguments": settings, "seconds": round(time.process_time() - started)}
            of |= {"decisions": decisions, "curve": curve}
            stem.with_suffix(".json").write_text(json.dumps(of, indent=1))
            tqdm.write(
                f"{name}-{seed}: easy {curve[0]['easy_random']} to {curve[-1]['easy_random']}, {of['seconds']} s"
            )


if __name__ == "__main__":
    main()

"""Trains a narrow ECAPA-TDNN on log-mel images with the real samplers and losses, several seeds and strategies.

    python benchmarks/logmel_training.py LOGMEL runs --strategies random neighbours --seeds 0 1 2 --speakers 16

LOGMEL is the folder that `frozen_features.py` describes, with train, dev and test. For each run, RUN.json holds the
curve and RUN.npz the embeddings of dev and test utterances (speakers with ten utterances and more) at each look, in the
order of `frozen_features.chosen_rows`. A run that is there already is not made again.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from frozen_features import chosen_rows, images
from strategies import STRATEGIES, begins
from torch import nn
from tqdm import tqdm
from vector_training import Plan, embed, train

from chns.encoders import EcapaTdnn


class OfImages(nn.Module):
    """Grey images to embeddings: two frames become one, each mel's mean over time is subtracted."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.encoder = EcapaTdnn(
            num_mels=40,
            channels=channels,
            aggregation_channels=3 * channels,
            se_bottleneck=channels // 2,
            attention_channels=channels // 2,
        )

    def forward(self, grey: torch.Tensor) -> torch.Tensor:
        """(B, 98, 40) to (B, 192)."""
        mels = grey.unflatten(1, (49, 2)).mean(2) / 20.7
        return self.encoder(mels - mels.mean(1, keepdim=True))


def load(folder: Path, split: str, least: int = 10, most: int = 20) -> tuple[torch.Tensor, np.ndarray]:
    """Images and speakers' names."""
    rows = chosen_rows(folder / split, least, most)
    data = (folder / f"{split}.jpegs").read_bytes()
    grey = np.concatenate([images(data, rows[i : i + 1024]) for i in tqdm(range(0, len(rows), 1024), disable=None)])
    return torch.from_numpy(grey), np.array([row["speaker"] for row in rows])


def main() -> None:
    """Make the runs."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("logmel", type=Path), p.add_argument("out", type=Path)
    p.add_argument("--strategies", nargs="+", default=["random", "neighbours"], choices=list(STRATEGIES))
    p.add_argument("--seeds", nargs="+", type=int, default=[0])
    p.add_argument("--speakers", type=int, default=64)
    p.add_argument("--steps", type=int, default=1800)
    p.add_argument("--start", type=float, default=0.25, help="share of the steps before a fixed hard phase")
    p.add_argument("--channels", type=int, default=64)
    p.add_argument("--rate", type=float, default=2e-3)
    a = p.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    vectors, names = load(a.logmel, "train")
    labels = np.unique(names, return_inverse=True)[1]
    tests = {split: load(a.logmel, split)[0] for split in ("dev", "test")}
    plan = Plan(
        speakers=a.speakers,
        steps=a.steps,
        steps_per_epoch=100,
        learning_rate=a.rate,
        bfloat16=True,
        look_every=max(1, a.steps // 1000),
        network=lambda: OfImages(a.channels),
    )
    for seed in a.seeds:
        for name in a.strategies:
            stem = a.out / f"{name}-p{a.speakers}-s{a.steps}-c{a.channels}-{seed}"
            if stem.with_suffix(".json").exists():
                continue
            started = time.time()
            looks: dict[str, list[np.ndarray]] = {"dev": [], "test": []}

            def look(network: nn.Module, looks: dict[str, list[np.ndarray]] = looks) -> dict[str, float]:
                for split, images_of in tests.items():
                    looks[split].append(embed(network, images_of, block=512, bfloat16=True).astype(np.float16))
                return {}

            strategy = STRATEGIES[name](begins(a.start, plan))
            _, curve, decisions = train(plan, strategy, vectors, labels, seed=seed, look=look)
            np.savez(stem.with_suffix(".npz"), **{split: np.stack(z) for split, z in looks.items()})
            written = {"curve": curve, "decisions": decisions, "seconds": round(time.time() - started)}
            stem.with_suffix(".json").write_text(json.dumps(written, indent=1))
            print(stem.name, written["seconds"], "s", curve[-1], flush=True)


if __name__ == "__main__":
    main()

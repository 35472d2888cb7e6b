"""What a frozen CAM++ makes of log-mel images: the vectors on which frozen_training.py trains small encoders.

    python benchmarks/frozen_features.py LOGMEL/train BUNDLE train.npz --least 10 --most 20

LOGMEL/train is a pair of files, `train.jpegs` (98 frames x 40 mels up to 4 kHz, grey JPEGs end to end) and `train.csv`
(`utterance,speaker,word,offset,bytes`). BUNDLE is what `chns import 3d-speaker-campplus` makes. The power spectrum
whose 40 mels these are is found by multiplicative updates, and the model's own 80 mels are taken of it: no sound is
made, so no phase is invented; above 4 kHz its mels are silent.

Written are, for each utterance, the model's embedding (192) and the mean and standard deviation over time of what
each of its blocks puts out, in half precision. Needs Pillow beside chns[train].
"""

import argparse
import csv
import io
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from chns.bundle.bundle import load_model
from chns.core import cpu_has_bfloat16
from chns.features import LogMel

_LEVELS_A_NEPER = 20.7  # grey levels of the images for a factor of e in mel amplitude
_WHITE, _FLOOR = 141.0, 1e-3


def chosen_rows(stem: Path, least: int, most: int, below: int | None = None) -> list[dict[str, str]]:
    """Rows of speakers with `least` utterances or more, `most` of each, every word in turn; with fewer than `below`."""
    with stem.with_suffix(".csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    total = Counter(row["speaker"] for row in rows)
    taken: Counter[str] = Counter()
    chosen = []
    for row in sorted(rows, key=lambda r: (r["speaker"], int(r["utterance"].rsplit("_", 1)[1]), r["word"])):
        if least <= total[row["speaker"]] < (below or np.inf) and taken[row["speaker"]] < most:
            taken[row["speaker"]] += 1
            chosen.append(row)
    return chosen


def images(data: bytes, rows: Sequence[Mapping[str, str]]) -> np.ndarray:
    """Grey levels, shape (rows, frames, mels)."""
    decoded = []
    for row in rows:
        start = int(row["offset"])
        decoded.append(np.asarray(Image.open(io.BytesIO(data[start : start + int(row["bytes"])])).convert("L")))
    return np.stack(decoded)


class Mels:
    """Grey images of 40 mels to the 80 mels that the model was trained with."""

    def __init__(self, num_updates: int = 6) -> None:
        hz = np.arange(257) * 16000 / 512
        edges = np.linspace(self._mel(20), self._mel(4000), 42)
        bins = self._mel(hz)
        rising = (bins[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
        falling = (edges[2:] - bins[:, None]) / (edges[2:] - edges[1:-1])
        self.filters = torch.from_numpy(np.maximum(0, np.minimum(rising, falling))).float()
        self.inverse = torch.linalg.pinv(self.filters)
        self.wanted = LogMel().filters
        self.emphasis = torch.from_numpy(np.abs(1 - 0.97 * np.exp(-2j * np.pi * hz[:256] / 16000)) ** 2).float()
        self.num_updates = num_updates

    @staticmethod
    def _mel(hz: Any) -> np.ndarray:
        return 1127 * np.log1p(np.asarray(hz) / 700)

    def __call__(self, grey: np.ndarray) -> torch.Tensor:
        """(B, frames, 40) to (B, frames, 80)."""
        mels = torch.from_numpy(np.exp((grey.astype(np.float32) - _WHITE) / _LEVELS_A_NEPER) - _FLOOR).clamp_min(0)
        size = (mels @ self.inverse).clamp_min(1e-6)
        for _ in range(self.num_updates):
            size = size * (mels @ self.filters.T) / (size @ self.filters @ self.filters.T).clamp_min(1e-6)
            size = size.clamp_min(1e-6)
        power = size[..., :256].square() * self.emphasis * 2.0**30
        features = (power @ self.wanted).clamp_min(1.0).log()
        return features - features.mean(1, keepdim=True)


def main() -> None:
    """Write the vectors."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("stem", type=Path), p.add_argument("bundle", type=Path), p.add_argument("out")
    p.add_argument("--least", type=int, default=10), p.add_argument("--most", type=int, default=20)
    p.add_argument("--below", type=int, help="only speakers of fewer utterances")
    a = p.parse_args()
    rows = chosen_rows(a.stem, a.least, a.most, a.below)
    encoder = load_model(a.bundle).encoder.eval()
    seen: dict[str, torch.Tensor] = {}
    parts = {"front": encoder.first_norm, "last": encoder.last_norm}
    parts |= {f"block{i + 1}": transition for i, transition in enumerate(encoder.transitions)}
    for name, module in parts.items():
        module.register_forward_hook(lambda _, __, out, name=name: seen.__setitem__(name, out.float()))
    mels, written = Mels(), defaultdict(list)
    data = a.stem.with_suffix(".jpegs").read_bytes()
    for start in tqdm(range(0, len(rows), 64), disable=None, unit="batch"):
        features = mels(images(data, rows[start : start + 64]))
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=cpu_has_bfloat16()):
            written["embedding"].append(encoder(features).float().half().numpy())
        for name, x in seen.items():
            signal = x.relu() if name in ("front", "last") else x
            written[name].append(torch.cat([signal.mean(2), signal.std(2)], 1).half().numpy())
        written["mels"].append(torch.cat([features.std(1), features.diff(dim=1).std(1)], 1).half().numpy())
    np.savez(
        a.out,
        utterances=np.array([row["utterance"] for row in rows]),
        speakers=np.array([row["speaker"] for row in rows]),
        words=np.array([row["word"] for row in rows]),
        **{name: np.concatenate(blocks) for name, blocks in written.items()},
    )
    print(len(rows), "utterances of", len({row["speaker"] for row in rows}), "speakers")


if __name__ == "__main__":
    main()

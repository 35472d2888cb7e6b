"""What a frozen CAM++ makes of words: the vectors on which frozen_training.py trains small encoders.

    python benchmarks/frozen_features.py LOGMEL/train BUNDLE train.npz --least 10 --most 20
    python benchmarks/frozen_features.py words.parquet BUNDLE train.npz --least 6 --without LOGMEL/dev.csv --tail 4

LOGMEL/train is a pair of files, `train.jpegs` (98 frames x 40 mels up to 4 kHz, grey JPEGs end to end) and `train.csv`
(`utterance,speaker,word,offset,bytes`). BUNDLE is what `chns import 3d-speaker-campplus` makes. The power spectrum
whose 40 mels these are is found by multiplicative updates, and the model's own 80 mels are taken of it: no sound is
made, so no phase is invented; above 4 kHz its mels are silent. Of a manifest's recordings the first second is heard,
again from its start if it ends sooner.

Written are, for each utterance, the model's embedding (192) and the mean and standard deviation over time of what
each of its blocks puts out, in half precision; of a manifest also `train.logmel.npy`, the 40 log-mels up to 8 kHz for
logmel_training.py; with --tail also `train.tail.npy`, what goes into the last layers, for tail_training.py. Images need
Pillow beside chns[train].
"""

import argparse
import csv
import io
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from chns.bundle.bundle import load_model
from chns.core import cpu_has_bfloat16
from chns.data import Manifest, read_audio
from chns.features import LogMel

_LEVELS_A_NEPER = 20.7  # grey levels of the images for a factor of e in mel amplitude
_WHITE, _FLOOR = 141.0, 1e-3


def _last_number(text: str) -> int:
    """Of a corpus whose utterances end in no number, all are alike."""
    found = re.search(r"\d+$", text)
    return int(found[0]) if found else 0


def chosen_rows(
    source: Path,
    least: int,
    most: int,
    below: int | None = None,
    *,
    only: Path | None = None,
    without: Sequence[Path] = (),
) -> list[dict[str, str]]:
    """Rows of speakers with `least` utterances or more, `most` of each, every word in turn; with fewer than `below`.

    Of a CSV file's speakers only, or of all but those of CSV files.
    """
    if source.suffix == ".parquet":
        table = Manifest.read(source).table.select(["utterance", "speaker"])
        rows = [
            row | {"word": row["utterance"].split("/")[0], "row": str(i)} for i, row in enumerate(table.to_pylist())
        ]
    else:
        rows = _csv(source.with_suffix(".csv"))
    names = {row["speaker"] for row in (_csv(only) if only else rows)}
    names -= {row["speaker"] for path in without for row in _csv(path)}
    total = Counter(row["speaker"] for row in rows)
    taken: Counter[str] = Counter()
    chosen = []
    for row in sorted(rows, key=lambda r: (r["speaker"], _last_number(r["utterance"]), r["word"])):
        speaker = row["speaker"]
        if speaker in names and least <= total[speaker] < (below or np.inf) and taken[speaker] < most:
            taken[speaker] += 1
            chosen.append(row)
    return chosen


def _csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def sounds(manifest: Manifest, rows: Sequence[Mapping[str, str]]) -> torch.Tensor:
    """A second of each, shape (rows, 16000)."""
    waves = []
    for row in rows:
        utterance = manifest[int(row["row"])]
        wave = read_audio(
            utterance.path,
            offset_seconds=utterance.offset_seconds,
            duration_seconds=min(1.0, utterance.duration_seconds),
        )
        waves.append(np.resize(wave, 16_000))
    return torch.from_numpy(np.stack(waves))


def images(data: bytes, rows: Sequence[Mapping[str, str]]) -> np.ndarray:
    """Grey levels, shape (rows, frames, mels)."""
    from PIL import Image

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
    p.add_argument("source", type=Path), p.add_argument("bundle", type=Path), p.add_argument("out", type=Path)
    p.add_argument("--least", type=int, default=10), p.add_argument("--most", type=int, default=20)
    p.add_argument("--below", type=int, help="only speakers of fewer utterances")
    p.add_argument("--only", type=Path, help="a CSV file with a column `speaker`: only these")
    p.add_argument(
        "--without", type=Path, nargs="*", default=[], help="CSV files with a column `speaker`: none of these"
    )
    p.add_argument("--tail", type=int, default=0, help="layers of the last block that tail_training.py trains")
    a = p.parse_args()
    rows = chosen_rows(a.source, a.least, a.most, a.below, only=a.only, without=a.without)
    model = load_model(a.bundle).eval()
    encoder = model.encoder
    seen: dict[str, torch.Tensor] = {}
    parts = {"front": encoder.first_norm, "last": encoder.last_norm}
    parts |= {f"block{i + 1}": transition for i, transition in enumerate(encoder.transitions)}
    for name, module in parts.items():
        module.register_forward_hook(lambda _, __, out, name=name: seen.__setitem__(name, out.float()))
    if a.tail:
        encoder.blocks[-1][-a.tail].register_forward_pre_hook(lambda _, inputs: seen.__setitem__("tail", inputs[0]))
    written = defaultdict(list)
    if a.source.suffix == ".parquet":
        manifest, few = Manifest.read(a.source), LogMel(num_mels=40, subtract_mean=False)
    else:
        mels, data = Mels(), a.source.with_suffix(".jpegs").read_bytes()
    arrays: dict[str, list[np.ndarray]] = defaultdict(list)
    for start in tqdm(range(0, len(rows), 64), disable=None, unit="batch"):
        some = rows[start : start + 64]
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=cpu_has_bfloat16()):
            if a.source.suffix == ".parquet":
                waves = sounds(manifest, some)
                features = model.features(waves)
                arrays["logmel"].append(few(waves).half().numpy())
            else:
                features = mels(images(data, some))
            written["embedding"].append(encoder(features).float().half().numpy())
            if a.tail:
                arrays["tail"].append(seen.pop("tail").mT.half().numpy())
        for name, x in seen.items():
            signal = x.relu() if name in ("front", "last") else x
            written[name].append(torch.cat([signal.mean(2), signal.std(2)], 1).half().numpy())
        written["mels"].append(torch.cat([features.std(1), features.diff(dim=1).std(1)], 1).half().numpy())
    for name, blocks in arrays.items():
        np.save(a.out.with_suffix(f".{name}.npy"), np.concatenate(blocks))
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

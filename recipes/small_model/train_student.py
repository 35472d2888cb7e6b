"""Train the small model from the teacher's cache, for a fixed time, on one core.

    python recipes/small_model/train_student.py DATA CACHE OUT --hours 1.5 --dev EMBEDDED_DEVELOPMENT_SET

Goes on where it stopped. New shards of the cache are taken up while it runs.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from pathlib import Path

import numpy as np
import torch
from development import DevelopmentSet, embed_files
from speech_material import SAMPLE_RATE_HZ
from surround import Surroundings
from torch import Tensor, nn

from chns.bundle.bundle import Architecture, save_bundle
from chns.encoders import SpeakerEncoder
from chns.losses import DistillationLoss, SupConLoss
from chns.training.augmenting import SpecAugment

ARCHITECTURE = Architecture(encoder="chns.encoders.ecapa_tdnn_mobile", feature_settings={"hop_seconds": 0.02})
_PAIRS = 32
_PAIRS_AT_A_PLACE = 4
_WARM_UP = 0.03
_SHORTEST_SECONDS, _LONGEST_SECONDS = 1.0, 2.0
_COMPARED_CLIPS = 200
_LOG_STEPS = 200


class Cache:
    """The shards of a teacher's cache that there are."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._shards: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self.look()

    def look(self) -> int:
        """Take up shards that are new; how many there are."""
        for path in sorted(self._folder.glob("targets-*.npy")):
            if path.name not in self._shards:
                clips = np.load(path.with_name(path.name.replace("targets", "clips")), mmap_mode="r")
                self._shards[path.name] = (clips, np.load(path))
        return len(self._shards)

    @property
    def shards(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Clips and targets of each."""
        return list(self._shards.values())

    def keep_only(self, samples: int) -> None:
        """Leave out shards whose clips are of another length."""
        self._shards = {name: shard for name, shard in self._shards.items() if shard[0].shape[1] == samples}

    def sample(self, name: str, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The first clips of a shard, whether taken up or not, and their targets."""
        clips = np.load(self._folder / name.replace("targets", "clips"), mmap_mode="r")
        return clips[:count], np.load(self._folder / name)[:count]

    def unseen(self) -> str | None:
        """A shard that is not taken up."""
        names = {path.name for path in self._folder.glob("targets-*.npy")} - set(self._shards)
        return max(names, default=None)

    def batch(self, pairs: int, samples: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Crops of shape (2 * pairs, samples), pairs side by side, and the teacher's embeddings of their clips."""
        shards = [shard for shard in self._shards.values() if shard[0].shape[1] >= samples]
        crops = np.empty((2 * pairs, samples), np.int16)
        targets = []
        for first in range(0, 2 * pairs, 2 * _PAIRS_AT_A_PLACE):
            clips, embeddings = shards[rng.integers(len(shards))]
            places = 2 * rng.choice(len(clips) // 2, _PAIRS_AT_A_PLACE, replace=False)
            rows = np.stack([places, places + 1], axis=1).ravel()
            for offset, row in enumerate(rows):
                start = rng.integers(clips.shape[1] - samples + 1)
                crops[first + offset] = clips[row, start : start + samples]
            targets.append(embeddings[rows])
        waveforms = torch.from_numpy(crops).float() / 32_768
        return waveforms, torch.from_numpy(np.concatenate(targets)).float()


class Training:
    """Student, losses, optimiser and clock.

    Args:
        arguments: Those of the command line.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        torch.manual_seed(arguments.seed)
        self.hours = arguments.hours
        self.peak_rate = arguments.learning_rate
        student = ARCHITECTURE.build()
        self.model = SpeakerEncoder(
            student.features,
            student.encoder,
            masking=SpecAugment(probability=0.4, time_masks=2, max_mask_frames=8, mel_masks=2, max_mask_mels=8),
        )
        self.distillation = DistillationLoss(
            embedding_dim=192, teacher_dim=192, contrast_weight=arguments.contrast_weight
        )
        self.voices = SupConLoss(temperature=0.1)
        self.voices_weight = arguments.voices_weight
        decayed, plain = [], []
        for name, parameter in self.model.named_parameters():
            (plain if parameter.ndim < 2 or "norm" in name else decayed).append(parameter)
        plain += list(self.voices.parameters())
        self.optimizer = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": 0.02}, {"params": plain, "weight_decay": 0.0}], fused=True
        )
        self.step = 0
        self.seconds = 0.0

    def progress(self) -> float:
        """Share of the time that is over."""
        return min(1.0, self.seconds / (3_600 * self.hours))

    def update(self, waveforms: Tensor, targets: Tensor) -> tuple[float, float]:
        """One step; the mean cosine to the teacher, and the loss on voices."""
        progress = self.progress()
        rate = self.peak_rate * min(1.0, progress / _WARM_UP, 0.5 + 0.5 * math.cos(math.pi * progress))
        for group in self.optimizer.param_groups:
            group["lr"] = max(rate, 1e-5)
        with torch.autocast("cpu", torch.bfloat16):
            embeddings = self.model(waveforms)
        distilled = self.distillation(embeddings, targets)
        loss, told = distilled, 0.0
        if self.voices_weight:
            voices = self.voices(embeddings, torch.arange(len(waveforms)) // 2)
            loss, told = distilled + self.voices_weight * voices, float(voices.detach())
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 5.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        cosine = nn.functional.cosine_similarity(embeddings.detach().float(), targets).mean()
        return float(cosine), told

    def save(self, path: Path) -> None:
        """Everything that a resume needs."""
        state = {
            "model": self.model.state_dict(),
            "voices": self.voices.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
        }
        temporary = path.with_suffix(".partial")
        torch.save(state, temporary)
        temporary.rename(path)

    def load(self, path: Path) -> None:
        """What `save` wrote."""
        state = torch.load(path, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.voices.load_state_dict(state["voices"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = state["step"], state["seconds"]


def cosine_to_targets(model: SpeakerEncoder, clips: np.ndarray, targets: np.ndarray) -> float:
    """Mean cosine of the student on whole clips, as they are, to the teacher."""
    embeddings = embed_files(model, [clip.astype(np.float32) / 32_768 for clip in clips])
    return float((embeddings * targets).sum(axis=1).mean())


def crop_samples(progress: float, rng: np.random.Generator) -> int:
    """Length of a batch's crops: short ones always, the longer ones more often towards the end."""
    longest = _SHORTEST_SECONDS + (_LONGEST_SECONDS - _SHORTEST_SECONDS) * min(1.0, 0.5 + progress)
    return round(rng.uniform(_SHORTEST_SECONDS, longest) * 10) * SAMPLE_RATE_HZ // 10


def run(training: Training, arguments: argparse.Namespace) -> None:
    """Train until the time is over."""
    out: Path = arguments.out
    cache = Cache(arguments.cache)
    surroundings = Surroundings(arguments.data, seed=arguments.seed)
    development = DevelopmentSet(arguments.dev)
    rng = np.random.default_rng([arguments.seed, training.step])
    torch.manual_seed(1_000_000 * arguments.seed + training.step)
    began = time.time() - training.seconds
    saved = evaluated = training.seconds
    losses, log = [], out / "train.log"
    while training.progress() < 1:
        training.model.train()
        waveforms, targets = cache.batch(_PAIRS, crop_samples(training.progress(), rng), rng)
        losses.append(training.update(surroundings(waveforms), targets))
        training.seconds = time.time() - began
        if training.step % _LOG_STEPS == 0:
            cosine, voices = np.mean(losses, axis=0)
            losses.clear()
            _tell(log, step=training.step, minutes=training.seconds / 60, cosine=cosine, voices=voices)
        if training.seconds - saved > 180:
            training.save(out / "state.pt")
            saved = training.seconds
        if training.seconds - evaluated > 60 * arguments.evaluate_minutes:
            clips = {"seen": "targets-000.npy", "unseen": cache.unseen()}
            cosines = {
                f"cosine_{kind}": cosine_to_targets(training.model, *cache.sample(name, _COMPARED_CLIPS))
                for kind, name in clips.items()
                if name is not None
            }
            _tell(log, step=training.step, shards=cache.look(), **cosines, **development.measure(training.model))
            evaluated = training.seconds
    training.save(out / "state.pt")
    measured = development.measure(training.model)
    _tell(log, step=training.step, **measured)
    described = {"recipe": "recipes/small_model", "steps": training.step, "hours": arguments.hours}
    save_bundle(
        out / "model", training.model.eval(), ARCHITECTURE, training=described, metrics={"development": measured}
    )


def _tell(log: Path, **numbers: float) -> None:
    rounded = {name: float(f"{number:.5g}") for name, number in numbers.items()}
    line = f"{time.strftime('%H:%M:%S')} {json.dumps(rounded)}"
    print(line, flush=True)
    with log.open("a") as file:
        file.write(line + "\n")


def main() -> None:
    """Read the command line, resume if there is something to, train."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("cache", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--dev", type=Path, required=True, help="what development.py wrote")
    parser.add_argument("--hours", type=float, required=True)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--contrast-weight", type=float, default=0.1)
    parser.add_argument("--voices-weight", type=float, default=0.0)
    parser.add_argument("--evaluate-minutes", type=float, default=8.0)
    parser.add_argument("--seed", type=int, default=16)
    arguments = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    arguments.out.mkdir(parents=True, exist_ok=True)
    training = Training(arguments)
    if (arguments.out / "state.pt").exists():
        training.load(arguments.out / "state.pt")
    run(training, arguments)


if __name__ == "__main__":
    main()

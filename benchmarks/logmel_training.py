"""Trains whole encoders, narrow ECAPA-TDNNs from random weights, on log-mel images by every strategy side by side.

    python benchmarks/logmel_training.py LOGMEL VECTORS OUT --seeds 1 2 3 --speakers 4 --joined 2 --steps 10000

LOGMEL is the folder that `frozen_features.py` describes, VECTORS holds what that wrote of dev, test and others, which
are speakers of the train split with few utterances, on whom nobody trains: of CAM++'s embeddings the hard trials'
non-targets are made. LOGMEL is VECTORS itself where that was made of sounds. A sample is some words of a speaker, one
after the other.

Strategies of one loss and seed share the steps before their hard phases: they are one training until the sampler of one
of them draws hard batches, then it goes on by itself from the same weights, moments and temperature. The rate is
constant but for a rise at the start and a fall over the last share of the steps, so that more steps can be asked for
before that. A run that is killed goes on from OUT/state.pt. `comparison_tables.py` makes tables of OUT.

With --anew FOLDER nothing is trained: the networks of OUT/state.pt are looked at once more, with running statistics
taken anew of random batches, as `chns train` does after hard ones.
"""

import argparse
import copy
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from frozen_features import chosen_rows, images
from stacked_encoder import StackedEcapa
from strategies import STRATEGIES
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import update_bn
from tqdm import tqdm
from vector_losses import LOSSES
from vector_training import Plan, Strategy, Trials, easy_anchors, make_trials, random_batches, rates, save_trials

from chns.encoders.ecapa_tdnn import EcapaTdnn, EcapaVariant
from chns.losses import AAMSoftmaxLoss, HSCLLoss, SupConLoss
from chns.sampling import BatchShape, HardBatches

_LEVELS_A_NEPER = 20.7
_LEAST, _MOST, _DIM = 10, 20, 96


def encoder(channels: int) -> EcapaTdnn:
    """A narrow one of two blocks."""
    return EcapaTdnn(
        num_mels=40,
        channels=channels,
        aggregation_channels=3 * channels,
        res2net_scale=2,
        se_bottleneck=channels // 2,
        attention_channels=channels // 2,
        embedding_dim=_DIM,
        variant=EcapaVariant(kernels=(5, 3, 3), dilations=(1, 2, 3)),
    )


def new_loss(name: str, num_speakers: int, plan: Plan) -> Callable[..., Any]:
    """The library's, or that with a memory."""
    if name in ("memory", "ceiling"):
        return LOSSES[name](1, num_speakers, plan)
    return (
        AAMSoftmaxLoss(num_speakers, _DIM)
        if name == "aam_softmax"
        else {"supcon": SupConLoss, "hscl": HSCLLoss}[name]()
    )


def loss_of(loss: nn.Module, z: Tensor, labels: Tensor) -> Tensor:
    """A scalar, of unit-length embeddings."""
    return loss(z[None], labels[None])[0] if type(loss) in LOSSES.values() else loss(z, labels)


@dataclass(frozen=True)
class Words:
    """Log-mels of words (utterances, frames, mels) and their speakers' numbers."""

    mels: Tensor
    labels: np.ndarray

    @classmethod
    def read(cls, stem: Path, rows: list[dict[str, str]], pooled: int) -> "Words":
        """So many frames become one."""
        data, mels = stem.with_suffix(".jpegs").read_bytes(), []
        for i in tqdm(range(0, len(rows), 1024), disable=None):
            grey = torch.from_numpy(images(data, rows[i : i + 1024])).float() / _LEVELS_A_NEPER
            mels.append(grey[:, : 98 // pooled * pooled].unflatten(1, (-1, pooled)).mean(2))
        return cls(torch.cat(mels), np.unique([row["speaker"] for row in rows], return_inverse=True)[1])

    @classmethod
    def of_sounds(cls, folder: Path, split: str, pooled: int) -> "Words":
        """What `frozen_features.py` heard."""
        mels = torch.from_numpy(np.load(folder / f"{split}.logmel.npy")).float()
        mels = mels[:, : mels.shape[1] // pooled * pooled].unflatten(1, (-1, pooled)).mean(2)
        with np.load(folder / f"{split}.npz") as file:
            return cls(mels, np.unique(file["speakers"], return_inverse=True)[1])

    def samples(self, rows: Tensor) -> Tensor:
        """Words (..., joined) one after the other, each mel's mean over time subtracted: (..., frames, mels)."""
        x = self.mels[rows].flatten(-3, -2)
        return x - x.mean(-2, keepdim=True)


@torch.no_grad()
def embed(network: EcapaTdnn, words: Words, rows: np.ndarray) -> np.ndarray:
    """Unit length, of samples of shape (samples, joined)."""
    network.eval()
    return np.concatenate(
        [
            F.normalize(network(words.samples(torch.from_numpy(rows[i : i + 256]))), dim=1).numpy()
            for i in range(0, len(rows), 256)
        ]
    )


def with_others(rows: np.ndarray, labels: np.ndarray, joined: int) -> np.ndarray:
    """Each utterance and the next ones of its speaker among the same rows: (rows, joined)."""
    of = labels[rows]
    place = {speaker: np.flatnonzero(of == speaker) for speaker in np.unique(of)}
    out = np.empty((len(rows), joined), np.int64)
    for own in place.values():
        for j in range(joined):
            out[own, j] = rows[np.roll(own, -j)]
    return out


@dataclass
class Training:
    """All runs.

    Attributes:
        names: Strategy and seed of each, as in "chns-3".
        trained: Name of the run that each row of the stack is.
        of: Row of each run; several share one until they differ.
    """

    plan: Plan
    names: list[str]
    words: Words
    channels: int
    start: int
    fall: float = 0.2
    trained: list[str] = field(default_factory=list)
    of: dict[str, int] = field(default_factory=dict)
    epoch: int = 0
    seconds: float = 0.0

    def __post_init__(self) -> None:
        strategies = {name: STRATEGIES[name.rsplit("-", 1)[0]](self.start) for name in self.names}
        self.loss_name = {name: strategy.loss for name, strategy in strategies.items()}
        self.seed = {name: int(name.rsplit("-", 1)[1]) for name in self.names}
        roots: dict[tuple[str, int], int] = {}
        for name in self.names:
            root = self.loss_name[name], self.seed[name]
            if root not in roots:
                roots[root] = len(self.trained)
                self.trained.append(name)
            self.of[name] = roots[root]
        self.stack = StackedEcapa([self._new_encoder(seed) for _, seed in roots])
        num = int(self.words.labels.max()) + 1
        self.losses = nn.ModuleList(new_loss(loss, num, self.plan) for loss, _ in roots)
        self.samplers = {name: self._sampler(name, strategy) for name, strategy in strategies.items()}
        self.curves: dict[str, list[dict[str, Any]]] = {name: [] for name in self.names}
        self.reference = {s: random_batches(self.plan, self.words.labels, s, 100) for s in self.seed.values()}
        self.optimizer = self._optimizer()

    def _new_encoder(self, seed: int) -> EcapaTdnn:
        torch.manual_seed(seed)
        return encoder(self.channels)

    def _sampler(self, name: str, strategy: Strategy) -> HardBatches:
        shape = BatchShape(
            self.plan.speakers,
            self.plan.utterances * self.plan.joined,
            steps_per_epoch=self.plan.steps_per_epoch,
            seed=self.seed[name],
        )

        def embedded(rows: np.ndarray) -> np.ndarray:
            return embed(self.network(name), self.words, with_others(rows, self.words.labels, self.plan.joined))

        return HardBatches(self.words.labels, embed=embedded, shape=shape, **strategy.batches(None))

    def _optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(
            [*self.stack.parameters(), *self.losses.parameters()],
            lr=self.plan.learning_rate,
            weight_decay=self.plan.weight_decay,
            fused=True,
        )

    def network(self, name: str) -> EcapaTdnn:
        """The library's encoder with a strategy's weights."""
        found = encoder(self.channels)
        found.load_state_dict(self.stack.state_of(self.of[name]), strict=False)
        return found

    def with_statistics_anew(self, name: str, number: int = 100) -> EcapaTdnn:
        """The same with running statistics of random batches, the same for all strategies of a seed."""
        found = self.network(name)
        batches = random_batches(self.plan, self.words.labels, self.seed[name] + 1, number)
        update_bn((self.words.samples(rows.unflatten(0, (-1, self.plan.joined))) for rows in batches), found)
        return found

    def part(self, name: str) -> None:
        """From now on a strategy trains by itself, from where the training is that it shared."""
        row = self.of[name]
        if self.trained[row] == name:
            shared = [other for other in self.names if self.of[other] == row and other != name]
            if not shared:
                return
            self.trained[row] = shared[0]
        moments = {p: self.optimizer.state[p] for group in self.optimizer.param_groups for p in group["params"]}
        old, own = list(self.stack.parameters()), list(self.losses[row].parameters())
        self.stack = self.stack.grown(row)
        self.losses.append(copy.deepcopy(self.losses[row]))
        self.optimizer = self._optimizer()
        for before, after in zip(old, self.stack.parameters(), strict=True):
            self.optimizer.state[after] = {
                key: torch.cat([value, value[row : row + 1]]) if value.ndim else value
                for key, value in moments[before].items()
            }
        for loss in self.losses[:-1]:
            self.optimizer.state.update({p: moments[p] for p in loss.parameters() if p in moments})
        for before, after in zip(own, self.losses[-1].parameters(), strict=True):
            self.optimizer.state[after] = {key: value.clone() for key, value in moments[before].items()}
        self.of[name] = len(self.trained)
        self.trained.append(name)

    def run_epoch(self) -> dict[str, float]:
        """Train all; returns each strategy's share of easy anchors."""
        for name, sampler in self.samplers.items():
            if self.epoch and sampler.hard_ratio_at(self.epoch) > 0:
                self.part(name)
            if self.trained[self.of[name]] == name or sampler.hard_ratio_at(self.epoch) > 0:
                sampler.begin(self.epoch)
        easy = torch.zeros(len(self.trained))
        labels = torch.from_numpy(self.words.labels)
        iterators = [iter(self.samplers[name]) for name in self.trained]
        for step, indices in enumerate(zip(*iterators, strict=True)):
            rows = torch.tensor(indices).unflatten(1, (-1, self.plan.joined))
            self._set_rate(self.epoch * self.plan.steps_per_epoch + step)
            z = F.normalize(self.stack(self.words.samples(rows)), dim=2)
            of = labels[rows[:, :, 0]]
            value = sum(loss_of(loss, z[i], of[i]) for i, loss in enumerate(self.losses))
            self.optimizer.zero_grad(set_to_none=True)
            value.backward()  # the runs share nothing, so each has its own gradient
            self.optimizer.step()
            easy += easy_anchors(z.detach(), self.plan.utterances)
        shares = {n: float(easy[self.of[n]]) / self.plan.steps_per_epoch for n in self.names}
        for name, sampler in self.samplers.items():
            sampler.end(self.epoch, easy_anchor_share=shares[name])
        self.epoch += 1
        return shares

    def _set_rate(self, step: int) -> None:
        rising = (step + 1) / max(1, self.plan.warm_up * self.plan.steps_per_epoch)
        falling = (1 - step / self.plan.steps) / self.fall
        for group in self.optimizer.param_groups:
            group["lr"] = self.plan.learning_rate * min(1.0, rising, falling)

    def easy_random(self, network: EcapaTdnn, seed: int) -> float:
        """Share of easy anchors in random batches, the same for all strategies, in evaluation mode."""
        rows = self.reference[seed].unflatten(1, (-1, self.plan.joined))
        z = embed(network, self.words, rows.flatten(0, 1).numpy()).reshape(*rows.shape[:2], -1)
        return round(float(easy_anchors(torch.from_numpy(z), self.plan.utterances).mean()), 4)

    def state(self) -> dict[str, Any]:
        """All that the rest of the training depends on."""
        memories = [[getattr(m, "kept", None), getattr(m, "labels", None), getattr(m, "steps", 0)] for m in self.losses]
        return {
            "stack": [self.stack.state_of(row) for row in range(len(self.trained))],
            "losses": [loss.state_dict() for loss in self.losses],
            "memories": memories,
            "optimizer": self.optimizer.state_dict(),
            "samplers": {name: sampler.state_dict() for name, sampler in self.samplers.items()},
            **{key: getattr(self, key) for key in ("trained", "of", "epoch", "seconds", "curves")},
        }

    def take(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        num = int(self.words.labels.max()) + 1
        self.losses = nn.ModuleList(new_loss(self.loss_name[name], num, self.plan) for name in state["trained"])
        for loss, of, memory in zip(self.losses, state["losses"], state["memories"], strict=True):
            loss.load_state_dict(of)
            if memory[0] is not None:
                loss.kept, loss.labels, loss.steps = memory
        self.stack = StackedEcapa([encoder(self.channels) for _ in state["trained"]])
        for row, of in enumerate(state["stack"]):
            self.stack.take(row, of)
        self.optimizer = self._optimizer()
        self.optimizer.load_state_dict(state["optimizer"])
        for name, of in state["samplers"].items():
            self.samplers[name].load_state_dict(of)
        for key in ("trained", "of", "epoch", "seconds", "curves"):
            setattr(self, key, state[key])


def _are_sounds(logmel: Path) -> bool:
    return (logmel / "dev.logmel.npy").exists()


def tests_of(logmel: Path, vectors: Path, plan: Plan, pooled: int) -> tuple[dict[str, Words], dict[str, Trials]]:
    """Words and trials of dev, test, and of all unseen speakers but those of dev."""
    words, judges = {}, {}
    for split in ("dev", "test", "others"):
        with np.load(vectors / f"{split}.npz") as file:
            judges[split] = file["embedding"].astype(np.float32)
            utterances = file["utterances"].tolist()
        if _are_sounds(logmel):
            words[split] = Words.of_sounds(logmel, split, pooled)
            continue
        stem = logmel / ("train" if split == "others" else split)
        rows = chosen_rows(
            stem, 2 * plan.joined if split == "others" else _LEAST, _MOST, _LEAST if split == "others" else None
        )
        kept = {row["utterance"] for row in rows}
        judges[split] = judges[split][[u in kept for u in utterances]]
        words[split] = Words.read(stem, rows, pooled)
    apart = words["others"].labels + words["test"].labels.max() + 1
    mels = torch.cat([words["test"].mels, words["others"].mels])
    words["unseen"] = Words(mels, np.concatenate([words["test"].labels, apart]))
    judges["unseen"] = np.concatenate([judges["test"], judges["others"]])
    del words["others"], judges["others"]
    mean = np.concatenate(list(judges.values())).mean(0)
    lists = {}
    for split, of in words.items():
        z = judges[split] - mean
        z /= np.linalg.norm(z, axis=1, keepdims=True)
        lists[f"{split} random"] = make_trials(of.labels, joined=plan.joined)
        lists[f"{split} hard"] = make_trials(of.labels, joined=plan.joined, judge=z)
    return words, lists


def main() -> None:
    """Train."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("logmel", type=Path), p.add_argument("vectors", type=Path), p.add_argument("out", type=Path)
    p.add_argument("--strategies", nargs="+", default=["random", "neighbours"], choices=list(STRATEGIES))
    p.add_argument("--seeds", nargs="+", type=int, default=[1])
    p.add_argument("--speakers", type=int, default=8)
    p.add_argument("--joined", type=int, default=2)
    p.add_argument("--steps", type=int, default=10000)
    p.add_argument("--start", type=int, default=5, help="epoch in which a fixed hard phase begins")
    p.add_argument("--channels", type=int, default=32)
    p.add_argument("--pooled", type=int, default=4, help="frames of 10 ms that become one")
    p.add_argument("--rate", type=float, default=2e-3)
    p.add_argument("--fall", type=float, default=0.2, help="share of the steps over which the rate falls")
    p.add_argument("--decay", type=float, default=1e-5)
    p.add_argument("--epoch", type=int, default=50, help="steps of an epoch of the schedules")
    p.add_argument("--look", type=int, default=10, help="epochs between looks at the error rates")
    p.add_argument("--anew", type=Path, help="look once more, with running statistics anew, and write it here")
    a = p.parse_args()
    for folder in filter(None, (a.out, a.anew)):
        folder.mkdir(parents=True, exist_ok=True)
    plan = Plan(
        [_DIM],
        speakers=a.speakers,
        steps=a.steps,
        steps_per_epoch=a.epoch,
        learning_rate=a.rate,
        weight_decay=a.decay,
        joined=a.joined,
        warm_up=2,  # epochs
    )
    if _are_sounds(a.logmel):
        words = Words.of_sounds(a.logmel, "train", a.pooled)
    else:
        words = Words.read(a.logmel / "train", chosen_rows(a.logmel / "train", _LEAST, _MOST), a.pooled)
    tests, lists = tests_of(a.logmel, a.vectors, plan, a.pooled)
    save_trials((a.anew or a.out) / "trials.npz", lists)
    names = [f"{name}-{seed}" for seed in a.seeds for name in a.strategies]
    training = Training(plan, names, words, a.channels, a.start, a.fall)
    saved = a.out / "state.pt"
    if saved.exists():
        training.take(torch.load(saved, weights_only=True))
    unsaid = ("seeds", "strategies", "logmel", "vectors", "out", "anew")
    settings = {k: str(v) for k, v in vars(a).items() if k not in unsaid}
    if a.anew:
        training.curves = {name: [] for name in names}
        shares = dict.fromkeys(names, float("nan"))
        scores = look(training, shares, tests, lists, Training.with_statistics_anew)
        for name in names:
            of = {"arguments": settings, "curve": training.curves[name]}
            (a.anew / f"{name}.json").write_text(json.dumps(of, indent=1))
            np.savez(a.anew / f"{name}.npz", **scores[name])
        return
    while training.epoch < plan.steps // plan.steps_per_epoch:
        started = time.process_time()
        shares = training.run_epoch()
        training.seconds += time.process_time() - started
        if training.epoch % a.look:
            continue
        scores = look(training, shares, tests, lists)
        torch.save(training.state(), saved.with_suffix(".part"))
        saved.with_suffix(".part").rename(saved)
        for name in training.names:
            stem = a.out / name
            of = {"arguments": settings, "stack_seconds": round(training.seconds), "trained": training.trained}
            of |= {"decisions": training.samplers[name].decisions, "curve": training.curves[name]}
            stem.with_suffix(".json").write_text(json.dumps(of, indent=1))
            np.savez(stem.with_suffix(".npz"), **scores[name])


def look(
    training: Training,
    shares: Mapping[str, float],
    tests: Mapping[str, Words],
    lists: Mapping[str, Trials],
    network_of: Callable[[Training, str], EcapaTdnn] = Training.network,
) -> dict[str, dict[str, np.ndarray]]:
    """Add a row to each strategy's curve; returns its scores."""
    found: dict[int, tuple[dict[str, Any], dict[str, np.ndarray]]] = {}
    for name in training.names:
        row = training.of[name]
        if row not in found:
            network = network_of(training, name)
            measured: dict[str, Any] = {"easy_random": training.easy_random(network, training.seed[name])}
            scores = {}
            for split, words in tests.items():
                samples = lists[f"{split} random"].samples  # those of the hard trials are the same
                z = embed(network, words, samples)
                for title in (t for t in lists if t.startswith(split)):
                    trials = lists[title]
                    scores[title] = np.einsum("td,td->t", z[trials.first], z[trials.second])
                    measured[title] = [round(float(v), 5) for v in rates(scores[title], trials.is_target)]
            found[row] = measured, scores
        step = {"step": training.epoch * training.plan.steps_per_epoch, "easy": round(shares[name], 4)}
        step["hard_ratio"] = training.samplers[name].hard_ratio_at(training.epoch - 1)
        training.curves[name].append(step | found[row][0])
        shown = " ".join(f"{t}: {100 * v[0]:.2f} {v[1]:.3f}" for t, v in found[row][0].items() if isinstance(v, list))
        tqdm.write(f"{step} {name} easy {found[row][0]['easy_random']:.3f} {shown} ({training.seconds:.0f} s)")
    return {name: found[training.of[name]][1] for name in training.names}


if __name__ == "__main__":
    main()

"""Trains small networks on arrays in memory with the real samplers and losses: what the experiments on batches share.

Not a benchmark by itself: `frozen_training.py`, `logmel_training.py` and `regime.py` import it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from chns.evaluation.intervals import mean_over_seeds
from chns.evaluation.metrics import error_rates
from chns.evaluation.speaker_bootstrap import bootstrap_metrics
from chns.losses import SupConLoss
from chns.sampling import BatchShape, HardBatches
from chns.training.log import easy_anchor_share


@dataclass(frozen=True)
class Strategy:
    """How batches are composed, and the loss on them.

    Attributes:
        batches: Further arguments of `HardBatches`: groups, schedule, separate_same_person. Called anew for each run,
            as schedules remember.
        loss: Makes the loss from the number of speakers and the embedding's size.
        speakers: P, where it is not that of the plan; likewise utterances.
        relabel: Speakers to train with instead of the true ones, from the labels; None keeps them.
        network: Makes another network than the plan's.
    """

    batches: Callable[[], Mapping[str, Any]] = lambda: {"schedule": None}
    loss: Callable[[int, int], nn.Module] = lambda speakers, dim: SupConLoss()  # noqa: ARG005
    speakers: int | None = None
    utterances: int | None = None
    relabel: Callable[[np.ndarray], np.ndarray] | None = None
    network: Callable[[], nn.Module] | None = None


@dataclass(frozen=True)
class Plan:
    """What all strategies of a comparison have in common.

    Attributes:
        steps: Steps in all; steps_per_epoch of them are an epoch of the schedules.
        joined: Utterances that are averaged to one sample; K x joined are drawn of each speaker.
        network: Makes the encoder: (B, ...) -> (B, dim).
        noise: Standard deviation of noise that is added to training vectors, which are standardised.
    """

    speakers: int
    utterances: int = 2
    steps: int = 4000
    steps_per_epoch: int = 100
    learning_rate: float = 2e-3
    weight_decay: float = 2e-6
    warm_up: float = 0.1
    joined: int = 1
    noise: float = 0.0
    bfloat16: bool = False
    look_every: int = 5
    network: Callable[[], nn.Module] = nn.Identity


def perceptron(sizes: Sequence[int], *, norm: str = "batch", dropout: float = 0.0) -> nn.Module:
    """Layers of these sizes with rectifiers, normalised or not, the last one linear."""
    layers: list[nn.Module] = []
    for a, b in pairwise(sizes[:-1]):
        layers.append(nn.Linear(a, b))
        if norm == "batch":
            layers.append(nn.BatchNorm1d(b))
        elif norm == "layer":
            layers.append(nn.LayerNorm(b))
        layers += [nn.ReLU()] + ([nn.Dropout(dropout)] if dropout else [])
    return nn.Sequential(*layers, nn.Linear(sizes[-2], sizes[-1]))


def embed(network: nn.Module, vectors: Tensor, *, block: int = 2048, bfloat16: bool = False) -> np.ndarray:
    """Embeddings of all vectors, unit length."""
    network.eval()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        parts = [
            F.normalize(network(vectors[i : i + block].float()).float(), dim=1) for i in range(0, len(vectors), block)
        ]
    network.train()
    return torch.cat(parts).numpy()


def train(
    plan: Plan,
    strategy: Strategy,
    vectors: Tensor,
    labels: np.ndarray,
    *,
    seed: int,
    look: Callable[[nn.Module], Mapping[str, Any]] | None = None,
) -> tuple[nn.Module, list[dict[str, Any]], list[str]]:
    """One run.

    Args:
        plan: See `Plan`.
        strategy: See `Strategy`.
        vectors: Torch tensor (utterances, ...).
        labels: Integers (utterances,).
        seed: Of weights, batches and noise.
        look: Called with the network every ``look_every`` epochs; returns numbers that join the curve.

    Returns:
        The network, the curve (one row a look) and the decisions of the sampler.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    labels = np.unique(labels if strategy.relabel is None else strategy.relabel(labels), return_inverse=True)[1]
    network = (strategy.network or plan.network)()
    dim = network(vectors[:2].float()).shape[1]
    loss = strategy.loss(int(labels.max()) + 1, dim)
    parameters = [*network.parameters(), *loss.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=plan.learning_rate, weight_decay=plan.weight_decay, fused=True)
    warm = max(1, int(plan.warm_up * plan.steps))
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda s: min((s + 1) / warm, 0.5 * (1 + np.cos(np.pi * max(0, s - warm) / max(1, plan.steps - warm)))),
    )
    k = strategy.utterances or plan.utterances
    shape = BatchShape(
        strategy.speakers or plan.speakers, k * plan.joined, steps_per_epoch=plan.steps_per_epoch, seed=seed
    )
    make_embedding = lambda rows: embed(network, vectors[rows], bfloat16=plan.bfloat16)  # noqa: E731
    batches = HardBatches(labels, embed=make_embedding, shape=shape, **strategy.batches())
    random_batches = HardBatches(
        labels,
        embed=make_embedding,
        shape=BatchShape(plan.speakers, plan.utterances * plan.joined, steps_per_epoch=5, seed=seed + 1),
        schedule=None,
    )
    label_of = torch.from_numpy(labels)
    curve, step = [], 0
    network.train()
    for epoch in range(plan.steps // plan.steps_per_epoch):
        if hasattr(loss, "set_progress"):
            loss.set_progress(epoch * plan.steps_per_epoch / plan.steps)
        batches.begin(epoch)
        easy_sum = loss_sum = 0.0
        for indices in batches:
            x = vectors[indices].float()
            if plan.noise:
                x = x + plan.noise * torch.from_numpy(rng.standard_normal(x.shape, dtype=np.float32))
            y = label_of[indices]
            x, y = joined(x, plan.joined), y[:: plan.joined]
            with torch.autocast("cpu", torch.bfloat16, enabled=plan.bfloat16):
                z = network(x)
            z = z.float()
            value = loss(z, y)
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            optimizer.step()
            rate.step()
            step += 1
            easy_sum += easy_anchor_share(z.detach(), y).item()
            loss_sum += value.item()
        easy = easy_sum / plan.steps_per_epoch
        batches.end(epoch, easy_anchor_share=easy)
        if (epoch + 1) % plan.look_every == 0:
            row = {
                "step": step,
                "hard_ratio": batches.hard_ratio_at(epoch),
                "easy": easy,
                "easy_random": easy_of_random(network, vectors, label_of, random_batches, epoch, plan),
                "loss": loss_sum / plan.steps_per_epoch,
            }
            curve.append(row | (look(network) if look else {}))
    return network, curve, batches.decisions


def joined(x: Tensor, number: int) -> Tensor:
    """Means of so many consecutive vectors."""
    return x if number == 1 else x.unflatten(0, (-1, number)).mean(1)


def easy_of_random(
    network: nn.Module, vectors: Tensor, labels: Tensor, random_batches: HardBatches, epoch: int, plan: Plan
) -> float:
    """Share of easy anchors in five random batches under the network as it is, in evaluation mode."""
    random_batches.begin(epoch)
    shares = []
    network.eval()
    for indices in random_batches:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=plan.bfloat16):
            z = network(joined(vectors[indices].float(), plan.joined)).float()
        shares.append(easy_anchor_share(z, labels[indices][:: plan.joined]).item())
    network.train()
    return float(np.mean(shares))


@dataclass(frozen=True)
class Trials:
    """Trials between samples, which are means of some utterances.

    Attributes:
        samples: Utterances of each sample, shape (samples, joined).
        first: Sample on one side of each trial; second: on the other.
        is_target: Whether they are of one speaker.
        speakers: Speaker of each sample.
    """

    samples: np.ndarray
    first: np.ndarray
    second: np.ndarray
    is_target: np.ndarray
    speakers: np.ndarray

    def scores(self, network: nn.Module, vectors: Tensor, *, bfloat16: bool = False) -> np.ndarray:
        """Cosine of each trial."""
        flat = vectors[self.samples.ravel()].float()
        z = embed(network, joined(flat, self.samples.shape[1]), bfloat16=bfloat16)
        return np.einsum("td,td->t", z[self.first], z[self.second])


def make_trials(
    labels: np.ndarray,
    *,
    judge: np.ndarray | None = None,
    joined: int = 1,
    num_nearest: int = 10,
    targets: int = 8000,
    nontargets: int = 30000,
    seed: int = 0,
) -> Trials:
    """Random trials, or, with an independent model's embeddings, ones whose non-targets are each speaker's nearest."""
    rng = np.random.default_rng(seed)
    samples, speakers = [], []
    for speaker in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == speaker))
        for i in range(0, len(rows) - joined + 1, joined):
            samples.append(rows[i : i + joined])
            speakers.append(speaker)
    samples, speakers = np.array(samples), np.array(speakers)
    first, second = np.triu_indices(len(speakers), 1)
    same = speakers[first] == speakers[second]
    if judge is not None:
        names, place = np.unique(speakers, return_inverse=True)
        centroids = np.stack([judge[labels == name].mean(0) for name in names])
        centroids /= np.linalg.norm(centroids, axis=1, keepdims=True)
        cosine = centroids @ centroids.T
        np.fill_diagonal(cosine, -2)
        near = np.zeros(cosine.shape, bool)
        np.put_along_axis(near, np.argsort(-cosine, 1)[:, :num_nearest], True, 1)
        near |= near.T
        allowed = near[place[first], place[second]]
    else:
        allowed = ~same
    own, other = np.flatnonzero(same), np.flatnonzero(~same & allowed)
    chosen = np.concatenate(
        [
            rng.choice(own, min(targets, len(own)), replace=False),
            rng.choice(other, min(nontargets, len(other)), replace=False),
        ]
    )
    return Trials(samples, first[chosen], second[chosen], same[chosen], speakers)


def save_trials(path: Path, lists: Mapping[str, Trials]) -> None:
    """Write who is on either side of each trial."""
    arrays = {}
    for title, trials in lists.items():
        arrays[f"{title} first"] = trials.speakers[trials.first]
        arrays[f"{title} second"] = trials.speakers[trials.second]
    np.savez_compressed(path, **arrays)


def rates(scores: np.ndarray, is_target: np.ndarray) -> tuple[float, float]:
    """EER and minDCF at 0.05."""
    found = error_rates(scores, is_target)
    return found.equal_error_rate(), found.min_dcf(p_target=0.05)


def compare(
    sides: tuple[np.ndarray, np.ndarray], scores: Mapping[str, np.ndarray], *, baseline: str, num_resamples: int = 400
) -> dict[str, dict[str, Any]]:
    """Means over seeds and paired intervals of the differences, over speakers and seeds.

    Args:
        sides: Speaker on either side of each trial.
        scores: By strategy, scores of its seeds, shape (seeds, trials).
        baseline: Strategy that the others are compared with, seed by seed.
        num_resamples: Of the speakers.

    Returns:
        By strategy: EER and minDCF, and their differences to the baseline, in absolute terms and as a share of it.
    """
    names = list(scores)
    seeds = {name: len(scores[name]) for name in names}
    metrics = bootstrap_metrics(
        np.concatenate([scores[name] for name in names]).astype(np.float64),
        sides[0] == sides[1],
        *sides,
        num_resamples=num_resamples,
        p_targets=(0.05,),
    )
    starts = dict(zip(names, np.cumsum([0, *seeds.values()])[:-1], strict=True))
    rows = {}
    for name in names:
        row = {"seeds": seeds[name]}
        for metric, short in (("eer", "eer"), ("min_dcf_0.05", "min_dcf")):
            count = min(seeds[name], seeds[baseline])
            own = slice(starts[name], starts[name] + count)
            base = slice(starts[baseline], starts[baseline] + count)
            row[short] = float(metrics.estimate[metric][own].mean())
            row[short + "_seeds"] = [round(float(v), 5) for v in metrics.estimate[metric][own]]
            if name != baseline:
                level = metrics.estimate[metric][base].mean()
                at = mean_over_seeds(
                    metrics.estimate[metric][own] - metrics.estimate[metric][base],
                    metrics.resampled[metric][own] - metrics.resampled[metric][base],
                )
                row[short + "_difference"] = [round(float(v), 5) for v in (at.estimate, at.low, at.high)]
                row[short + "_relative"] = [round(float(v / level), 4) for v in (at.estimate, at.low, at.high)]
        rows[name] = row
    return rows

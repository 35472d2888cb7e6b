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
from vector_losses import LOSSES

from chns.evaluation.intervals import mean_over_seeds
from chns.evaluation.metrics import error_rates
from chns.evaluation.speaker_bootstrap import bootstrap_metrics
from chns.sampling import BatchShape, HardBatches, RandomSpeakerBatches


@dataclass(frozen=True)
class Strategy:
    """How batches are composed, and the loss on them.

    Attributes:
        batches: Further arguments of `HardBatches`: groups, schedule, separate_same_person. Called anew for each run,
            as schedules remember, with the run's loss.
        loss: One of `LOSSES`.
        validated: Whether the schedule is told the EER on validation trials after each epoch.
    """

    batches: Callable[[Any], Mapping[str, Any]] = lambda loss: {"schedule": None}  # noqa: ARG005
    loss: str = "supcon"
    validated: bool = False


@dataclass(frozen=True)
class Plan:
    """What all strategies of a comparison have in common.

    Attributes:
        sizes: Of the perceptron, the first one the vectors', the last one the embedding's.
        norm: "batch", "layer" or "none", in the hidden layers.
        steps: Steps in all; steps_per_epoch of them are an epoch of the schedules.
        joined: Utterances that are averaged to one sample; K x joined are drawn of each speaker.
        noise: Standard deviation of noise that is added to training vectors, which are whitened.
    """

    sizes: Sequence[int]
    speakers: int
    utterances: int = 2
    steps: int = 1500
    steps_per_epoch: int = 50
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    warm_up: float = 0.1
    joined: int = 1
    noise: float = 0.0
    dropout: float = 0.0
    norm: str = "none"
    look_every: int = 5


class Perceptrons(nn.Module):
    """One perceptron a run, all trained at once: (runs, B, in) -> (runs, B, out). Seeds decide the weights."""

    def __init__(self, plan: Plan, seeds: Sequence[int]) -> None:
        super().__init__()
        self.plan = plan
        weights: list[list[Tensor]] = []
        for seed in seeds:
            generator = torch.Generator().manual_seed(seed)
            weights.append([_uniform(a, b, generator) for a, b in pairwise(plan.sizes)])
        self.weights = nn.ParameterList(torch.stack(layer) for layer in zip(*weights, strict=True))
        self.biases = nn.ParameterList(torch.zeros(len(seeds), 1, size) for size in plan.sizes[1:])
        hidden = plan.sizes[1:-1]
        self.gains = nn.ParameterList(torch.ones(len(seeds), 1, size) for size in hidden)
        self.means = [torch.zeros(len(seeds), 1, size) for size in hidden]
        self.variances = [torch.ones(len(seeds), 1, size) for size in hidden]

    def forward(self, x: Tensor) -> Tensor:
        """Normalised where hidden, rectified, dropped; the last layer is linear."""
        last = len(self.weights) - 1
        for i in range(len(self.weights)):
            x = torch.baddbmm(self.biases[i], x, self.weights[i])
            if i < last:
                x = (self._normalised(x, i) * self.gains[i]).relu()
                x = F.dropout(x, self.plan.dropout, self.training)
        return x

    def _normalised(self, x: Tensor, i: int) -> Tensor:
        if self.plan.norm == "layer":
            return F.layer_norm(x, x.shape[-1:])
        if self.plan.norm == "none":
            return x
        if self.training:
            mean, variance = x.mean(1, keepdim=True), x.var(1, keepdim=True, correction=0)
            with torch.no_grad():
                self.means[i].lerp_(mean, 0.1)
                self.variances[i].lerp_(variance, 0.1)
        else:
            mean, variance = self.means[i], self.variances[i]
        return (x - mean) / (variance + 1e-5).sqrt()

    def embed(self, run: int, vectors: Tensor) -> np.ndarray:
        """Unit-length embeddings by one of the runs."""
        x = vectors
        with torch.no_grad():
            for i in range(len(self.weights)):
                x = x @ self.weights[i][run] + self.biases[i][run]
                if i < len(self.weights) - 1:
                    x = (self._of_run(x, i, run) * self.gains[i][run]).relu()
            return F.normalize(x, dim=1).numpy()

    def _of_run(self, x: Tensor, i: int, run: int) -> Tensor:
        if self.plan.norm == "batch":
            return (x - self.means[i][run]) / (self.variances[i][run] + 1e-5).sqrt()
        return F.layer_norm(x, x.shape[-1:]) if self.plan.norm == "layer" else x


def _uniform(inputs: int, outputs: int, generator: torch.Generator) -> Tensor:
    """As `nn.Linear` starts."""
    return (2 * torch.rand(inputs, outputs, generator=generator) - 1) / inputs**0.5


def train(
    plan: Plan,
    runs: Sequence[tuple[Strategy, int]],
    vectors: Tensor,
    labels: np.ndarray,
    *,
    look: Callable[[Perceptrons, int], Mapping[str, Any]] | None = None,
    validate: Callable[[Perceptrons, int], float] | None = None,
) -> tuple[Perceptrons, list[list[dict[str, Any]]], list[list[str]]]:
    """Train runs of one loss side by side.

    Args:
        plan: See `Plan`.
        runs: Strategy and seed of each; the seed is that of its weights, batches and noise.
        vectors: Shape (utterances, dim).
        labels: Integers (utterances,).
        look: Called with the networks and a run every ``look_every`` epochs; returns numbers that join its curve.
        validate: Called with the networks and a run after each epoch, if its strategy is validated; returns an EER.

    Returns:
        The networks, the curve of each run (one row a look) and the decisions of each sampler.
    """
    labels = np.unique(labels, return_inverse=True)[1]
    seeds = [seed for _, seed in runs]
    torch.manual_seed(seeds[0])
    networks = Perceptrons(plan, seeds)
    loss = LOSSES[runs[0][0].loss](len(runs), int(labels.max()) + 1, plan)
    optimizer = torch.optim.Adam(
        [*networks.parameters(), *loss.parameters()], lr=plan.learning_rate, weight_decay=plan.weight_decay, fused=True
    )
    warm = max(1, int(plan.warm_up * plan.steps))
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min((s + 1) / warm, 0.5 * (1 + np.cos(np.pi * max(0, s - warm) / (plan.steps - warm))))
    )
    samplers = [_sampler(plan, labels, networks, vectors, loss, run, *of) for run, of in enumerate(runs)]
    references = {seed: random_batches(plan, labels, seed) for seed in seeds}
    label_of = torch.from_numpy(labels)
    curves: list[list[dict[str, Any]]] = [[] for _ in runs]
    for epoch in range(plan.steps // plan.steps_per_epoch):
        for sampler in samplers:
            sampler.begin(epoch)
        easy, total = torch.zeros(len(runs)), torch.zeros(len(runs))
        for indices in zip(*samplers, strict=True):
            rows = torch.tensor(indices)
            x = joined(vectors[rows], plan.joined)
            if plan.noise:
                x = x + plan.noise * torch.randn_like(x)
            z = F.normalize(networks(x), dim=2)
            values = loss(z, label_of[rows[:, :: plan.joined]])
            optimizer.zero_grad(set_to_none=True)
            values.sum().backward()  # the runs share nothing, so each has its own gradient
            optimizer.step()
            rate.step()
            easy += easy_anchors(z.detach(), plan.utterances)
            total += values.detach()
        for run, sampler in enumerate(samplers):
            share = float(easy[run]) / plan.steps_per_epoch
            eer = validate(networks, run) if validate and runs[run][0].validated else None
            sampler.end(epoch, easy_anchor_share=share, validation_eer=eer)
            if (epoch + 1) % plan.look_every == 0:
                row = {"step": (epoch + 1) * plan.steps_per_epoch, "hard_ratio": sampler.hard_ratio_at(epoch)}
                row |= {"easy": round(share, 4), "loss": round(float(total[run]) / plan.steps_per_epoch, 4)}
                row["easy_random"] = _easy_of(networks, run, vectors, references[seeds[run]], plan)
                curves[run].append(row | dict(look(networks, run) if look else {}))
    return networks, curves, [sampler.decisions for sampler in samplers]


def _sampler(
    plan: Plan,
    labels: np.ndarray,
    networks: Perceptrons,
    vectors: Tensor,
    loss: nn.Module,
    run: int,
    strategy: Strategy,
    seed: int,
) -> HardBatches:
    shape = BatchShape(plan.speakers, plan.utterances * plan.joined, steps_per_epoch=plan.steps_per_epoch, seed=seed)
    head = (loss, run)
    return HardBatches(
        labels, embed=lambda rows: networks.embed(run, vectors[rows]), shape=shape, **strategy.batches(head)
    )


def random_batches(plan: Plan, labels: np.ndarray, seed: int, number: int = 20) -> Tensor:
    """Random batches, on which all runs of a seed are looked at alike."""
    shape = BatchShape(plan.speakers, plan.utterances * plan.joined, steps_per_epoch=number, seed=seed + 1000)
    return torch.tensor(list(RandomSpeakerBatches(labels, shape)))


def _easy_of(networks: Perceptrons, run: int, vectors: Tensor, batches: Tensor, plan: Plan) -> float:
    """Share of easy anchors in random batches under a network as it is, in evaluation mode."""
    x = joined(vectors[batches], plan.joined)
    z = torch.from_numpy(networks.embed(run, x.flatten(0, 1))).unflatten(0, x.shape[:2])
    return round(float(easy_anchors(z, plan.utterances).mean()), 4)


def easy_anchors(z: Tensor, utterances: int) -> Tensor:
    """Share of easy anchors in each of several batches, see `chns.training.log.easy_anchor_share`.

    Args:
        z: Unit length, shape (batches, P x K, dim), those of a speaker adjacent.
        utterances: K.
    """
    cosine = z @ z.mT
    same = _same(z.shape[1], utterances)
    itself = torch.eye(z.shape[1], dtype=torch.bool)
    other = cosine.masked_fill(same, -torch.inf).amax(2)
    own = cosine.masked_fill(~same | itself, torch.inf).amin(2)
    return (own > other).float().mean(1)


def _same(size: int, utterances: int) -> Tensor:
    speaker = torch.arange(size) // utterances
    return speaker[:, None] == speaker


def joined(x: Tensor, number: int) -> Tensor:
    """Means of so many consecutive vectors, in the dimension before the last."""
    return x if number == 1 else x.unflatten(-2, (-1, number)).mean(-2)


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

    def scores(self, embed: Callable[[Tensor], np.ndarray], vectors: Tensor) -> np.ndarray:
        """Cosine of each trial."""
        z = embed(vectors[torch.from_numpy(self.samples)].mean(1))
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

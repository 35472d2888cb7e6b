"""Losses for many runs side by side: (runs, B, dim) of unit length and labels (runs, B) to a value a run.

Not a benchmark by itself. `supcon`, `hscl` and `aam_softmax` compute what the classes of `chns.losses` do, which
`tests/test_vector_training.py` checks; in a stack, a step of seventy small runs costs as much as ten steps of one.

- `ceiling`: SupCon without negatives whose similarity exceeds 95 % of the anchor's mean similarity to its positives; de
  Souza P. Moreira et al., "NV-Retriever: improving text embedding models with effective hard-negative mining", 2024
  (TopK-PercPos).
- `memory`: SupCon against the batch and the embeddings of batches before it; Wang et al., "Cross-batch memory for
  embedding learning", CVPR 2020 (XBM).
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class _Contrast(nn.Module):
    """A learnt temperature for each run, from 0.1."""

    def __init__(self, runs: int, speakers: int, plan: Any) -> None:  # noqa: ARG002
        super().__init__()
        self.log_temperature = nn.Parameter(torch.full((runs, 1, 1), math.log(0.1)))

    @staticmethod
    def pairs(z: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Which are an utterance itself, shape (B, B), and which are others of its speaker, (runs, B, B)."""
        itself = torch.eye(z.shape[1], dtype=torch.bool)
        return itself, (labels[:, :, None] == labels[:, None]) & ~itself

    @staticmethod
    def mean_of(values: Tensor, own: Tensor) -> Tensor:
        """Mean over the positives of each anchor, then over anchors."""
        return (values.masked_fill(~own, 0).sum(2) / own.sum(2).clamp_min(1)).mean(1)


class SupCon(_Contrast):
    """See `chns.losses.SupConLoss`."""

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        """A value a run."""
        itself, own = self.pairs(z, labels)
        logits = (z @ z.mT) / self.log_temperature.exp()
        return -self.mean_of(logits.masked_fill(itself, -torch.inf).log_softmax(2), own)


class Hscl(_Contrast):
    """See `chns.losses.HSCLLoss`."""

    beta, similarity_scale = 0.1, 2.0

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        """A value a run."""
        itself, own = self.pairs(z, labels)
        logits = self.similarity_scale * (z @ z.mT) / self.log_temperature.exp()
        others = logits.masked_fill(itself | own, -torch.inf)
        weights = (self.beta * others.detach()).masked_fill(itself | own, -torch.inf)
        count = (~(itself | own)).sum(2)
        negative = count.log() + (others + weights).logsumexp(2) - weights.logsumexp(2)
        return self.mean_of(F.softplus(negative[:, :, None] - logits), own)


class Ceiling(_Contrast):
    """Without negatives that are nearly as near as the positives."""

    share = 0.95

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        """A value a run."""
        itself, own = self.pairs(z, labels)
        cosine = z @ z.mT
        positive = (cosine.detach() * own).sum(2, keepdim=True) / own.sum(2, keepdim=True)
        dropped = itself | ((cosine.detach() > self.share * positive) & ~own)
        return -self.mean_of((cosine / self.log_temperature.exp()).masked_fill(dropped, -torch.inf).log_softmax(2), own)


class Memory(_Contrast):
    """Against the embeddings of earlier batches too, once these move slowly."""

    size, warm_up = 1024, 500

    def __init__(self, runs: int, speakers: int, plan: Any) -> None:
        super().__init__(runs, speakers, plan)
        self.kept = torch.zeros(runs, 0, plan.sizes[-1])
        self.labels = torch.zeros(runs, 0, dtype=torch.int64)
        self.steps = 0

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        """A value a run."""
        used = self.steps >= self.warm_up
        others = torch.cat([z, self.kept], 1) if used else z
        names = torch.cat([labels, self.labels], 1) if used else labels
        itself = torch.zeros(z.shape[1], others.shape[1], dtype=torch.bool).fill_diagonal_(True)
        own = (labels[:, :, None] == names[:, None]) & ~itself
        logits = (z @ others.mT) / self.log_temperature.exp()
        self.steps += 1
        self.kept = torch.cat([z.detach(), self.kept], 1)[:, : self.size]
        self.labels = torch.cat([labels, self.labels], 1)[:, : self.size]
        return -self.mean_of(logits.masked_fill(itself, -torch.inf).log_softmax(2), own)


class AamSoftmax(nn.Module):
    """See `chns.losses.AAMSoftmaxLoss`."""

    margin, scale = 0.2, 30.0

    def __init__(self, runs: int, speakers: int, plan: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(runs, speakers, plan.sizes[-1]))
        nn.init.normal_(self.weight, std=(2 / (speakers + plan.sizes[-1])) ** 0.5)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        """A value a run."""
        cosine = z @ F.normalize(self.weight, dim=2).mT
        true = cosine.gather(2, labels[:, :, None])
        sine = (1.0 - true.square()).clamp_min(1e-7).sqrt()
        shifted = true * math.cos(self.margin) - sine * math.sin(self.margin)
        shifted = torch.where(true > -math.cos(self.margin), shifted, true - self.margin * math.sin(self.margin))
        logits = self.scale * cosine.scatter(2, labels[:, :, None], shifted)
        return (
            F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").unflatten(0, labels.shape).mean(1)
        )


LOSSES = {"supcon": SupCon, "hscl": Hscl, "aam_softmax": AamSoftmax, "ceiling": Ceiling, "memory": Memory}

"""What is measured while a run trains: loss, speed, and how hard its batches are."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from chns.training_step import StepResult


class Meter:
    """Averages between two lines of the log."""

    def __init__(self) -> None:
        self._loss_sum = torch.zeros(())
        self._steps = 0
        self._segments = 0
        self._wait_seconds = 0.0
        self._last: StepResult | None = None
        self._since = self._idle_since = time.perf_counter()

    def restart_clock(self) -> None:
        """Leave out what happened between epochs."""
        self._since = self._idle_since = time.perf_counter()
        self._segments = 0
        self._wait_seconds = 0.0

    def data_arrived(self) -> None:
        """A batch is there: the time since the last step was spent waiting for it."""
        self._wait_seconds += time.perf_counter() - self._idle_since

    def step_done(self) -> None:
        """From here on, time is spent waiting for data."""
        self._idle_since = time.perf_counter()

    def add(self, result: StepResult) -> None:
        """Count a step; nothing is moved off the device."""
        self._loss_sum = self._loss_sum.to(result.loss.device) + result.loss
        self._steps += 1
        self._segments += len(result.speaker_labels)
        self._last = result

    def read(self) -> dict[str, float]:
        """Averages since the last reading; of the last step, how hard its negatives were and where its time went."""
        assert self._last is not None
        seconds = time.perf_counter() - self._since
        mean, p95 = negative_similarity(self._last.embeddings, self._last.speaker_labels)
        values = {
            "loss": float(self._loss_sum) / self._steps,
            "negative_similarity_mean": mean,
            "negative_similarity_p95": p95,
            "segments_per_second": self._segments / seconds,
            "data_wait_share": self._wait_seconds / seconds,
            "encoder_seconds": self._last.encoder_seconds,
            "loss_seconds": self._last.loss_seconds,
        }
        self._loss_sum = torch.zeros(())
        self._steps = 0
        self.restart_clock()
        return values

    def state_dict(self) -> dict[str, Any]:
        """The sums that a resumed run goes on with."""
        return {"loss_sum": self._loss_sum, "steps": self._steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with saved sums."""
        self._loss_sum, self._steps = state["loss_sum"], state["steps"]


def negative_similarity(embeddings: Tensor, speaker_labels: Tensor) -> tuple[float, float]:
    """How hard a batch is: mean and 95th percentile of the cosine between utterances of different speakers.

    Args:
        embeddings: Shape (N, dim).
        speaker_labels: Shape (N,), of at least two speakers.
    """
    normalised = F.normalize(embeddings.float(), dim=1)
    different = (speaker_labels[:, None] != speaker_labels[None]).triu()
    similarities = (normalised @ normalised.T)[different]
    rank = max(1, math.ceil(0.95 * len(similarities)))
    return float(similarities.mean()), float(similarities.kthvalue(rank).values)

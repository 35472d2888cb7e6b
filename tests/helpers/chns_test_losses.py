"""Losses and a logger that tests name in configurations; own processes import them too."""

import json
import os
from pathlib import Path

import torch
from torch import Tensor

from chns.losses import SupConLoss


class Spoilt(SupConLoss):
    """SupCon whose value (SPOIL=loss) or gradient (SPOIL=gradient) is not finite from the step after SPOIL_FROM on."""

    def __init__(self) -> None:
        super().__init__()
        self.share = 0.0

    def set_progress(self, share_done: float) -> None:
        """Follow the training."""
        self.share = share_done

    def forward(self, embeddings: Tensor, speaker_labels: Tensor) -> Tensor:
        """As SupCon, but spoilt."""
        loss = super().forward(embeddings, speaker_labels)
        how = os.environ.get("SPOIL")
        if how is None or self.share < float(os.environ["SPOIL_FROM"]):
            return loss
        if how == "loss":
            return loss * torch.inf
        return loss + torch.sqrt(embeddings.sum() * 0)  # 0, with an infinite derivative times 0: NaN


class Lines:
    """A logger: a line of JSON for each call."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        """Write metrics and step."""
        self._write({"step": step, **metrics})

    def finalize(self, status: str) -> None:
        """Write the status."""
        self._write(status)

    def _write(self, content: object) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(content) + "\n")

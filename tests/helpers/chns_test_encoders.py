"""Encoders that tests name in configurations; own processes import them too."""

import os

import torch
from torch import Tensor, nn

from chns.core import ChnsError

if "CHNS_TEST_NO_GRAPHS" in os.environ:  # as conftest.py does for trainings in the tests' own process
    import chns.bundle.bundle_graph

    def _leave_out(folder: object, model: object) -> None:
        raise ChnsError("Graphs are left out in tests.")

    chns.bundle.bundle_graph.add_graph = _leave_out


class Plain(nn.Module):
    """Linear layers over the mean and deviation of the frames: no batch normalisation."""

    embedding_dim = 16

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(160, 32), nn.Tanh(), nn.Linear(32, 16))

    def forward(self, features: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Shape (batch, frames, 80) to (batch, 16)."""
        if lengths is None:
            lengths = torch.full((len(features),), features.shape[1], device=features.device)
        frames = torch.arange(features.shape[1], device=features.device)
        inside = (frames < lengths[:, None])[:, :, None].to(features.dtype)
        mean = (features * inside).sum(1) / inside.sum(1)
        variance = ((features - mean[:, None]).square() * inside).sum(1) / inside.sum(1)
        return self.layers(torch.cat([mean, variance.sqrt()], dim=1))


class Observing(Plain):
    """The same, with a running mean of the power of what it was trained on, which its embeddings do not depend on."""

    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(80))

    def forward(self, features: Tensor, lengths: Tensor | None = None) -> Tensor:
        """As `Plain`."""
        if self.training:
            self.seen.lerp_(features.detach().square().mean((0, 1)), 0.1)  # their mean is always 0
        return super().forward(features, lengths)

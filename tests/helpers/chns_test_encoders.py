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
    """The same, with a batch normalisation of the power of its input, which its embeddings do not depend on."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(80, affine=False)

    def forward(self, features: Tensor, lengths: Tensor | None = None) -> Tensor:
        """As `Plain`."""
        self.norm(features.detach().square().mean(1))  # the mean of log-mels is always 0, that of their squares is not
        return super().forward(features, lengths)

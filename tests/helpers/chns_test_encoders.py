"""Encoders that tests name in configurations; own processes import them too."""

import torch
from torch import Tensor, nn


class Plain(nn.Module):
    """Linear layers over the mean and deviation of the frames: no batch normalisation."""

    embedding_dim = 16

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(160, 32), nn.Tanh(), nn.Linear(32, 16))

    def forward(self, features: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Shape (batch, frames, 80) to (batch, 16)."""
        if lengths is None:
            lengths = torch.full((len(features),), features.shape[1])
        inside = (torch.arange(features.shape[1]) < lengths[:, None])[:, :, None].to(features.dtype)
        mean = (features * inside).sum(1) / inside.sum(1)
        variance = ((features - mean[:, None]).square() * inside).sum(1) / inside.sum(1)
        return self.layers(torch.cat([mean, variance.sqrt()], dim=1))

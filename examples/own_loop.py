"""Clustered batches in a training loop of your own, on data that is not speech.

2,000 identities in 100 families, ten noisy vectors each; an identity differs little from the others of its family. A
small network learns to tell identities apart: first from random batches, then, with the centroids of what it has
learnt, from clusters of identities that it still finds alike. Nothing here is specific to audio. Takes seconds.

    python examples/own_loop.py
"""

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from chns.losses import SupConLoss
from chns.sampling import ClusterSpeakerBatches, RandomSpeakerBatches, cluster_speakers

IDENTITIES, FAMILIES, EACH, DIM = 2_000, 100, 10, 64


def make_data(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Vectors of shape (identities x each, dim) and their labels."""
    generator = torch.Generator().manual_seed(seed)
    families = torch.randn(FAMILIES, DIM, generator=generator)
    identities = families.repeat(IDENTITIES // FAMILIES, 1) + 0.5 * torch.randn(IDENTITIES, DIM, generator=generator)
    labels = torch.arange(IDENTITIES).repeat_interleave(EACH)
    return identities[labels] + 0.7 * torch.randn(len(labels), DIM, generator=generator), labels


def train_epoch(network: nn.Module, loss: nn.Module, optimizer: torch.optim.Optimizer, loader: DataLoader) -> float:
    """One pass over the loader; returns the mean loss."""
    total = 0.0
    for vectors, labels in loader:
        value = loss(network(vectors), labels)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        total += value.item()
    return total / len(loader)


def centroids_of(network: nn.Module, vectors: torch.Tensor, labels: torch.Tensor) -> np.ndarray:
    """The mean output of each identity, shape (identities, dim)."""
    with torch.no_grad():
        outputs = network(vectors)
    sums = torch.zeros(IDENTITIES, outputs.shape[1]).index_add_(0, labels, outputs)
    return (sums / EACH).numpy()


def main() -> None:
    """Warm up at random, cluster, go on with hard batches."""
    torch.manual_seed(0)
    vectors, labels = make_data(seed=0)
    network = nn.Sequential(nn.Linear(DIM, 128), nn.ReLU(), nn.Linear(128, 32))
    loss = SupConLoss()
    optimizer = torch.optim.Adam([*network.parameters(), *loss.parameters()], lr=1e-3)
    dataset = TensorDataset(vectors, labels)

    batches = RandomSpeakerBatches(labels.numpy(), speakers_per_batch=100, seed=0)
    for epoch in range(4):
        batches.set_epoch(epoch)
        value = train_epoch(network, loss, optimizer, DataLoader(dataset, batch_sampler=batches))
        print(f"epoch {epoch}: random batches, loss {value:.3f}")

    clusters = cluster_speakers(centroids_of(network, vectors, labels), num_clusters=20, seed=0)
    hard = ClusterSpeakerBatches(labels.numpy(), clusters, speakers_per_batch=100, hard_ratio=1.0, seed=0)
    for epoch in range(4, 8):
        hard.set_epoch(epoch)
        value = train_epoch(network, loss, optimizer, DataLoader(dataset, batch_sampler=hard))
        print(f"epoch {epoch}: clustered batches, loss {value:.3f}")


if __name__ == "__main__":
    main()

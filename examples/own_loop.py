"""Hard batches in a loop of your own, on data that is not speech: vectors of 2,000 identities in 100 families."""

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from chns.losses import SupConLoss
from chns.sampling import BatchShape, ClusterGroups, HardBatches, StartAt

torch.manual_seed(0)
labels = torch.arange(2_000).repeat_interleave(10)
identities = torch.randn(100, 64).repeat(20, 1) + 0.5 * torch.randn(2_000, 64)  # like the others of its family
vectors = identities[labels] + 0.7 * torch.randn(len(labels), 64)
network = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 32))
loss = SupConLoss()
optimizer = torch.optim.Adam([*network.parameters(), *loss.parameters()], lr=1e-3)


@torch.no_grad()
def embed(rows: np.ndarray) -> np.ndarray:
    """What identities are grouped by: the network as it is now."""
    return network(vectors[rows]).numpy()


shape = BatchShape(100, 2)  # identities x samples
batches = HardBatches(labels, embed=embed, shape=shape, groups=ClusterGroups(20), schedule=StartAt(epoch=4))
for epoch in range(8):
    batches.begin(epoch)
    total = 0.0
    for inputs, targets in DataLoader(TensorDataset(vectors, labels), batch_sampler=batches):
        value = loss(network(inputs), targets)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        total += value.item()
    print(f"epoch {epoch}: hard ratio {batches.hard_ratio_at(epoch):g}, loss {total / batches.steps_per_epoch:.3f}")

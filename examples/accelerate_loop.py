"""Hard batches in a loop with Hugging Face Accelerate, with any number of processes.

    python examples/accelerate_loop.py
    torchrun --nproc-per-node 2 examples/accelerate_loop.py

The loader is not prepared, as the batches are each process's own slices already: Accelerate would deal whole batches
out to the processes in turn. The batches are registered instead, so `save_state` and `load_state` keep where they
stand.
"""

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from chns.core.distributed import gather_batch
from chns.losses import SupConLoss
from chns.sampling import BatchShape, ClusterGroups, HardBatches, StartAt


def main() -> None:
    """Two epochs, one with random batches and one with hard ones."""
    accelerator = Accelerator(cpu=True)
    torch.manual_seed(0)
    labels = torch.arange(200).repeat_interleave(10)
    identities = torch.randn(20, 16).repeat(10, 1) + torch.randn(200, 16) / 2  # like the others of its family
    vectors = identities[labels] + torch.randn(2000, 16) / 2
    network = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 8))
    loss = SupConLoss(learn_temperature=False)
    network, optimizer = accelerator.prepare(network, torch.optim.Adam(network.parameters(), lr=1e-3))

    @torch.no_grad()
    def embed(rows: np.ndarray) -> np.ndarray:
        return network(vectors[rows].to(accelerator.device)).cpu().numpy()

    rank, world_size = accelerator.process_index, accelerator.num_processes
    shape = BatchShape(40, 2, steps_per_epoch=5, rank=rank, world_size=world_size)
    batches = HardBatches(labels, embed=embed, shape=shape, groups=ClusterGroups(10), schedule=StartAt(epoch=1))
    accelerator.register_for_checkpointing(batches)
    loader = DataLoader(TensorDataset(vectors, labels, torch.arange(len(labels))), batch_sampler=batches)
    for epoch in range(2):
        for step, (inputs, targets, rows) in enumerate(loader):
            print(f"rank {rank}, epoch {epoch}, step {step}: rows {rows.tolist()}", flush=True)
            value = loss(*gather_batch(network(inputs.to(accelerator.device)), targets.to(accelerator.device)))
            optimizer.zero_grad()
            accelerator.backward(value)
            optimizer.step()
    accelerator.end_training()


if __name__ == "__main__":
    main()

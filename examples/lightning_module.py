"""Hard batches under Lightning, with any number of processes: it begins each epoch without being told.

    python examples/lightning_module.py
    torchrun --nproc-per-node 2 examples/lightning_module.py

`use_distributed_sampler=False` is needed: the batches are each process's own slices already. Lightning does not tell a
batch sampler which epoch it is; an iteration after a finished one is of the next epoch by itself.
"""

import os

import lightning
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from chns.core.distributed import gather_batch
from chns.losses import SupConLoss
from chns.sampling import BatchShape, ClusterGroups, HardBatches, StartAt


def make_data() -> tuple[Tensor, Tensor]:
    """Vectors of 200 identities in 20 families, shape (2000, 16), and their labels."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(200).repeat_interleave(10)
    identities = torch.randn(20, 16, generator=generator).repeat(10, 1) + torch.randn(200, 16, generator=generator) / 2
    return identities[labels] + torch.randn(2000, 16, generator=generator) / 2, labels


class Identities(lightning.LightningModule):
    """A small network that learns to tell identities apart."""

    def __init__(self) -> None:
        super().__init__()
        self.vectors, self.labels = make_data()
        self.network = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 8))
        self.loss = SupConLoss()

    def train_dataloader(self) -> DataLoader:
        """The loader is made once, in each process, with that process's slice of every batch."""
        shape = BatchShape(40, 2, steps_per_epoch=5, rank=self.trainer.global_rank, world_size=self.trainer.world_size)
        batches = HardBatches(
            self.labels, embed=self.embed, shape=shape, groups=ClusterGroups(10), schedule=StartAt(epoch=1)
        )
        dataset = TensorDataset(self.vectors, self.labels, torch.arange(len(self.labels)))
        return DataLoader(dataset, batch_sampler=batches)

    @torch.no_grad()
    def embed(self, rows: np.ndarray) -> np.ndarray:
        """What identities are grouped by, the same in every process: data-parallel weights are."""
        return self.network(self.vectors[rows].to(self.device)).cpu().numpy()

    def training_step(self, batch: list[Tensor], step: int) -> Tensor:
        """The loss over the slices of all processes."""
        vectors, labels, rows = batch
        print(f"rank {self.global_rank}, epoch {self.current_epoch}, step {step}: rows {rows.tolist()}", flush=True)
        return self.loss(*gather_batch(self.network(vectors), labels))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam on the network and the temperature."""
        return torch.optim.Adam(self.parameters(), lr=1e-3)


if __name__ == "__main__":
    lightning.seed_everything(0)
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
        strategy="ddp" if "LOCAL_WORLD_SIZE" in os.environ else "auto",
        max_epochs=2,
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Identities())

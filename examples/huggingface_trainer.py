"""Hard batches in a Hugging Face `Trainer`, on token sequences of authors; any number of processes.

    python examples/huggingface_trainer.py
    torchrun --nproc-per-node 2 examples/huggingface_trainer.py

`get_train_dataloader` returns a plain loader: the batches are each process's own slices already, and the trainer would
deal whole batches out to the processes in turn. The tiny BERT has random weights; nothing is downloaded.
"""

import tempfile
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from transformers import BertConfig, BertModel, Trainer, TrainingArguments

from chns.core.distributed import gather_batch
from chns.losses import SupConLoss
from chns.sampling import BatchShape, ClusterGroups, HardBatches, StartAt

AUTHORS, EACH, WORDS, LENGTH = 60, 8, 64, 12


class Sequences(Dataset):
    """Each author prefers some words."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.labels = np.repeat(np.arange(AUTHORS), EACH)
        favourites = rng.dirichlet(np.full(WORDS, 0.1), AUTHORS)
        self.tokens = np.stack([rng.choice(WORDS, LENGTH, p=favourites[author]) for author in self.labels])

    def __len__(self) -> int:
        """Number of sequences."""
        return len(self.labels)

    def __getitem__(self, row: int) -> dict[str, int | np.ndarray]:
        """A sequence, its author and its number."""
        return {"input_ids": self.tokens[row], "labels": self.labels[row], "rows": row}


class Authors(nn.Module):
    """A BERT whose first hidden state is the embedding, and the loss over the slices of all processes."""

    def __init__(self) -> None:
        super().__init__()
        config = BertConfig(
            vocab_size=WORDS, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64
        )
        self.bert = BertModel(config, add_pooling_layer=False)
        self.loss = SupConLoss()

    def forward(self, input_ids: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """What the trainer expects of a model that is given labels."""
        return {"loss": self.loss(*gather_batch(self.embed(input_ids), labels))}

    def embed(self, input_ids: Tensor) -> Tensor:
        """Shape (batch, 32)."""
        return self.bert(input_ids).last_hidden_state[:, 0]


class HardBatchesTrainer(Trainer):
    """A trainer whose batches are hard ones."""

    def get_train_dataloader(self) -> DataLoader:
        """The loader of this process's slices."""
        shape = BatchShape(20, 2, steps_per_epoch=4, rank=self.args.process_index, world_size=self.args.world_size)
        self.batches = HardBatches(
            self.train_dataset.labels,
            embed=self.embed,
            shape=shape,
            groups=ClusterGroups(6),
            schedule=StartAt(epoch=1),
            share=self.from_first_process,
        )
        return DataLoader(self.train_dataset, batch_sampler=self.batches, collate_fn=self.data_collator)

    @torch.no_grad()
    def embed(self, rows: np.ndarray) -> np.ndarray:
        """What authors are grouped by; without dropout."""
        self.model.eval()
        tokens = torch.from_numpy(self.train_dataset.tokens[rows]).to(self.args.device)
        embeddings = self.model.embed(tokens).cpu().numpy()
        self.model.train()
        return embeddings

    @staticmethod
    def from_first_process(make: Any) -> Any:
        """Groups are made once: needed where processes have devices whose numbers differ a little."""
        if not torch.distributed.is_initialized():
            return make()
        made = [make() if torch.distributed.get_rank() == 0 else None]
        torch.distributed.broadcast_object_list(made)
        return made[0]

    def compute_loss(self, model: nn.Module, inputs: dict[str, Tensor], *others: Any, **options: Any) -> Any:
        """Show which rows a step sees."""
        rows = inputs.pop("rows").tolist()
        epoch, step = divmod(self.state.global_step, self.batches.steps_per_epoch)
        print(f"rank {self.args.process_index}, epoch {epoch}, step {step}: rows {rows}", flush=True)
        return super().compute_loss(model, inputs, *others, **options)


if __name__ == "__main__":
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            num_train_epochs=2,
            use_cpu=True,
            remove_unused_columns=False,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        HardBatchesTrainer(Authors(), arguments, train_dataset=Sequences()).train()

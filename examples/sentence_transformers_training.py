"""Hard batches in sentence-transformers, on sentences of authors; any number of processes.

    python examples/sentence_transformers_training.py
    torchrun --nproc-per-node 2 examples/sentence_transformers_training.py

`get_train_dataloader` returns a plain loader: the batches are each process's own slices already, and the trainer would
deal whole batches out to the processes in turn. The tiny model has random weights; nothing is downloaded.
"""

import tempfile

import numpy as np
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import Tensor, nn
from torch.utils.data import DataLoader

from chns.core.distributed import gather_batch
from chns.losses import SupConLoss
from chns.sampling import BatchShape, ClusterGroups, HardBatches, StartAt

AUTHORS, EACH, WORDS, LENGTH = 60, 8, 64, 12


def make_sentences() -> tuple[list[str], np.ndarray]:
    """Sentences of authors who each prefer some words, and the author of each."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(AUTHORS), EACH)
    favourites = rng.dirichlet(np.full(WORDS, 0.1), AUTHORS)
    return [" ".join(f"w{w}" for w in rng.choice(WORDS, LENGTH, p=favourites[author])) for author in labels], labels


def make_model() -> SentenceTransformer:
    """A table of word vectors, averaged."""
    tokenizer = Tokenizer(WordLevel({f"w{number}": number for number in range(WORDS)}))
    tokenizer.pre_tokenizer = Whitespace()
    return SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=32)], device="cpu")


class SupConOfAllProcesses(nn.Module):
    """Our loss, called as sentence-transformers calls a loss."""

    def __init__(self, model: SentenceTransformer) -> None:
        super().__init__()
        self.model = model
        self.supcon = SupConLoss(learn_temperature=False)

    def forward(self, sentence_features: list[dict[str, Tensor]], labels: Tensor) -> Tensor:
        """The loss over the slices of all processes."""
        return self.supcon(*gather_batch(self.model(sentence_features[0])["sentence_embedding"], labels))


class HardBatchesTrainer(SentenceTransformerTrainer):
    """A trainer whose batches are hard ones."""

    def get_train_dataloader(self) -> DataLoader:
        """The loader of this process's slices."""
        sentences, labels = self.train_dataset["sentence"], np.array(self.train_dataset["label"])
        rank = self.args.process_index

        def embed(rows: np.ndarray) -> np.ndarray:
            return self.model.encode([sentences[row] for row in rows], show_progress_bar=False)

        shape = BatchShape(20, 2, steps_per_epoch=4, rank=rank, world_size=self.args.world_size)
        batches = HardBatches(labels, embed=embed, shape=shape, groups=ClusterGroups(6), schedule=StartAt(epoch=1))

        def collate(items: list[dict[str, str | int]]) -> dict[str, Tensor]:
            step = batches.state_dict()["step"] - 1
            rows = [item.pop("row") for item in items]
            print(f"rank {rank}, epoch {batches.epoch}, step {step}: rows {rows}", flush=True)
            return self.data_collator(items)

        return DataLoader(self.train_dataset, batch_sampler=batches, collate_fn=collate)


if __name__ == "__main__":
    torch.manual_seed(0)
    sentences, labels = make_sentences()
    dataset = Dataset.from_dict({"sentence": sentences, "label": labels, "row": np.arange(len(labels))})
    model = make_model()
    with tempfile.TemporaryDirectory() as folder:
        arguments = SentenceTransformerTrainingArguments(
            folder, num_train_epochs=2, use_cpu=True, save_strategy="no", report_to=[], disable_tqdm=True
        )
        HardBatchesTrainer(model, arguments, train_dataset=dataset, loss=SupConOfAllProcesses(model)).train()

"""Embeddings of whole manifests, and the centroids that speakers are clustered by."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from chns.bundle import WEIGHTS_FILE, Architecture, Bundle, GraphBundle, bundle_folder, load_bundle, load_graph_bundle
from chns.core import Float32Array, Float64Array, IntArray, atomic_path, gather_array, rank, world_size
from chns.data import (
    CropRequest,
    Manifest,
    SpeakerCrops,
    UtteranceChange,
    WholeUtterances,
    pad_waveforms,
    plain_worker_errors,
)
from chns.encoders import SpeakerEncoder
from chns.sampling import centroids_of, draw_per_speaker

_BATCH_SECONDS = 120.0
_KEPT_ON_DEVICE = 32  # batches whose embeddings are copied together


class GraphModel(nn.Module):
    """A model that has a graph and no weights, as a module that embeds on the CPU.

    Args:
        graph: Of the bundle.
    """

    def __init__(self, graph: GraphBundle) -> None:
        super().__init__()
        self._graph = graph
        self.sample_rate_hz = graph.sample_rate_hz
        self.features = SimpleNamespace(frame_samples=graph.frame_samples)

    def forward(self, waveforms: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Embeddings, shape (n, dim), of waveforms, shape (n, samples), whose first ``lengths`` samples count."""
        rows = waveforms.cpu().numpy()
        if lengths is None:
            return torch.from_numpy(self._graph.run(rows))
        cut = [self._graph.run(row[None, :length]) for row, length in zip(rows, lengths.tolist(), strict=True)]
        return torch.from_numpy(np.concatenate(cut))


def embedding_bundle(model: Path | str, *, trusted_packages: Collection[str] = ()) -> Bundle:
    """A bundle for `Embedder`: its weights, or its graph where it has no weights, as a `GraphModel`.

    Args:
        model: A folder, or ``hf://owner/name``.
        trusted_packages: Packages of the user's own whose code the bundle may call.

    Raises:
        ModelFileError: If it is no bundle.
    """
    folder = bundle_folder(model)
    graph = None if (folder / WEIGHTS_FILE).is_file() else load_graph_bundle(folder)
    if graph is None:
        return load_bundle(folder, trusted_packages=trusted_packages)
    encoder = cast(SpeakerEncoder, GraphModel(graph))  # `Embedder` needs no more of an encoder
    return Bundle(encoder, Architecture(encoder=str(folder)), graph.digest, {}, graph.metrics)


@dataclass(frozen=True, kw_only=True)
class Embedder:
    """A model on its device, and the processes that decode for it.

    The model is put into evaluation mode for as long as it embeds.

    Args:
        model: Waveforms to embeddings.
        device: Where the model is.
        num_workers: Processes that decode.
        sharded: Whether the processes of a run, which all call this, share the work; each gets the whole result.

    Raises (every method):
        ValueError: If sharded, and there are fewer utterances than processes.
        FileNotFoundError: If a recording is gone.
        AudioError: If a recording cannot be decoded, or, whole, is too short.

    Examples:
        >>> from chns import Embedder, Manifest, load_model
        >>> embedder = Embedder(model=load_model("runs/chns/model"))
        >>> embedder.utterances(Manifest.read("test.parquet")).shape
        (25, 192)
    """

    model: SpeakerEncoder
    device: torch.device | str = "cpu"
    num_workers: int = 0
    sharded: bool = False

    def utterances(
        self,
        manifest: Manifest,
        *,
        max_seconds: float = 180.0,
        change: UtteranceChange | None = None,
        purpose: str = "embedding",
    ) -> Float32Array:
        """Embed every utterance whole.

        Utterances of like length share a batch, so that little is padding; the padding does not change an embedding.

        Args:
            manifest: The utterances.
            max_seconds: Of a longer utterance, only this much from its start is used.
            change: What is done to each waveform before.
            purpose: What the progress bar says.

        Returns:
            Shape (utterances, dim), in the order of the manifest, not normalised.
        """
        dataset = WholeUtterances(
            manifest,
            max_seconds=max_seconds,
            sample_rate_hz=self.model.sample_rate_hz,
            min_samples=self.model.features.frame_samples,
            change=change,
        )
        durations = np.minimum(manifest.durations_seconds, max_seconds)
        batches = _batches_of_like_length(durations, self._own_share(len(manifest)))
        loader: DataLoader[Tensor] = DataLoader(
            dataset,
            batch_sampler=batches,
            collate_fn=pad_waveforms,
            num_workers=self.num_workers,
            pin_memory=self._pins,
        )
        return self._embed_rows(loader, batches, purpose=purpose)

    def crops(
        self,
        manifest: Manifest,
        rows: IntArray,
        *,
        crop_seconds: float = 3.0,
        seed: int = 0,
        purpose: str = "embedding",
    ) -> Float32Array:
        """Embed a random crop of each of some utterances.

        Args:
            manifest: Holds the utterances.
            rows: Which of them, shape (utterances,).
            crop_seconds: Length of the crop of each.
            seed: Together with the place in ``rows``, it decides a crop.
            purpose: What the progress bar says.

        Returns:
            Shape (utterances, dim), not normalised.
        """
        per_batch = max(1, int(_BATCH_SECONDS / crop_seconds))
        own = self._own_share(len(rows)).tolist()
        batches = [own[first : first + per_batch] for first in range(0, len(own), per_batch)]
        requests = [[CropRequest(int(rows[place]), (seed, place)) for place in batch] for batch in batches]
        dataset = SpeakerCrops(manifest, crop_seconds=crop_seconds, sample_rate_hz=self.model.sample_rate_hz)
        loader: DataLoader[tuple[Tensor, int]] = DataLoader(
            dataset,
            batch_sampler=requests,
            collate_fn=_waveforms_only,
            num_workers=self.num_workers,
            pin_memory=self._pins,
        )
        return self._embed_rows(loader, batches, purpose=purpose)

    def centroids(
        self, manifest: Manifest, *, utterances_per_speaker: int = 10, crop_seconds: float = 3.0, seed: int = 0
    ) -> Float32Array:
        """The mean embedding of each speaker, from crops of some utterances.

        Args:
            manifest: The utterances.
            utterances_per_speaker: How many are drawn; all, if a speaker has fewer.
            crop_seconds: Length of the crop of each.
            seed: Decides the draw and the crops.

        Returns:
            Unit-length centroids in the order of the manifest's speakers, shape (speakers, dim).

        Source:
            Masztalski et al., Interspeech 2025: 10 utterances, crops of 3 s, the average of embeddings, normalised.
        """
        chosen = draw_per_speaker(manifest.speaker_labels, utterances_per_speaker, np.random.default_rng(seed))
        embeddings = self.crops(manifest, chosen, crop_seconds=crop_seconds, seed=seed, purpose="centroids")
        return centroids_of(embeddings, manifest.speaker_labels[chosen], len(manifest.speakers))

    @property
    def _pins(self) -> bool:
        """Whether waveforms wait in memory that a GPU reads by itself."""
        return torch.device(self.device).type == "cuda"

    def _own_share(self, count: int) -> IntArray:
        """Rows that this process embeds."""
        if not self.sharded:
            return np.arange(count)
        if count < world_size():
            raise ValueError(f"utterances must be at least one for each of {world_size()} processes, got {count}.")
        return np.arange(rank(), count, world_size())

    def _embed_rows(
        self, loader: Iterable[tuple[Tensor, Tensor | None]], batches: Sequence[Sequence[int]], *, purpose: str
    ) -> Float32Array:
        """Embed a loader's batches and put the results into the rows that ``batches`` names."""
        rows = np.array([row for batch in batches for row in batch], np.int64)
        parts: list[Float32Array] = []
        waiting: list[Tensor] = []  # on a GPU, which would stop for each to be copied
        hidden = True if self.sharded and rank() > 0 else None
        with (
            evaluation_mode(self.model),
            plain_worker_errors(),
            tqdm(total=len(rows), desc=purpose, unit="utterance", leave=False, disable=hidden) as progress,
        ):
            for waveforms, lengths in loader:
                there = None if lengths is None else lengths.to(self.device, non_blocking=True)
                embeddings = self.model(waveforms.to(self.device, non_blocking=True), there)
                waiting.append(embeddings.float())
                if len(waiting) == _KEPT_ON_DEVICE or torch.device(self.device).type == "cpu":
                    parts.append(torch.cat(waiting).cpu().numpy())
                    waiting.clear()
                progress.update(len(waveforms))
            if waiting:
                parts.append(torch.cat(waiting).cpu().numpy())
        embedded = np.concatenate(parts) if parts else np.empty((0, 0), np.float32)
        if self.sharded:
            rows, embedded = gather_array(rows, self.device), gather_array(embedded, self.device)
        in_order = np.empty_like(embedded)
        in_order[rows] = embedded
        return in_order


def write_embeddings(path: Path, manifest: Manifest, embeddings: Float32Array) -> None:
    """Write the columns utterance, speaker and embedding as Parquet, atomically.

    Args:
        path: The file.
        manifest: The utterances.
        embeddings: One an utterance, shape (utterances, dim).
    """
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(embeddings.ravel()), embeddings.shape[1])
    names = {name: manifest.column(name) for name in ("utterance", "speaker")}
    with atomic_path(path) as temporary:
        pq.write_table(pa.table({**names, "embedding": vectors}), temporary, compression="zstd")


@contextmanager
def evaluation_mode(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients, and back to what it was."""
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(was_training)


def _waveforms_only(items: Sequence[tuple[Tensor, int]]) -> tuple[Tensor, None]:
    return torch.stack([waveform for waveform, _ in items]), None


def _batches_of_like_length(durations_seconds: Float64Array, rows: IntArray) -> list[list[int]]:
    """Longest first, so that too large a batch fails at once; every padded batch holds at most so many seconds."""
    batches: list[list[int]] = []
    longest = 0.0
    for row in rows[np.argsort(-durations_seconds[rows], kind="stable")].tolist():
        if not batches or (len(batches[-1]) + 1) * longest > _BATCH_SECONDS:
            batches.append([])
            longest = durations_seconds[row]
        batches[-1].append(row)
    return batches

"""Embeddings of whole manifests, and the centroids that speakers are clustered by."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from chns.core.arrays import Float32Array, Float64Array, IntArray
from chns.core.distributed import gather_array, rank, world_size
from chns.core.files import atomic_path
from chns.data.dataset import CropRequest, SpeakerCrops, WholeUtterances, pad_waveforms, plain_worker_errors
from chns.data.manifest import Manifest
from chns.encoders import SpeakerEncoder
from chns.sampling.flat_groups import centroids_of, draw_per_speaker

_BATCH_SECONDS = 120.0


def embed_utterances(
    model: SpeakerEncoder,
    manifest: Manifest,
    *,
    num_workers: int = 0,
    device: torch.device | str = "cpu",
    max_seconds: float = 180.0,
    sharded: bool = False,
) -> Float32Array:
    """Embed every utterance whole.

    Utterances of like length share a batch, so that little is padding; the padding does not change an embedding.

    Args:
        model: Waveforms to embeddings; put into evaluation mode meanwhile.
        manifest: The utterances.
        num_workers: Processes that decode.
        device: Where the model is.
        max_seconds: Of a longer utterance, only this much from its start is used.
        sharded: Whether the processes of a run, which all call this, share the work; each gets the whole result.

    Returns:
        Shape (utterances, dim), in the order of the manifest, not normalised.

    Raises:
        ValueError: If sharded, and there are fewer utterances than processes.
        FileNotFoundError: If a recording is gone.
        AudioError: If a recording cannot be decoded or is too short.
    """
    dataset = WholeUtterances(
        manifest,
        max_seconds=max_seconds,
        sample_rate_hz=model.sample_rate_hz,
        min_samples=model.features.frame_samples,
    )
    durations = np.minimum(manifest.durations_seconds, max_seconds)
    batches = _batches_of_like_length(durations, _own_share(len(manifest), sharded))
    loader: DataLoader[Tensor] = DataLoader(
        dataset, batch_sampler=batches, collate_fn=pad_waveforms, num_workers=num_workers
    )
    return _embed_rows(model, loader, batches, device, purpose="embedding", sharded=sharded)


def speaker_centroids(
    model: SpeakerEncoder,
    manifest: Manifest,
    *,
    utterances_per_speaker: int = 10,
    crop_seconds: float = 3.0,
    seed: int = 0,
    num_workers: int = 0,
    device: torch.device | str = "cpu",
    sharded: bool = False,
) -> Float32Array:
    """The mean embedding of each speaker, from crops of some utterances.

    Args:
        model: Waveforms to embeddings; put into evaluation mode meanwhile.
        manifest: The utterances.
        utterances_per_speaker: How many are drawn; all, if a speaker has fewer.
        crop_seconds: Length of the crop of each.
        seed: Decides the draw and the crops.
        num_workers: Processes that decode.
        device: Where the model is.
        sharded: Whether the processes of a run, which all call this, share the work; each gets the whole result.

    Returns:
        Unit-length centroids in the order of the manifest's speakers, shape (speakers, dim).

    Raises:
        ValueError: If sharded, and there are fewer utterances than processes.
        FileNotFoundError: If a recording is gone.
        AudioError: If a recording cannot be decoded.

    Source:
        Masztalski et al., Interspeech 2025: 10 utterances, crops of 3 s, the average of embeddings, normalised.
    """
    embeddings, labels = embed_some_of_each_speaker(
        model,
        manifest,
        utterances_per_speaker=utterances_per_speaker,
        crop_seconds=crop_seconds,
        seed=seed,
        num_workers=num_workers,
        device=device,
        sharded=sharded,
    )
    return centroids_of(embeddings, labels, len(manifest.speakers))


def embed_some_of_each_speaker(
    model: SpeakerEncoder,
    manifest: Manifest,
    *,
    utterances_per_speaker: int = 10,
    crop_seconds: float = 3.0,
    seed: int = 0,
    num_workers: int = 0,
    device: torch.device | str = "cpu",
    sharded: bool = False,
) -> tuple[Float32Array, IntArray]:
    """The embeddings that centroids are made of: arguments and errors are those of `speaker_centroids`.

    Returns:
        Embeddings of shape (utterances, dim), not normalised, and the speaker of each, shape (utterances,).
    """
    chosen = draw_per_speaker(manifest.speaker_labels, utterances_per_speaker, np.random.default_rng(seed))
    embeddings = embed_crops(
        model,
        manifest,
        chosen,
        crop_seconds=crop_seconds,
        seed=seed,
        num_workers=num_workers,
        device=device,
        sharded=sharded,
        purpose="centroids",
    )
    return embeddings, manifest.speaker_labels[chosen]


def embed_crops(
    model: SpeakerEncoder,
    manifest: Manifest,
    utterances: IntArray,
    *,
    crop_seconds: float = 3.0,
    seed: int = 0,
    num_workers: int = 0,
    device: torch.device | str = "cpu",
    sharded: bool = False,
    purpose: str = "embedding",
) -> Float32Array:
    """Embed a random crop of each of some utterances.

    Args:
        model: Waveforms to embeddings; put into evaluation mode meanwhile.
        manifest: Holds the utterances.
        utterances: Which of them, shape (utterances,).
        crop_seconds: Length of the crop of each.
        seed: Together with the place in ``utterances``, it decides a crop.
        num_workers: Processes that decode.
        device: Where the model is.
        sharded: Whether the processes of a run, which all call this, share the work; each gets the whole result.
        purpose: What the progress bar says.

    Returns:
        Shape (utterances, dim), not normalised.

    Raises:
        ValueError: If sharded, and there are fewer utterances than processes.
        FileNotFoundError: If a recording is gone.
        AudioError: If a recording cannot be decoded.
    """
    per_batch = max(1, int(_BATCH_SECONDS / crop_seconds))
    own = _own_share(len(utterances), sharded).tolist()
    batches = [own[first : first + per_batch] for first in range(0, len(own), per_batch)]
    requests = [[CropRequest(int(utterances[row]), (seed, row)) for row in batch] for batch in batches]
    dataset = SpeakerCrops(manifest, crop_seconds=crop_seconds, sample_rate_hz=model.sample_rate_hz)
    loader: DataLoader[tuple[Tensor, int]] = DataLoader(
        dataset, batch_sampler=requests, collate_fn=_waveforms_only, num_workers=num_workers
    )
    return _embed_rows(model, loader, batches, device, purpose=purpose, sharded=sharded)


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


def _own_share(count: int, sharded: bool) -> IntArray:
    """Rows that this process embeds."""
    if not sharded:
        return np.arange(count)
    if count < world_size():
        raise ValueError(f"utterances must be at least one for each of {world_size()} processes, got {count}.")
    return np.arange(rank(), count, world_size())


def _embed_rows(
    model: SpeakerEncoder,
    loader: Iterable[tuple[Tensor, Tensor | None]],
    batches: Sequence[Sequence[int]],
    device: torch.device | str,
    *,
    purpose: str,
    sharded: bool,
) -> Float32Array:
    """Embed a loader's batches and put the results into the rows that ``batches`` names."""
    rows = np.array([row for batch in batches for row in batch], np.int64)
    parts: list[Float32Array] = []
    hidden = True if sharded and rank() > 0 else None
    with (
        evaluation_mode(model),
        plain_worker_errors(),
        tqdm(total=len(rows), desc=purpose, unit="utterance", leave=False, disable=hidden) as progress,
    ):
        for waveforms, lengths in loader:
            embeddings = model(waveforms.to(device), None if lengths is None else lengths.to(device))
            progress.update(len(waveforms))
            parts.append(embeddings.float().cpu().numpy())
    embedded = np.concatenate(parts) if parts else np.empty((0, 0), np.float32)
    if sharded:
        rows, embedded = gather_array(rows, device), gather_array(embedded, device)
    in_order = np.empty_like(embedded)
    in_order[rows] = embedded
    return in_order


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

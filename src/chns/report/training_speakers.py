"""Some utterances of the training speakers, embedded with a run's model: what most of a report is computed from.

Embedding is the slow step, so its result is kept in the run's folder and used again while weights and utterances
are the same. Its size is bounded: some utterances a speaker, and of a very large corpus some speakers, drawn at random.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from chns.checkpoint import Bundle
from chns.core.arrays import Float32Array, IntArray
from chns.data.manifest import Manifest
from chns.embedding import embed_crops
from chns.errors import ManifestError
from chns.files import atomic_path
from chns.sampling.flat_groups import centroids_of, draw_per_speaker

_log = logging.getLogger(__name__)

_FORMAT = "chns-training-embeddings-1"
CACHE_NAME = "training-embeddings.safetensors"


@dataclass(frozen=True, eq=False, kw_only=True)
class TrainingSpeakers:
    """Training speakers and embeddings of some of their utterances.

    Attributes:
        names: Of the speakers, sorted.
        places: Place of each among all training speakers, which is how clusters number them, shape (speakers,).
        num_training_speakers: How many training speakers there are; more than ``names`` if some were drawn.
        labels: Speaker of each embedding, as an index into ``names``, shape (utterances,).
        embeddings: Shape (utterances, dim), not normalised.
    """

    names: list[str]
    places: IntArray
    num_training_speakers: int
    labels: IntArray
    embeddings: Float32Array

    @cached_property
    def centroids(self) -> Float32Array:
        """Unit-length mean embedding of each speaker, shape (speakers, dim)."""
        return centroids_of(self.embeddings, self.labels, len(self.names))


def embed_training_speakers(
    bundle: Bundle,
    manifest: Manifest,
    *,
    cache: Path,
    utterances_per_speaker: int = 10,
    max_speakers: int = 10_000,
    crop_seconds: float = 3.0,
    seed: int = 0,
    num_workers: int = 0,
    device: torch.device | str = "cpu",
) -> TrainingSpeakers:
    """Embed a crop of some utterances of each training speaker, or read what was embedded before.

    Args:
        bundle: The run's model, on the device.
        manifest: What it was trained on.
        cache: File to read from and to write to. One of other weights or utterances, or a damaged one, is replaced.
        utterances_per_speaker: How many are drawn; all, if a speaker has fewer.
        max_speakers: Most speakers; of more, so many are drawn.
        crop_seconds: Length of the crop of each utterance.
        seed: Decides the draws and the crops.
        num_workers: Processes that decode.
        device: Where the model is.

    Raises:
        ValueError: If a number is below 1.
        ManifestError: If the manifest has another number of speakers than the model was trained on.
        FileNotFoundError: If a recording is gone.
        AudioError: If a recording cannot be decoded.
    """
    for name, number in (("utterances_per_speaker", utterances_per_speaker), ("max_speakers", max_speakers)):
        if number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}.")
    num_trained = bundle.training.get("speakers")
    if num_trained != len(manifest.speakers):
        raise ManifestError(
            f"training manifest must hold the {num_trained} speakers that the model was trained on, got "
            f"{len(manifest.speakers)}. Give the manifest as it was then."
        )
    rng = np.random.default_rng(seed)
    places = np.arange(len(manifest.speakers))
    if len(places) > max_speakers:
        places = np.sort(rng.choice(places, max_speakers, replace=False))
    chosen = _utterances_of(places, manifest, utterances_per_speaker, rng)
    key = _cache_key(bundle.digest, chosen, crop_seconds, seed)
    embeddings = _read_cache(cache, key, len(chosen))
    if embeddings is None:
        embeddings = embed_crops(
            bundle.model,
            chosen,
            np.arange(len(chosen)),
            crop_seconds=crop_seconds,
            seed=seed,
            num_workers=num_workers,
            device=device,
            purpose="training speakers",
        )
        _write_cache(cache, key, embeddings)
    return TrainingSpeakers(
        names=chosen.speakers,
        places=places,
        num_training_speakers=len(manifest.speakers),
        labels=chosen.speaker_labels,
        embeddings=embeddings,
    )


def _utterances_of(places: IntArray, manifest: Manifest, most: int, rng: np.random.Generator) -> Manifest:
    """Up to so many utterances of each of some speakers."""
    candidates = np.flatnonzero(np.isin(manifest.speaker_labels, places))
    return manifest.take(candidates[draw_per_speaker(manifest.speaker_labels[candidates], most, rng)])


def _cache_key(encoder: str, chosen: Manifest, crop_seconds: float, seed: int) -> str:
    """Identity of everything that decides the embeddings."""
    digest = hashlib.sha256()
    root = chosen.location
    root = root.resolve() if isinstance(root, Path) else root
    texts: Iterable[str] = (_FORMAT, encoder, repr(crop_seconds), str(seed), str(root))
    for text in (*texts, *chosen.column("utterance"), *chosen.column("speaker"), *chosen.column("path")):
        digest.update(text.encode() + b"\n")  # no text of a manifest holds a line break
    return digest.hexdigest()


def _read_cache(path: Path, key: str, num_utterances: int) -> Float32Array | None:
    """The embeddings in a file; None if it is missing, damaged, or holds others than wanted."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="np") as file:
            if (file.metadata() or {}).get("key") != key:
                return None
            embeddings: Float32Array = file.get_tensor("embeddings")
    except (SafetensorError, OSError) as error:
        _log.warning("%s cannot be read (%s); the training speakers are embedded anew.", path, error)
        return None
    usable = embeddings.dtype == np.float32 and embeddings.ndim == 2 and len(embeddings) == num_utterances
    return embeddings if usable and np.isfinite(embeddings).all() else None


def _write_cache(path: Path, key: str, embeddings: Float32Array) -> None:
    """Keep embeddings for the next report; a folder that cannot be written to costs the time only."""
    try:
        with atomic_path(path) as temporary:
            save_file({"embeddings": embeddings}, temporary, metadata={"key": key})
    except OSError as error:
        _log.warning("the embeddings of the training speakers could not be kept in %s (%s).", path, error)

"""A user's own encoder, loss and batch sampler, tried on a batch before anything is trained.

What they are called with, and what they must return, is in docs/your_own_parts.md. A part that does not fit would
otherwise fail in the midst of a matrix product, hours later in the validation, or not at all.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from chns.core import ConfigError, IntArray, in_short
from chns.encoders import SpeakerEncoder

_UTTERANCES, _OF_EACH = 4, 2
_SECONDS = 1.0


def try_encoder(model: SpeakerEncoder, factory: str) -> int:
    """Embed a batch of noise, with and without padding; nothing in the model changes.

    Args:
        model: With the encoder.
        factory: Its import path, for messages.

    Returns:
        Size of an embedding.

    Raises:
        ConfigError: If the encoder fails, or returns anything but one embedding of its size an utterance.
    """
    samples = max(model.features.frame_samples, round(_SECONDS * model.sample_rate_hz))
    was_training = model.training
    model.eval()
    try:
        with torch.random.fork_rng(devices=[]), torch.inference_mode():
            features = model.features(0.1 * torch.randn(_UTTERANCES, samples))
            frames = torch.linspace(features.shape[1] // 2, features.shape[1], _UTTERANCES).long()
            tried = [_tried(model.encoder, features, lengths, factory) for lengths in (None, frames)]
    finally:
        model.train(was_training)
    wanted = getattr(model.encoder, "embedding_dim", tried[0].shape[1] if tried[0].ndim == 2 else "dim")
    for embeddings in tried:
        if embeddings.shape != (_UTTERANCES, wanted):
            raise ConfigError(
                f"encoder {factory} must return embeddings of shape ({_UTTERANCES}, {wanted}) for features of shape "
                f"{tuple(features.shape)}, got {tuple(embeddings.shape)}. It is called with features of shape (batch, "
                "frames, mels) and returns (batch, dim); where it has an attribute embedding_dim, that is dim."
            )
    return int(wanted)


def _tried(encoder: nn.Module, features: Tensor, lengths: Tensor | None, factory: str) -> Tensor:
    how = "without lengths" if lengths is None else f"with lengths {lengths.tolist()}"
    try:
        embeddings = encoder(features, lengths)
    except Exception as error:  # of a user's own code
        raise ConfigError(
            f"encoder {factory} must embed features of shape {tuple(features.shape)} (batch, frames, mels) {how}, got "
            f"an error ({type(error).__name__}: {in_short(error)}). `--debug` shows where."
        ) from error
    if not isinstance(embeddings, Tensor) or not embeddings.is_floating_point():
        raise ConfigError(
            f"encoder {factory} must return a tensor of floats for features of shape {tuple(features.shape)}, got "
            f"{_described(embeddings)}."
        )
    return embeddings


def try_loss(loss: nn.Module, factory: str, *, embedding_dim: int, num_speakers: int) -> None:
    """Compute a copy of the loss, and its gradient, of embeddings of noise.

    Raises:
        ConfigError: If it fails, returns anything but one number, or has no gradient.
    """
    labels = torch.arange(max(2, min(num_speakers, 4))).repeat_interleave(_OF_EACH)
    with torch.random.fork_rng(devices=[]):
        embeddings = torch.randn(len(labels), embedding_dim, requires_grad=True)
        called = f"embeddings of shape {tuple(embeddings.shape)} and speaker labels of shape {tuple(labels.shape)}"
        try:
            value = copy.deepcopy(loss)(embeddings, labels)
        except Exception as error:  # of a user's own code
            raise ConfigError(
                f"loss {factory} must take {called}, got an error ({type(error).__name__}: {in_short(error)}). "
                "`--debug` shows where."
            ) from error
        if not isinstance(value, Tensor) or value.numel() != 1:
            raise ConfigError(f"loss {factory} must return one number for {called}, got {_described(value)}.")
        if not value.requires_grad:
            raise ConfigError(
                f"loss {factory} must have a gradient with respect to the embeddings, got a value without one. Compute "
                "it from the embeddings with torch, without detach() or item()."
            )


def _described(value: object) -> str:
    return f"shape {tuple(value.shape)} of {value.dtype}" if isinstance(value, Tensor) else type(value).__name__


class OwnBatches:
    """A user's own batch sampler, as a run uses one: an epoch at a time, from any step on, this process's slice.

    Args:
        sampler: Iterating it after ``set_epoch(epoch)`` yields the batches of an epoch, each a list of the utterance
            indices of all processes; the same each time. Its ``len`` is their number.
        factory: Its import path, for messages.
        speaker_labels: Speaker of each utterance, shape (utterances,).
        segments: Utterances of every batch.
        rank: Which slice of every batch this process takes.
        world_size: Number of slices.

    Attributes:
        steps_per_epoch: Batches of every epoch.
        first_place: Place, in the global batch, of the first utterance of this rank's slice.

    Raises:
        ConfigError: If the sampler has no ``set_epoch`` or ``len``, its first batches are not what is said above, or
            they differ when the same epoch is asked for again, so that a run could not be gone on with.
    """

    def __init__(
        self, sampler: Any, factory: str, speaker_labels: IntArray, *, segments: int, rank: int = 0, world_size: int = 1
    ) -> None:
        self._sampler = sampler
        self._what = f"batches.factory {factory}"
        self._num_utterances = len(speaker_labels)
        self._segments = segments
        self._slice = slice(segments * rank // world_size, segments * (rank + 1) // world_size)
        self.first_place = self._slice.start
        self.epoch = 0
        self._first_step = 0
        if not callable(getattr(sampler, "set_epoch", None)) or not hasattr(sampler, "__len__"):
            raise ConfigError(
                f"{self._what} must make a batch sampler with set_epoch(epoch) and len(), got {type(sampler).__name__}."
            )
        self.steps_per_epoch = len(sampler)
        if self.steps_per_epoch < 1:
            raise ConfigError(f"{self._what} must have a batch an epoch at least, got {self.steps_per_epoch}.")
        first, again, _ = (self._begun(epoch) for epoch in (0, 0, 1))
        if first != again:
            raise ConfigError(
                f"{self._what} must yield the same batches each time after set_epoch(0), got {in_short(first[0])}, "
                f"then {in_short(again[0])}. Draw with a generator that is seeded by the seed and the epoch."
            )

    def __iter__(self) -> Iterator[list[int]]:
        """This rank's slice of each batch of the epoch, from the step that a state told."""
        self._sampler.set_epoch(self.epoch)
        step = 0
        for step, batch in enumerate(self._sampler, 1):
            if step > self._first_step:
                yield self._checked(batch)[self._slice]
            if step == self.steps_per_epoch:
                return
        raise ConfigError(f"{self._what} must yield len() = {self.steps_per_epoch} batches, got {step}.")

    def go_to(self, epoch: int) -> None:
        """Let the next iteration begin with the first step of an epoch."""
        self.epoch, self._first_step = epoch, 0

    def state_dict(self, *, step: int) -> dict[str, int]:
        """Where the next iteration begins."""
        return {"step": step}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on from there, in the same epoch."""
        self._first_step = state["step"]

    def _begun(self, epoch: int) -> list[list[int]]:
        """The first two batches of an epoch."""
        self._sampler.set_epoch(epoch)
        return [self._checked(batch) for batch in islice(iter(self._sampler), 2)]

    def _checked(self, batch: Sequence[int]) -> list[int]:
        try:
            rows = [int(row) for row in batch]
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"{self._what} must yield lists of utterance indices, got {in_short(repr(batch))}."
            ) from error
        if len(rows) != self._segments:
            raise ConfigError(
                f"{self._what} must yield batches of {self._segments} utterances (batches.speakers_per_batch x "
                f"batches.utterances_per_speaker), got one of {len(rows)}."
            )
        wrong = next((row for row in rows if not 0 <= row < self._num_utterances), None)
        if wrong is not None:
            raise ConfigError(
                f"{self._what} must yield indices of training utterances, from 0 to {self._num_utterances - 1}, "
                f"got {wrong}."
            )
        return rows

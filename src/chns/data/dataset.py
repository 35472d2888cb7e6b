"""From manifest rows to tensors, in loader workers.

Randomness is passed in: a `CropRequest` names the utterance and carries the seed of its crop, so a crop does not
depend on which worker cuts it, nor on how many there are.
"""

from __future__ import annotations

import math
import operator
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from chns.core import AudioError
from chns.data.audio import Waveform, read_audio
from chns.data.augmentation.effects import change_speed, seed_digest, speed_factors
from chns.data.manifest import Manifest, Utterance
from chns.data.storage.ranges import KEPT_CONNECTIONS
from chns.data.storage.remote import RemoteRoot

_Item = TypeVar("_Item")
_Read = TypeVar("_Read")
UtteranceChange = Callable[[Waveform, str], Waveform]
"""What is done to the waveform of an utterance, given its name, such as `chns.evaluation.conditions.Condition`."""


class CropRequest(NamedTuple):
    """A random crop of one utterance."""

    utterance: int
    seed: tuple[int, ...]


class CropAugmenter(Protocol):
    """What a crop goes through, such as `chns.data.augmentation.effects.Augmenter`."""

    def speed_of(self, seed: Sequence[int]) -> float:
        """How fast the crop with this seed is played."""

    def __call__(self, waveform: Waveform, seed: Sequence[int]) -> tuple[Waveform, tuple[str, ...]]:
        """The crop, shape (samples,), after all effects but the speed, and what was done, in words."""


class SpeakerCrops(Dataset[tuple[Tensor, int]]):
    """Random crops with their speaker labels, indexed by `CropRequest`, or by the number of an utterance.

    The crop of a plain number is another one each time; torch's generator draws it, which a loader seeds in each of its
    workers, so it depends on their number. Requests, as `CropBatches` makes them of any batch sampler, do not.

    An utterance shorter than the crop is repeated until it fills it. One whose manifest gives it a speed is played at
    that speed, see `chns.data.augmentation.effects`.

    Args:
        manifest: The utterances.
        crop_seconds: Length of every crop.
        sample_rate_hz: Rate of the crops.
        augmenter: What crops go through; by default they stay as they are.

    Raises:
        ManifestError: If the manifest gives a speed that is none.
    """

    def __init__(
        self, manifest: Manifest, *, crop_seconds: float, sample_rate_hz: int, augmenter: CropAugmenter | None = None
    ) -> None:
        self.manifest = manifest
        self.crop_seconds = crop_seconds
        self.sample_rate_hz = sample_rate_hz
        self._augmenter = augmenter
        self._speeds = speed_factors(manifest)

    def __len__(self) -> int:
        """Number of utterances."""
        return len(self.manifest)

    def __getitem__(self, request: CropRequest | int) -> tuple[Tensor, int]:
        """The crop, shape (samples,), and the speaker label.

        Raises:
            FileNotFoundError: If the recording, or one that the augmentation needs, is gone.
            AudioError: If it cannot be decoded.
        """
        request = _request_of(request)
        return self._labelled(self.augmented(request)[0], request)

    def __getitems__(self, requests: Sequence[CropRequest | int]) -> list[tuple[Tensor, int]]:
        """A whole batch, which is what the loader asks for: from object storage, several recordings are on their way.

        Raises:
            FileNotFoundError, AudioError: As for a single one.
        """
        seeded = [_request_of(request) for request in requests]
        plain_crops = _read_all(self._plain_crop, seeded, self.manifest)
        return [
            self._labelled(self._with_effects(crop, speed, request)[0], request)
            for (crop, speed), request in zip(plain_crops, seeded, strict=True)
        ]

    def augmented(self, request: CropRequest) -> tuple[Waveform, tuple[str, ...]]:
        """The crop, shape (samples,), and what was done to it, in words and in this order.

        Raises:
            FileNotFoundError: If the recording, or one that the augmentation needs, is gone.
            AudioError: If it cannot be decoded.
        """
        crop, speed = self._plain_crop(request)
        return self._with_effects(crop, speed, request)

    def _labelled(self, crop: Waveform, request: CropRequest) -> tuple[Tensor, int]:
        return torch.from_numpy(crop), int(self.manifest.speaker_labels[request.utterance])

    def _plain_crop(self, request: CropRequest) -> tuple[Waveform, float]:
        """The crop at its speed, and that speed."""
        speed = 1.0 if self._speeds is None else float(self._speeds[request.utterance])
        if self._augmenter is not None:
            speed *= self._augmenter.speed_of(request.seed)
        return self._crop(self.manifest[request.utterance], speed, request.seed), speed

    def _with_effects(self, crop: Waveform, speed: float, request: CropRequest) -> tuple[Waveform, tuple[str, ...]]:
        done = () if speed == 1 else (f"speed {speed:g}",)
        if self._augmenter is None:
            return crop, done
        crop, effects = self._augmenter(crop, request.seed)
        return crop, done + effects

    def _crop(self, utterance: Utterance, speed: float, seed: tuple[int, ...]) -> Waveform:
        num_samples = round(self.crop_seconds * self.sample_rate_hz)
        source_seconds = self.crop_seconds
        if speed != 1:
            source_seconds = (math.ceil(num_samples * speed) + 1) / self.sample_rate_hz
        room_seconds = utterance.duration_seconds - source_seconds
        start_seconds = 0.0
        if room_seconds > 0:
            start_seconds = _share_of(seed) * room_seconds
        waveform = read_audio(
            utterance.path,
            sample_rate_hz=self.sample_rate_hz,
            offset_seconds=utterance.offset_seconds + start_seconds,
            duration_seconds=min(source_seconds, utterance.duration_seconds),
            channel=utterance.channel,
        )
        return _repeated(waveform if speed == 1 else change_speed(waveform, speed), num_samples)


class WholeUtterances(Dataset[Tensor]):
    """Utterances from their start, uncut up to a limit, at the speed that the manifest gives them, if it does.

    Args:
        manifest: The utterances.
        max_seconds: What lies beyond is not read, so that an hour-long recording does not fill the memory.
        sample_rate_hz: Rate of the waveforms.
        min_samples: Fewer than these cannot be embedded.
        change: What is done to the waveform of the utterance of a name; by default nothing.

    Raises:
        ManifestError: If the manifest gives a speed that is none.
    """

    def __init__(
        self,
        manifest: Manifest,
        *,
        max_seconds: float,
        sample_rate_hz: int,
        min_samples: int,
        change: UtteranceChange | None = None,
    ) -> None:
        self._change = change
        self.manifest = manifest
        self.max_seconds = max_seconds
        self.sample_rate_hz = sample_rate_hz
        self.min_samples = min_samples
        self._speeds = speed_factors(manifest)

    def __len__(self) -> int:
        """Number of utterances."""
        return len(self.manifest)

    def __getitem__(self, index: int) -> Tensor:
        """Samples, shape (samples,).

        Raises:
            FileNotFoundError: If the recording is gone.
            AudioError: If it cannot be decoded or is too short to be embedded.
        """
        utterance = self.manifest[index]
        waveform = read_audio(
            utterance.path,
            sample_rate_hz=self.sample_rate_hz,
            offset_seconds=utterance.offset_seconds,
            duration_seconds=min(self.max_seconds, utterance.duration_seconds),
            channel=utterance.channel,
        )
        if self._speeds is not None and self._speeds[index] != 1:
            waveform = change_speed(waveform, float(self._speeds[index]))
        if self._change is not None:
            waveform = self._change(waveform, utterance.name)
        if len(waveform) < self.min_samples:
            raise AudioError(
                f"utterance must hold at least {self.min_samples / self.sample_rate_hz} s, got "
                f"{len(waveform) / self.sample_rate_hz} s in {utterance.path}."
            )
        return torch.from_numpy(waveform)

    def __getitems__(self, indices: Sequence[int]) -> list[Tensor]:
        """A whole batch, which is what the loader asks for: from object storage, several recordings are on their way.

        Raises:
            FileNotFoundError, AudioError: As for a single one.
        """
        return list(_read_all(self.__getitem__, indices, self.manifest))


class CropBatches:
    """Turns a batch sampler's utterance indices into crop requests, each with a seed of its own.

    Args:
        batches: Yields lists of utterance indices, from step ``first_step`` of the epoch on.
        seed: Together with epoch, step and place in the batch, it decides each crop.
        epoch: The epoch that batches yields; by default what a sampler of `chns.sampling` says it is.
        first_step: Number of the first step that batches yields.
        first_place: Place, in the global batch, of the first utterance of each list.
    """

    def __init__(
        self,
        batches: Iterable[Sequence[int]],
        *,
        seed: int,
        epoch: int | None = None,
        first_step: int = 0,
        first_place: int = 0,
    ) -> None:
        self.batches = batches
        self.seed = seed
        self.epoch = epoch
        self.first_step = first_step
        self.first_place = first_place

    def __iter__(self) -> Iterator[list[CropRequest]]:
        """Yield a list of requests a step."""
        batches = iter(self.batches)  # from here on, a sampler that goes on by itself says which epoch it is
        epoch = int(self.batches.epoch) if self.epoch is None else self.epoch  # type: ignore[attr-defined]
        for step, utterances in enumerate(batches, self.first_step):
            yield [
                CropRequest(utterance, (self.seed, epoch, step, place))
                for place, utterance in enumerate(utterances, self.first_place)
            ]


class CropFeed:
    """Batches of crops, epoch after epoch, from workers that stay: of a million utterances, each takes 0.1 s to start.

    As a context manager it ends them.

    Args:
        crops: The utterances.
        num_workers: Processes that decode; with 0 this one does.
        device: Where the crops will go, see `collation_for`; for a GPU they are put into pinned memory.
        start_worker: Called with its number in each worker when it starts.
    """

    def __init__(
        self, crops: SpeakerCrops, *, num_workers: int, device: torch.device, start_worker: Callable[[int], None]
    ) -> None:
        self._epoch = _Epoch()
        self._loader = DataLoader(
            crops,
            batch_sampler=self._epoch,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            collate_fn=collation_for(device),
            pin_memory=device.type == "cuda",
            worker_init_fn=start_worker,
        )

    def __enter__(self) -> CropFeed:
        """Workers start with the first batch."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the workers."""
        del self._loader

    def batches(self, requests: Iterable[list[CropRequest]]) -> Iterator[tuple[Tensor, Tensor]]:
        """Crops, shape (batch, samples), and their speaker labels, shape (batch,), of each list of requests.

        Those of an earlier call are over.

        Raises:
            FileNotFoundError: If a recording, or one that the augmentation needs, is gone.
            AudioError: If one cannot be decoded.
        """
        self._epoch.requests = requests
        with plain_worker_errors():
            yield from self._loader


class _Epoch:
    """What a loader asks for the batches of an epoch."""

    requests: Iterable[list[CropRequest]] = ()

    def __iter__(self) -> Iterator[list[CropRequest]]:
        return iter(self.requests)


_FULL_SCALE = 2.0**15


def collation_for(device: torch.device) -> Callable[[list[tuple[Tensor, int]]], tuple[Tensor, Tensor]]:
    """What makes a batch of crops, shape (batch, samples), and their speaker labels, shape (batch,), for a device.

    For another device than the CPU, crops travel as integers of 16 bits where that loses nothing, as from recordings of
    16 bits at their own rate: half of what goes through shared memory and over the bus. `as_floats` makes them samples.
    """
    return default_collate if device.type == "cpu" else _collated_for_a_bus


def as_floats(waveforms: Tensor) -> Tensor:
    """The samples of a batch of `collation_for`, float32: those that were decoded, bit for bit."""
    return waveforms.float() / _FULL_SCALE if waveforms.dtype == torch.int16 else waveforms


def _collated_for_a_bus(batch: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
    integers = []
    for crop, _ in batch:
        scaled = crop * _FULL_SCALE
        integers.append(scaled.to(torch.int16))
        if not torch.equal(integers[-1].float(), scaled):  # resampled, mixed, augmented, or not of 16 bits
            return default_collate(batch)  # type: ignore[no-any-return]
    return torch.stack(integers), torch.tensor([label for _, label in batch])


def pad_waveforms(waveforms: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Stack waveforms of different lengths.

    Returns:
        The waveforms with zeros behind, shape (batch, longest), and their lengths, shape (batch,).
    """
    lengths = torch.tensor([len(waveform) for waveform in waveforms])
    return torch.nn.utils.rnn.pad_sequence(list(waveforms), batch_first=True), lengths


@contextmanager
def plain_worker_errors() -> Iterator[None]:
    """Give an error of a loader worker its own message back, without the worker's stack trace in it.

    The workers end with any error at once. A frame of the loader that raised it holds it, and so is garbage only later,
    when its workers can no longer be told to end: each would be waited for, for 5 to 10 seconds.
    """
    try:
        yield
    except Exception as error:
        traceback.clear_frames(error.__traceback__)
        if not isinstance(error, AudioError | FileNotFoundError):
            raise
        last_line = str(error).strip().splitlines()[-1]
        qualified_name = f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins.")
        raise type(error)(last_line.removeprefix(f"{qualified_name}: ")) from error


def _share_of(seed: Sequence[int]) -> float:
    """A number from 0 up to 1, never 1: 53 bits of a hash, in a tenth of the time that seeding a generator takes."""
    return (int.from_bytes(seed_digest(seed, num_bytes=8, purpose=b"crop"), "little") >> 11) / 2**53


def _request_of(request: CropRequest | int) -> CropRequest:
    """The request, or one for a plain number, with a seed of torch's generator."""
    if isinstance(request, CropRequest):
        return request
    return CropRequest(operator.index(request), (int(torch.randint(2**63 - 1, ())),))


def _read_all(read: Callable[[_Item], _Read], items: Sequence[_Item], manifest: Manifest) -> Iterator[_Read]:
    """In order: one after the other, or by threads where a recording is a request that takes its time."""
    if not isinstance(manifest.location, RemoteRoot):
        yield from map(read, items)
        return
    with ThreadPoolExecutor(KEPT_CONNECTIONS) as threads:
        yield from threads.map(read, items)


def _repeated(waveform: Waveform, num_samples: int) -> Waveform:
    if len(waveform) < num_samples:
        return np.resize(waveform, num_samples)
    return waveform[:num_samples]

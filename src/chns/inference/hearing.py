"""Recordings of a manifest, decoded in other processes and heard by one model, as `Verifier` hears a single one.

A model on torch takes them in batches of like length, a graph one after the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from chns.core import AudioError, Float32Array, ManifestError, in_short
from chns.data import (
    Manifest,
    Quality,
    Recording,
    RemoteRecording,
    file_channels_differ,
    joint_quality,
    proven_info,
    speed_factors,
)
from chns.data.storage.ranges import KEPT_CONNECTIONS
from chns.inference.listening import Part, file_windows, measured_windows, source_name
from chns.inference.verifier import Embedding, Verifier, joint_embedding

_BATCH_SECONDS = 120.0
_SORTED_SECONDS = 1_200.0
_LONG_SECONDS = 180.0  # longer ones are not decoded whole
_GUESSED_SECONDS = 10.0


class Wanted(NamedTuple):
    """A recording to be heard.

    Attributes:
        utterance: Its name.
        speaker: Who is said to speak.
        recording: Where it is.
        part: The part of it that is meant; None for all.
        channel: The channel that is heard, from 0; None for the mean of all.
    """

    utterance: str
    speaker: str
    recording: Recording
    part: Part | None
    channel: int | None

    @property
    def source(self) -> str:
        """What a store keeps of it."""
        return source_name(self.recording, self.part, self.channel)


def wanted_of(manifest: Manifest, *, channel: int | None = None) -> list[Wanted]:
    """The utterances of a manifest.

    Args:
        manifest: The utterances.
        channel: Of those for which the manifest names none.

    Raises:
        ManifestError: If it has speeds: what is played faster is nobody's voice.
    """
    if speed_factors(manifest) is not None:
        raise ManifestError("manifest must be of recordings as they are, got speeds. Take that of the recordings.")
    rows = map(manifest.__getitem__, range(len(manifest)))
    return [
        Wanted(
            row.name,
            row.speaker,
            row.path,
            Part(row.offset_seconds, row.duration_seconds),
            channel if row.channel is None else row.channel,
        )
        for row in rows
    ]


class _Sound(NamedTuple):
    """A recording as it is decoded: why not, or its windows with sound and its quality; None if it is too long."""

    row: int
    refused: str | None
    windows: list[Float32Array]
    quality: Quality | None


class Sounds(Dataset[_Sound]):
    """Decodes, in other processes."""

    def __init__(self, wanted: Sequence[Wanted], *, sample_rate_hz: int, min_samples: int) -> None:
        self._wanted = wanted
        self._rate_hz = sample_rate_hz
        self._min_samples = min_samples

    def __getitems__(self, rows: Sequence[int]) -> list[_Sound]:
        """A whole batch, as the loader asks: from object storage, several recordings are on their way."""
        if not isinstance(self._wanted[rows[0]].recording, RemoteRecording):
            return [self[row] for row in rows]
        with ThreadPoolExecutor(KEPT_CONNECTIONS) as threads:
            return list(threads.map(self.__getitem__, rows))

    def __getitem__(self, row: int) -> _Sound:
        one = self._wanted[row]
        try:
            seconds = one.part.duration_seconds if one.part else proven_info(one.recording).duration_seconds
            if seconds > _LONG_SECONDS:
                return _Sound(row, None, [], None)
            windows = list(
                measured_windows(
                    file_windows(one.recording, sample_rate_hz=self._rate_hz, channel=one.channel, part=one.part),
                    sample_rate_hz=self._rate_hz,
                    min_samples=self._min_samples,
                    source=str(one.recording),
                )
            )
            quality = _with_channels(one, joint_quality([quality for _, quality in windows]))
        except (AudioError, OSError) as error:
            return _Sound(row, in_short(error), [], None)
        return _Sound(row, None, [window for window, quality in windows if not quality.is_silent], quality)


def _with_channels(one: Wanted, quality: Quality) -> Quality:
    """The quality, with a note where channels that differ were averaged."""
    if one.channel is not None:
        return quality
    start, seconds = one.part or (0.0, None)
    differ = file_channels_differ(one.recording, offset_seconds=start, duration_seconds=seconds)
    return replace(quality, channels_differ=differ)


def heard_many(
    verifier: Verifier, wanted: Sequence[Wanted], *, workers: int, purpose: str
) -> Iterator[tuple[int, Embedding | str]]:
    """Each recording's place and embedding, or why there is none, in an order of its own.

    The processes that decode are started by the call, not by the first step.
    """
    if workers < 0:
        raise ValueError(f"--workers must be at least 0, got {workers}.")
    sounds = Sounds(wanted, sample_rate_hz=verifier.sample_rate_hz, min_samples=verifier.min_samples)
    loader: DataLoader[Any] = DataLoader(
        sounds, batch_sampler=_batches(wanted), collate_fn=list, num_workers=workers if wanted else 0
    )
    return _embedded(verifier, iter(loader), wanted, purpose)


def _embedded(
    verifier: Verifier, batches: Iterator[list[_Sound]], wanted: Sequence[Wanted], purpose: str
) -> Iterator[tuple[int, Embedding | str]]:
    with tqdm(total=len(wanted), desc=purpose, unit="recording", leave=False, disable=None) as progress:
        for sounds in batches:
            raw = iter(verifier.raw_embeddings([window for sound in sounds for window in sound.windows]))
            for sound in sounds:
                yield sound.row, _embedding(verifier, sound, list(islice(raw, len(sound.windows))), wanted[sound.row])
                progress.update()


def _embedding(verifier: Verifier, sound: _Sound, raw: list[Float32Array], one: Wanted) -> Embedding | str:
    if sound.refused is not None:
        return sound.refused
    source = str(one.recording)
    try:
        if sound.quality is not None:
            return joint_embedding(raw, sound.quality, source=source)
        windows = file_windows(
            one.recording, sample_rate_hz=verifier.sample_rate_hz, channel=one.channel, part=one.part
        )
        heard = verifier.embed_windows(windows, source=source)
        return replace(heard, quality=_with_channels(one, heard.quality))
    except (AudioError, OSError) as error:
        return in_short(error)


def _batches(wanted: Sequence[Wanted]) -> list[list[int]]:
    """Rows person by person, so that somebody is soon complete; among those of 20 minutes, like lengths together."""
    seconds = [_GUESSED_SECONDS if one.part is None else one.part.duration_seconds for one in wanted]
    people: dict[str, list[int]] = {}
    for row, one in enumerate(wanted):
        people.setdefault(one.speaker, []).append(row)
    chunks: list[list[int]] = [[]]
    for rows in people.values():
        if sum(seconds[row] for row in chunks[-1]) > _SORTED_SECONDS:
            chunks.append([])
        chunks[-1] += rows
    batches: list[list[int]] = []
    for chunk in chunks:
        longest = np.inf
        for row in sorted(chunk, key=lambda row: -seconds[row]):
            if (len(batches[-1]) + 1 if batches else 1) * longest > _BATCH_SECONDS:
                batches.append([])
                longest = seconds[row]
            batches[-1].append(row)
    return batches

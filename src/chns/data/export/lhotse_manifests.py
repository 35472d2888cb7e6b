"""A manifest as Lhotse's recordings, supervisions and cuts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from chns.data.export.located import LocatedUtterance, located_utterances, require_new_or_empty
from chns.data.manifest import Manifest
from chns.errors import ChnsError
from chns.files import atomic_folder

_FIELDS = ("gender", "language")


def write_lhotse(manifest: Manifest, folder: Path) -> None:
    """Write ``recordings.jsonl.gz``, ``supervisions.jsonl.gz`` and ``cuts.jsonl.gz``, which hold the two others.

    A file is a recording, called by its path in the manifest; an utterance is a supervision and a cut. The columns
    gender and language are fields of the supervision, all others are in its ``custom``.

    Args:
        manifest: The utterances.
        folder: New or empty.

    Raises:
        ValueError: If the folder holds something.
        ChnsError: If the package ``lhotse`` is missing.
        FileNotFoundError: If a recording is gone.
        AudioError: If one cannot be read.
        ManifestError: If an utterance does not lie in its file.
    """
    try:
        from lhotse import CutSet, RecordingSet, SupervisionSet
    except ImportError as error:
        raise ChnsError("lhotse must be installed, got no such package. Run `pip install 'chns[lhotse]'`.") from error
    require_new_or_empty(folder)
    utterances = located_utterances(manifest)
    recordings: dict[str, Any] = {}
    for each in utterances:
        if each.recording not in recordings:
            recordings[each.recording] = _recording(each)
    with (
        atomic_folder(folder, ours=()) as temporary,
        RecordingSet.open_writer(temporary / "recordings.jsonl.gz") as recordings_file,
        SupervisionSet.open_writer(temporary / "supervisions.jsonl.gz") as supervisions_file,
        CutSet.open_writer(temporary / "cuts.jsonl.gz") as cuts_file,
    ):
        for recording in recordings.values():
            recordings_file.write(recording)
        for each in utterances:
            recording = recordings[each.recording]
            supervisions_file.write(_supervision(each, recording, start=each.offset_seconds))
            cuts_file.write(_cut(each, recording))


def _recording(utterance: LocatedUtterance) -> Any:
    from lhotse import AudioSource, Recording

    info = utterance.info
    return Recording(
        id=utterance.recording,
        sources=[AudioSource(type="file", channels=list(range(info.num_channels)), source=str(utterance.path))],
        sampling_rate=info.sample_rate_hz,
        num_samples=info.num_frames,
        duration=info.duration_seconds,
    )


def _supervision(utterance: LocatedUtterance, recording: Any, *, start: float) -> Any:
    from lhotse import SupervisionSegment

    fields = {name: value for name, value in utterance.columns.items() if name in _FIELDS}
    custom = {name: value for name, value in utterance.columns.items() if name not in _FIELDS}
    return SupervisionSegment(
        id=utterance.name,
        recording_id=recording.id,
        start=start,
        duration=utterance.duration_seconds,
        channel=_channels(utterance, recording),
        speaker=utterance.speaker,
        custom=custom or None,
        **fields,
    )


def _cut(utterance: LocatedUtterance, recording: Any) -> Any:
    from lhotse import MonoCut, MultiCut

    kind = MonoCut if isinstance(_channels(utterance, recording), int) else MultiCut
    return kind(
        id=utterance.name,
        start=utterance.offset_seconds,
        duration=utterance.duration_seconds,
        channel=_channels(utterance, recording),
        recording=recording,
        supervisions=[_supervision(utterance, recording, start=0.0)],
    )


def _channels(utterance: LocatedUtterance, recording: Any) -> int | list[int]:
    """A multi-channel file is averaged here, so all its channels belong to the utterance, unless it is one of them."""
    if utterance.channel is not None:
        return utterance.channel
    return 0 if recording.num_channels == 1 else list(range(recording.num_channels))

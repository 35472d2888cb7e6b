"""What other tools' formats need to know of an utterance: where its file is, and which part of it the utterance is."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from chns.core import AudioError, ManifestError
from chns.data.audio import AudioInfo, audio_info
from chns.data.corpora.scan import Part
from chns.data.manifest import Manifest, Utterance
from chns.data.manifest_file import CHANNEL_COLUMN, PACKED_COLUMNS, REQUIRED_COLUMNS


class LocatedUtterance(NamedTuple):
    """An utterance with the header of its file.

    Attributes:
        name: Its name.
        speaker: Who speaks.
        recording: The path of its file in the manifest, which names the file for tools that name recordings.
        path: Its file, absolute.
        offset_seconds: Where it starts in the file.
        duration_seconds: Its length.
        columns: The further columns that are not empty.
        info: What the file's header says.
        channel: The one that the utterance is; none for all of them.
    """

    name: str
    speaker: str
    recording: str
    path: Path
    offset_seconds: float
    duration_seconds: float
    columns: dict[str, str]
    info: AudioInfo
    channel: int | None

    @property
    def is_whole(self) -> bool:
        """Whether it is all of its file, to within half a sample."""
        return (
            self.offset_seconds == 0
            and abs(self.duration_seconds - self.info.duration_seconds) * self.info.sample_rate_hz < 0.5
        )


def located_utterances(manifest: Manifest) -> list[LocatedUtterance]:
    """The utterances by name; reads the header of every file, which is the only way to tell parts from wholes.

    Raises:
        FileNotFoundError: If a file is gone.
        AudioError: If a header cannot be read.
        ManifestError: If an utterance does not lie in its file.
    """
    names, paths = manifest.column("utterance"), manifest.column("path")
    further = {name: manifest.column(name) for name in further_columns(manifest)}
    root = manifest.root.resolve()
    headers: dict[str, AudioInfo] = {}
    located = []
    by_name = sorted(range(len(manifest)), key=names.__getitem__)
    for row in tqdm(by_name, desc="reading headers", unit="utterance", disable=None):
        utterance, recording = manifest[row], paths[row]
        file_of(utterance)
        path = root / recording
        if recording not in headers:
            headers[recording] = audio_info(path)
        try:
            part = Part(utterance.offset_seconds, utterance.duration_seconds).within(headers[recording])
        except AudioError as error:
            raise ManifestError(f"{error} in {path}. Prepare the corpus again: the file has changed.") from error
        columns = {name: values[row] for name, values in further.items() if values[row]}
        located.append(
            LocatedUtterance(
                names[row], utterance.speaker, recording, path, *part, columns, headers[recording], utterance.channel
            )
        )
    return located


def further_columns(manifest: Manifest) -> list[str]:
    """Names of the columns that say more than who speaks and where the audio is."""
    return [name for name in manifest.column_names if name not in REQUIRED_COLUMNS | CHANNEL_COLUMN | PACKED_COLUMNS]


def file_of(utterance: Utterance) -> Path:
    """The file of an utterance.

    Raises:
        ManifestError: If it lies in a shard, where other tools do not look.
    """
    if isinstance(utterance.path, Path):
        return utterance.path
    raise ManifestError(
        f"recordings must be files for another tool to read them, got {utterance.path} in a shard. Unpack the shards "
        f"with `tar -xf` and prepare the corpus from the files."
    )

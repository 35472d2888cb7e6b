"""SpeechBrain's CSV: ``ID,duration,wav,start,stop,spk_id``, with start and stop in samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from chns.core.errors import ManifestError
from chns.data.corpora.csv_table import table_rows
from chns.data.corpora.listed import columns_of, number_of, relative_path, text_of
from chns.data.corpora.scan import Candidate, Part

_PLACEHOLDERS = ("$data_root/", "{data_root}/")
_USED = ("ID", "duration", "wav", "start", "stop", "spk_id")


def read_speechbrain(source: Path, *, root: Path) -> Iterator[Candidate]:
    """Read SpeechBrain's table; further columns are carried along.

    SpeechBrain's recipes write the duration of the whole file into every row, so only start and stop say which part
    an utterance is. Without them it is the whole file.

    Args:
        source: The table.
        root: Folder of the audio, which ``$data_root`` and ``{data_root}`` stand for; see ``relative_path``.

    Raises:
        FileNotFoundError: If there is no such file.
        ManifestError: If a column or a value is missing, stop is not behind start, or a path is a command or leaves
            the root.
    """
    for row, place in table_rows(source, required=("ID", "wav", "spk_id")):
        path = text_of(row, "wav", place)
        for placeholder in _PLACEHOLDERS:
            path = path.removeprefix(placeholder)
        yield Candidate(
            utterance=text_of(row, "ID", place),
            speaker=text_of(row, "spk_id", place),
            path=relative_path(path, root, place),
            columns=columns_of(row, without=_USED),
            part=_part(row, place),
            place=place,
        )


def _part(row: Mapping[str, str], place: str) -> Part:
    start, stop = number_of(row, "start", place) or 0.0, number_of(row, "stop", place)
    if stop is None:
        return Part(start, in_samples=True)
    if stop <= start:
        raise ManifestError(f"stop must be greater than start, got {start:g} and {stop:g} in {place}. Correct it.")
    return Part(start, stop - start, in_samples=True)

"""Data sets in the layouts of Hugging Face ``datasets`` on the local disk.

Nothing is downloaded, no script of a data set is run, and the library's cache, a second copy of everything, is not
filled: rows are read batch by batch with Arrow, and ``datasets`` only tells what their columns mean.

A manifest names files, so audio that is embedded in a table is written out once; a run that was stopped goes on where
it was.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
from tqdm import tqdm

from chns.core import ChnsError, ManifestError, atomic_path, in_short
from chns.data.audio import EXTENSIONS
from chns.data.corpora.list_formats import table_rows
from chns.data.corpora.listed import Entry, columns_of, json_lines, relative_path, scan_list, text_of
from chns.data.corpora.scan import MIN_DURATION_SECONDS, Candidate, Rejected, ScanResult
from chns.data.manifest import relative_name

_METADATA = ("metadata.csv", "metadata.jsonl")
_TABLES = (".parquet", ".arrow")
_KINDS = (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer)
_ROWS_AT_ONCE, _BYTES_AT_ONCE = 64, 2**30


def dataset_rows(source: Path, *, audio: str, speaker: str) -> Iterator[tuple[dict[str, Any], str]]:
    """Every row with its place: audio, as a path or as ``bytes`` and ``path``, and text, whole numbers and classes.

    Args:
        source: See ``prepare_hugging_face``.
        audio: Column of the audio; the column ``file_name`` of a metadata file gets this name.
        speaker: Column of the speaker, which may also be a number.

    Raises:
        FileNotFoundError: If the source does not exist.
        ChnsError: If the package ``datasets`` is missing.
        ManifestError: If the source has none of the layouts or is damaged, or a column is missing.
    """
    if not source.exists():
        raise FileNotFoundError(f"data set must be a file or a folder, got {source}.")
    metadata = [source / name for name in _METADATA if (source / name).is_file()]
    tables = sorted(path for path in (source.iterdir() if source.is_dir() else [source]) if path.suffix in _TABLES)
    if metadata:
        yield from _metadata_rows(metadata[0], audio)
    elif tables:
        for table in tables:
            yield from _table_rows(table, audio, speaker)
    else:
        raise ManifestError(
            f"data set must be of .parquet or .arrow files or a folder with {' or '.join(_METADATA)}, got {source}. "
            f"Point at one split; for a folder of recordings alone, use `chns prepare folder`."
        )


def _metadata_rows(path: Path, audio: str) -> Iterator[tuple[dict[str, Any], str]]:
    rows = table_rows(path, required=("file_name",)) if path.suffix == ".csv" else json_lines(path)
    for row, place in rows:
        yield {**row, audio: row.get("file_name")}, place


def _table_rows(path: Path, audio: str, speaker: str) -> Iterator[tuple[dict[str, Any], str]]:
    number = 0
    try:
        schema, batches = _opened(path)
        columns, classes = _wanted_columns(schema, audio, speaker, path)
        for batch in batches(columns):
            batch.validate(full=True)  # Arrow believes the offsets in a file, and would read beyond its end
            for row in batch.to_pylist():
                number += 1
                yield {**row, **_class_names(row, classes)}, f"{path}, row {number}"
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ManifestError(
            f"data set must be readable, got an error in {path}, row {number + 1} ({in_short(error)}). Copy it again."
        ) from error


def _opened(path: Path) -> tuple[pa.Schema, Callable[[Sequence[str]], Iterator[pa.RecordBatch]]]:
    """The schema, and what gives the batches of some columns."""
    if path.suffix == ".parquet":
        file = pq.ParquetFile(path)
        return file.schema_arrow, lambda columns: file.iter_batches(_rows_at_once(file), columns=list(columns))
    reader = pa.ipc.open_stream(pa.memory_map(str(path)))
    return reader.schema, lambda columns: (batch.select(list(columns)) for batch in reader)


def _rows_at_once(file: pq.ParquetFile) -> int:
    """So few that they fit into memory even if each is as long as a whole group of rows, through a dictionary."""
    groups = (file.metadata.row_group(number).total_byte_size for number in range(file.num_row_groups))
    return min(_ROWS_AT_ONCE, max(1, _BYTES_AT_ONCE // max(groups, default=1)))


def _wanted_columns(schema: pa.Schema, audio: str, speaker: str, path: Path) -> tuple[list[str], dict[str, Any]]:
    """Audio, speaker, and all that is text, a whole number or a class; and the classes."""
    try:
        from datasets import ClassLabel, Features
    except ImportError as error:
        raise ChnsError(
            "datasets must be installed, got no such package. Run `pip install 'chns[datasets]'`."
        ) from error
    missing = [name for name in (audio, speaker) if name not in schema.names]
    if missing:
        raise ManifestError(
            f"columns must include {missing[0]}, got {in_short(', '.join(schema.names))} in {path}. Say "
            "which column holds what."
        )
    try:
        features = Features.from_arrow_schema(schema)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ManifestError(
            f"data set must describe its columns properly, got {in_short(repr(error))} in {path}."
        ) from error
    classes = {name: feature for name, feature in features.items() if isinstance(feature, ClassLabel)}
    named = [field.name for field in schema if any(is_kind(field.type) for is_kind in _KINDS)]
    return list(dict.fromkeys([audio, speaker, *named])), classes


def _class_names(row: dict[str, Any], classes: dict[str, Any]) -> dict[str, str | None]:
    """The names of the row's classes; none where a split withholds its labels (-1)."""
    numbers = {name: row[name] for name in classes}
    return {
        name: classes[name].names[number] if number is not None and 0 <= number < len(classes[name].names) else None
        for name, number in numbers.items()
    }


_FILES_A_FOLDER = 1_000
_SUFFIX_OF = {"WAV": ".wav", "WAVEX": ".wav", "FLAC": ".flac", "OGG": ".ogg", "MP3": ".mp3", "MPEG": ".mp3"}


class HuggingFaceColumns(NamedTuple):
    """Which column says what; an utterance without a name is called by its path, or else the number of its row."""

    audio: str = "audio"
    speaker: str = "speaker"
    utterance: str | None = None
    session: str = "session"


def prepare_hugging_face(
    source: Path,
    *,
    recordings: Path,
    names: HuggingFaceColumns | None = None,
    min_duration_seconds: float = MIN_DURATION_SECONDS,
    jobs: int | None = None,
) -> ScanResult:
    """Scan a data set; further columns of text or classes become columns of the manifest.

    Args:
        source: A ``.parquet`` or ``.arrow`` file; a folder of such files (what ``save_to_disk`` wrote, or a split);
            or a folder with ``metadata.csv`` or ``metadata.jsonl`` whose ``file_name`` are the recordings.
        recordings: Folder for embedded audio. What an earlier run wrote there is compared and left alone.
        names: Where the audio and the speakers are.
        min_duration_seconds: Shorter recordings are rejected.
        jobs: See ``scan_recordings``.

    Raises:
        FileNotFoundError: If the source does not exist.
        ChnsError: If the package ``datasets`` is missing.
        ManifestError: If the source is none of these or damaged, a column or a value is missing, some rows embed audio
            and some name files, a path is a command or leaves the source's folder, or nothing usable remains.
    """
    names = names or HuggingFaceColumns()
    folder = source if source.is_dir() else source.parent
    candidates: list[Candidate] = []
    rejected: list[Rejected] = []
    first_places: dict[Path, str] = {}
    rows = dataset_rows(source, audio=names.audio, speaker=names.speaker)
    for number, (entry, place) in enumerate(tqdm(rows, desc="reading rows", unit="row", disable=None)):
        audio = entry[names.audio]
        if isinstance(audio, Mapping) and audio.get("bytes"):
            root, path = recordings, _written(audio, recordings, number)
        else:
            root, path = folder, _listed(audio, names.audio, folder, place)
        first_places.setdefault(root, place)
        if path is None:
            reason = f"embedded audio must be in one of {', '.join(EXTENSIONS)}, got something else in {place}"
            rejected.append(Rejected(f"row {number + 1}", reason))
            continue
        if entry[names.speaker] in (None, ""):
            rejected.append(Rejected(path, f"{names.speaker} must name the speaker, got nothing in {place}"))
            continue
        default = f"{number:08d}" if root == recordings else relative_name(PurePosixPath(path))
        candidates.append(_candidate(entry, names, path, default, place))
    if len(first_places) > 1:
        raise ManifestError(
            f"rows must all embed their audio or all name files, got both: {' and '.join(first_places.values())}. "
            f"Prepare them one by one and put the manifests together with `chns merge`."
        )
    root = next(iter(first_places), folder)
    return scan_list(candidates, root=root, rejected=rejected, min_duration_seconds=min_duration_seconds, jobs=jobs)


def _candidate(entry: Entry, names: HuggingFaceColumns, path: str, default: str, place: str) -> Candidate:
    return Candidate(
        utterance=text_of(entry, names.utterance, place) if names.utterance else default,
        speaker=text_of(entry, names.speaker, place),
        path=path,
        session=text_of(entry, names.session, place) if entry.get(names.session) else None,
        columns=columns_of(entry, without=(*filter(None, names), "session")),
        place=place,
    )


def _listed(audio: Any, column: str, folder: Path, place: str) -> str:
    written = audio.get("path") if isinstance(audio, Mapping) else audio
    return relative_path(text_of({column: written}, column, place), folder, place)


def _written(audio: Mapping[str, Any], recordings: Path, number: int) -> str | None:
    """Where embedded audio is now; None if it is in no format that we read."""
    suffix = _suffix(audio)
    if suffix is None:
        return None
    path = f"{number // _FILES_A_FOLDER:05d}/{number:08d}{suffix}"
    target = recordings / path
    if not (target.is_file() and target.read_bytes() == audio["bytes"]):
        with atomic_path(target) as temporary:
            temporary.write_bytes(audio["bytes"])
    return path


def _suffix(audio: Mapping[str, Any]) -> str | None:
    suffix = PurePosixPath(str(audio.get("path") or "")).suffix.lower()
    if suffix in EXTENSIONS:
        return suffix
    try:
        return _SUFFIX_OF.get(soundfile.info(io.BytesIO(audio["bytes"])).format)
    except soundfile.LibsndfileError:
        return None

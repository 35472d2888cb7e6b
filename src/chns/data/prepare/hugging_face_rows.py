"""Rows of a data set in one of the layouts of Hugging Face ``datasets``.

Nothing is downloaded, no script of a data set is run, and the library's cache, a second copy of everything, is not
filled: rows are read batch by batch with Arrow, and ``datasets`` only tells what their columns mean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from chns.data.prepare.csv_table import table_rows
from chns.data.prepare.listed import json_lines
from chns.errors import ChnsError, ManifestError

_METADATA = ("metadata.csv", "metadata.jsonl")
_TABLES = (".parquet", ".arrow")
_KINDS = (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer)
_ROWS_AT_ONCE = 64


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
            f"data set must be readable, got an error in {path}, row {number + 1} ({error}). Copy it again."
        ) from error


def _opened(path: Path) -> tuple[pa.Schema, Callable[[Sequence[str]], Iterator[pa.RecordBatch]]]:
    """The schema, and what gives the batches of some columns."""
    if path.suffix == ".parquet":
        file = pq.ParquetFile(path)
        return file.schema_arrow, lambda columns: file.iter_batches(_ROWS_AT_ONCE, columns=list(columns))
    reader = pa.ipc.open_stream(pa.memory_map(str(path)))
    return reader.schema, lambda columns: (batch.select(list(columns)) for batch in reader)


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
            f"columns must include {missing[0]}, got {', '.join(schema.names)} in {path}. Say which column holds what."
        )
    try:
        features = Features.from_arrow_schema(schema)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ManifestError(f"data set must describe its columns properly, got {error!r} in {path}.") from error
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

"""Manifest files: Parquet for programs, CSV with the same column names for people."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from chns.errors import ManifestError
from chns.files import atomic_path

_SUFFIXES = (".parquet", ".csv")
_ROOT_KEY = b"chns.root"


def read_table(path: Path) -> tuple[pa.Table, Path]:
    """The columns of a manifest file as they are, and the folder that it says its paths are relative to.

    Returns:
        The table, unchecked, and the folder that a Parquet file names, or the file's own.

    Raises:
        ManifestError: If the name ends in neither suffix, or the file is damaged or of another format.
    """
    table = _read_csv(path) if manifest_suffix(path) == ".csv" else _read_parquet(path)
    stored = (table.schema.metadata or {}).get(_ROOT_KEY, b".")
    return table, path.parent / os.fsdecode(stored)


def write_table(path: Path, table: pa.Table, *, root: Path) -> None:
    """Write Parquet or CSV, by suffix, atomically.

    Parquet remembers the root: relative if it is the manifest's folder or inside it, else absolute. CSV cannot, so
    its paths are made relative to its own folder, which must hold the audio.

    Args:
        path: Where to.
        table: Its columns.
        root: Folder that its paths are relative to.

    Raises:
        ManifestError: If the suffix is neither, or a CSV is to lie where no relative path leads to the audio.
    """
    root, folder = root.resolve(), path.parent.resolve()
    if manifest_suffix(path) == ".csv":
        if not root.is_relative_to(folder):
            raise ManifestError(
                f"CSV manifest must lie in a folder that holds its audio ({root}), got {path}. "
                f"Write .parquet instead, which remembers where the audio is."
            )
        with atomic_path(path) as temporary:
            pyarrow.csv.write_csv(moved(table, root.relative_to(folder)), temporary)
        return
    stored = root.relative_to(folder) if root.is_relative_to(folder) else root
    with atomic_path(path) as temporary:
        pq.write_table(table.replace_schema_metadata({_ROOT_KEY: os.fsencode(stored)}), temporary, compression="zstd")


def manifest_suffix(path: Path) -> str:
    """The format that a manifest's name asks for.

    Raises:
        ManifestError: If the name ends in neither ``.parquet`` nor ``.csv``.
    """
    if path.suffix not in _SUFFIXES:
        raise ManifestError(f"manifest name must end in .parquet or .csv, got {path}.")
    return path.suffix


def prefixed(table: pa.Table, name: str, prefix: str) -> pa.Table:
    """The table with ``prefix/`` before each value of a column."""
    joined = pc.binary_join_element_wise(prefix, table[name], "/")
    return table.set_column(table.column_names.index(name), name, joined)


def moved(table: pa.Table, folder: Path) -> pa.Table:
    """The table seen from further up, where its root is ``folder``."""
    return table if folder == Path() else prefixed(table, "path", folder.as_posix())


def _read_parquet(path: Path) -> pa.Table:
    try:
        table = pq.read_table(path, partitioning=None)
        _ = table.column_names  # decodes them
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"manifest must be a readable Parquet file, got {path} ({error}).") from error
    return table


def _read_csv(path: Path) -> pa.Table:
    """Read every column as bytes: ``0001`` must not become a number, and bad text is reported with its row later.

    One thread, because only then do Arrow's own errors name the row. Empty lines are no rows, and quoted fields may
    hold line breaks, as in all tables (`chns.data.text_rows`).
    """
    read_options = pyarrow.csv.ReadOptions(use_threads=False)
    parse_options = pyarrow.csv.ParseOptions(ignore_empty_lines=True, newlines_in_values=True)
    try:
        with pyarrow.csv.open_csv(path, read_options=read_options, parse_options=parse_options) as reader:
            names = reader.schema.names
        convert_options = pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.binary()),
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            null_values=[""],
        )
        return pyarrow.csv.read_csv(path, read_options, parse_options, convert_options)
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise ManifestError(f"manifest must be UTF-8 CSV with one header line, got {path} ({error}).") from error

"""Manifest files, Parquet or CSV, and the rules that make a table a manifest."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from chns.core import FORMULA, ManifestError, atomic_path, in_short, quoted
from chns.data.storage.remote import HEADER_BYTES, RemoteRoot
from chns.data.text_rows import split_rows


def require_packed(table: pa.Table, root: RemoteRoot, source: str) -> None:
    """Make sure that every recording of a manifest can be read from a URL.

    Args:
        table: The manifest; its paths do not leave the root.
        root: The URL.
        source: Where the table came from.

    Raises:
        ManifestError: If a recording is not in a shard, or a path looks like a URL.
    """
    is_packed = pc.is_valid(table["byte_offset"]) if "byte_offset" in table.column_names else None
    if table.num_rows and (is_packed is None or not pc.all(is_packed).as_py()):
        row = 0 if is_packed is None else pc.index(is_packed, False).as_py()
        raise ManifestError(
            f"recordings below a URL must be in packed shards, got {quoted(table['path'][row].as_py())} with "
            f"the root {root} "
            f"in {source}. Pack the corpus first (`chns pack`), upload the shards, and read their manifest.parquet."
        )
    row = pc.index(pc.match_substring(table["path"], "://"), True).as_py()
    if row >= 0:
        raise ManifestError(
            f"path must be relative to the root {root}, got the URL {quoted(table['path'][row].as_py())} in {source}."
        )


REQUIRED_COLUMNS = {
    "utterance": pa.string(),
    "speaker": pa.string(),
    "path": pa.string(),
    "offset_seconds": pa.float64(),
    "duration_seconds": pa.float64(),
    "sample_rate_hz": pa.int32(),
}
CHANNEL_COLUMN = {"channel": pa.int32()}
PACKED_COLUMNS = {"byte_offset": pa.int64(), "byte_length": pa.int64()}
UNSAFE_PATH = r"^/|(^|/)\.\.(/|$)|\\"
SHARD_AND_MEMBER = r"\.tar/."
CONTROL_CHARACTER = r"[\x00-\x1f\x7f-" + "\x9f\u2028-\u202e\u2066-\u2069]"  # and changes of direction


def with_types(table: pa.Table, source: str) -> pa.Table:
    """The table with each required column in its type, the places in shards as integers and all others as text.

    Raises:
        ManifestError: If a column is missing or doubled, or a value does not fit its type.
    """
    missing = [name for name in REQUIRED_COLUMNS if name not in table.column_names]
    if missing:
        raise ManifestError(
            f"columns must include {', '.join(REQUIRED_COLUMNS)}; {', '.join(missing)} not found in {source}."
        )
    if len(set(table.column_names)) < table.num_columns:
        raise ManifestError(
            f"columns must have different names, got {in_short(', '.join(table.column_names))} in {source}."
        )
    types = REQUIRED_COLUMNS | CHANNEL_COLUMN | PACKED_COLUMNS
    columns = {name: _cast(table[name], types.get(name, pa.string()), name, source) for name in table.column_names}
    return pa.table(columns)


def _cast(column: pa.ChunkedArray, wanted: pa.DataType, name: str, source: str) -> pa.ChunkedArray:
    if pa.types.is_binary(column.type) and wanted != pa.string():
        column = _cast(column, pa.string(), name, source)
    try:
        return column.cast(wanted)
    except pa.ArrowException as error:
        row = _first_row_that_does_not_cast(column, wanted)
        value = column[row].as_py() if len(column) else column.type
        raise ManifestError(
            f"{name} must be of type {wanted}, got {quoted(value)} in {_place(source, row)}."
        ) from error


def _first_row_that_does_not_cast(column: pa.ChunkedArray, wanted: pa.DataType) -> int:
    """Bisect: the cast of a slice fails exactly if the slice holds a bad row."""
    low, high = 0, len(column)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            column.slice(low, middle - low).cast(wanted)
            low = middle
        except pa.ArrowException:
            high = middle
    return low


def require_valid(table: pa.Table, source: str) -> None:
    """Check every value.

    Raises:
        ManifestError: If one breaks its rule; names the source and the row.
    """
    for name in REQUIRED_COLUMNS:
        _require(pc.is_valid(table[name]), f"{name} must not be empty", table[name], source)
    for name in ("utterance", "speaker", "path"):
        _require(pc.greater(pc.utf8_length(table[name]), 0), f"{name} must not be empty", table[name], source)
    offset, duration, rate = table["offset_seconds"], table["duration_seconds"], table["sample_rate_hz"]
    at_least_zero = pc.and_(pc.greater_equal(offset, 0.0), pc.less(offset, math.inf))
    _require(at_least_zero, "offset_seconds must be a number from 0", offset, source)
    positive = pc.and_(pc.greater(duration, 0.0), pc.less(duration, math.inf))
    _require(positive, "duration_seconds must be a positive number", duration, source)
    _require(pc.greater(rate, 0), "sample_rate_hz must be positive", rate, source)
    if "channel" in table.column_names:
        from_zero = pc.fill_null(pc.greater_equal(table["channel"], 0), True)
        _require(from_zero, "channel must be a number from 0, or empty for all", table["channel"], source)
    for name in table.column_names:
        if table[name].type == pa.string():
            rule = f"{name} must hold no line break or other control character"
            _require_no_match(CONTROL_CHARACTER, rule, table[name], source)
    _require_no_match(UNSAFE_PATH, "path must be relative and stay inside the root", table["path"], source)
    if any(name in table.column_names for name in PACKED_COLUMNS):
        _require_valid_places(table, source)
    if pc.count_distinct(table["utterance"]).as_py() != table.num_rows:
        row = _first_duplicate(table["utterance"])
        raise ManifestError(
            f"utterance must be unique, got {quoted(table['utterance'][row].as_py())} again in {_place(source, row)}."
        )


def _require_valid_places(table: pa.Table, source: str) -> None:
    """Where recordings lie in shards; rows without a place have files of their own."""
    if not all(name in table.column_names for name in PACKED_COLUMNS):
        raise ManifestError(f"columns byte_offset and byte_length must come together, got one of them in {source}.")
    offset, length, path = table["byte_offset"], table["byte_length"], table["path"]
    both_or_none = pc.equal(pc.is_valid(offset), pc.is_valid(length))
    _require(both_or_none, "byte_offset and byte_length must be given together", path, source)
    after_header = pc.fill_null(pc.greater_equal(offset, HEADER_BYTES), True)
    _require(after_header, f"byte_offset must be at least {HEADER_BYTES}, where the first header ends", offset, source)
    _require(pc.fill_null(pc.greater(length, 0), True), "byte_length must be positive", length, source)
    within_shard = pc.or_(pc.is_null(offset), pc.match_substring_regex(path, SHARD_AND_MEMBER))
    _require(within_shard, "path of a recording with a byte_offset must be SHARD.tar/NAME", path, source)


def _require(valid: pa.ChunkedArray, rule: str, column: pa.ChunkedArray, source: str) -> None:
    if not pc.all(valid, min_count=0).as_py():
        row = pc.index(valid, False).as_py()
        raise ManifestError(f"{rule}, got {quoted(column[row].as_py())} in {_place(source, row)}.")


def _require_no_match(pattern: str, rule: str, column: pa.ChunkedArray, source: str) -> None:
    matches = pc.fill_null(pc.match_substring_regex(column, pattern), False)
    _require(pc.invert(matches), rule, column, source)


def _first_duplicate(column: pa.ChunkedArray) -> int:
    seen: set[str] = set()
    for row, value in enumerate(column.to_pylist()):
        if value in seen:
            return row
        seen.add(value)
    raise AssertionError("called only when a duplicate exists")


def _place(source: str, row: int) -> str:
    """``file.csv:LINE`` (blank lines and line breaks in fields count), or the row where there are no lines."""
    if not source.endswith(".csv"):
        return f"{source}, row {row + 1}"
    try:
        return next(place for _, place in islice(split_rows(Path(source)), row + 1, None))
    except (StopIteration, ManifestError, FileNotFoundError):
        return f"{source}:{row + 2}"


_SUFFIXES = (".parquet", ".csv")
_ROOT_KEY = b"chns.root"
_ROOT_FROM_HERE_KEY = b"chns.root.from_here"


def read_table(path: Path) -> tuple[pa.Table, Path]:
    """The columns of a manifest file as they are, and the folder that it says its paths are relative to.

    If that is gone, it is the one that lies as it did when seen from the manifest, if there is such a one: both were
    moved together.

    Returns:
        The table, unchecked, and the folder that a Parquet file names, or the file's own.

    Raises:
        ManifestError: If the name ends in neither suffix, or the file is damaged or of another format.
    """
    table = _read_csv(path) if manifest_suffix(path) == ".csv" else _read_parquet(path)
    metadata = table.schema.metadata or {}
    root = path.parent / os.fsdecode(metadata.get(_ROOT_KEY, b"."))
    if _ROOT_FROM_HERE_KEY in metadata and not root.is_dir():
        moved_along = Path(os.path.normpath(path.parent.resolve() / os.fsdecode(metadata[_ROOT_FROM_HERE_KEY])))
        root = moved_along if moved_along.is_dir() else root
    return table, root


def write_table(path: Path, table: pa.Table, *, root: Path) -> None:
    """Write Parquet or CSV, by suffix, atomically.

    Parquet remembers the root: relative if it is the manifest's folder or inside it, else absolute and, for when that
    is gone, also relative. CSV cannot, so
    its paths are made relative to its own folder, which must hold the audio; and what begins like a formula gets an
    apostrophe in front, which is taken away when it is read.

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
            pyarrow.csv.write_csv(_replaced(moved(table, root.relative_to(folder)), _FORMULA, r"'\1"), temporary)
        return
    metadata = {_ROOT_KEY: os.fsencode(root.relative_to(folder) if root.is_relative_to(folder) else root)}
    if not root.is_relative_to(folder):
        with suppress(ValueError):  # no path leads from one drive of Windows to another
            metadata[_ROOT_FROM_HERE_KEY] = os.fsencode(os.path.relpath(root, folder))
    with atomic_path(path) as temporary:
        pq.write_table(table.replace_schema_metadata(metadata), temporary, compression="zstd")


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
        require_small_parquet(path)
        table = pq.read_table(path, partitioning=None)
        _ = table.column_names  # decodes them
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"manifest must be a readable Parquet file, got {path} ({in_short(error)}).") from error
    return table


_LARGEST_EXPANSION = 100  # manifests of real corpora unfold to ten or twenty times their file
_ALWAYS_ALLOWED_BYTES = 2**28
_BYTES_A_VALUE = 16  # of the widest number, and more than the place and the mask of a text take
_MOST_GROUPS_LOOKED_INTO = 100


def require_small_parquet(path: Path) -> None:
    """Make sure that a Parquet file, which may come from a stranger, fits into memory, before its values are decoded.

    A dictionary holds a text once and names it for every row: 333 bytes unfold to 27 GB. So what the longest text of
    the dictionary comes to, if all rows had it, is added to the sizes that the file's directory states; only where that
    is too much, the dictionaries are read without unfolding them, and the exact size is found.

    Args:
        path: The file; what it may unfold to is 100 times its size, or 256 MiB where that is more.

    Raises:
        ManifestError: If it unfolds to more.
        OSError, pyarrow.ArrowException: If it is damaged.
    """
    most = max(_LARGEST_EXPANSION * path.stat().st_size, _ALWAYS_ALLOWED_BYTES)
    with pq.ParquetFile(path) as file:
        columns = map(file.schema.column, range(len(file.schema.names)))
        texts = [column.path for column in columns if _is_text(column)]
        unfolded = _stated_bytes(file)
    if unfolded <= most and texts:
        unfolded += _most_text_bytes(path, texts, most - unfolded)
    if unfolded > most:
        raise ManifestError(
            f"Parquet file must unfold to at most {most:,} bytes ({_LARGEST_EXPANSION} times its size, or "
            "256 MiB), got "
            f"up to {unfolded:,} in {path}. If you trust it, write it again as CSV, or as plain Parquet."
        )


def _is_text(column: pq.ColumnSchema) -> bool:
    return str(column.physical_type) == "BYTE_ARRAY" and int(column.max_repetition_level) == 0


def _chunks(file: pq.ParquetFile) -> Iterator[pq.ColumnChunkMetaData]:
    for number in range(file.num_row_groups):
        group = file.metadata.row_group(number)
        yield from (group.column(column) for column in range(group.num_columns))


def _stated_bytes(file: pq.ParquetFile) -> int:
    """What the directory says of pages without compression, and the room for values in columns of fixed width."""
    total = 0
    for number, chunk in enumerate(_chunks(file)):
        width = file.schema.column(number % len(file.schema.names)).length or 0
        total += chunk.total_uncompressed_size + max(width, _BYTES_A_VALUE) * chunk.num_values
    return total


def _most_text_bytes(path: Path, names: list[str], allowed: int) -> int:
    """A bound of what texts in dictionaries unfold to; exact where it is above what is allowed."""
    total = 0
    with pq.ParquetFile(path, read_dictionary=names) as file:
        measures = [_text_bytes] if file.num_row_groups > _MOST_GROUPS_LOOKED_INTO else [_bound_of_text, _text_bytes]
        for measure in measures:
            total = sum(_measured(measure, file, group, name) for group in range(file.num_row_groups) for name in names)
            if total <= allowed:
                break
    return total


def _measured(measure: Callable[[pq.ParquetFile, int, str], int], file: pq.ParquetFile, group: int, name: str) -> int:
    try:
        return measure(file, group, name)
    except OSError as error:  # Arrow knows no dictionaries of texts that are written by their differences
        if "Not yet implemented" not in str(error):
            raise
        if "DeltaLength" in str(error):  # only the lengths are: nothing is there twice
            return 0
        row_group = file.metadata.row_group(group)
        return int(row_group.num_rows * row_group.total_byte_size)


def _bound_of_text(file: pq.ParquetFile, group: int, name: str) -> int:
    first = next(file.iter_batches(1, row_groups=[group], columns=[name]), None)  # with the whole dictionary
    longest = 0 if first is None else pc.max(_lengths(first.column(0).dictionary)).as_py() or 0
    return int(longest * file.metadata.row_group(group).num_rows)


def _text_bytes(file: pq.ParquetFile, group: int, name: str) -> int:
    chunks = file.read_row_group(group, [name]).column(0).chunks
    return sum(pc.sum(_lengths(chunk.dictionary).take(chunk.indices)).as_py() or 0 for chunk in chunks)


def _lengths(texts: pa.Array) -> pa.Array:
    return pc.cast(pc.binary_length(texts), pa.int64())


_FORMULA = f"^({FORMULA})"


def _replaced(table: pa.Table, pattern: str, replacement: str) -> pa.Table:
    """With apostrophes before formulas, as `chns.core.no_formula`, or without, in all columns of text."""
    for number, field in enumerate(table.schema):
        if pa.types.is_string(field.type) or pa.types.is_binary(field.type):
            changed = pc.replace_substring_regex(table.column(number), pattern, replacement)
            table = table.set_column(number, field, changed)
    return table


def _read_csv(path: Path) -> pa.Table:
    """Read every column as bytes: ``0001`` must not become a number, and bad text is reported with its row later.

    One thread, because only then do Arrow's own errors name the row. Empty lines are no rows, and quoted fields may
    hold line breaks, as in all tables (`chns.data.text_rows`); in further columns they become spaces.
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
        table = pyarrow.csv.read_csv(path, read_options, parse_options, convert_options)
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise ManifestError(
            f"manifest must be UTF-8 CSV with one header line, got {path} ({in_short(error)})."
        ) from error
    table = _replaced(table, f"^'({FORMULA})", r"\1")
    if len(set(names)) < len(names):
        return table  # to be refused with its columns named
    broken = [name for name in table.column_names if pc.any(pc.match_substring_regex(table[name], r"[\r\n]")).as_py()]
    if not broken:
        return table
    for _ in split_rows(path):  # a quote that swallows rows is an error there
        pass
    for name in set(broken) - REQUIRED_COLUMNS.keys():
        text = pc.replace_substring_regex(table[name], r"\r\n|\r|\n", " ")
        table = table.set_column(table.column_names.index(name), name, text)
    return table

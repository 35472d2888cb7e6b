"""What the rows of a manifest must hold when its root is a URL."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from chns.data.shards.remote_root import RemoteRoot
from chns.errors import ManifestError


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
            f"recordings below a URL must be in packed shards, got {table['path'][row].as_py()!r} with the root {root} "
            f"in {source}. Pack the corpus first (`chns pack`), upload the shards, and read their manifest.parquet."
        )
    row = pc.index(pc.match_substring(table["path"], "://"), True).as_py()
    if row >= 0:
        raise ManifestError(
            f"path must be relative to the root {root}, got the URL {table['path'][row].as_py()!r} in {source}."
        )

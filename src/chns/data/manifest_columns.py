"""Columns of a manifest as arrays, and manifests with other columns."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from chns.core.arrays import Float64Array
from chns.data.manifest import Manifest


def numbers(manifest: Manifest, name: str) -> Float64Array:
    """A column of numbers, shape (utterances,)."""
    return np.asarray(manifest.table[name].to_numpy(), np.float64)


def with_columns(manifest: Manifest, columns: Mapping[str, Any]) -> Manifest:
    """The same utterances with some columns added or replaced.

    Args:
        manifest: The utterances.
        columns: One value an utterance.

    Raises:
        ManifestError: If a value breaks the rule of its column.
    """
    table = manifest.table
    for name, values in columns.items():
        column = pa.array(values)
        place = table.column_names.index(name) if name in table.column_names else None
        table = table.append_column(name, column) if place is None else table.set_column(place, name, column)
    return Manifest(table, root=manifest.location)


def fingerprint(manifest: Manifest) -> str:
    """The same for the same rows under the same root, and else another."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, manifest.table.schema) as writer:
        writer.write_table(manifest.table)
    digest = hashlib.blake2b(bytes(manifest.root.resolve()), digest_size=8)
    digest.update(sink.getvalue())
    return digest.hexdigest()

"""Voiceprints as a Parquet file, for other tools."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from chns.core.files import atomic_path
from chns.store.content import Voiceprint
from chns.store.voiceprints import VoiceprintStore


def export_voiceprints(store: VoiceprintStore, path: Path) -> int:
    """Write everybody's voiceprint, name, time, note and number of utterances, unencrypted and atomically.

    Only the owner may read and write the file, for it holds biometric data.

    The digest of the model is in the file's metadata as ``model_digest``.

    Args:
        store: Where from.
        path: The Parquet file.

    Returns:
        How many people were written.

    Raises:
        ValueError: If the name of the file does not end in ``.parquet``.
    """
    if path.suffix != ".parquet":
        raise ValueError(f"name of the export must end in .parquet, got {path}.")
    people = store.voiceprints()
    columns = {
        "name": pa.array([person.name for person in people], pa.string()),
        "enrolled_at": pa.array([person.enrolled_at for person in people], pa.timestamp("s", tz="UTC")),
        "note": pa.array([person.note for person in people], pa.string()),
        "num_utterances": pa.array([person.num_utterances for person in people], pa.int64()),
        "voiceprint": _vectors(people, store.dim),
    }
    with atomic_path(path, mode=0o600) as temporary:
        table = pa.table(columns, metadata={"model_digest": store.model_digest})
        pq.write_table(table, temporary, compression="zstd")
    return len(people)


def _vectors(people: Sequence[Voiceprint], dim: int) -> pa.FixedSizeListArray:
    flat = np.concatenate([person.vector for person in people]) if people else np.empty(0, np.float32)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat, pa.float32()), dim)

"""A manifest as a CSV file that may lie anywhere: its paths are absolute."""

from __future__ import annotations

import csv
from pathlib import Path

from chns.data.export.located import file_of, further_columns
from chns.data.manifest import Manifest
from chns.data.manifest_checks import REQUIRED_COLUMNS
from chns.files import atomic_path


def write_csv(manifest: Manifest, path: Path) -> None:
    """Write a table with the columns of the manifest; what is not known is empty.

    ``Manifest.write`` makes a CSV that is a manifest itself, beside its audio; this one is for other programs.

    Args:
        manifest: The utterances.
        path: The table.

    Raises:
        ManifestError: If a recording lies in a shard.
    """
    further = further_columns(manifest)
    columns = [manifest.column(name) for name in further]
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        has_channels = "channel" in manifest.column_names
        writer.writerow([*REQUIRED_COLUMNS, *(["channel"] if has_channels else []), *further])
        for row in range(len(manifest)):
            each = manifest[row]
            fields = (
                each.name,
                each.speaker,
                file_of(each).absolute(),
                *each[3:6],
                *([each.channel] if has_channels else []),
            )
            writer.writerow([*fields, *(values[row] for values in columns)])

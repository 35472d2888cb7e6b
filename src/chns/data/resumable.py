"""Go through all utterances of a manifest, in work that a kill does not lose.

Results are kept in a folder, one Parquet file for every thousand utterances, and the same work on the same manifest
goes on behind the last of them; recordings that were exchanged in between are not noticed. Beside the manifest and the
results, memory holds what 50,000 utterances need, however many there are. A long utterance comes window by window
(`read_windows`), so memory does not grow with its length either; almost every one is one window and one decoding.
"""

from __future__ import annotations

import hashlib
import math
import shutil
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from chns.core import atomic_path, locked_folder
from chns.core.parallel import mapped
from chns.data.audio import Waveform, read_audio
from chns.data.manifest import Manifest, Utterance, fingerprint
from chns.data.manifest_file import require_small_parquet
from chns.data.storage.packed import Recording

PART_UTTERANCES = 1_000
WINDOW_SECONDS = 120

_UTTERANCES_A_POOL = 50_000
_UTTERANCES_PER_WORKER = 100


def process_utterances(
    function: Callable[[Utterance], Any],
    manifest: Manifest,
    *,
    schema: pa.Schema,
    settings: str,
    kept: Path,
    purpose: str,
    jobs: int | None = None,
) -> pa.Table:
    """Apply a function to every utterance, in as many processes as they are worth, and keep what is done.

    Args:
        function: At the top level of a module, or a partial of such a one; gives a NamedTuple.
        manifest: The utterances.
        schema: Names and types of the NamedTuple's fields.
        settings: What the result depends on beside the manifest; with other settings the work begins anew.
        kept: Folder for what is done. Delete it with `forget` when the result is safe elsewhere.
        purpose: What the progress bar says.
        jobs: Processes at most; by default one a core, and none for few utterances. They are spawned: a script that
            calls this needs the usual ``if __name__ == "__main__":``.

    Returns:
        One row an utterance, in the order of the manifest.

    Raises:
        ValueError: If jobs is below 1.
        ManifestError: If another process works in that folder.
    """
    with locked_folder(kept):
        key = hashlib.blake2b(f"{schema}{settings}{fingerprint(manifest)}".encode(), digest_size=8).hexdigest()
        parts = list(_finished_parts(kept, key, schema))
        done = sum(part.num_rows for part in parts)
        with tqdm(total=len(manifest), initial=done, desc=purpose, unit="utterance", disable=None) as progress:
            for first in range(done, len(manifest), _UTTERANCES_A_POOL):
                utterances = [manifest[row] for row in range(first, min(first + _UTTERANCES_A_POOL, len(manifest)))]
                with mapped(function, utterances, jobs=jobs, items_per_worker=_UTTERANCES_PER_WORKER) as results:
                    for part in _in_parts(results, schema, progress):
                        with atomic_path(_part_path(kept, key, done)) as temporary:
                            pq.write_table(part, temporary)
                        parts.append(part)
                        done += part.num_rows
        return pa.concat_tables(parts).combine_chunks()


def forget(kept: Path) -> None:
    """Delete what was kept for going on."""
    shutil.rmtree(kept)


def _finished_parts(kept: Path, key: str, schema: pa.Schema) -> Iterator[pa.Table]:
    done = 0
    while (path := _part_path(kept, key, done)).is_file():
        require_small_parquet(path)
        part = pq.read_table(path, partitioning=None, schema=schema)
        yield part
        done += part.num_rows


def _in_parts(results: Iterator[Any], schema: pa.Schema, progress: tqdm) -> Iterator[pa.Table]:  # type: ignore[type-arg]
    while rows := list(_counted(islice(results, PART_UTTERANCES), progress)):
        yield pa.Table.from_pylist([row._asdict() for row in rows], schema=schema)


def _counted(results: Iterator[Any], progress: tqdm) -> Iterator[Any]:  # type: ignore[type-arg]
    for result in results:
        yield result
        progress.update()


def _part_path(kept: Path, key: str, first: int) -> Path:
    return kept / f"{key}-{first:09d}.parquet"


def read_windows(
    path: Recording, *, sample_rate_hz: int, offset_seconds: float, duration_seconds: float, channel: int | None = None
) -> Iterator[Waveform]:
    """Decode part of a recording as windows of 120 s and a shorter last one. A file that ends sooner gives less.

    Args:
        path: The recording.
        sample_rate_hz: Rate of the windows.
        offset_seconds: Where to start.
        duration_seconds: How much to read; at least one sample.
        channel: See `read_audio`.

    Yields:
        Samples, shape (samples,), float32.

    Raises:
        FileNotFoundError: If there is no such file.
        AudioError: If it cannot be decoded.
    """
    window_samples = WINDOW_SECONDS * sample_rate_hz
    remaining = max(1, round(duration_seconds * sample_rate_hz))
    for number in range(math.ceil(remaining / window_samples)):
        wanted = min(window_samples, remaining)
        waveform = read_audio(
            path,
            sample_rate_hz=sample_rate_hz,
            offset_seconds=offset_seconds + number * WINDOW_SECONDS,
            duration_seconds=wanted / sample_rate_hz,
            channel=channel,
        )
        yield waveform
        if len(waveform) < wanted:
            return
        remaining -= wanted

"""Go through all utterances of a manifest, in work that a kill does not lose.

Results are kept in a folder, one Parquet file for every block of a thousand utterances, and the same work on the same
manifest does the blocks that are missing; recordings that were exchanged in between are not noticed. Beside manifest
and results, memory holds what 50,000 utterances need, however many there are. A long utterance comes window by window
(`read_windows`), so memory does not grow with its length either; almost every one is one window and one decoding.

Several machines can share the work: each does its part of the blocks (`chns.core.JobPart`) in the same folder.
"""

from __future__ import annotations

import hashlib
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from chns.core import Float32Array, IntArray, JobPart, atomic_path, locked_folder, mapped
from chns.data.audio import Waveform, read_audio
from chns.data.manifest import Manifest, Utterance, fingerprint
from chns.data.manifest_file import require_small_parquet
from chns.data.storage.packed import Recording

BLOCK_UTTERANCES = 1_000
EMBEDDED_UTTERANCES = 10_000
WINDOW_SECONDS = 120

_BLOCKS_A_POOL = 50
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
    part: JobPart | None = None,
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
        part: The part of the work that is to be done; by default all of it.

    Returns:
        One row an utterance, in the order of the manifest; of a part, those of its blocks.

    Raises:
        ValueError: If jobs is below 1.
        ManifestError: If another process works in that folder.
    """

    def results_of(blocks: Sequence[range], progress: tqdm) -> Iterator[pa.Table]:  # type: ignore[type-arg]
        for first in range(0, len(blocks), _BLOCKS_A_POOL):
            some = blocks[first : first + _BLOCKS_A_POOL]
            utterances = [manifest[row] for block in some for row in block]
            with mapped(function, utterances, jobs=jobs, items_per_worker=_UTTERANCES_PER_WORKER) as results:
                for block in some:
                    rows = _counted(islice(results, len(block)), progress)
                    yield pa.Table.from_pylist([row._asdict() for row in rows], schema=schema)

    work = _Work(manifest, f"{schema}{settings}", kept, part, BLOCK_UTTERANCES)
    return pa.concat_tables([schema.empty_table(), *work.done(results_of, purpose)]).combine_chunks()


def embed_utterances(
    embed: Callable[[IntArray], Float32Array],
    manifest: Manifest,
    *,
    settings: str,
    kept: Path,
    part: JobPart | None = None,
) -> Float32Array:
    """Embed every utterance, block by block of 10,000, and keep what is done.

    Args:
        embed: Gives the embeddings of some rows of the manifest, shape (rows, dim).
        manifest: The utterances.
        settings: The model, and how it embeds; with other settings the work begins anew.
        kept: Folder for what is done. Delete it with `forget` when the result is safe elsewhere.
        part: The part of the work that is to be done; by default all of it.

    Returns:
        Shape (utterances, dim), in the order of the manifest; of a part, those of its blocks.

    Raises:
        ManifestError: If another process works in that folder.
    """

    def results_of(blocks: Sequence[range], progress: tqdm) -> Iterator[pa.Table]:  # type: ignore[type-arg]
        for block in blocks:
            embeddings = embed(np.array(block))
            progress.update(len(block))
            column = pa.FixedSizeListArray.from_arrays(pa.array(embeddings.ravel()), embeddings.shape[1])
            yield pa.table({"embedding": column})

    work = _Work(manifest, f"embeddings {settings}", kept, part, EMBEDDED_UTTERANCES)
    blocks = [table["embedding"].combine_chunks() for table in work.done(results_of, "embedded")]
    return np.concatenate([*map(_as_array, blocks)]) if blocks else np.empty((0, 0), np.float32)


def _as_array(vectors: pa.FixedSizeListArray) -> Float32Array:
    return np.asarray(vectors.flatten()).reshape(len(vectors), -1)


class _Work(NamedTuple):
    """Blocks of a manifest, of which some are to be done."""

    manifest: Manifest
    settings: str
    kept: Path
    part: JobPart | None
    block_utterances: int

    def done(
        self,
        results_of: Callable[[Sequence[range], tqdm], Iterator[pa.Table]],  # type: ignore[type-arg]
        purpose: str,
    ) -> list[pa.Table]:
        """Do what is missing, and give the results of all blocks."""
        key = hashlib.blake2b(f"{self.settings}{fingerprint(self.manifest)}".encode(), digest_size=8).hexdigest()
        count, size = len(self.manifest), self.block_utterances
        all_blocks = [range(first, min(first + size, count)) for first in range(0, count, size)]
        blocks = all_blocks if self.part is None else self.part.own(all_blocks)
        paths = {block: self.kept / f"{key}-{block.start:09d}.parquet" for block in blocks}
        with locked_folder(self.kept, part=self.part):
            missing = [block for block in blocks if not paths[block].is_file()]
            total, left = sum(map(len, blocks)), sum(map(len, missing))
            with tqdm(total=total, initial=total - left, desc=purpose, unit="utterance", disable=None) as progress:
                for block, result in zip(missing, results_of(missing, progress), strict=True):
                    with atomic_path(paths[block]) as temporary:
                        pq.write_table(result, temporary)
            return [_read(path) for path in paths.values()]


def _read(path: Path) -> pa.Table:
    require_small_parquet(path)
    return pq.read_table(path, partitioning=None)


def forget(kept: Path) -> None:
    """Delete what was kept for going on."""
    shutil.rmtree(kept)


def _counted(results: Iterator[Any], progress: tqdm) -> Iterator[Any]:  # type: ignore[type-arg]
    for result in results:
        yield result
        progress.update()


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

"""The formats that ``shards.py`` compares: how each stores recordings as bytes, and reads some of them by number.

A format that needs a package that is not installed is left out, with a line.
"""

import json
import os
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from report import peer

Blobs = Sequence[bytes]
Reader = Callable[[Sequence[int]], list[bytes]]

SHARD_BYTES = 64 * 2**20
ROWS_A_GROUP = 16


class Format(NamedTuple):
    """How to write all recordings into a folder, and to open what was written; opening reads nothing of them."""

    write: Callable[[Path, Blobs], None]
    open: Callable[[Path], Reader]


def formats() -> dict[str, Format]:
    """Every format that can be measured here."""
    found = {
        "files": Format(_write_files, _open_files),
        "tar + index": Format(_write_tar, _open_tar),
        "tar + index, fadvise random": Format(_write_tar, lambda folder: _open_tar(folder, read_ahead=False)),
        "Arrow IPC, memory-mapped": Format(_write_arrow, _open_arrow),
        f"Parquet, groups of {ROWS_A_GROUP}": Format(_write_parquet, _open_parquet),
    }
    if peer("lance"):
        found["Lance"] = Format(_write_lance, _open_lance)
    if peer("h5py"):
        found["HDF5"] = Format(_write_hdf5, _open_hdf5)
    if peer("litdata"):
        found["LitData"] = Format(_write_litdata, _open_litdata)
    if peer("array_record.python.array_record_module"):
        found["ArrayRecord"] = Format(_write_array_record, _open_array_record)
    return found


def shards_of(blobs: Blobs) -> Iterator[tuple[int, Iterable[tuple[int, bytes]]]]:
    """Consecutive recordings that fill a shard, with their numbers."""
    starts = np.flatnonzero(np.diff(np.cumsum([0, *map(len, blobs)]) // SHARD_BYTES)) + 1
    bounds = np.unique([0, *starts[starts < len(blobs)], len(blobs)]).tolist()
    for shard, (first, last) in enumerate(pairwise(bounds)):
        yield shard, [(number, blobs[number]) for number in range(first, last)]


def _write_files(folder: Path, blobs: Blobs) -> None:
    for number, blob in enumerate(blobs):
        path = folder / f"{number // 20}" / f"{number}.flac"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(blob)


def _open_files(folder: Path) -> Reader:
    return lambda numbers: [(folder / f"{number // 20}" / f"{number}.flac").read_bytes() for number in numbers]


def _write_tar(folder: Path, blobs: Blobs) -> None:
    places = []
    for shard, members in shards_of(blobs):
        with (folder / f"{shard}.tar").open("wb") as file:
            for number, blob in members:
                info = tarfile.TarInfo(f"{number}.flac")
                info.size = len(blob)
                file.write(info.tobuf())
                places.append((shard, file.tell(), len(blob)))
                file.write(blob + bytes(-len(blob) % 512))
    columns = dict(zip(("shard", "offset", "length"), map(list, zip(*places, strict=True)), strict=True))
    pq.write_table(pa.table(columns), folder / "index.parquet")


def _open_tar(folder: Path, *, read_ahead: bool = True) -> Reader:
    index = np.stack([column.to_numpy() for column in pq.read_table(folder / "index.parquet").columns]).T

    def read(number: int) -> bytes:
        shard, offset, length = index[number].tolist()
        descriptor = os.open(folder / f"{shard}.tar", os.O_RDONLY)
        try:
            if not read_ahead:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
            return os.pread(descriptor, length, offset)
        finally:
            os.close(descriptor)

    return lambda numbers: [read(number) for number in numbers]


def _write_arrow(folder: Path, blobs: Blobs) -> None:
    schema = pa.schema([("audio", pa.large_binary())])
    for shard, members in shards_of(blobs):
        with pa.OSFile(str(folder / f"{shard:05d}.arrow"), "wb") as file, pa.ipc.new_file(file, schema) as writer:
            writer.write_batch(pa.record_batch([[blob for _, blob in members]], schema=schema))


def _open_arrow(folder: Path) -> Reader:
    maps = [pa.memory_map(str(path)) for path in sorted(folder.glob("*.arrow"))]
    table = pa.concat_tables([pa.ipc.open_file(mapped).read_all() for mapped in maps])
    return lambda numbers: [table["audio"][number].as_py() for number in numbers]


def _write_parquet(folder: Path, blobs: Blobs) -> None:
    for shard, members in shards_of(blobs):
        table = pa.table({"audio": pa.array([blob for _, blob in members], pa.large_binary())})
        path = folder / f"{shard:05d}.parquet"
        pq.write_table(table, path, row_group_size=ROWS_A_GROUP, compression="none", use_dictionary=False)


def _open_parquet(folder: Path) -> Reader:
    files = [pq.ParquetFile(path) for path in sorted(folder.glob("*.parquet"))]
    ends = np.cumsum([file.metadata.num_rows for file in files])

    def read(number: int) -> bytes:
        shard = int(np.searchsorted(ends, number, side="right"))
        group, row = divmod(number - int(ends[shard]) + files[shard].metadata.num_rows, ROWS_A_GROUP)
        return files[shard].read_row_group(group, use_threads=False)["audio"][row].as_py()

    return lambda numbers: [read(number) for number in numbers]


def _write_lance(folder: Path, blobs: Blobs) -> None:
    import lance

    schema = pa.schema([("audio", pa.large_binary())])
    batches = (pa.record_batch([[blob for _, blob in members]], schema=schema) for _, members in shards_of(blobs))
    lance.write_dataset(batches, folder / "lance", schema=schema, max_bytes_per_file=SHARD_BYTES)


def _open_lance(folder: Path) -> Reader:
    import lance

    dataset = lance.dataset(folder / "lance")
    return lambda numbers: dataset.take(numbers, columns=["audio"])["audio"].to_pylist()


def _write_hdf5(folder: Path, blobs: Blobs) -> None:
    import h5py

    with h5py.File(folder / "audio.h5", "w") as file:
        dataset = file.create_dataset("audio", len(blobs), dtype=h5py.vlen_dtype(np.uint8))
        for number, blob in enumerate(blobs):
            dataset[number] = np.frombuffer(blob, np.uint8)


def _open_hdf5(folder: Path) -> Reader:
    import h5py

    dataset = h5py.File(folder / "audio.h5", "r")["audio"]
    return lambda numbers: [dataset[number].tobytes() for number in numbers]


def _write_litdata(folder: Path, blobs: Blobs) -> None:
    from litdata.streaming.writer import BinaryWriter

    writer = BinaryWriter(str(folder), chunk_bytes=SHARD_BYTES)
    for number, blob in enumerate(blobs):
        writer.add_item(number, {"audio": blob})
    writer.done()
    writer.merge()


def _open_litdata(folder: Path) -> Reader:
    import litdata

    dataset = litdata.StreamingDataset(str(folder))
    return lambda numbers: [dataset[number]["audio"] for number in numbers]


def _write_array_record(folder: Path, blobs: Blobs) -> None:
    from array_record.python.array_record_module import ArrayRecordWriter

    counts = []
    for shard, members in shards_of(blobs):
        writer = ArrayRecordWriter(str(folder / f"{shard:05d}.array_record"), "group_size:1,uncompressed")
        counts.append(sum(1 for _, blob in members if writer.write(blob) is None))
        writer.close()
    (folder / "counts.json").write_text(json.dumps(counts))


def _open_array_record(folder: Path) -> Reader:
    from array_record.python.array_record_module import ArrayRecordReader

    paths = sorted(folder.glob("*.array_record"))
    readers = [ArrayRecordReader(str(path), "readahead_buffer_size:0") for path in paths]
    ends = np.cumsum(json.loads((folder / "counts.json").read_text()))

    def read(number: int) -> bytes:
        shard = int(np.searchsorted(ends, number, side="right"))
        return readers[shard].read([number - int(ends[shard - 1] if shard else 0)])[0]

    return lambda numbers: [read(number) for number in numbers]

"""Pack the recordings of a manifest into shards, so that a million files become a few hundred.

A shard is a tar file with an index. The new manifest names the bytes of each recording and serves wherever a manifest
does; its rows are in the order of the old one, so batches are the same and, unless lossy audio is encoded anew, crops
are bit for bit. ``docs/decisions/0011-packed-shards.md`` compares the formats and says what the order of the recordings
is good for.

Resumable: a shard gets its name when it is whole, and a run goes on with those that are missing or whose recordings
have changed. Measured on one core that others used too: 300 to 500 MB/s as they are (FLAC, WAV), and from Opus to FLAC
450 times as fast as the speech.

The index is a Parquet file beside the shard and is written last. It says what the shard was made from, so a shard that
has one is whole, and it is left alone if the same recordings, unchanged, would go into it again. The bytes of a shard
depend on the recordings and their names alone: times, owners and rights are left out.

A shard is one of WebDataset's too, with a sample a recording, and has the indexes of two of its readers beside it:
``shard-00000.idx`` for NVIDIA's DALI (as its ``wds2idx`` writes it) and one ``shardindex.json`` for ``wids``.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
from tqdm import tqdm

from chns.core import AudioError, JobPart, ManifestError, atomic_path, locked_folder, mapped, require_ours
from chns.data.audio import FLAC_LEVEL, WRITTEN_FORMATS, audio_info, read_audio
from chns.data.corpora.scan import Rejected, ScanResult
from chns.data.manifest import Manifest
from chns.data.manifest_file import require_small_parquet
from chns.data.shard_plan import ENCODED_RATE_HZ, ENCODINGS, Encoding, Member, Plan, ShardPlan, plan_shards
from chns.data.storage.packed import PackedRecording, Recording
from chns.data.storage.remote import HEADER_BYTES

_log = logging.getLogger(__name__)

Format = Literal["as-is", "flac", "wav"]

MANIFEST_NAME, REPORT_NAME, CHECKSUMS_NAME = "manifest.parquet", "manifest.rejected.csv", "SHA256SUMS"
WIDS_NAME = "shardindex.json"
_OURS = ("shard-*.tar", "shard-*.parquet", "shard-*.idx", MANIFEST_NAME, REPORT_NAME, CHECKSUMS_NAME, WIDS_NAME)

_SHARDS_PER_WORKER = 4


class Packing(NamedTuple):
    """What came of packing.

    Attributes:
        manifest: The utterances whose recordings are in shards, as written to ``manifest.parquet``; of a part, those in
            its shards, and nothing is written but these.
        failures: The other recordings, by path.
        report: CSV file that lists them; of a part, not written.
        num_written: Shards written now.
        num_kept: Shards that an earlier run had written.
    """

    manifest: Manifest
    failures: list[Rejected]
    report: Path
    num_written: int
    num_kept: int


def pack_shards(
    manifest: Manifest,
    out: Path,
    *,
    shard_bytes: int = 256_000_000,
    speaker_groups: npt.ArrayLike | None = None,
    format: Format = "as-is",  # noqa: A002
    jobs: int | None = None,
    part: JobPart | None = None,
) -> Packing:
    """Write shards, ``manifest.parquet``, a report of what could not be packed, and checksums for ``sha256sum -c``.

    Args:
        manifest: Utterances, in files or in shards; several may lie in one recording, which is packed once.
        out: Folder for the shards; those of an earlier run are kept if they are still right.
        shard_bytes: About how large a shard becomes.
        speaker_groups: Cluster of each speaker, shape (speakers,): recordings of a cluster lie together, and those of a
            speaker within. By default only the latter do.
        format: ``as-is``, or mono of 16 kHz and 16 bits: ``flac``, or ``wav``, which takes twice the bytes and is read
            several times as fast.
        jobs: Processes at most; by default one a core, and none for few shards.
        part: The part of the shards that is to be written; by default all, the manifest and what is beside it.

    Raises:
        ValueError: If a setting is not one that works, or the recordings come from shards in ``out``.
        FileExistsError: If ``out`` holds anything but what packing writes.
        ManifestError: If another process is packing into ``out``, no recording can be packed, a folder of one has a
            name like that of a shard, or the recordings are in object storage.
    """
    if format not in get_args(Format):
        raise ValueError(f"format must be one of {', '.join(get_args(Format))}, got {format!r}.")
    if shard_bytes < 1:
        raise ValueError(f"shard_bytes must be positive, got {shard_bytes}.")
    encoding = ENCODINGS.get(format)
    plan = plan_shards(manifest, out, shard_bytes=shard_bytes, speaker_groups=speaker_groups, encoding=encoding)
    _refuse_own_shards(plan, out)
    require_ours(out, _OURS)
    if part is not None:
        plan = Plan([*part.own(plan.shards)], [])
    with locked_folder(out, part=part):
        shards = _write(plan, encoding, jobs) if plan.shards else []
        failures = sorted([*plan.failures, *(failure for shard in shards for failure in shard.failures)])
        index = _joined_index(plan, shards)
        if not index and part is None:
            raise ManifestError(
                f"corpus must hold a recording that can be packed, got none in {manifest.root} "
                f"(the first is {failures[0].path}: {failures[0].reason})."
            )
        packed = _pointing_to(index, manifest, out, encoding)
        report = out / REPORT_NAME
        if part is None:
            ScanResult(packed, failures).write(out / MANIFEST_NAME)
            _write_checksums(plan, shards, out)
            _write_wids_index(plan, shards, out)
    if part is None:
        _mention_leftovers(plan, out)
    num_written = sum(shard.is_new for shard in shards)
    return Packing(packed, failures, report, num_written, len(shards) - num_written)


def _refuse_own_shards(plan: Plan, out: Path) -> None:
    sources = (member.source for shard in plan.shards for member in shard.members)
    folders = {source.shard.parent for source in sources if isinstance(source, PackedRecording)}
    if out.resolve() in {folder.resolve() for folder in folders}:
        raise ValueError(f"shards must not be packed into their own folder, got {out}. Name another one.")


def _write(plan: Plan, encoding: Encoding | None, jobs: int | None) -> list[Shard]:
    function = partial(write_shard, encoding=encoding)
    total = sum(len(shard.members) for shard in plan.shards)
    shards = []
    with (
        mapped(function, plan.shards, jobs=jobs, items_per_worker=_SHARDS_PER_WORKER, items_per_call=1) as written,
        tqdm(total=total, desc="packing", unit="recording", disable=None) as progress,
    ):
        for planned, shard in zip(plan.shards, written, strict=True):
            shards.append(shard)
            progress.update(len(planned.members))
    return shards


class _Place(NamedTuple):
    """Where a recording lies now."""

    path: str
    byte_offset: int
    byte_length: int
    num_frames: int | None


def _joined_index(plan: Plan, shards: Sequence[Shard]) -> dict[tuple[str, int | None], _Place]:
    """By path, and channel where one was encoded anew."""
    index: dict[tuple[str, int | None], _Place] = {}
    for planned, shard in zip(plan.shards, shards, strict=True):
        for row in shard.index.to_pylist():
            path = f"{planned.path.name}/{row['member']}"
            index[row["path"], row["channel"]] = _Place(path, row["byte_offset"], row["byte_length"], row["num_frames"])
    return index


def _pointing_to(
    index: Mapping[tuple[str, int | None], _Place], manifest: Manifest, out: Path, encoding: Encoding | None
) -> Manifest:
    """The rows whose recordings were packed. A duration may shrink by the part of a sample that a new rate has not."""
    channels = [None] * len(manifest) if encoding is None else manifest.channels
    sources = list(zip(manifest.column("path"), channels, strict=True))
    table = manifest.table.filter(pa.array([source in index for source in sources]))
    places = [index[source] for source in sources if source in index]
    if encoding is not None and "channel" in table.column_names:
        table = table.drop_columns(["channel"])
    columns = {
        "path": pa.array([place.path for place in places], pa.string()),
        "byte_offset": pa.array([place.byte_offset for place in places], pa.int64()),
        "byte_length": pa.array([place.byte_length for place in places], pa.int64()),
    }
    if encoding is not None:
        ends = np.array([place.num_frames for place in places]) / ENCODED_RATE_HZ
        room, durations = ends - table["offset_seconds"].to_numpy(), table["duration_seconds"].to_numpy()
        is_rounding = (room > 0) & (durations - room < 1 / ENCODED_RATE_HZ)
        columns["duration_seconds"] = pa.array(np.where(is_rounding, np.minimum(durations, room), durations))
        columns["sample_rate_hz"] = pa.array(np.full(len(places), ENCODED_RATE_HZ, np.int32))
    for name, column in columns.items():
        if name in table.column_names:
            table = table.set_column(table.column_names.index(name), name, column)
        else:
            table = table.append_column(name, column)
    return Manifest(table, root=out, source="packed manifest")


def _write_checksums(plan: Plan, shards: Sequence[Shard], out: Path) -> None:
    lines = [f"{shard.sha256}  {planned.path.name}\n" for planned, shard in zip(plan.shards, shards, strict=True)]
    with atomic_path(out / CHECKSUMS_NAME) as temporary:
        temporary.write_text("".join(lines), encoding="ascii")


def _write_wids_index(plan: Plan, shards: Sequence[Shard], out: Path) -> None:
    listed = [
        {"url": planned.path.name, "nsamples": len(_samples(shard.index)), "filesize": planned.path.stat().st_size}
        for planned, shard in zip(plan.shards, shards, strict=True)
    ]
    index = {"__kind__": "wids-shard-index-v1", "wids_version": 1, "shardlist": listed}
    with atomic_path(out / WIDS_NAME) as temporary:
        temporary.write_text(json.dumps(index, indent=2) + "\n", encoding="ascii")


def _samples(index: pa.Table) -> list[list[dict[str, Any]]]:
    """The samples that WebDataset takes a shard for: recordings in a row that differ behind a dot alone."""
    rows = index.to_pylist()
    return [[*group] for _, group in groupby(rows, key=lambda row: _key_and_extension(row["member"])[0])]


def _key_and_extension(member: str) -> tuple[str, str]:
    folder, slash, name = member.rpartition("/")
    stem, _, extension = name.partition(".")
    return folder + slash + stem, extension


def _write_dali_index(shard: Path, index: pa.Table) -> None:
    """A line a sample, fields by spaces: extension, offset, length and name of each file."""
    spaced = next((name for name in index["member"].to_pylist() if " " in name), None)
    if spaced is not None:
        _log.warning("%s gets no .idx for DALI: its format knows no names with spaces, such as %s", shard, spaced)
        shard.with_suffix(".idx").unlink(missing_ok=True)
        return
    lines = [
        " ".join(
            f"{_key_and_extension(row['member'])[1]} {row['byte_offset']} {row['byte_length']} {row['member']}"
            for row in sample
        )
        for sample in _samples(index)
    ]
    with atomic_path(shard.with_suffix(".idx")) as temporary:
        temporary.write_text("\n".join([f"v1.2 {len(lines)}", *lines, ""]), encoding="utf-8", newline="\n")


def _mention_leftovers(plan: Plan, out: Path) -> None:
    used = {shard.path.name for shard in plan.shards}
    leftovers = sorted(path.name for path in out.glob("shard-*.tar") if path.name not in used)
    if leftovers:
        _log.warning(
            "%s holds %d shards that the manifest needs no more, %s to %s: delete them with their .parquet and .idx.",
            out, len(leftovers), leftovers[0], leftovers[-1],
        )  # fmt: skip


_MAX_ENCODED_HOURS = 4
_COPY_BYTES = 2**20
_MADE_FROM = ("path", "member", "source_bytes", "source_mtime_ns")
_SETTINGS_KEY, _DIGEST_KEY, _SIZE_KEY = b"chns.settings", b"chns.sha256", b"chns.bytes"

_INDEX = pa.schema(
    {
        "path": pa.string(),
        "member": pa.string(),
        "channel": pa.int32(),
        "byte_offset": pa.int64(),
        "byte_length": pa.int64(),
        "num_frames": pa.int64(),
        "source_bytes": pa.int64(),
        "source_mtime_ns": pa.int64(),
    }
)


class Shard(NamedTuple):
    """A shard that is there.

    Attributes:
        index: Columns ``path`` (that of the source's manifest), ``member``, ``byte_offset``, ``byte_length``, and
            ``num_frames`` of what was encoded anew; one row a recording.
        sha256: Of the whole shard, in hexadecimal digits.
        failures: Recordings that could not be packed.
        is_new: Whether it was written now.
    """

    index: pa.Table
    sha256: str
    failures: list[Rejected]
    is_new: bool


def write_shard(plan: ShardPlan, *, encoding: Encoding | None) -> Shard:
    """Write a shard, unless that was done.

    What stops the writing, like a full disk, raises; a recording that cannot be read is listed.

    Args:
        plan: Where the shard goes, and its recordings.
        encoding: What recordings are encoded anew as; by default they stay as they are.
    """
    done = _already_written(plan, encoding)
    if done is not None:
        if not plan.path.with_suffix(".idx").exists():
            _write_dali_index(plan.path, done.index)
        return done
    failures: list[Rejected] = []
    with atomic_path(plan.path) as temporary:
        with temporary.open("wb") as file:
            rows = list(_added(file, plan.members, encoding, failures))
            file.write(bytes(2 * HEADER_BYTES))
        size = temporary.stat().st_size
        with temporary.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    metadata = {_SETTINGS_KEY: _settings_of(encoding), _DIGEST_KEY: sha256, _SIZE_KEY: str(size)}
    index = pa.Table.from_pylist(rows, schema=_INDEX.with_metadata(metadata))
    _write_dali_index(plan.path, index)
    with atomic_path(_index_path(plan.path)) as temporary:
        pq.write_table(index, temporary, compression="zstd")
    return Shard(index, sha256, failures, is_new=True)


def _index_path(shard: Path) -> Path:
    return shard.with_suffix(".parquet")


def _settings_of(encoding: Encoding | None) -> str:
    return str(encoding and f"{encoding.suffix} {ENCODED_RATE_HZ}")


def _already_written(plan: ShardPlan, encoding: Encoding | None) -> Shard | None:
    try:
        require_small_parquet(_index_path(plan.path))
        index = pq.read_table(_index_path(plan.path), partitioning=None, schema=_INDEX)
        metadata = pq.read_schema(_index_path(plan.path)).metadata
        is_whole = plan.path.stat().st_size == int(metadata[_SIZE_KEY])
        same_settings = metadata[_SETTINGS_KEY].decode() == _settings_of(encoding)
        sha256 = metadata[_DIGEST_KEY].decode()
    except (OSError, pa.ArrowException, KeyError, ValueError):
        return None
    made_from = zip(*(index[name].to_pylist() for name in _MADE_FROM), strict=True)
    wanted = [(member.path, member.name, member.source_bytes, member.source_mtime_ns) for member in plan.members]
    if not is_whole or not same_settings or list(made_from) != wanted:
        return None
    return Shard(index, sha256, [], is_new=False)


def _added(
    file: BinaryIO, members: list[Member], encoding: Encoding | None, failures: list[Rejected]
) -> Iterator[dict[str, object]]:
    """Rows of the index."""
    for member in members:
        start = file.tell()
        try:
            offset, length, num_frames = _add(file, member, encoding)
        except (AudioError, FileNotFoundError, PermissionError) as error:
            file.seek(start)
            file.truncate()
            failures.append(Rejected(member.path, " ".join(str(error).split())))
            continue
        yield {
            "path": member.path,
            "member": member.name,
            "channel": member.channel,
            "byte_offset": offset,
            "byte_length": length,
            "num_frames": num_frames,
            "source_bytes": member.source_bytes,
            "source_mtime_ns": member.source_mtime_ns,
        }


def _add(file: BinaryIO, member: Member, encoding: Encoding | None) -> tuple[int, int, int | None]:
    """Write header and content; gives where the content begins, its length, and the frames of what was encoded."""
    if encoding is not None:
        content, num_frames = _encoded(member.source, encoding.suffix, member.channel)
        file.write(_header(member.name, len(content)))
        offset = file.tell()
        file.write(content)
        _pad(file)
        return offset, len(content), num_frames
    with member.source.open("rb") as source:
        file.write(_header(member.name, member.source_bytes))
        offset = file.tell()
        for block in _blocks(source, member.source):
            file.write(block)
    copied = file.tell() - offset
    if copied != member.source_bytes:
        raise AudioError(
            f"recording must not change while it is packed, got {copied:,} bytes instead of {member.source_bytes:,} in "
            f"{member.source}. Pack again."
        )
    _pad(file)
    return offset, copied, None


def _blocks(file: BinaryIO, source: Recording) -> Iterator[bytes]:
    """The content; only what goes wrong while reading is the recording's fault."""
    try:
        while block := file.read(_COPY_BYTES):
            yield block
    except OSError as error:
        raise AudioError(f"recording must be readable, got {source} ({error.strerror}).") from error


def _encoded(source: Recording, suffix: str, channel: int | None) -> tuple[bytes, int]:
    if audio_info(source).duration_seconds > _MAX_ENCODED_HOURS * 3600:
        raise AudioError(f"recording must last at most {_MAX_ENCODED_HOURS} hours to be encoded anew, got {source}.")
    waveform = read_audio(source, sample_rate_hz=ENCODED_RATE_HZ, channel=channel)
    container, subtype = WRITTEN_FORMATS[suffix]
    content = io.BytesIO()
    level = FLAC_LEVEL if container == "FLAC" else None
    soundfile.write(content, waveform, ENCODED_RATE_HZ, subtype=subtype, format=container, compression_level=level)
    return content.getvalue(), len(waveform)


def _header(name: str, num_bytes: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = num_bytes
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")


def _pad(file: BinaryIO) -> None:
    file.write(bytes(-file.tell() % HEADER_BYTES))

"""Where to keep a corpus that does not fit a file system: formats, the order of utterances in shards, crops a second.

Three measurements, each for batches of P speakers x K utterances, drawn at random or from clusters (`--part` picks):

- **formats**: milliseconds a recording, in the page cache and after the files were dropped from it (Linux:
  ``posix_fadvise(DONTNEED)`` on files that were written out), and how many bytes then came from the disk for each byte
  that was wanted (``/proc/self/io``). Recordings are random bytes of the size of VoxCeleb2 in FLAC.
- **layout**: how many shards, bytes and reads a batch of `--layout-speakers` speakers needs when utterances lie in the
  order of a shuffle, of speakers or of clusters; computed, not read. Reads are of one utterance each, or joined where
  the gap is cheaper than another read, or of whole shards. Seconds are those of a model: a read waits, then bytes flow.
- **crops**: decoded crops a second of one core from files and from `chns pack`'s shards, in the page cache, and how
  fast shards are packed. Recordings are those of `--data` or CHNS_DATA, or noise.

    python benchmarks/shards.py [--part formats layout crops] [--data FOLDER] [--out shards.json]
"""

import os
import tempfile
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from report import Ratio, Timing, parser, publish, seconds_of, take_turns
from shard_formats import Reader, formats

from chns.data.audio import Waveform, audio_info, read_audio, write_audio
from chns.data.dataset import CropRequest, SpeakerCrops
from chns.data.manifest import Manifest
from chns.data.packing import pack_shards
from chns.sampling import BatchShape, ClusterSpeakerBatches, RandomSpeakerBatches, SpeakerClusters

IntArray = npt.NDArray[np.int64]
Rows = dict[str, dict[str, float]]

PARTS = ("formats", "layout", "crops")
RATE_HZ, CROP_SECONDS = 16_000, 3.0
CLUSTERS = 50
MEAN_BYTES, SPREAD = 121_000, 0.5
SHARD_BYTES = 256_000_000
FORMAT_SHARDS_CLUSTERS = 5


class Storage(NamedTuple):
    """A model of where shards lie: seconds that a read waits, reads at a time, bytes a second in all."""

    wait_seconds: float
    parallel: int
    bytes_per_second: float

    def seconds(self, num_reads: float, num_bytes: float) -> float:
        """How long these reads take."""
        return num_reads / self.parallel * self.wait_seconds + num_bytes / self.bytes_per_second


STORAGES = {"object storage": Storage(0.03, 32, 1e9), "hard disk": Storage(0.008, 1, 150e6)}


def sizes_in_bytes(count: int, rng: np.random.Generator) -> IntArray:
    """Sizes of recordings."""
    return (rng.lognormal(np.log(MEAN_BYTES) - SPREAD**2 / 2, SPREAD, count)).astype(np.int64)


def batches_of(labels: IntArray, clusters: SpeakerClusters, *, speakers: int, count: int) -> dict[str, list[list[int]]]:
    """Utterances of random and of hard batches."""
    shape = BatchShape(speakers, steps_per_epoch=count)
    hard = ClusterSpeakerBatches(labels, clusters, shape, hard_ratio=1.0)
    return {"random": list(RandomSpeakerBatches(labels, shape)), "hard": list(hard)}


def even_clusters(num_speakers: int, num_clusters: int) -> SpeakerClusters:
    """As good as any for counting bytes: speakers in turn."""
    labels = np.arange(num_speakers) % num_clusters
    return SpeakerClusters(labels=labels, centres=np.eye(num_clusters, 8, dtype=np.float32), seed=0)


def dropped_from_cache(folder: Path) -> None:
    """Drop all files below a folder from the page cache."""
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def bytes_from_disk() -> int:
    """What this process has caused to be read from disks."""
    lines = Path("/proc/self/io").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes"))


def measured_formats(*, num_speakers: int, utterances: int, speakers: int, repeats: int) -> Rows:
    """Cached and cold reads of every format; formats take turns, and every turn reads another batch."""
    rng = np.random.default_rng(0)
    clusters = even_clusters(num_speakers, FORMAT_SHARDS_CLUSTERS)
    labels = np.repeat(np.argsort(clusters.labels, kind="stable"), utterances)
    blobs = [rng.bytes(int(size)) for size in sizes_in_bytes(len(labels), rng)]
    batches = batches_of(labels, clusters, speakers=speakers, count=repeats)
    found = formats()
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        folders = {name_: Path(name) / str(number) for number, name_ in enumerate(found)}
        rows: Rows = {}
        for format_, folder in folders.items():
            folder.mkdir()
            seconds = seconds_of(lambda: found[format_].write(folder, blobs))  # noqa: B023
            files = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
            rows[format_] = {
                "files": len(files),
                "stored / wanted": sum(files) / sum(map(len, blobs)),
                "write, s": seconds,
            }
        for kind, chosen in batches.items():
            turns: dict[str, list[tuple[float, float, float]]] = {format_: [] for format_ in found}
            for batch in chosen:
                for format_, folder in folders.items():
                    turns[format_].append(_cold_and_cached(found[format_].open, folder, batch, blobs))
            for format_, measured in turns.items():
                cold, amplification, cached = np.median(measured, axis=0).tolist()
                rows[format_] |= {
                    f"{kind}: cold ms": cold, f"{kind}: read/wanted": amplification, f"{kind}: cached ms": cached
                }  # fmt: skip
    return rows


def _cold_and_cached(
    open_: Callable[[Path], Reader], folder: Path, batch: list[int], blobs: list[bytes]
) -> tuple[float, float, float]:
    dropped_from_cache(folder)
    reader: Reader = open_(folder)
    before = bytes_from_disk()
    cold = seconds_of(lambda: reader(batch))
    from_disk = bytes_from_disk() - before
    cached = seconds_of(lambda: reader(batch))
    assert [bytes(blob) for blob in reader(batch)] == [blobs[number] for number in batch]
    return 1e3 * cold / len(batch), from_disk / sum(len(blobs[number]) for number in batch), 1e3 * cached / len(batch)


def layouts(*, num_speakers: int, utterances: int, speakers: int, repeats: int) -> Rows:
    """What batches need of shards, by the order of the utterances in them."""
    rng = np.random.default_rng(0)
    clusters = even_clusters(num_speakers, min(CLUSTERS, num_speakers))
    labels = np.repeat(np.arange(num_speakers), utterances)
    sizes = sizes_in_bytes(len(labels), rng)
    batches = batches_of(labels, clusters, speakers=speakers, count=repeats)
    orders = {
        "shuffled": rng.permutation(len(labels)),
        "by speaker": np.arange(len(labels)),
        "by cluster": np.argsort(clusters.labels[labels], kind="stable"),
    }
    rows: Rows = {}
    for order, utterances_in_order in orders.items():
        starts = np.empty(len(labels), np.int64)
        ends = np.cumsum(sizes[utterances_in_order])
        starts[utterances_in_order] = ends - sizes[utterances_in_order]
        for kind, chosen in batches.items():
            for storage_name, storage in STORAGES.items():
                measured = [_needs(starts[batch], sizes[batch], storage) for batch in map(np.array, chosen)]
                columns = {name: float(np.mean([needs[name] for needs in measured])) for name in measured[0]}
                rows[f"{order}, {kind} batch, {storage_name}"] = {"of shards": ends[-1] / SHARD_BYTES, **columns}
    return rows


def _needs(starts: IntArray, sizes: IntArray, storage: Storage) -> dict[str, float]:
    order = np.argsort(starts)
    starts, ends = starts[order], starts[order] + sizes[order]
    cheap_gap = storage.wait_seconds / storage.parallel * storage.bytes_per_second
    shards = starts // SHARD_BYTES
    joined = (starts[1:] - ends[:-1] <= cheap_gap) & (shards[1:] == shards[:-1])
    joined_bytes = sizes.sum() + (starts[1:] - ends[:-1])[joined].sum()
    num_shards = len(np.unique(shards))
    return {
        "shards": num_shards,
        "reads": len(starts),
        "MB": sizes.sum() / 1e6,
        "s": storage.seconds(len(starts), sizes.sum()),
        "joined: reads": len(starts) - np.count_nonzero(joined),
        "joined: MB": joined_bytes / 1e6,
        "joined: s": storage.seconds(len(starts) - np.count_nonzero(joined), joined_bytes),
        "whole shards: MB": num_shards * SHARD_BYTES / 1e6,
        "whole shards: s": storage.seconds(num_shards, num_shards * SHARD_BYTES),
    }


def crops(*, data: Path | None, recordings: int, repeats: int) -> tuple[Rows, list[Ratio]]:
    """Crops of one core from files and from shards, and the packing."""
    rows: Rows = {}
    ratios = []
    waveforms = speech(data, recordings)
    with tempfile.TemporaryDirectory() as name:
        for suffix in ("flac", "wav", "opus"):
            files = written(waveforms, Path(name) / suffix, suffix)
            seconds = seconds_of(lambda: pack_shards(files, Path(name) / "shards" / suffix, jobs=1))  # noqa: B023
            shards = Manifest.read(Path(name) / "shards" / suffix / "manifest.parquet")
            sides = {"files": files, "shards": shards}
            datasets = {k: SpeakerCrops(m, crop_seconds=CROP_SECONDS, sample_rate_hz=RATE_HZ) for k, m in sides.items()}
            times = take_turns({k: lambda d=d: _all_crops(d) for k, d in datasets.items()}, repeats=repeats)
            rows |= {f"{suffix}, {side}": _crop_rates(times[side], len(files)) for side in sides}
            packed_bytes = sum(shards.table["byte_length"].to_pylist())
            rows[f"{suffix}, shards"] |= {"packed, MB/s": packed_bytes / 1e6 / seconds}
            ratio = times["shards"].median / times["files"].median
            ratios.append(Ratio(f"{suffix}: seconds a crop, shards / files", ratio))
        seconds = seconds_of(lambda: pack_shards(files, Path(name) / "encoded", format="flac", jobs=1))
        rows["opus to flac"] = {"packed, times real time": float(files.durations_seconds.sum() / seconds)}
    return rows, ratios


def _all_crops(dataset: SpeakerCrops) -> None:
    for number in range(len(dataset)):
        dataset[CropRequest(number, (0, number))]


def _crop_rates(timing: Timing, count: int) -> dict[str, float]:
    return {"crops/s, median": count / timing.median, "crops/s, fastest": count / timing.fastest}


def speech(folder: Path | None, count: int) -> list[Waveform]:
    """Waveforms longer than a crop: real ones, or noise."""
    if folder is None:
        rng = np.random.default_rng(0)
        return [0.1 * rng.standard_normal(8 * RATE_HZ).astype(np.float32) for _ in range(count)]
    paths = (path for path in sorted(folder.rglob("*")) if path.suffix.lower() in (".flac", ".opus", ".wav"))
    long_enough = (path for path in paths if audio_info(path).duration_seconds > CROP_SECONDS + 1)
    return [read_audio(path, sample_rate_hz=RATE_HZ) for path in islice(long_enough, count)]


def written(waveforms: list[Waveform], folder: Path, suffix: str) -> Manifest:
    """The waveforms as files of one format; two to a speaker."""
    rows: list[dict[str, object]] = []
    for number, waveform in enumerate(waveforms):
        row = {"utterance": str(number), "speaker": str(number // 2), "path": f"{number}.{suffix}"}
        write_audio(folder / f"{number}.{suffix}", waveform, sample_rate_hz=RATE_HZ)
        times = {"offset_seconds": 0.0, "duration_seconds": len(waveform) / RATE_HZ, "sample_rate_hz": RATE_HZ}
        rows.append(row | times)
    return Manifest.from_rows(rows, root=folder)


def main() -> None:
    """Measure, print, write."""
    options = parser(__doc__, out="shards.json", repeats=5)
    options.add_argument("--part", nargs="+", choices=PARTS, default=PARTS)
    options.add_argument("--speakers", type=int, default=200, help="formats: speakers of the corpus")
    options.add_argument("--utterances", type=int, default=20, help="formats: utterances of each")
    options.add_argument("--layout-speakers", type=int, default=5_994, help="layout: speakers, 182 utterances each")
    options.add_argument(
        "--data", type=Path, default=Path(os.environ["CHNS_DATA"]) if "CHNS_DATA" in os.environ else None
    )
    options.add_argument("--recordings", type=int, default=200, help="crops: how many recordings")
    arguments = options.parse_args()
    repeats = {"repeats": arguments.repeats}
    rows: Rows = {}
    ratios: list[Ratio] = []
    if "formats" in arguments.part:
        sizes = {"num_speakers": arguments.speakers, "utterances": arguments.utterances}
        rows |= measured_formats(**sizes, speakers=max(2, arguments.speakers // 5), **repeats)
        for kind in ("random", "hard"):
            cold = {name: row[f"{kind}: cold ms"] for name, row in rows.items()}
            ratios.append(
                Ratio(f"cold read of a {kind} batch, tar + index / files", cold["tar + index"] / cold["files"])
            )
    if "layout" in arguments.part:
        speakers = max(2, arguments.layout_speakers * 650 // 5_994)
        rows |= layouts(num_speakers=arguments.layout_speakers, utterances=182, speakers=speakers, **repeats)
    if "crops" in arguments.part:
        read, ratios_of_crops = crops(data=arguments.data, recordings=arguments.recordings, **repeats)
        rows |= read
        ratios += ratios_of_crops
    settings = {name: str(value) for name, value in vars(arguments).items() if name != "out"}
    publish(arguments.out, f"shards: {', '.join(arguments.part)}", rows, ratios, **settings)


if __name__ == "__main__":
    main()

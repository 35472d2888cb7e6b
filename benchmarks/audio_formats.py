"""What a format costs: crops and headers a second, and how many times as fast as speech it is converted or checked.

Crops are read from files, and from shards of WAV into which `chns pack --format wav` has decoded each format once.
One process, one thread, processor time. The recordings are those of `--data` or of the folder that CHNS_DATA names
(FLAC, Opus or WAV, anywhere below it), or noise if there is neither. They are written anew in each format, so that all
hold the same; AAC has 64 kbit/s, about what VoxCeleb2 has. Conversion is from AAC.

    python benchmarks/audio_formats.py [--data FOLDER] [--recordings 100] [--out audio_formats.json]
"""

import os
import tempfile
import time
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath

import av
import numpy as np
import soundfile
from report import Ratio, parser, publish, take_turns

from chns.data.audio import audio_info, read_audio, write_audio
from chns.data.check import check_manifest
from chns.data.conversion import FORMATS, convert_audio
from chns.data.corpora.any_folder import prepare_folder
from chns.data.manifest import Manifest
from chns.data.packing import pack_shards
from chns.data.storage.packed import Recording

RATE_HZ, CROP_SECONDS, SECONDS = 16_000, 3.0, 10.0
SUFFIXES = (".wav", ".flac", ".m4a", ".mp3", ".opus")


def recordings(folder: Path | None, count: int) -> list[np.ndarray]:
    """Waveforms longer than a crop, ten seconds at most: real ones, or noise."""
    if folder is None:
        rng = np.random.default_rng(0)
        return [0.1 * rng.standard_normal(round(SECONDS * RATE_HZ)).astype(np.float32) for _ in range(count)]
    paths = (path for path in sorted(folder.rglob("*")) if path.suffix.lower() in (".flac", ".opus", ".wav"))
    long_enough = (path for path in paths if audio_info(path).duration_seconds > CROP_SECONDS + 1)
    return [read_audio(path, sample_rate_hz=RATE_HZ, duration_seconds=SECONDS) for path in islice(long_enough, count)]


def write(path: Path, waveform: np.ndarray) -> None:
    """Write in any of the formats."""
    if path.suffix == ".mp3":
        soundfile.write(path, waveform, RATE_HZ)
    elif path.suffix != ".m4a":
        write_audio(path, waveform, sample_rate_hz=RATE_HZ)
    else:
        with av.open(str(path), "w", format="ipod") as file:
            stream = file.add_stream("aac", rate=RATE_HZ, layout="mono")
            stream.bit_rate = 64_000
            frame = av.AudioFrame.from_ndarray(waveform[None], format="fltp", layout="mono")
            frame.sample_rate, frame.pts = RATE_HZ, 0
            for part in (frame, None):
                file.mux(stream.encode(part))


def read_crops(paths: list[Recording], offsets_seconds: list[float]) -> None:
    """One crop of each file."""
    for path, offset_seconds in zip(paths, offsets_seconds, strict=True):
        read_audio(path, sample_rate_hz=RATE_HZ, offset_seconds=offset_seconds, duration_seconds=CROP_SECONDS)


def convert(manifest: Manifest, folder: Path, suffix: str) -> None:
    """Into a folder that is new each time."""
    out = Path(tempfile.mkdtemp(dir=folder))
    result = convert_audio(manifest, out, format=suffix, jobs=1)
    assert result.num_written == len(manifest)


def pack(manifest: Manifest, folder: Path) -> Manifest:
    """As WAV, into a folder that is new each time."""
    packing = pack_shards(manifest, Path(tempfile.mkdtemp(dir=folder)), format="wav", jobs=1)
    assert not packing.failures
    return packing.manifest


def numbered(manifest: Manifest) -> list[Recording]:
    """Its recordings, which have numbers for names, in the order of these."""
    found = [manifest.recording(row) for row in range(len(manifest))]
    return sorted(found, key=lambda recording: int(PurePosixPath(recording.member).stem))


def check(manifest: Manifest, folder: Path) -> None:
    """Anew each time: nothing of an earlier check is kept."""
    assert len(check_manifest(manifest, kept=Path(tempfile.mkdtemp(dir=folder)), jobs=1).measures) == len(manifest)


def main() -> None:
    """Measure, print, write."""
    options = parser(__doc__, out="audio_formats.json", repeats=5)
    options.add_argument(
        "--data", type=Path, default=Path(os.environ["CHNS_DATA"]) if "CHNS_DATA" in os.environ else None
    )
    options.add_argument("--recordings", type=int, default=100)
    arguments = options.parse_args()
    waveforms = recordings(arguments.data, arguments.recordings)
    rng = np.random.default_rng(0)
    offsets = [float(rng.uniform(0, len(waveform) / RATE_HZ - CROP_SECONDS)) for waveform in waveforms]
    speech_seconds = sum(map(len, waveforms)) / RATE_HZ
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = {s: [folder / s[1:] / "a" / f"{n}{s}" for n in range(len(waveforms))] for s in SUFFIXES}
        for files in paths.values():
            files[0].parent.mkdir(parents=True)
            for path, waveform in zip(files, waveforms, strict=True):
                write(path, waveform)
        usual = [path.with_name(f"{path.stem}.usual") for path in paths[".flac"]]
        for path, waveform in zip(usual, waveforms, strict=True):
            soundfile.write(path, waveform, RATE_HZ, format="FLAC")
        turns = partial(take_turns, repeats=arguments.repeats, clock=time.process_time)
        prepared = {s: prepare_folder(folder / s[1:], jobs=1).manifest for s in SUFFIXES}
        shards = {f"{s} in shards": numbered(pack(prepared[s], folder)) for s in SUFFIXES}
        read = {**paths, "usual": usual, **shards}
        crops = turns({name: partial(read_crops, read[name], offsets) for name in read})
        headers = turns({s: lambda s=s: [audio_info(path) for path in paths[s]] for s in SUFFIXES})
        conversions = turns({f: partial(convert, prepared[".m4a"], folder, f) for f in FORMATS})
        packings = turns({s: partial(pack, prepared[s], folder) for s in SUFFIXES})
        checks = turns({s: partial(check, prepared[s], folder) for s in SUFFIXES})
        kilobytes = {s: sum(path.stat().st_size for path in paths[s]) / 1e3 / speech_seconds for s in SUFFIXES}
    rows = {
        suffix[1:]: {
            "crops/s, median": len(waveforms) / crops[suffix].median,
            "crops/s, fastest": len(waveforms) / crops[suffix].fastest,
            "from shards of WAV, crops/s": len(waveforms) / crops[f"{suffix} in shards"].median,
            "packed as WAV, times real time": speech_seconds / packings[suffix].median,
            "headers/s, median": len(waveforms) / headers[suffix].median,
            "kB a second": kilobytes[suffix],
            "checked, times real time, median": speech_seconds / checks[suffix].median,
        }
        for suffix in SUFFIXES
    }
    for suffix in FORMATS:
        rows[suffix]["converted from AAC, times real time, median"] = speech_seconds / conversions[suffix].median
        rows[suffix]["converted from AAC, times real time, fastest"] = speech_seconds / conversions[suffix].fastest
    shard = crops[".wav in shards"].median
    ratios = [
        *(Ratio(f"{s[1:]}: crops a second, shards of WAV / files", crops[s].median / shard) for s in SUFFIXES),
        Ratio("AAC / FLAC, seconds a crop", crops[".m4a"].median / crops[".flac"].median),
        Ratio("Opus / FLAC, seconds a crop", crops[".opus"].median / crops[".flac"].median),
        Ratio("FLAC of usual compression / ours, seconds a crop", crops["usual"].median / crops[".flac"].median),
    ]
    source = "noise" if arguments.data is None else "real recordings"
    title = f"crops of {CROP_SECONDS} s from {len(waveforms)} recordings of {SECONDS} s at most, {source}"
    publish(arguments.out, title, rows, ratios, source=source)


if __name__ == "__main__":
    main()

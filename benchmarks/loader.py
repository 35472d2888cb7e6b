"""How fast crops are read, from FLAC and from WAV, and what share of a mobile-ECAPA step is spent waiting for them.

The recordings are those of `--data` or of the folder that CHNS_DATA names (FLAC, Opus or WAV, anywhere below it), or
noise if there is neither. They are written anew as FLAC and WAV, so that both hold the same. Crops a second are those
of one core. A step reads P x 2 crops in loader workers while features, encoder, loss and Adam run; its waiting time is
measured where a training run measures it.

    python benchmarks/loader.py [--data FOLDER] [--speakers 64] [--out loader.json]
"""

import os
import tempfile
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from report import Ratio, Timing, parser, publish, take_turns
from torch.utils.data import DataLoader

from chns.data.audio import audio_info, read_audio, write_audio
from chns.data.dataset import CropBatches, CropRequest, SpeakerCrops
from chns.data.manifest import Manifest
from chns.encoders import SpeakerEncoder, ecapa_tdnn_mobile
from chns.features import LogMel
from chns.losses import SupConLoss
from chns.sampling import BatchShape, RandomSpeakerBatches
from chns.training.log import Meter
from chns.training.step import TrainingStep

RATE_HZ, CROP_SECONDS = 16_000, 3.0
LONGEST_SECONDS = 20.0
FORMATS = ("flac", "wav")


def recordings(folder: Path | None, count: int) -> list[np.ndarray]:
    """Waveforms longer than a crop: real ones, or noise."""
    if folder is None:
        rng = np.random.default_rng(0)
        return [0.1 * rng.standard_normal(8 * RATE_HZ).astype(np.float32) for _ in range(count)]
    paths = (path for path in sorted(folder.rglob("*")) if path.suffix.lower() in (".flac", ".opus", ".wav"))
    long_enough = (path for path in paths if audio_info(path).duration_seconds > CROP_SECONDS + 1)
    return [
        read_audio(path, sample_rate_hz=RATE_HZ, offset_seconds=0.0, duration_seconds=LONGEST_SECONDS)
        for path in islice(long_enough, count)
    ]


def manifest_of(waveforms: list[np.ndarray], folder: Path, suffix: str) -> Manifest:
    """Write the waveforms in a format; two to a speaker."""
    rows: list[dict[str, object]] = []
    for number, waveform in enumerate(waveforms):
        name = f"{number}.{suffix}"
        write_audio(folder / name, waveform, sample_rate_hz=RATE_HZ)
        rows.append(
            {
                "utterance": name,
                "speaker": str(number // 2),
                "path": name,
                "offset_seconds": 0.0,
                "duration_seconds": len(waveform) / RATE_HZ,
                "sample_rate_hz": RATE_HZ,
            }
        )
    return Manifest.from_rows(rows, root=folder)


def reading(crops: dict[str, SpeakerCrops], *, count: int, repeats: int) -> dict[str, Timing]:
    """Time so many crops of each format."""
    requests = [CropRequest(number % len(crops[FORMATS[0]]), (0, number)) for number in range(count)]
    return take_turns({s: lambda s=s: [crops[s][request] for request in requests] for s in FORMATS}, repeats=repeats)


def training(crops: SpeakerCrops, *, speakers: int, steps: int, num_workers: int) -> dict[str, float]:
    """Train for some steps as `chns train` does; where the time went, without the first step."""
    fabric = Fabric(accelerator="cpu", devices=1)
    model, loss = SpeakerEncoder(LogMel(), ecapa_tdnn_mobile()), SupConLoss()
    optimizer = torch.optim.Adam([*model.parameters(), *loss.parameters()], fused=True)
    wrapped, optimizer = fabric.setup(model, optimizer)
    step = TrainingStep(fabric, wrapped, loss, chunk_size=None, seed=0)
    batches = RandomSpeakerBatches(crops.manifest.speaker_labels, BatchShape(speakers, steps_per_epoch=steps))
    loader = DataLoader(crops, batch_sampler=CropBatches(batches, seed=0, epoch=0), num_workers=num_workers)
    meter = Meter()
    for number, (waveforms, labels) in enumerate(loader):
        meter.data_arrived()
        optimizer.zero_grad()
        result = step(waveforms, labels, step=number)
        meter.add(result)
        optimizer.step()
        if number == 0:
            meter.read(result.embeddings)
        meter.step_done()
    return meter.read(result.embeddings)


def main() -> None:
    """Measure, print, write."""
    options = parser(__doc__, out="loader.json", repeats=5)
    options.add_argument(
        "--data", type=Path, default=Path(os.environ["CHNS_DATA"]) if "CHNS_DATA" in os.environ else None
    )
    options.add_argument("--recordings", type=int, default=200)
    options.add_argument("--speakers", type=int, default=64, help="P of a step, with two crops each")
    options.add_argument("--steps", type=int, default=5)
    options.add_argument("--workers", type=int, default=1)
    arguments = options.parse_args()
    with tempfile.TemporaryDirectory() as name:
        waveforms = recordings(arguments.data, arguments.recordings)
        crops = {
            suffix: SpeakerCrops(
                manifest_of(waveforms, Path(name), suffix), crop_seconds=CROP_SECONDS, sample_rate_hz=RATE_HZ
            )
            for suffix in FORMATS
        }
        read = reading(crops, count=len(waveforms), repeats=arguments.repeats)
        shape = {"speakers": arguments.speakers, "steps": arguments.steps}
        waits = {s: training(crops[s], num_workers=arguments.workers, **shape) for s in FORMATS}
        alone = training(crops["flac"], num_workers=0, **shape)
    rows = {
        suffix: {
            "crops/s, median": len(waveforms) / read[suffix].median,
            "crops/s, fastest": len(waveforms) / read[suffix].fastest,
            "step: waiting share": waits[suffix]["data_wait_share"],
            "step: segments/s": waits[suffix]["segments_per_second"],
        }
        for suffix in FORMATS
    }
    rows["flac, no workers"] = {
        "step: waiting share": alone["data_wait_share"],
        "step: segments/s": alone["segments_per_second"],
    }
    ratios = [
        Ratio("waiting share of a step, FLAC", waits["flac"]["data_wait_share"], at_most=0.1),
        Ratio("FLAC / WAV, seconds a crop", read["flac"].median / read["wav"].median),
    ]
    source = "noise" if arguments.data is None else "real recordings"
    title = f"crops of {CROP_SECONDS} s, {source}, {arguments.workers} worker(s), steps of {arguments.speakers} x 2"
    publish(arguments.out, title, rows, ratios, source=source, workers=arguments.workers, **shape)


if __name__ == "__main__":
    main()

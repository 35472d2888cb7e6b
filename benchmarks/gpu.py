"""What a training costs on a GPU, in one command and at most so many minutes, from a bare machine.

The paper's step, 650 speakers x 2 crops of 3 s, with two encoders, in each precision, whole, in chunks and compiled:
its time, its memory and its shares of what the device multiplies in the same type and of what it copies; bytes are
counted on the CPU, each operation's inputs and outputs once. The same, without bytes, of SpeechBrain's ECAPA-TDNN
and of pytorch-metric-learning's loss, if they are installed. Crops a second that the loader cuts, recordings a second
that are embedded, trials a second that are scored. The minutes that are left go into a training on synthetic voices.

    python benchmarks/gpu.py [--minutes 8] [--out gpu.json]
    python benchmarks/gpu.py --device cpu --quick     # that it works: tiny batches, no claim
"""

import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from encoder import EMBEDDING_DIM, NUM_MELS, speechbrain_encoder
from lightning_fabric import Fabric
from loader import manifest_of
from report import Ratio, parser, peer, publish
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from chns.data import CropBatches, SpeakerCrops
from chns.encoders import SpeakerEncoder, ecapa_tdnn_mobile, thin_resnet34
from chns.evaluation import Embedder, cosine_scores
from chns.features import LogMel
from chns.losses import HSCLLoss, SupConLoss
from chns.sampling import BatchShape, RandomSpeakerBatches
from chns.training.cost import count_encoder, count_step
from chns.training.step import TrainingStep

RATE_HZ = 16_000
PRECISIONS = {"32-true": torch.float32, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
ENCODERS = {"mobile ECAPA-TDNN": ecapa_tdnn_mobile, "thin ResNet-34": thin_resnet34}


class Watch:
    """Times calls on a device, and knows when the minutes are used up."""

    def __init__(self, device: torch.device, minutes: float) -> None:
        self.device = device
        self._end = time.monotonic() + 60 * minutes

    @property
    def seconds_left(self) -> float:
        """Until the minutes are used up."""
        return self._end - time.monotonic()

    def median_seconds(self, call: Callable[[], object], *, repeats: int) -> float:
        """The median of some calls, each to its end on the device, after two that warm up."""
        seconds = []
        for number in range(repeats + 2):
            self._wait()
            start = time.perf_counter()
            call()
            self._wait()
            if number >= 2:
                seconds.append(time.perf_counter() - start)
        return float(np.median(seconds))

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def limits(watch: Watch, size: int, repeats: int) -> dict[str, dict[str, float]]:
    """What the device multiplies in each type, and what it copies."""
    rows = {}
    for name, dtype in PRECISIONS.items():
        left, right = (torch.randn(size, size, device=watch.device).to(dtype) for _ in range(2))
        seconds = watch.median_seconds(lambda left=left, right=right: left @ right, repeats=repeats)
        rows[f"product of {size} x {size}, {name}"] = {"TFLOP/s": 2e-12 * size**3 / seconds}
    block = torch.empty(size * size * 8, dtype=torch.uint8, device=watch.device)
    seconds = watch.median_seconds(block.clone, repeats=repeats)
    rows["copy"] = {"GB/s": 2e-9 * block.numel() / seconds}
    return rows


def training_step(
    make: Callable[[], nn.Module],
    precision: str,
    batch: tuple[Tensor, Tensor],
    *,
    chunk_size: int | None,
    compiled: bool,
) -> Callable[[], None]:
    """One step of `chns train` on waveforms that are on the device already."""
    waveforms, labels = batch
    fabric = Fabric(accelerator=waveforms.device.type, devices=1, precision=precision)
    model, loss = SpeakerEncoder(LogMel(), make()), SupConLoss(utterances_per_speaker=2).to(waveforms.device)
    if compiled:
        model.encoder = torch.compile(model.encoder)
    optimizer = torch.optim.Adam([*model.parameters(), *loss.parameters()], lr=1e-3, fused=True)
    wrapped, optimizer = fabric.setup(model, optimizer)
    compute = TrainingStep(fabric, wrapped, loss, chunk_size=chunk_size, seed=0)

    def step() -> None:
        optimizer.zero_grad()
        compute(waveforms, labels, step=0)
        optimizer.step()

    return step


def peer_step(
    encoder: nn.Module, batch: tuple[Tensor, Tensor], seconds: float, dtype: torch.dtype
) -> Callable[[], None]:
    """A step of another project's encoder on features, with our loss."""
    waveforms, labels = batch
    encoder = encoder.to(waveforms.device)
    loss = SupConLoss(utterances_per_speaker=2).to(waveforms.device)
    optimizer = torch.optim.Adam(encoder.parameters(), lr=1e-3, fused=True)
    features = torch.randn(len(waveforms), int(seconds * 100), NUM_MELS, device=waveforms.device)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(waveforms.device.type, dtype, enabled=dtype != torch.float32):
            embeddings = encoder(features).reshape(len(features), -1)
        loss(embeddings.float(), labels).backward()
        optimizer.step()

    return step


@cache
def moved_gigabytes(encoder: str, precision: str, segments: int, seconds: float, *, chunked: bool) -> float:
    """What a step's operations read and write, counted on the CPU; in chunks there is a second forward pass."""
    model = SpeakerEncoder(LogMel(), ENCODERS[encoder]())
    counted = count_encoder(model, crop_seconds=seconds, precision=precision)
    loss = SupConLoss(utterances_per_speaker=2)
    cost = count_step(counted, loss, num_speakers=segments // 2, utterances_per_speaker=2)
    return 1e-9 * (cost.moved_bytes + chunked * sum(moved for _, moved in cost.forward))


def measured(
    watch: Watch, step: Callable[[], None], peak_tflops: float, segments: int, repeats: int
) -> dict[str, float]:
    """Time, memory and share of the device's products of a step; an empty row where it does not fit."""
    cuda = watch.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    try:
        seconds = watch.median_seconds(step, repeats=repeats)
        with FlopCounterMode(display=False) as counter:
            step()
    except torch.OutOfMemoryError:
        return {}
    memory = {"peak GB": torch.cuda.max_memory_allocated() / 1e9} if cuda else {}
    share = {"share of products": counter.get_total_flops() / seconds / (1e12 * peak_tflops)}
    return {"ms a step": 1e3 * seconds, "segments/s": segments / seconds, **memory, **share}


def steps(
    watch: Watch, batch: tuple[Tensor, Tensor], seconds: float, limit: dict[str, dict[str, float]], settings: Namespace
) -> Iterator[tuple[str, dict[str, float]]]:
    """A row for each way to compute a step, as long as there is time."""
    segments, cuda, chunk = len(batch[0]), watch.device.type == "cuda", settings.chunk
    precisions = [name for name in PRECISIONS if cuda or name != "16-mixed"]
    ways = [("whole", None, False), (f"chunks of {chunk}", chunk, False)] + [("compiled", None, True)] * cuda
    sides = {
        f"{encoder}, {precision}, {how}": (
            lambda make=make, precision=precision, size=size, compiled=compiled: training_step(
                make, precision, batch, chunk_size=size, compiled=compiled
            ),
            precision,
            None if compiled else partial(moved_gigabytes, encoder, precision, segments, seconds, chunked=bool(size)),
        )
        for encoder, make in ENCODERS.items()
        for how, size, compiled in ways
        for precision in precisions
    }
    if (other := speechbrain_encoder()) is not None:
        for precision in ("32-true", "bf16-mixed"):
            sides[f"SpeechBrain ECAPA-TDNN on features, {precision}"] = (
                lambda dtype=PRECISIONS[precision]: peer_step(other, batch, seconds, dtype),
                precision,
                None,
            )
    for name, (make_step, precision, gigabytes) in sides.items():
        if watch.seconds_left < 60:
            print(f"no time left for {name}")
            continue
        peak_tflops = next(row["TFLOP/s"] for kind, row in limit.items() if kind.endswith(f", {precision}"))
        row = measured(watch, make_step(), peak_tflops, segments, settings.repeats)
        if row and gigabytes is not None:
            row["share of copying"] = 1e3 * gigabytes() / row["ms a step"] / limit["copy"]["GB/s"]
        print(f"  {name}: {row or 'does not fit'}", flush=True)
        yield name, row
        if cuda:
            torch.cuda.empty_cache()


def losses(watch: Watch, speakers: int, repeats: int) -> dict[str, dict[str, float]]:
    """Forward and backward of the losses on one batch of embeddings."""
    labels = torch.arange(speakers, device=watch.device).repeat_interleave(2)
    embeddings = torch.randn(len(labels), EMBEDDING_DIM, device=watch.device, requires_grad=True)
    sides: dict[str, nn.Module] = {
        "SupConLoss": SupConLoss(utterances_per_speaker=2),
        "SupConLoss that searches pairs": SupConLoss(),
        "HSCLLoss": HSCLLoss(utterances_per_speaker=2),
    }
    if (other := peer("pytorch_metric_learning.losses")) is not None:
        sides["pytorch-metric-learning SupConLoss"] = other.SupConLoss(temperature=0.1)
    rows = {}
    for name, loss in sides.items():
        there = loss.to(watch.device)
        seconds = watch.median_seconds(lambda there=there: there(embeddings, labels).backward(), repeats=repeats)
        rows[name] = {"ms": 1e3 * seconds}
    return rows


def data(watch: Watch, folder: Path, recordings: int, workers: int) -> dict[str, dict[str, float]]:
    """Crops that the loader cuts and recordings that are embedded, a second."""
    rng = np.random.default_rng(0)
    waveforms = [rng.normal(scale=0.1, size=RATE_HZ * 6).astype(np.float32) for _ in range(recordings)]
    rows = {}
    for suffix in ("wav", "flac"):
        manifest = manifest_of(waveforms, folder, suffix)
        crops = SpeakerCrops(manifest, crop_seconds=3.0, sample_rate_hz=RATE_HZ)
        shape = BatchShape(min(64, len(manifest.speakers)), steps_per_epoch=20)
        batches = CropBatches(RandomSpeakerBatches(manifest.speaker_labels, shape), seed=0, epoch=0)
        loader = DataLoader(crops, batch_sampler=batches, num_workers=workers, pin_memory=watch.device.type == "cuda")
        start, cut = time.perf_counter(), 0
        for batch, _ in loader:
            cut += len(batch.to(watch.device, non_blocking=True))
        rows[f"loader, {suffix}, {workers} workers"] = {"a second": cut / (time.perf_counter() - start)}
    model = SpeakerEncoder(LogMel(), ecapa_tdnn_mobile()).to(watch.device)
    start = time.perf_counter()
    vectors = Embedder(model=model, device=watch.device, num_workers=workers).utterances(manifest)
    rows["recordings of 6 s embedded"] = {"a second": len(vectors) / (time.perf_counter() - start)}
    enrolment, test = rng.integers(len(vectors), size=(2, 580_000))
    start = time.perf_counter()
    cosine_scores(vectors, enrolment, test)
    rows["trials scored, on the CPU"] = {"a second": len(test) / (time.perf_counter() - start)}
    return rows


def training(folder: Path, device: str, seconds: float, *, quick: bool) -> dict[str, dict[str, float]]:
    """Train on synthetic voices for the time that is left, and tell the error rate."""
    if peer("espeakng_loader") is None:
        return {}
    chns, out = [sys.executable, "-m", "chns"], folder / "run"
    speakers, epochs = ("12", "1") if quick else ("200", str(max(1, int(seconds / 20))))
    subprocess.run(
        [
            *chns,
            "prepare",
            "synthetic",
            str(folder / "voices"),
            "--speakers",
            speakers,
            "--families",
            "4",
            "--utterances",
            "6",
        ],
        check=True,
    )
    manifest = next((folder / "voices").glob("*.parquet"))
    size = ["--config", "tiny", "--data.held_out_speakers", "4"] if quick else []
    start = time.monotonic()
    command = [*chns, "train", "--config", "auto", *size, "--data.train", str(manifest), "--out", str(out)]
    try:
        subprocess.run(
            [*command, "--train.device", device, "--train.epochs", epochs], check=True, timeout=max(60, seconds)
        )
    except subprocess.TimeoutExpired:
        print("the training did not end in time")
    lines = (out / "log.csv").read_text().splitlines()
    last = dict(zip(lines[0].split(","), lines[-1].split(","), strict=True))
    return {"training on synthetic voices": {"seconds": time.monotonic() - start, "steps": float(last["step"])}}


def main() -> None:
    """Measure, print, write."""
    options = parser(__doc__, out="gpu.json", repeats=10)
    options.add_argument("--device", default="cuda")
    options.add_argument("--minutes", type=float, default=8.0)
    options.add_argument("--speakers", type=int, default=650)
    options.add_argument("--quick", action="store_true", help="tiny sizes, to see that it works")
    options.add_argument("--workers", type=int, default=8)
    arguments = options.parse_args()
    arguments.chunk = 64
    if arguments.quick:
        arguments.speakers, arguments.repeats, arguments.workers, arguments.chunk = 6, 1, 0, 4
    device = torch.device(arguments.device)
    watch = Watch(device, arguments.minutes)
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    torch.manual_seed(0)
    rows = limits(watch, 256 if arguments.quick else 8192, arguments.repeats)
    rows |= losses(watch, arguments.speakers, arguments.repeats)
    seconds = 1.0 if arguments.quick else 3.0
    waveforms = 0.1 * torch.randn(2 * arguments.speakers, int(seconds * RATE_HZ), device=device)
    labels = torch.arange(arguments.speakers, device=device).repeat_interleave(2)
    rows |= dict(steps(watch, (waveforms, labels), seconds, rows, arguments))
    with tempfile.TemporaryDirectory() as folder:
        rows |= data(watch, Path(folder), 20 if arguments.quick else 400, arguments.workers)
        rows |= training(Path(folder), arguments.device, watch.seconds_left - 20, quick=arguments.quick)
    ratios = []
    ours, theirs = (
        rows.get("mobile ECAPA-TDNN, bf16-mixed, whole"),
        rows.get("SpeechBrain ECAPA-TDNN on features, 32-true"),
    )
    if ours and theirs:
        ratios.append(Ratio("our bf16 step / SpeechBrain's float32 step", ours["ms a step"] / theirs["ms a step"]))
    if "pytorch-metric-learning SupConLoss" in rows:
        ratios.append(
            Ratio(
                "SupConLoss / pytorch-metric-learning's",
                rows["SupConLoss"]["ms"] / rows["pytorch-metric-learning SupConLoss"]["ms"],
            )
        )
    title = f"{name}: steps of {arguments.speakers} x 2 crops of {seconds:g} s"
    publish(arguments.out, title, rows, ratios, device=name, speakers=arguments.speakers, quick=arguments.quick)


if __name__ == "__main__":
    main()

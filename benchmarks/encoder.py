"""What the mobile ECAPA-TDNN costs against SpeechBrain's of the same size, and how near it is to the machine's limit.

A training step is forward, backward and fused Adam on features; the gradient of the embeddings is given, so the loss
is not in it. bf16 is autocast, as in training. The share of the matrix throughput is the step's floating-point
operations (as torch counts those of convolutions and products) over its median time, against a large product in the
same type in the same run. SpeechBrain's lobe needs neither its features nor torchaudio's functions. bf16 is left out on
a CPU without instructions for it.

    python benchmarks/encoder.py [--batch 128] [--seconds 3] [--profile] [--out encoder.json]

`--keep-freed-memory` measures all sides as `chns train` runs, `--processor-time` on a machine that others use too (with
`OMP_NUM_THREADS=1`).
"""

import time
from collections.abc import Callable
from contextlib import nullcontext

import torch
from matmul import matrix_throughput
from report import Ratio, Timing, milliseconds, parser, peer, publish, take_turns
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from chns.core import cpu_has_bfloat16
from chns.encoders import ecapa_tdnn_mobile
from chns.training.run import keep_freed_memory

NUM_MELS, EMBEDDING_DIM, FRAMES_PER_SECOND = 80, 192, 100
OURS, PEER = "chns", "SpeechBrain"
SINGLE, HALF = "float32", "bf16"
KINDS = {SINGLE: torch.float32, HALF: torch.bfloat16} if cpu_has_bfloat16() else {SINGLE: torch.float32}


def speechbrain_encoder() -> nn.Module | None:
    """Its ECAPA-TDNN at the sizes of our mobile one."""
    module = peer("speechbrain.lobes.models.ECAPA_TDNN")
    if module is None:
        return None
    sizes = {"channels": [256, 256, 256, 256, 768], "attention_channels": 128, "se_channels": 128}
    encoder: nn.Module = module.ECAPA_TDNN(NUM_MELS, lin_neurons=EMBEDDING_DIM, **sizes)
    return encoder


def autocast(kind: str) -> torch.autocast | nullcontext[None]:
    """The context of a type."""
    return torch.autocast("cpu", torch.bfloat16) if kind == HALF else nullcontext()


def training_step(encoder: nn.Module, features: Tensor, kind: str) -> Callable[[], None]:
    """One step, to be called."""
    optimizer = torch.optim.Adam(encoder.parameters(), lr=1e-3, fused=True)
    gradient = torch.randn(len(features), EMBEDDING_DIM)

    def step() -> None:
        optimizer.zero_grad()
        with autocast(kind):
            embeddings = encoder(features).reshape(len(features), -1)
        embeddings.float().backward(gradient)
        optimizer.step()

    return step


def inference(encoder: nn.Module, features: Tensor, kind: str) -> Callable[[], None]:
    """Embedding a batch, to be called."""

    @torch.inference_mode()
    def embed() -> None:
        with autocast(kind):
            encoder(features)

    return embed


def measure(
    make_call: Callable[[nn.Module, Tensor, str], Callable[[], None]],
    encoders: dict[str, nn.Module],
    features: Tensor,
    *,
    repeats: int,
    clock: Callable[[], float],
) -> dict[str, Timing]:
    """Timings by encoder and type, in turns."""
    sides = {
        f"{name}, {kind}": make_call(encoder, features, kind) for name, encoder in encoders.items() for kind in KINDS
    }
    return take_turns(sides, repeats=repeats, clock=clock)


def floating_point_operations(step: Callable[[], None]) -> int:
    """Operations of a step's convolutions and products."""
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def print_profile(step: Callable[[], None], kind: str) -> None:
    """Where a step's time goes."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        step()
    print(f"\nprofile of our step, {kind}")
    print(profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=14, max_name_column_width=44))


def ratios_of(what: str, timings: dict[str, Timing], bounds: tuple[float | None, float | None]) -> list[Ratio]:
    """Ours against the peer's, in both types, and our bf16 against their float32."""
    median = {name: timing.median for name, timing in timings.items()}
    single, half = (f"{PEER}, {kind}" for kind in (SINGLE, HALF))
    name = f"{what}: ours / SpeechBrain, float32"
    ratios = [Ratio(name, median[f"{OURS}, {SINGLE}"] / median[single], at_most=bounds[0])]
    if HALF in KINDS:
        ours = median[f"{OURS}, {HALF}"]
        ratios += [
            Ratio(f"{what}: our bf16 / SpeechBrain float32", ours / median[single], at_most=bounds[1]),
            Ratio(f"{what}: our bf16 / SpeechBrain bf16", ours / median[half]),
        ]
    return ratios


def main() -> None:
    """Measure, print, write."""
    options = parser(__doc__, out="encoder.json", repeats=5)
    options.add_argument("--batch", type=int, default=128)
    options.add_argument("--inference-batch", type=int, default=16)
    options.add_argument("--seconds", type=float, default=3.0)
    options.add_argument("--matrix-size", type=int, default=2048)
    options.add_argument("--profile", action="store_true", help="print where our step's time goes")
    options.add_argument("--keep-freed-memory", action="store_true", help="as `chns train` does on a CPU")
    options.add_argument("--processor-time", action="store_true", help="instead of the time of the wall's clock")
    arguments = options.parse_args()
    clock = time.process_time if arguments.processor_time else time.perf_counter
    if arguments.keep_freed_memory:
        keep_freed_memory()
    torch.manual_seed(0)
    frames = round(arguments.seconds * FRAMES_PER_SECOND) - 2  # whole frames of 25 ms
    features = torch.randn(arguments.batch, frames, NUM_MELS)
    encoders: dict[str, nn.Module] = {OURS: ecapa_tdnn_mobile()}
    theirs = speechbrain_encoder()
    if theirs is not None:
        encoders[PEER] = theirs

    limits = {kind: matrix_throughput(dtype, size=arguments.matrix_size, clock=clock) for kind, dtype in KINDS.items()}
    training = measure(training_step, encoders, features, repeats=arguments.repeats, clock=clock)
    operations = {name: floating_point_operations(training_step(e, features, SINGLE)) for name, e in encoders.items()}
    if arguments.profile:
        for kind in KINDS:
            print_profile(training_step(encoders[OURS], features, kind), kind)
    for encoder in encoders.values():
        encoder.eval()
    few = features[: arguments.inference_batch]
    embedding = measure(inference, encoders, few, repeats=2 * arguments.repeats, clock=clock)

    rows = {f"train: {name}": row for name, row in milliseconds(training).items()}
    for name, timing in training.items():
        encoder_name, kind = name.split(", ")
        throughput = operations[encoder_name] / timing.median
        rows[f"train: {name}"] |= {"GFLOP/s": 1e-9 * throughput, "share of a product's": throughput / limits[kind]}
    rows |= {f"embed: {name}": row for name, row in milliseconds(embedding).items()}
    rows |= {f"product of matrices, {kind}": {"GFLOP/s": 1e-9 * limit} for kind, limit in limits.items()}
    ratios = []
    if theirs is not None:
        ratios = ratios_of("train", training, (0.45, 0.18)) + ratios_of("embed", embedding, (None, None))
    title = f"mobile ECAPA-TDNN: train on {arguments.batch}, embed {arguments.inference_batch} x {arguments.seconds} s"
    publish(
        arguments.out,
        title,
        rows,
        ratios,
        batch=arguments.batch,
        inference_batch=arguments.inference_batch,
        frames=frames,
        operations_per_step=operations,
        keep_freed_memory=arguments.keep_freed_memory,
        processor_time=arguments.processor_time,
    )


if __name__ == "__main__":
    main()

"""What the mobile ECAPA-TDNN costs against SpeechBrain's of the same size, and how near it is to the machine's limit.

A training step is forward, backward and fused Adam on features; the gradient of the embeddings is given, so the loss
is not in it. bf16 is autocast, as in training. The share of the matrix throughput is the step's floating-point
operations (as torch counts those of convolutions and products) over its median time, against a large product in the
same type in the same run. SpeechBrain's lobe needs neither its features nor torchaudio's functions.

    python benchmarks/encoder.py [--batch 128] [--seconds 3] [--profile] [--out encoder.json]
"""

from collections.abc import Callable
from contextlib import nullcontext

import torch
from matmul import matrix_throughput
from report import Ratio, Timing, milliseconds, parser, peer, publish, take_turns
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from chns.encoders import ecapa_tdnn_mobile

NUM_MELS, EMBEDDING_DIM, FRAMES_PER_SECOND = 80, 192, 100
OURS, PEER = "chns", "SpeechBrain"
SINGLE, HALF = "float32", "bf16"


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
) -> dict[str, Timing]:
    """Timings by encoder and type, in turns."""
    sides = {
        f"{name}, {kind}": make_call(encoder, features, kind)
        for name, encoder in encoders.items()
        for kind in (SINGLE, HALF)
    }
    return take_turns(sides, repeats=repeats)


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
    single, half, their_single, their_half = (
        timings[f"{name}, {kind}"].median for name in (OURS, PEER) for kind in (SINGLE, HALF)
    )
    return [
        Ratio(f"{what}: ours / SpeechBrain, float32", single / their_single, at_most=bounds[0]),
        Ratio(f"{what}: our bf16 / SpeechBrain float32", half / their_single, at_most=bounds[1]),
        Ratio(f"{what}: our bf16 / SpeechBrain bf16", half / their_half),
    ]


def main() -> None:
    """Measure, print, write."""
    options = parser(__doc__, out="encoder.json", repeats=5)
    options.add_argument("--batch", type=int, default=128)
    options.add_argument("--inference-batch", type=int, default=16)
    options.add_argument("--seconds", type=float, default=3.0)
    options.add_argument("--matrix-size", type=int, default=2048)
    options.add_argument("--profile", action="store_true", help="print where our step's time goes")
    arguments = options.parse_args()
    torch.manual_seed(0)
    frames = round(arguments.seconds * FRAMES_PER_SECOND) - 2  # whole frames of 25 ms
    features = torch.randn(arguments.batch, frames, NUM_MELS)
    encoders: dict[str, nn.Module] = {OURS: ecapa_tdnn_mobile()}
    theirs = speechbrain_encoder()
    if theirs is not None:
        encoders[PEER] = theirs

    limits = {
        kind: matrix_throughput(dtype, size=arguments.matrix_size)
        for kind, dtype in ((SINGLE, torch.float32), (HALF, torch.bfloat16))
    }
    training = measure(training_step, encoders, features, repeats=arguments.repeats)
    operations = {name: floating_point_operations(training_step(e, features, SINGLE)) for name, e in encoders.items()}
    if arguments.profile:
        for kind in (SINGLE, HALF):
            print_profile(training_step(encoders[OURS], features, kind), kind)
    for encoder in encoders.values():
        encoder.eval()
    embedding = measure(inference, encoders, features[: arguments.inference_batch], repeats=2 * arguments.repeats)

    rows = {f"train: {name}": row for name, row in milliseconds(training).items()}
    for name, timing in training.items():
        encoder_name, kind = name.split(", ")
        throughput = operations[encoder_name] / timing.median
        rows[f"train: {name}"] |= {"GFLOP/s": 1e-9 * throughput, "share of a product's": throughput / limits[kind]}
    rows |= {f"embed: {name}": row for name, row in milliseconds(embedding).items()}
    rows |= {f"product of matrices, {kind}": {"GFLOP/s": 1e-9 * limit} for kind, limit in limits.items()}
    ratios = []
    if theirs is not None:
        ratios = ratios_of("train", training, (0.8, 0.45)) + ratios_of("embed", embedding, (None, None))
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
    )


if __name__ == "__main__":
    main()

"""What the machine can multiply: the limit that an encoder's speed is up against.

Square matrices in float32 and bfloat16, the fastest of several turns. `benchmarks/encoder.py` measures the same in its
own run, so that both see the same machine.

    python benchmarks/matmul.py [--sizes 1024 2048] [--out matmul.json]
"""

import time
from collections.abc import Callable

import torch
from report import Ratio, parser, publish, take_turns

SIZE = 2048


def matrix_throughput(
    dtype: torch.dtype, *, size: int = SIZE, repeats: int = 5, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Floating-point operations a second of the product of two square matrices, at its fastest."""
    left, right = (torch.randn(size, size).to(dtype) for _ in range(2))
    timing = take_turns({"product": lambda: left @ right}, repeats=repeats, clock=clock)["product"]
    return 2 * size**3 / timing.fastest


def main() -> None:
    """Measure, print, write."""
    options = parser(__doc__, out="matmul.json", repeats=10)
    options.add_argument("--sizes", type=int, nargs="+", default=[512, 1024, SIZE])
    arguments = options.parse_args()
    torch.manual_seed(0)
    rows = {
        f"{size} x {size}": {
            f"{str(dtype).removeprefix('torch.')}, GFLOP/s": 1e-9
            * matrix_throughput(dtype, size=size, repeats=arguments.repeats)
            for dtype in (torch.float32, torch.bfloat16)
        }
        for size in arguments.sizes
    }
    single, half = rows[f"{arguments.sizes[-1]} x {arguments.sizes[-1]}"].values()
    ratios = [Ratio("bfloat16 / float32, largest size", half / single)]
    publish(arguments.out, "matrix throughput, fastest turn", rows, ratios)


if __name__ == "__main__":
    main()

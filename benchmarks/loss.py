"""What a loss costs: forward and backward on a batch of P speakers x K utterances.

`SupConLoss` against that of pytorch-metric-learning at the same temperature, which has to give the same value, and
`HSCLLoss` against our `SupConLoss`.

    python benchmarks/loss.py [--speakers 650] [--out loss.json]
"""

from collections.abc import Callable

import torch
from report import Ratio, milliseconds, parser, peer, publish, take_turns
from torch import Tensor

from chns.losses import HSCLLoss, SupConLoss

OURS, HSCL, PEER = "chns SupConLoss", "chns HSCLLoss", "pytorch-metric-learning SupConLoss"


def main() -> None:
    """Measure, print, write."""
    options = parser(__doc__, out="loss.json", repeats=30)
    options.add_argument("--speakers", type=int, default=650)
    options.add_argument("--utterances", type=int, default=2)
    options.add_argument("--dim", type=int, default=192)
    arguments = options.parse_args()
    torch.manual_seed(0)
    labels = torch.arange(arguments.speakers).repeat_interleave(arguments.utterances)
    embeddings = torch.randn(len(labels), arguments.dim, requires_grad=True)

    losses: dict[str, Callable[[Tensor, Tensor], Tensor]] = {OURS: SupConLoss(0.1), HSCL: HSCLLoss(0.1)}
    peer_losses = peer("pytorch_metric_learning.losses")
    if peer_losses is not None:
        losses[PEER] = peer_losses.SupConLoss(temperature=0.1)
        torch.testing.assert_close(losses[PEER](embeddings, labels), losses[OURS](embeddings, labels))

    def call(loss: Callable[[Tensor, Tensor], Tensor]) -> Callable[[], None]:
        def step() -> None:
            embeddings.grad = None
            loss(embeddings, labels).backward()

        return step

    timings = take_turns({name: call(loss) for name, loss in losses.items()}, repeats=arguments.repeats)
    ratios = [Ratio(f"{HSCL} / {OURS}", timings[HSCL].median / timings[OURS].median, at_most=1.2)]
    if PEER in timings:
        ratios.append(Ratio(f"{OURS} / {PEER}", timings[OURS].median / timings[PEER].median, at_most=0.5))
    shape = {"speakers": arguments.speakers, "utterances_per_speaker": arguments.utterances, "dim": arguments.dim}
    publish(arguments.out, f"forward and backward, {shape}", milliseconds(timings), ratios, **shape)


if __name__ == "__main__":
    main()

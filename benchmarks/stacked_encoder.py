"""Several ECAPA-TDNNs of one size, trained side by side: convolutions as matrix products over all of them at once.

Not a benchmark by itself: `logmel_training.py` imports it. It computes what so many `chns.encoders.EcapaTdnn` do in
training mode, from their own weights (`tests/test_vector_training.py` checks it). On one core a step of eight small
ones takes half as long as eight steps. Embeddings are made by the library's encoder, with the weights of a run.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from chns.encoders import EcapaTdnn

_MOMENTUM, _EPSILON = 0.1, 1e-5  # of nn.BatchNorm1d


class _BatchNorm(torch.autograd.Function):
    """Each run's own batch statistics: x of shape (runs, N, C), gain and shift of shape (runs, C)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, shift: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Normalised, and the statistics."""
        variance, mean = torch.var_mean(x, 1, keepdim=True, correction=0)
        scale = (variance + _EPSILON).rsqrt()
        normal = (x - mean).mul_(scale)
        ctx.save_for_backward(normal, scale, gain)
        ctx.mark_non_differentiable(mean, variance)
        return torch.addcmul(shift[:, None], normal, gain[:, None]), mean, variance

    @staticmethod
    def backward(ctx: Any, slope: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Ioffe and Szegedy, "Batch normalization", ICML 2015, section 3."""
        normal, scale, gain = ctx.saved_tensors
        of_shift = slope.sum(1)
        of_gain = (slope * normal).sum(1)
        count = slope.shape[1]
        inner = slope - of_shift[:, None] / count
        inner.addcmul_(normal, of_gain[:, None], value=-1 / count)
        return inner.mul_(gain[:, None] * scale), of_gain, of_shift


class StackedEcapa(nn.Module):
    """(runs, B, T, mels) to (runs, B, embedding_dim).

    Args:
        encoders: Of one size and of the usual variant, one a run.
    """

    def __init__(self, encoders: Sequence[EcapaTdnn]) -> None:
        super().__init__()
        states = [encoder.state_dict() for encoder in encoders]
        trained = {name for name, _ in encoders[0].named_parameters()}
        self.runs = len(encoders)
        self.weights = nn.ParameterDict(
            {name.replace(".", "/"): torch.stack([s[name] for s in states]) for name in states[0] if name in trained}
        )
        self.statistics = {
            name: torch.stack([s[name] for s in states]) for name in states[0] if name.endswith(("_mean", "_var"))
        }
        first = encoders[0]
        self.layers = {
            n: (c.kernel_size[0], c.dilation[0]) for n, c in first.named_modules() if isinstance(c, nn.Conv1d)
        }
        self.scale = first.blocks[0].res2net.scale
        self.num_blocks = len(first.blocks)

    def state_of(self, run: int) -> dict[str, Tensor]:
        """Weights and statistics of a run, for `EcapaTdnn.load_state_dict`, not strictly."""
        found = {name.replace("/", "."): w.detach()[run] for name, w in self.weights.items()}
        return found | {name: s[run] for name, s in self.statistics.items()}

    def take(self, run: int, state: dict[str, Tensor]) -> None:
        """Let a run go on from a state."""
        with torch.no_grad():
            for name, weight in self.weights.items():
                weight[run] = state[name.replace("/", ".")]
        for name, statistics in self.statistics.items():
            statistics[run] = state[name]

    def grown(self, run: int) -> "StackedEcapa":
        """A stack with one more run, a copy of one that it has."""
        larger = copy.copy(self)
        larger._modules = {}
        larger.runs += 1
        larger.weights = nn.ParameterDict(
            {name: torch.cat([w.detach(), w.detach()[run : run + 1]]) for name, w in self.weights.items()}
        )
        larger.statistics = {name: torch.cat([s, s[run : run + 1]]) for name, s in self.statistics.items()}
        return larger

    def forward(self, features: Tensor) -> Tensor:
        """As `EcapaTdnn.forward` in training mode, each run on its own batch."""
        x = self._tdnn(features, "first")
        outputs = []
        for number in range(self.num_blocks):
            x = self._block(x, f"blocks.{number}")
            outputs.append(x)
        x = self._tdnn(torch.cat(outputs, 3), "aggregation")
        pooled = self._norm(self._pooled(x), "pooling_norm")
        weight = self.weights["embedding/weight"]
        return torch.baddbmm(self.weights["embedding/bias"][:, None], pooled, weight.mT)

    def _tdnn(self, x: Tensor, name: str) -> Tensor:
        return self._norm(self._conv(x, f"{name}.conv").relu_(), f"{name}.norm")

    def _conv(self, x: Tensor, name: str) -> Tensor:
        """(runs, B, T, in) to (runs, B, T, out)."""
        kernel, dilation = self.layers[name]
        weight, bias = (self.weights[f"{name}/{of}".replace(".", "/")] for of in ("weight", "bias"))
        frames = x.shape[2]
        if kernel > 1:
            reach = dilation * (kernel - 1) // 2
            x = nn.functional.pad(x, (0, 0, reach, reach))
            x = torch.cat([x[:, :, i * dilation : i * dilation + frames] for i in range(kernel)], 3)
        weight = weight.permute(0, 3, 2, 1).flatten(1, 2)  # (runs, kernel x in, out)
        return torch.baddbmm(bias[:, None], x.flatten(1, 2), weight).unflatten(1, (-1, frames))

    def _norm(self, x: Tensor, name: str) -> Tensor:
        gain, shift = (self.weights[f"{name}/{of}".replace(".", "/")] for of in ("weight", "bias"))
        flat = x.flatten(1, -2)
        out, mean, variance = _BatchNorm.apply(flat, gain, shift)
        count = flat.shape[1]
        self.statistics[f"{name}.running_mean"].lerp_(mean[:, 0], _MOMENTUM)
        self.statistics[f"{name}.running_var"].lerp_(variance[:, 0] * (count / (count - 1)), _MOMENTUM)
        return out.view_as(x)

    def _block(self, x: Tensor, name: str) -> Tensor:
        first, *groups = self._tdnn(x, f"{name}.before").chunk(self.scale, 3)
        outputs = [first]
        for number, group in enumerate(groups):
            given = group if number == 0 else group + outputs[-1]
            outputs.append(self._tdnn(given, f"{name}.res2net.blocks.{number}"))
        after = self._tdnn(torch.cat(outputs, 3), f"{name}.after")
        gate = self._conv(after.mean(2, keepdim=True), f"{name}.se.squeeze").relu()
        return x + after * self._conv(gate, f"{name}.se.excite").sigmoid()

    def _pooled(self, x: Tensor) -> Tensor:
        mean = x.mean(2, keepdim=True)
        deviation = (x - mean).square().mean(2, keepdim=True).clamp_min(1e-12).sqrt()
        weight, bias = self.weights["pooling/hidden/weight"][..., 0], self.weights["pooling/hidden/bias"]
        of_frame, of_context = weight.split([x.shape[3], 2 * x.shape[3]], 2)
        context = torch.baddbmm(bias[:, None], torch.cat([mean, deviation], 3).flatten(1, 2), of_context.mT)
        attended = (x.flatten(1, 2) @ of_frame.mT).unflatten(1, x.shape[1:3]) + context[:, :, None]
        hidden = self._norm(attended.relu_(), "pooling.norm").tanh()
        weights = self._conv(hidden, "pooling.score").softmax(2)
        mean = (weights * x).sum(2)
        variance = (weights * (x - mean[:, :, None]).square()).sum(2)
        return torch.cat([mean, variance.clamp_min(1e-12).sqrt()], 2)

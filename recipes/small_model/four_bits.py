"""Weights of four bits for CAM++, learnt from CAM++ itself, so that it fits into a package.

    python recipes/small_model/four_bits.py CACHE TEACHER OUT --steps 560 --dev EMBEDDED_DEVELOPMENT_SET

Every 32 weights along the input channels share a scale; a weight is one of sixteen multiples of it. The network is
trained with its rounded weights to embed as the teacher does (the gradient passes the rounding as if it were not
there); running statistics stay as they are.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
from development import DevelopmentSet
from torch import Tensor, nn
from torch.nn.utils import parametrize
from train_student import Cache

from chns.bundle.bundle import load_bundle, save_bundle
from chns.losses import DistillationLoss

BLOCK = 32
_FEWEST_WEIGHTS = 4_000
_LOWEST, _HIGHEST = -8, 7
_PAIRS = 16


class FourBits(nn.Module):
    """Rounds a weight of shape (out, in, ...) to multiples of a scale for each 32 along the second axis.

    Args:
        weight: The scales are those that lie closest to it.
    """

    scale: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        blocks = _blocked(weight.detach())
        largest = blocks.abs().amax(dim=2, keepdim=True).clamp_min(1e-6)
        best, least = largest, torch.full_like(largest, torch.inf)
        for share in np.linspace(0.6, 1.05, 16):
            scale = (largest * float(share) / -_LOWEST).half().float().clamp_min(6e-8)
            error = (_rounded(blocks, scale) - blocks).square().sum(dim=2, keepdim=True)
            best, least = torch.where(error < least, scale, best), torch.minimum(error, least)
        self.register_buffer("scale", best)

    def forward(self, weight: Tensor) -> Tensor:
        """Shape (out, in, ...), rounded."""
        blocks = _blocked(weight)
        return (blocks + (_rounded(blocks, self.scale) - blocks).detach()).flatten(1, 2)


def _blocked(weight: Tensor) -> Tensor:
    return weight.unflatten(1, (-1, BLOCK))


def _rounded(blocks: Tensor, scale: Tensor) -> Tensor:
    return (blocks / scale).round().clamp(_LOWEST, _HIGHEST) * scale


def with_four_bits(encoder: nn.Module) -> list[nn.Module]:
    """Let every large weight be rounded; the modules it was done to."""
    changed = []
    for module in list(encoder.modules()):
        weight = getattr(module, "weight", None)
        large = isinstance(weight, nn.Parameter) and weight.ndim > 1 and weight.numel() >= _FEWEST_WEIGHTS
        if large and weight.shape[1] % BLOCK == 0:
            parametrize.register_parametrization(module, "weight", FourBits(weight))
            changed.append(module)
    return changed


def main() -> None:
    """Train for some steps, then save a bundle whose weights are the rounded ones."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cache", type=Path)
    parser.add_argument("teacher", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--dev", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=560)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    bundle = load_bundle(arguments.teacher)
    model = bundle.model.eval()
    changed = with_four_bits(model.encoder)
    loss = DistillationLoss(embedding_dim=192, teacher_dim=192, contrast_weight=0.1)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    cache, rng = Cache(arguments.cache), np.random.default_rng(4)
    shortest = min(clips.shape[1] for clips, _ in cache.shards)
    cache.keep_only(shortest)
    values = []
    for step in range(1, arguments.steps + 1):
        decay = 0.5 + 0.5 * math.cos(math.pi * (step - 1) / arguments.steps)
        for group in optimizer.param_groups:
            group["lr"] = arguments.learning_rate * min(1.0, step / 20) * decay
        waveforms, targets = cache.batch(_PAIRS, shortest, rng)
        with torch.autocast("cpu", torch.bfloat16):
            embeddings = model(waveforms)
        value = loss(embeddings, targets)
        value.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        values.append(float(nn.functional.cosine_similarity(embeddings.detach().float(), targets).mean()))
        if step % 20 == 0:
            print(f"{time.strftime('%H:%M:%S')} step {step} cosine {np.mean(values):.4f}", flush=True)
            values.clear()
    for module in changed:
        parametrize.remove_parametrizations(module, "weight")
    measured = DevelopmentSet(arguments.dev).measure(model)
    print(measured, flush=True)
    described = {
        **bundle.training,
        "recipe": "recipes/small_model/four_bits.py",
        "steps": arguments.steps,
        "bits": 4,
        "block": BLOCK,
    }
    save_bundle(arguments.out, model, bundle.architecture, training=described, metrics={"development": measured})


if __name__ == "__main__":
    main()

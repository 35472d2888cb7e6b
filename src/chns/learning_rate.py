"""How the learning rate goes over a training."""

from __future__ import annotations

import math


def learning_rate_factor(step: int, num_steps: int, warmup_share: float) -> float:
    """Share of the peak learning rate at a step (from 0): a linear rise, then half a cosine down to zero."""
    warmup_steps = warmup_share * num_steps
    if step + 1 < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step + 1 - warmup_steps) / max(1.0, num_steps + 1 - warmup_steps)
    return 0.5 * (1.0 + math.cos(math.pi * progress))

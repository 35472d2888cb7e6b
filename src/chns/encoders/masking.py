"""Keep padding out of an utterance's embedding.

A convolution near the end of an utterance reads what follows: zeros where the tensor ends, but, in a padded batch,
whatever the layers before made of the padding. Setting padding to zero before every convolution that looks sideways
makes both cases the same.
"""

from __future__ import annotations

import torch
from torch import Tensor


def frame_mask(lengths: Tensor | None, frames: Tensor) -> Tensor | None:
    """One where a frame belongs to the utterance, zero where it is padding.

    Args:
        lengths: Number of frames of each utterance, shape (batch,), or None if nothing is padding.
        frames: Any tensor whose last axis is time; gives the length, the device and the type.

    Returns:
        Shape (batch, 1, frames), or None.
    """
    if lengths is None:
        return None
    inside = torch.arange(frames.shape[-1], device=frames.device) < lengths[:, None]
    return inside[:, None, :].to(frames.dtype)


def masked(x: Tensor, mask: Tensor | None) -> Tensor:
    """Padding set to zero; the tensor itself if there is none."""
    return x if mask is None else x * mask


def masked_mean(x: Tensor, mask: Tensor | None) -> Tensor:
    """Mean over the frames that are not padding, shape (batch, channels, 1).

    Args:
        x: Shape (batch, channels, frames).
        mask: Shape (batch, 1, frames), or None.
    """
    if mask is None:
        return x.mean(dim=2, keepdim=True)
    return (x * mask).sum(dim=2, keepdim=True) / mask.sum(dim=2, keepdim=True)


def repeated(x: Tensor, times: int) -> Tensor:
    """Each frame so many times in a row: (batch, channels, frames) -> (batch, channels, times * frames)."""
    return x[..., None].expand(-1, -1, -1, times).flatten(2)


def mirrored(x: Tensor, mask: Tensor | None, reach: int) -> Tensor:
    """Prolong each utterance by mirroring it at its first and its own last frame, so that padding does not matter.

    Unlike `torch.nn.functional.pad`, also an utterance shorter than the reach is prolonged: its ends are repeated.

    Args:
        x: Shape (batch, channels, frames).
        mask: Shape (batch, 1, frames), or None.
        reach: Frames to add at either end.

    Returns:
        Shape (batch, channels, frames + 2 * reach).
    """
    places = torch.arange(-reach, x.shape[-1] + reach, device=x.device)
    last = x.shape[-1] - 1 if mask is None else mask.sum(dim=2, dtype=torch.int64) - 1
    places = (last - (last - places.abs()).abs()).clamp_min(0)
    if mask is None:
        return x.index_select(2, places)
    return x.gather(2, places[:, None].expand(-1, x.shape[1], -1))

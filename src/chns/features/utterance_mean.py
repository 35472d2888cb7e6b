"""What features of a padded batch have in common: its shape, which frames count, and the utterance's mean."""

from __future__ import annotations

import torch
from torch import Tensor


def require_batch(waveforms: Tensor, frame_samples: int) -> None:
    """Refuse what is no batch of waveforms of at least a frame.

    Raises:
        ValueError: If waveforms do not have the shape (batch, samples), or are shorter than a frame.
    """
    if waveforms.ndim != 2 or waveforms.shape[1] < frame_samples:
        raise ValueError(
            f"waveforms must have shape (batch, samples) with at least {frame_samples} samples, one frame, "
            f"got {tuple(waveforms.shape)}."
        )


def inside_utterance(features: Tensor, num_frames: Tensor) -> Tensor:
    """Whether a frame belongs to its utterance rather than to the padding.

    Args:
        features: Shape (batch, frames, mels).
        num_frames: Frames of each utterance, shape (batch,).

    Returns:
        Booleans of shape (batch, frames, 1).
    """
    return (torch.arange(features.shape[1], device=features.device) < num_frames[:, None])[:, :, None]


def without_padding(features: Tensor, num_frames: Tensor | None, *, subtract_mean: bool) -> Tensor:
    """Set padding to zero, and subtract each utterance's mean from each mel if wished.

    Args:
        features: Finite, shape (batch, frames, mels).
        num_frames: Frames of each utterance, shape (batch,), or None if nothing is padding.
        subtract_mean: Whether to.
    """
    if num_frames is None:
        return features - features.mean(1, keepdim=True) if subtract_mean else features
    inside = inside_utterance(features, num_frames)
    features = features * inside
    if not subtract_mean:
        return features
    mean = features.sum(1, keepdim=True) / num_frames[:, None, None]
    return (features - mean) * inside

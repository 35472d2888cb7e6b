"""SpecAugment: stripes of the features are hidden, so that a network cannot rest on any one band or moment.

It works on features, so it runs on the device of the network, not in the loader's workers. Its random numbers are
torch's own, as those of dropout, and so follow the seed that a training step sets for each step, chunk and process.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SpecAugment(nn.Module):
    """Replaces random stripes of frames and of mels by the crop's mean of each mel.

    It has no parameters. Widths are uniform from 0, and places uniform, for each crop and each stripe.

    Args:
        probability: How often a crop is masked at all.
        time_masks: Stripes of frames.
        max_mask_frames: Widest of them.
        mel_masks: Stripes of mels.
        max_mask_mels: Widest of them.

    Raises:
        ValueError: If a setting is out of range.

    Source:
        Park et al., "SpecAugment: a simple data augmentation method for automatic speech recognition", Interspeech
        2019, without time warping.
    """

    def __init__(
        self, *, probability: float, time_masks: int, max_mask_frames: int, mel_masks: int, max_mask_mels: int
    ) -> None:
        super().__init__()
        if not 0 <= probability <= 1:
            raise ValueError(f"spec_augment probability must be between 0 and 1, got {probability}.")
        if min(time_masks, max_mask_frames, mel_masks, max_mask_mels) < 0:
            raise ValueError(
                "time_masks, max_mask_frames, mel_masks and max_mask_mels must be at least 0, "
                f"got {time_masks}, {max_mask_frames}, {mel_masks} and {max_mask_mels}."
            )
        self.probability = probability
        self.time_masks = time_masks
        self.max_mask_frames = max_mask_frames
        self.mel_masks = mel_masks
        self.max_mask_mels = max_mask_mels

    def forward(self, features: Tensor) -> Tensor:
        """Mask a batch of crops, which have no padding.

        Args:
            features: Shape (batch, frames, mels).

        Returns:
            Shape (batch, frames, mels).
        """
        batch, frames, mels = features.shape
        in_time = _stripes(batch, frames, self.time_masks, self.max_mask_frames, features.device)
        in_mels = _stripes(batch, mels, self.mel_masks, self.max_mask_mels, features.device)
        chosen = torch.rand(batch, 1, 1, device=features.device) < self.probability
        hidden = (in_time[:, :, None] | in_mels[:, None, :]) & chosen
        return torch.where(hidden, features.mean(dim=1, keepdim=True), features)


def _stripes(batch: int, size: int, count: int, max_width: int, device: torch.device) -> Tensor:
    """Which places of an axis lie in one of so many stripes, shape (batch, size), bool."""
    widths = (torch.rand(batch, count, 1, device=device) * (min(max_width, size) + 1)).floor()
    starts = (torch.rand(batch, count, 1, device=device) * (size - widths + 1)).floor()
    places = torch.arange(size, device=device)
    return ((places >= starts) & (places < starts + widths)).any(dim=1)

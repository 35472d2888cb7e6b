"""Features and encoder together: the thing that is trained, saved, exported and used."""

from __future__ import annotations

from torch import Tensor, nn

from chns.features import DecibelMel, LogMel


class SpeakerEncoder(nn.Module):
    """Waveforms to speaker embeddings.

    Args:
        features: Waveforms to features.
        encoder: Features, and the number of frames that are not padding, to embeddings.
        masking: Features to features, such as `chns.features.spec_augment.SpecAugment`; while training only, and no
            part of what is saved or exported.
    """

    def __init__(self, features: LogMel | DecibelMel, encoder: nn.Module, *, masking: nn.Module | None = None) -> None:
        super().__init__()
        self.features = features
        self.encoder = encoder
        self.masking = masking

    @property
    def sample_rate_hz(self) -> int:
        """Rate of the waveforms it takes."""
        return self.features.sample_rate_hz

    def forward(self, waveforms: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Embed a batch.

        Args:
            waveforms: Samples in [-1, 1], shape (batch, samples).
            lengths: Samples of each utterance that are not padding, shape (batch,); by default all.

        Returns:
            Shape (batch, embedding_dim), not normalised.
        """
        frames = None if lengths is None else self.features.frame_lengths(lengths)
        features = self.features(waveforms, lengths)
        if self.training and self.masking is not None:
            features = self.masking(features)
        embeddings: Tensor = self.encoder(features, frames)
        return embeddings

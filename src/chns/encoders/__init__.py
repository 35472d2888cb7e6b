"""Encoders: features of any length in, one embedding an utterance out.

All are called as ``encoder(features, lengths=None)`` with features of shape (batch, frames, mels) and the number of
frames of each utterance that are not padding; what is padding never changes an embedding.

What each costs is in its docstring, and all together in docs/encoders.md.
"""

from torch import Tensor, nn

from chns.encoders.cam_plus_plus import CamPlusPlus, cam_plus_plus
from chns.encoders.ecapa_tdnn import EcapaTdnn, ecapa_tdnn_512, ecapa_tdnn_1024, ecapa_tdnn_mobile
from chns.encoders.redimnet2 import ReDimNet2, Stage, redimnet2_b0, redimnet2_b1, redimnet2_b2, redimnet2_b3
from chns.encoders.resnet import (
    ResNet,
    ThinResNet,
    resnet34,
    resnet152,
    resnet221,
    resnet293,
    simam_resnet34,
    simam_resnet100,
    thin_resnet34,
)
from chns.features import DecibelMel, LogMel

__all__ = [
    "CamPlusPlus",
    "EcapaTdnn",
    "ReDimNet2",
    "ResNet",
    "SpeakerEncoder",
    "Stage",
    "ThinResNet",
    "cam_plus_plus",
    "ecapa_tdnn_512",
    "ecapa_tdnn_1024",
    "ecapa_tdnn_mobile",
    "redimnet2_b0",
    "redimnet2_b1",
    "redimnet2_b2",
    "redimnet2_b3",
    "resnet34",
    "resnet152",
    "resnet221",
    "resnet293",
    "simam_resnet34",
    "simam_resnet100",
    "thin_resnet34",
]


class SpeakerEncoder(nn.Module):
    """Waveforms to speaker embeddings.

    Args:
        features: Waveforms to features.
        encoder: Features, and the number of frames that are not padding, to embeddings.
        masking: Features to features, such as `chns.training.augmenting.SpecAugment`; while training only, and no
            part of what is saved or exported.

    Examples:
        >>> import torch
        >>> from chns import SpeakerEncoder
        >>> from chns.encoders import ecapa_tdnn_mobile
        >>> from chns.features import LogMel
        >>> model = SpeakerEncoder(LogMel(), ecapa_tdnn_mobile()).eval()
        >>> model(torch.randn(2, 16_000)).shape
        torch.Size([2, 192])
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

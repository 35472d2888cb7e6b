"""Encoders: features of any length in, one embedding an utterance out.

All are called as ``encoder(features, lengths=None)`` with features of shape (batch, frames, mels) and the number of
frames of each utterance that are not padding; what is padding never changes an embedding.

What each costs is in its docstring, and all together in docs/encoders.md.
"""

from chns.encoders.cam_plus_plus import CamPlusPlus, cam_plus_plus
from chns.encoders.ecapa_tdnn import EcapaTdnn, ecapa_tdnn_512, ecapa_tdnn_1024, ecapa_tdnn_mobile
from chns.encoders.redimnet2 import (
    ReDimNet2,
    Stage,
    redimnet2_b0,
    redimnet2_b1,
    redimnet2_b2,
    redimnet2_b3,
)
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
from chns.encoders.speaker_encoder import SpeakerEncoder

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

"""Encoders: features of any length in, one embedding an utterance out.

All are called as ``encoder(features, lengths=None)`` with features of shape (batch, frames, mels) and the number of
frames of each utterance that are not padding; what is padding never changes an embedding.

| encoder | parameters | embedding |
|---|---|---|
| `ecapa_tdnn_mobile` | 2.05 M | 192 |
| `ecapa_tdnn_512` | 6.2 M | 192 |
| `ecapa_tdnn_1024` | 20.8 M | 192 |
| `cam_plus_plus` | 6.85 M | 192 |
| `resnet34` | 6.63 M | 256 |
| `thin_resnet34` | 1.60 M (SAP), 1.85 M (ASP) | 256 |
"""

from chns.encoders.cam_plus_plus import CamPlusPlus, cam_plus_plus
from chns.encoders.ecapa_tdnn import EcapaTdnn, ecapa_tdnn_512, ecapa_tdnn_1024, ecapa_tdnn_mobile
from chns.encoders.resnet import ResNet, resnet34
from chns.encoders.speaker_encoder import SpeakerEncoder
from chns.encoders.thin_resnet import ThinResNet, thin_resnet34

__all__ = [
    "CamPlusPlus",
    "EcapaTdnn",
    "ResNet",
    "SpeakerEncoder",
    "ThinResNet",
    "cam_plus_plus",
    "ecapa_tdnn_512",
    "ecapa_tdnn_1024",
    "ecapa_tdnn_mobile",
    "resnet34",
    "thin_resnet34",
]

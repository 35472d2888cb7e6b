"""Encoders: features of any length in, one embedding an utterance out.

All are called as ``encoder(features, lengths=None)`` with features of shape (batch, frames, mels) and the number of
frames of each utterance that are not padding; what is padding never changes an embedding.

| encoder | parameters | embedding |
|---|---|---|
| `ecapa_tdnn_mobile` | 2.05 M | 192 |
| `ecapa_tdnn_512` | 6.2 M | 192 |
| `ecapa_tdnn_1024` | 20.8 M | 192 |
| `resnet34` | 6.63 M | 256 |
| `thin_resnet34` | 1.60 M (SAP), 1.85 M (ASP) | 256 |
"""

from chns.encoders.ecapa_tdnn import EcapaTdnn, ecapa_tdnn_512, ecapa_tdnn_1024, ecapa_tdnn_mobile
from chns.encoders.resnet import ResNet, ThinResNet, resnet34, thin_resnet34
from chns.encoders.speaker_encoder import SpeakerEncoder

__all__ = [
    "EcapaTdnn",
    "ResNet",
    "SpeakerEncoder",
    "ThinResNet",
    "ecapa_tdnn_512",
    "ecapa_tdnn_1024",
    "ecapa_tdnn_mobile",
    "resnet34",
    "thin_resnet34",
]

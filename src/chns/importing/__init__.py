"""Take over published weights of other toolkits: from their checkpoint to a model bundle.

A checkpoint is a state dict and says nothing else. Channel counts follow from its shapes; what does not (dilations,
strides, features) is what the toolkit's own recipes have. Nothing of the toolkit needs to be installed.

| toolkit | models |
|---|---|
| `speechbrain` | ECAPA-TDNN of any width |
| `wespeaker-ecapa` | ECAPA-TDNN of any width, with or without global context |
| `wespeaker-resnet34` | ResNet-34, and others of the same blocks (ResNet-18) |
"""

from chns.importing.bundle import TOOLKITS, import_model

__all__ = ["TOOLKITS", "import_model"]

from chns.features.mels import DecibelMel as DecibelMel
from chns.features.mels import LogMel as LogMel
from chns.features.mels import StandardisedMel as StandardisedMel

__all__ = ["DecibelMel", "LogMel", "StandardisedMel"]

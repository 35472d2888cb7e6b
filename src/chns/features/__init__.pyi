from chns.features.decibel_mel import DecibelMel as DecibelMel
from chns.features.log_mel import LogMel as LogMel
from chns.features.standardised_mel import StandardisedMel as StandardisedMel

__all__ = ["DecibelMel", "LogMel", "StandardisedMel"]

from chns.features.decibel_mel import DecibelMel as DecibelMel
from chns.features.log_mel import LogMel as LogMel

__all__ = ["DecibelMel", "LogMel"]

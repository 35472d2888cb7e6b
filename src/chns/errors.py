"""Exceptions a caller may want to catch.

Every message reads ``<name> must <rule>, got <value> [in <file>:<line>]. <what to do next>.``
A wrong argument of a function is a plain ``ValueError``; the classes here are for input that came from outside.
"""


class ChnsError(Exception):
    """Base of all errors that this package raises about files and settings."""


class AudioError(ChnsError, ValueError):
    """A recording cannot be read, or holds nothing usable."""


class ManifestError(ChnsError, ValueError):
    """A manifest or a corpus folder breaks its format."""


class TrialError(ChnsError, ValueError):
    """A trial list or a score file breaks its format or names unknown utterances."""


class ModelFileError(ChnsError, ValueError):
    """A model bundle, a cluster file or a training checkpoint is damaged, foreign or unsafe."""


class ConfigError(ChnsError, ValueError):
    """A setting is unknown, missing or contradicts another."""


class RunFolderError(ChnsError, ValueError):
    """A file of a training run is damaged."""


class NonFiniteError(ChnsError, ArithmeticError):
    """A loss, a gradient or a weight is NaN or infinite."""


class FolderInUseError(ChnsError, OSError):
    """Another process is writing into the folder."""

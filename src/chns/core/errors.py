"""Exceptions a caller may want to catch.

Every message reads ``<name> must <rule>, got <value> [in <file>:<line>]. <what to do next>.``
A wrong argument of a function is a plain ``ValueError``; the classes here are for input that came from outside, whose
values a message quotes with `quoted`.
"""

from collections.abc import Iterable
from reprlib import Repr

_LONGEST_QUOTE, _LONGEST_MESSAGE = 200, 500
_short = Repr()
_short.maxstring = _short.maxother = _LONGEST_QUOTE


def quoted(value: object) -> str:
    """A value as an error message shows it: in Python's notation, never longer than a line or two.

    What a terminal would act on (control characters, line breaks, changes of the direction of writing) is escaped.
    """
    if isinstance(value, (str, bytes)):
        cut = len(value) - _LONGEST_QUOTE
        return repr(value) if cut <= 0 else f"{value[:_LONGEST_QUOTE]!r} and {cut:,} more"
    text = _short.repr(value)
    return text if len(text) <= _LONGEST_QUOTE else f"{text[:_LONGEST_QUOTE]}..."


def shown(text: object) -> str:
    r"""Text for a screen or a page, with what would not be seen, or would be obeyed, escaped as in ``\x1b``.

    That is control characters (also those from U+0080 to U+009F), line and paragraph separators and the marks that
    change the direction of writing.
    """
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape", "surrogatepass").decode() for one in str(text)
    )


def in_short(text: object) -> str:
    """Text, such as the message of another library's error, on one line, cut where it would fill the screen."""
    text = shown(" ".join(str(text).split()))
    return text if len(text) <= _LONGEST_MESSAGE else f"{text[:_LONGEST_MESSAGE]}..."


def suggestion(word: str, names: Iterable[str]) -> str:
    """What to try instead of a mistyped name: `` Did you mean chns?``, or nothing if no name is near."""
    from difflib import get_close_matches

    plain = {name.lower().replace("_", "-"): name for name in names}
    near = get_close_matches(word.lower().replace("_", "-"), plain, n=1, cutoff=0.6)
    return f" Did you mean {plain[near[0]]}?" if near else ""


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

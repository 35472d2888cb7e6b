"""Exceptions a caller may want to catch, and how text from strangers is shown: in a message, on a screen, in a table.

Every message reads ``<name> must <rule>, got <value> [in <file>:<line>]. <what to do next>.``
A wrong argument of a function is a plain ``ValueError``; the classes here are for input that came from outside, whose
values a message quotes with `quoted`.
"""

import re
from collections.abc import Collection, Iterable
from reprlib import Repr

FORMULA = r"'*\s*[-=+@" + "\uff1d\uff0b\uff0d\uff20]"  # what a spreadsheet runs at the start of a cell

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


def table_cell(text: str) -> str:
    """Text from a stranger as a cell of a table for people: no formula, and nothing that a screen acts on."""
    return no_formula(shown(text))


def no_formula(text: str) -> str:
    """Text as a cell of a table that may be opened in a spreadsheet, which would run one that begins like a formula.

    An apostrophe in front makes it text; `plain_text` takes it away.
    """
    return f"'{text}" if re.match(FORMULA, text) else text


def plain_text(cell: str) -> str:
    """The text of a cell that `no_formula` has made."""
    return cell[1:] if cell.startswith("'") and re.match(FORMULA, cell) else cell


def in_short(text: object) -> str:
    """Text, such as the message of another library's error, on one line, cut where it would fill the screen."""
    text = shown(" ".join(str(text).split()))
    return text if len(text) <= _LONGEST_MESSAGE else f"{text[:_LONGEST_MESSAGE]}..."


def percent(share: float, digits: int = 2) -> str:
    """A share as it is printed: ``10.70 %``."""
    return f"{100 * share:.{digits}f} %"


def counted(number: int, one: str, several: str | None = None) -> str:
    """A number and what it counts: ``1 recording``, ``1,200 recordings``."""
    return f"{number:,} {one if number == 1 else several or f'{one}s'}"


_CHOICE = re.compile(r"argument (.+?): invalid choice: '(.*)' \(choose from (.*)\)", re.DOTALL)
_TYPED = re.compile(r'Parser key "([^"]*)": Expected a (.+?)\. Got value: (.*)', re.DOTALL)
_OF_SEVERAL = re.compile(
    r'Parser key "([^"]*)": Does not validate against any of the Union subtypes\s+Subtypes: \[(.*?)\]\s+Errors:.*'
    r"Given value: (.*)",
    re.DOTALL,
)
_CONVERTED = re.compile(r"argument (.+?): invalid (int|float) value: '(.*)'", re.DOTALL)
_KINDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text", "NoneType": "null"}
_NO_OPTION = re.compile(r"(?:Group '([^']*)' does not accept option|Option) '([^']*)'")


def usage_message(message: str, *, prog: str, options: Collection[str]) -> str:
    """What argparse or jsonargparse say about a command line, in our words: one line, with what was probably meant.

    Args:
        message: Of the parser.
        prog: The command, such as ``chns train``.
        options: Its options, such as ``--out``.
    """
    message = message.removesuffix(".")
    if message.startswith("unrecognized arguments: "):
        word = message.removeprefix("unrecognized arguments: ").split()[0].partition("=")[0]
        if not word.startswith("-"):
            return f"arguments must be those of `{prog} --help`, got {quoted(word)} besides."
        return f"option must be one of `{prog} --help`, got {shown(word)}.{suggestion(word, options)}"
    if found := _CHOICE.search(message):
        name, got, choices = found[1], found[2], [one.strip("' ") for one in found[3].split(",")]
        return f"{name} must be one of {', '.join(choices)}, got {quoted(got)}.{suggestion(got, choices)}"
    if found := _TYPED.search(message):
        kind = _kind(found[2])
        choices = re.findall(r"'([^']*)'", found[2]) if "Literal" in found[2] else []
        return f"{found[1]} must be {kind}, got {quoted(found[3])}.{suggestion(found[3], choices)}"
    if found := _CONVERTED.search(message):
        return f"{found[1]} must be {_kind(found[2])}, got {quoted(found[3])}."
    if (found := _OF_SEVERAL.search(message)) and "Literal" not in found[2]:
        kinds = " or ".join(map(_kind, found[2].split(", ")))
        return f"{found[1]} must be {kinds}, got {quoted(found[3])}."
    if found := _NO_OPTION.search(message):
        name = f"--{found[1]}.{found[2]}" if found[1] else f"--{found[2]}"
        return f"{message}.{suggestion(name, options).replace(' --', ' ')}"
    return f"{message}. `{prog} --help` explains."


def _kind(told: str) -> str:
    """A type as jsonargparse tells it, in words."""
    kind = told.removeprefix("<class '").removesuffix("'>").replace("typing.Literal", "one of ")
    return _KINDS.get(kind, kind)


def suggestion(word: str, names: Iterable[str]) -> str:
    """What to try instead of a mistyped name: `` Did you mean chns?``, or nothing if no name is near."""
    from difflib import get_close_matches

    plain = {name.lower().replace("_", "-"): name for name in names}
    sought = word.lower().replace("_", "-")
    parts = [name for name in plain if name.rpartition(".")[2] == sought.lstrip("-").rpartition(".")[2]]
    near = get_close_matches(sought, parts, n=1, cutoff=0.1) or get_close_matches(sought, plain, n=1, cutoff=0.6)
    return f" Did you mean {plain[near[0]]}?" if near else ""


class ChnsError(Exception):
    """Base of all errors that this package raises about files and settings.

    Examples:
        >>> from chns import ChnsError, Verifier
        >>> try:
        ...     Verifier.load().embed("notes.txt")
        ... except ChnsError as error:
        ...     print(type(error).__name__)
        AudioError
    """


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

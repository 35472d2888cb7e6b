"""The ``chns`` command: parse, call the library, print. No logic of its own.

A command ``x`` is two functions, ``x_parser()`` and ``run_x(arguments)``, in ``x_command.py`` or in the module of its
subject. Only the chosen one's module is imported, and it imports what is heavy inside the functions, so that
``chns --help`` answers at once.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from chns import __version__
from chns.cli.options import require_files_apart
from chns.core import ChnsError, NonFiniteError, shown, usage_message

if TYPE_CHECKING:
    from chns.core import JobPart

COMMANDS = {
    "prepare": "turn a folder of recordings into a manifest",
    "convert": "write a manifest in the format of another tool",
    "check": "listen through a corpus for what would spoil a training",
    "speech": "find the speech in every utterance, and mark or trim it",
    "pack": "pack a corpus into shards for sequential reading",
    "merge": "put manifests together",
    "split": "split a manifest by speaker",
    "train": "train an encoder with random or hard batches",
    "configs": "list, print and copy the shipped settings",
    "compare": "train several strategies with several seeds and tell which is better",
    "report": "draw and explain what runs came to, in one HTML file",
    "cluster": "group the speakers of a manifest by voice",
    "embed": "write the embedding of every utterance",
    "trials": "make a trial list from a manifest",
    "evaluate": "score a trial list with a model",
    "calibrate": "turn scores into log-likelihood ratios, and set the threshold",
    "metrics": "error rates of a score file",
    "verify": "tell whether two recordings are of one speaker",
    "enrol": "store the voiceprint of a speaker",
    "identify": "find the enrolled speaker of a recording",
    "serve": "verify, enrol and identify over HTTP, with a page",
    "store": "list, show, delete, export and re-embed voiceprints",
    "export": "write a model as one graph for other runtimes",
    "import": "take over published weights of another toolkit",
    "augment-preview": "write examples of the augmentation to listen to",
    "completion": "make a shell complete commands and options",
    "push": "publish a model on the Hugging Face Hub",
    "demo": "the whole job on synthetic speech, in minutes",
}

# The commands of each module that has several.
_MODULES = {
    "embedding_commands": ("cluster", "embed", "trials"),
    "manifest_commands": ("convert", "merge", "pack", "speech", "split"),
    "model_commands": ("export", "import", "push"),
    "recognition_commands": ("identify", "serve", "verify"),
    "store_commands": ("enrol", "store"),
    "training_commands": ("augment-preview", "compare", "configs", "demo", "train"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

# What `pip install chns` leaves out, by the name it is imported by, and the extra that brings it.
EXTRAS = {
    "jsonargparse": "train",
    "lameenc": "train",
    "lightning_fabric": "train",
    "pyarrow": "train",
    "scipy": "train",
    "tensorboardX": "train",
    "torch": "train",
    "yaml": "train",
    "shtab": "completion",
    "fastapi": "serve",
    "fastapi_offline": "serve",
    "prometheus_client": "serve",
    "uvicorn": "serve",
    "jinja2": "report",
    "matplotlib": "report",
}

# Commands that need more than one of them brings: all that they need is named at once.
_WHOLE_EXTRAS = {"demo": "train,synthetic,report", "report": "report"}

# These report instruction sets, precision and processes on every start.
_CHATTY = ("faiss.loader", "lightning_fabric.utilities.rank_zero", "lightning_fabric.utilities.distributed")

_EPILOG = """from a folder of recordings to an evaluated model:
  chns prepare voxceleb /data/voxceleb2/dev --out vox2.parquet
  chns train --config chns --data.train vox2.parquet --out runs/chns
  chns evaluate runs/chns/model vox1.parquet --trials veri_test2.txt --out scores.txt

`chns COMMAND --help` explains each command with examples; `--debug` shows the trace of an error."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: The words after ``chns``; by default those of this process.

    Returns:
        The exit code: what the command returns (0 unless its help says otherwise), 1 where a training has come to
        numbers that are not finite, 2 for any other error that the message explains, 130 after Ctrl-C.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    for chatty in _CHATTY:
        logging.getLogger(chatty).setLevel(logging.WARNING)
    logging.basicConfig(level=logging.DEBUG if debug else logging.INFO, handlers=[_log_on_screen()])
    if words[:1] == ["enroll"]:  # as others spell it
        words[0] = "enrol"
    words = [word.replace("--enrollment", "--enrolment", 1) if word.startswith("--enroll") else word for word in words]
    top = _top_parser()
    if not words:
        top.print_help()
        return 0
    chosen = top.parse_args(words)
    try:
        arguments = parser_of(chosen.command).parse_args(chosen.rest)
        require_files_apart(chosen.command, arguments)
        with contextlib.redirect_stdout(_Screen(sys.stdout)):
            code: int | None = _function(chosen.command, "run_{}")(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("chns: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # who reads the output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it ends
        return 0
    except Exception as error:  # noqa: BLE001 - a trace would end in exit code 1, which is an answer of `verify`
        message = _missing_extra(chosen.command, error) or str(error)
        is_explained = isinstance(error, (ChnsError, ValueError, OSError)) or message != str(error)
        if debug or not is_explained:
            traceback.print_exc()
        print(f"chns: error: {shown(' '.join(message.split()))}", file=sys.stderr)
        return 1 if isinstance(error, NonFiniteError) else 2
    return code or 0


def parser_of(command: str) -> argparse.ArgumentParser:
    """The options of one command of `COMMANDS`."""
    parser: argparse.ArgumentParser = _function(command, "{}_parser")()
    return parser


def _function(command: str, name: str) -> Callable[..., Any]:
    plain = command.replace("-", "_")
    module = importlib.import_module(f"chns.cli.{_MODULE_OF.get(command, f'{plain}_command')}")
    function: Callable[..., Any] = getattr(module, name.format(plain))
    return function


class _Screen(io.TextIOBase):
    """Standard output of a command: names that came with files may hold what a terminal obeys, and are escaped."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(_lines_shown(text))
        return len(text)

    def flush(self) -> None:
        self._stream.flush()

    def isatty(self) -> bool:
        return self._stream.isatty()


def _lines_shown(text: str) -> str:
    return "\n".join(map(shown, text.split("\n")))


class _LogOnScreen(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return _lines_shown(super().format(record))


def _log_on_screen() -> logging.Handler:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_LogOnScreen("%(message)s"))
    return handler


def _missing_extra(command: str, error: Exception) -> str | None:
    """What to install, if the error is that a package of an extra is missing."""
    if not isinstance(error, ModuleNotFoundError) or error.name is None:
        return None
    package = error.name.partition(".")[0]
    extra = EXTRAS.get(package)
    if extra is None:
        return None
    extra = _WHOLE_EXTRAS.get(command, extra)
    return f"{package} must be installed for `chns {command}`, got no such package. Run `pip install 'chns[{extra}]'`."


class CommandParser(argparse.ArgumentParser):
    """A parser whose errors are one line, and which takes no abbreviations."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **options})
        self._words: list[str] = []

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse does."""
        self._words = list(sys.argv[1:] if args is None else args)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Say what is wrong in one line, with what was probably meant."""
        below = [one for one in self._actions if isinstance(one, argparse._SubParsersAction)]
        parsers = [self, *(parser for action in below for parser in action.choices.values())]
        options = [name for parser in parsers for name in parser._option_string_actions]
        names = [word.partition("=")[0] for word in self._words if word.startswith("--")]
        unknown = [name for name in names if name not in (*options, "--")]
        if unknown and (
            "arguments are required" in message or message.endswith("is required")
        ):  # what is missing is there, mistyped
            message = f"unrecognized arguments: {unknown[0]}"
        message = usage_message(message, prog=self.prog, options=options)
        self.exit(2, f"chns: error: {message}\n")


def _top_parser() -> argparse.ArgumentParser:
    width = max(map(len, COMMANDS))
    listing = "\n".join(f"  {name:<{width}}  {purpose}" for name, purpose in COMMANDS.items())
    parser = CommandParser(
        prog="chns",
        usage="chns COMMAND ...",
        description=f"Speaker verification with clustering-based hard negatives.\n\ncommands:\n{listing}",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"chns {__version__}")
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help=argparse.SUPPRESS)
    parser.add_argument("rest", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser


def command_parser(name: str, *, examples: str, kind: type[CommandParser] = CommandParser) -> argparse.ArgumentParser:
    """A parser for one subcommand whose ``--help`` ends with examples."""
    purpose = COMMANDS[name.split()[0]]
    return kind(
        prog=f"chns {name}",
        description=f"{purpose[0].upper()}{purpose[1:]}.",
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


_PART_HELP = """do a part of the work, the I-th of N that may run at the same time on machines which see the same
files; then the same command without --part does what is missing and puts everything together"""


def add_part_option(parser: argparse._ActionsContainer) -> None:
    """A share of the work, for job arrays."""
    parser.add_argument("--part", metavar="I/N", help=_PART_HELP)


def part_of(arguments: argparse.Namespace) -> JobPart | None:
    """The part of the work that a command is to do, if not all.

    Raises:
        ValueError: If what was typed is none.
    """
    from chns.core import JobPart

    return None if arguments.part is None else JobPart.read(arguments.part)


def tell_part(arguments: argparse.Namespace, done: int, of_what: str) -> None:
    """Print what a part has come to: how many pieces are done."""
    if arguments.json:
        print(json.dumps({"part": arguments.part, "done": done}))
    else:
        print(f"part {arguments.part}: {done:,} {of_what} done. When all parts are, run the same without --part.")

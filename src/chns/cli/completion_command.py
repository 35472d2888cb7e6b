"""``chns completion``: make a shell complete commands and options."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from chns.cli import COMMANDS, command_parser, parser_of

_EXAMPLES = """  chns completion bash   # then: eval "$(chns completion bash)", for good in ~/.bashrc
  chns completion zsh    # chns completion zsh > ~/.zfunc/_chns, a folder of fpath
  chns completion fish   # chns completion fish > ~/.config/fish/completions/chns.fish

Needs `pip install 'chns[completion]'`, and `chns[train]` for the settings of `chns train`."""


def completion_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = command_parser("completion", examples=_EXAMPLES)
    parser.add_argument("shell", choices=["bash", "zsh", "fish"], help="the shell")
    return parser


def run_completion(arguments: argparse.Namespace) -> None:
    """Print the shell's script."""
    import shtab

    top = argparse.ArgumentParser(prog="chns", add_help=False)
    commands = top.add_subparsers()
    for name, purpose in COMMANDS.items():
        _copy(parser_of(name), commands.add_parser(name, help=purpose, add_help=False), shtab.FILE)
    print(shtab.complete(top, shell=arguments.shell))


def _copy(source: Any, target: argparse.ArgumentParser, files: Any) -> None:
    """Give a plain parser the options of one of ours: shtab knows no others."""
    for action in source._actions:
        if isinstance(action, argparse._SubParsersAction):
            below = target.add_subparsers()
            for name, parser in action.choices.items():
                _copy(parser, below.add_parser(name, add_help=False), files)
            continue
        names = action.option_strings or [action.dest]
        text = " ".join(str(action.help or "").replace("%%", "%").split()).partition(" (default")[0].replace("%", "%%")
        if action.nargs == 0:
            target.add_argument(*names, action="store_true", help=text)
            continue
        kind = getattr(action, "_typehint", None)  # of a setting
        choices = get_args(kind) if get_origin(kind) is Literal else action.choices
        added: Any = target.add_argument(*names, help=text, choices=choices)
        if choices is None and (action.type is Path or "folder" in text.lower()):
            added.complete = files

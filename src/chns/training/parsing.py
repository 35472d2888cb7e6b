"""The parser of a run's settings, from YAML and options: all of bounded size, with errors of one line."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, Namespace, get_loader, set_loader
from yaml import YAMLError

from chns.core import ConfigError, bounded_text, config_path, in_short, quoted, require_small_yaml, usage_message
from chns.training.settings import TrainSettings


def add_settings(parser: SettingsParser) -> None:
    """The options of every command that takes the settings of a training; later ``--config`` win over earlier ones."""
    parser.add_argument(
        "--config",
        action="config",
        metavar="NAME|FILE",
        help="A preset (`chns configs` lists them) or a YAML file of settings; may be given several times.",
    )
    parser.add_class_arguments(TrainSettings)


def settings_of(parser: SettingsParser, arguments: Namespace) -> TrainSettings:
    """The settings among what a parser that knows them has parsed."""
    made = parser.instantiate(arguments)
    return TrainSettings(**{name: made[name] for name in TrainSettings.__dataclass_fields__})


def _configuration(given: str) -> str:
    """What ``--config`` means: settings written out, as in ``{seed: 1}``, or a file."""
    return given if _is_written_out(given) else str(config_path(given))


def _is_written_out(given: str) -> bool:
    return given[:1] in ("{", "-") or ": " in given


def _load_small(text: str) -> Any:
    require_small_yaml(text)
    return get_loader("yaml")(text)


def _with_settings_of_one_factory(words: Sequence[str]) -> list[str]:
    """The words of a command, with ``--SECTION.settings={}`` before what names another factory for a section.

    Configurations count one after the other; options between two of them together, in whatever order they come.
    """
    factories: dict[str, str | None] = {name: getattr(TrainSettings(), name).factory for name in _OF_FACTORIES}
    result: list[str] = []
    for group in filter(None, _groups(words)):
        named = _named_in(group)
        changed = [section for section, factory in named.items() if factory != factories[section]]
        result += [f"--{section}.settings={{}}" for section in changed] + group
        factories |= named
    return result


def _groups(words: Sequence[str]) -> Iterator[list[str]]:
    """Each ``--config`` with its value, and the words between two of them."""
    group: list[str] = []
    for word in words:
        if word.startswith("--config=") or word == "--config":
            yield group
            group = []
        group.append(word)
        if group[0].startswith("--config=") or (group[0] == "--config" and len(group) == 2):
            yield group
            group = []
    yield group


def _named_in(group: Sequence[str]) -> dict[str, str]:
    """Factories that a configuration or options name; what is wrong with them, the parser says later."""
    if group and group[0].startswith("--config"):
        content = _loaded(group[-1].removeprefix("--config="))
        return _factories_of({name: content.get(name) for name in _OF_FACTORIES})
    named: dict[str, str] = {}
    for word, following in zip(group, [*group[1:], ""], strict=True):
        name, equals, value = word.partition("=")
        value = value if equals else following
        for section in _OF_FACTORIES:
            if name == f"--{section}.factory":
                named[section] = value
            elif name == f"--{section}":
                named |= _factories_of({section: _loaded(value)})
    return named


def _factories_of(sections: Mapping[str, Any]) -> dict[str, str]:
    return {
        name: section["factory"]
        for name, section in sections.items()
        if isinstance(section, Mapping) and isinstance(section.get("factory"), str)
    }


def _loaded(given: str) -> Mapping[str, Any]:
    """Settings that are written out, or the content of a file of settings; nothing if they are none."""
    try:
        content = _load_small(given if _is_written_out(given) else bounded_text(Path(given)))
    except (ConfigError, YAMLError, OSError):
        return {}
    return content if isinstance(content, Mapping) else {}


_OF_FACTORIES = ("encoder", "loss", "batches")
_MODE = "yaml of bounded size"
set_loader(_MODE, _load_small, (ConfigError, YAMLError))


class SettingsParser(ArgumentParser):
    """A parser of settings whose every YAML, from files and options, is small and names no classes.

    Besides, a message of it quotes no more than the beginning of a value.
    """

    def __init__(self, *args: Any, parser_mode: str = _MODE, **options: Any) -> None:
        super().__init__(*args, parser_mode=parser_mode, allow_abbrev=False, **options)

    def parse_args(self, args: Sequence[str] | None = None, *more: Any, **options: Any) -> Namespace:  # type: ignore[override]
        """As jsonargparse does, with names of presets after ``--config``, and options also with hyphens.

        An encoder, a loss or a batch sampler does not get the settings of the one that it replaces.
        """
        words = [self._as_declared(word) for word in (sys.argv[1:] if args is None else args)]
        for place, word in enumerate(words):
            if word.startswith("--config="):
                words[place] = f"--config={_configuration(word.partition('=')[2])}"
            elif place and words[place - 1] == "--config":
                words[place] = _configuration(word)
        return super().parse_args(_with_settings_of_one_factory(words), *more, **options)

    def parse_string(self, content: str, *args: Any, **options: Any) -> Any:
        """As jsonargparse does, if the content holds settings at all."""
        try:
            settings = _load_small(content)
        except (ConfigError, YAMLError) as error:
            raise TypeError(in_short(error)) from error
        if not isinstance(settings, Mapping):
            raise TypeError(f"configuration must hold settings, got {quoted(settings)}")
        return super().parse_string(content, *args, **options)

    def parse_path(self, path: Any, *args: Any, **options: Any) -> Any:
        """As jsonargparse does, if the file is small."""
        try:
            bounded_text(Path(path))
        except ConfigError as error:
            raise TypeError(in_short(error)) from error
        return super().parse_path(path, *args, **options)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Say what is wrong in one line, with what was probably meant."""
        if not self.exit_on_error:
            super().error(in_short(message), ex)
        message = usage_message(in_short(message), prog=self.prog, options=self._option_string_actions)
        self.exit(2, f"chns: error: {message}\n")

    def _as_declared(self, word: str) -> str:
        """An option as it is declared: ``--train.start_from`` for ``--train.start-from``, also below ``settings``."""
        name, equals, value = word.partition("=")
        declared = f"--{name[2:].replace('-', '_')}"
        known = self._option_string_actions
        parent = declared.rpartition(".")[0]
        is_declared = declared in known or (parent.endswith(".settings") and parent in known)
        return f"{declared}{equals}{value}" if name[:2] == "--" and name not in known and is_declared else word

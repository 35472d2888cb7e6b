"""Pages of the site that are made from the code and the notebooks, before it is built: ``python docs/pages.py``.

They are not committed, so they cannot grow stale.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

from docstring_parser import parse

from chns.cli import COMMANDS, parser_of
from chns.training import settings as training_settings
from chns.training.settings import TrainSettings

_SETTINGS_TOP = """# Settings

Everything that `chns train` can be told, made from the code. A name is a key of a YAML file and an option:
`clusters: {hard_ratio: 0.5}` is `--clusters.hard_ratio 0.5`. The defaults are the paper's, with random batches; the
presets (`chns configs`) change some, and `chns train --config chns --print_config` prints what comes of it.
"""

_COMMANDS_TOP = """# Commands

What `chns COMMAND --help` says, made from the code. Exit codes: 0, or 2 for an error that the message explains, 130
after Ctrl-C; `chns verify` answers 1 for two speakers, and `chns train` 1 where numbers are no longer finite.
"""


def write_pages(docs: Path) -> None:
    """Write the pages into their folders."""
    made = {"reference/settings.md": settings_page(), "reference/commands.md": commands_page()}
    pictures = {}
    for path in sorted((docs / "notebooks").glob("*.ipynb")):
        made[f"notebooks/{path.stem}.md"], drawn = notebook_page(path)
        pictures |= {f"notebooks/{name}": picture for name, picture in drawn.items()}
    for name, text in made.items():
        (docs / name).write_text(text, "utf-8")
    for name, picture in pictures.items():
        (docs / name).write_bytes(picture)


def settings_page() -> str:
    """Every setting of a training: name, type, default, meaning, from its dataclass and docstring."""
    return "\n".join([_SETTINGS_TOP, *_section("", TrainSettings, "Of a whole run")])


def _section(name: str, kind: type, title: str) -> Iterator[str]:
    said = parse(kind.__doc__ or "")
    meanings = {param.arg_name: param.description or "" for param in said.params}
    hints = get_type_hints(kind, vars(training_settings))
    sections = [field for field in fields(kind) if _is_section(hints[field.name])]
    rows = [field for field in fields(kind) if field not in sections]
    yield f"\n## {f'`{name}`' if name else title}\n"
    if name:
        yield f"{said.description}\n"
    if rows:
        yield "| setting | default | |\n|---|---|---|"
    for field in rows:
        full, text = ".".join(filter(None, (name, field.name))), " ".join(meanings[field.name].split())
        yield f"| `{full}` | {_default(field)} | {_cell(text)} {_type(hints[field.name])} |"
    for field in sections:
        yield from _section(".".join(filter(None, (name, field.name))), hints[field.name], field.name)


def _is_section(kind: Any) -> bool:
    return is_dataclass(kind) and kind is not training_settings.ObjectSettings


def _default(field: Field[Any]) -> str:
    value = field.default if field.default is not MISSING else field.default_factory()  # type: ignore[misc]
    if isinstance(value, training_settings.ObjectSettings):
        value = value.factory
    return "" if value is None or value == "" else f"`{json.dumps(value) if isinstance(value, list | dict) else value}`"


def _type(hint: Any) -> str:
    text = hint.__name__ if isinstance(hint, type) else str(hint)
    text = re.sub(r"(?:typing|chns\.training\.settings)\.", "", text).replace(" | None", "")
    text = re.sub(r"Optional\[(.*)\]$", r"\1", text)
    if text.startswith("Literal["):
        return "One of " + ", ".join(f"`{word.strip()}`" for word in text[8:-1].replace("'", "").split(",")) + "."
    if "ObjectSettings" in text:
        return "A class: `{factory: my_package.MyClass, settings: {...}}`."
    return f"*{text}*"


def _cell(text: str) -> str:
    text = re.sub(r"\b((?:chns|lightning_fabric)\.[\w.]+\w)", r"`\1`", text)
    return text.replace("|", "\\|")


def commands_page() -> str:
    """The help of every command."""
    parts = [_COMMANDS_TOP]
    for name, purpose in COMMANDS.items():
        parser = parser_of(name)
        parser.formatter_class = _wide(parser.formatter_class)
        help_text = re.sub(r"/\S*/(?=cpython|python)", "", parser.format_help()).rstrip()
        parts.append(f"## `chns {name}`\n\n{purpose[0].upper()}{purpose[1:]}.\n\n```text\n{help_text}\n```\n")
    return "\n".join(parts)


def _wide(kind: Any) -> Any:
    return lambda prog: kind(prog, width=100, max_help_position=30)


def notebook_page(path: Path) -> tuple[str, dict[str, bytes]]:
    """A notebook as Markdown, and its pictures by file name."""
    parts, pictures = [], {}
    for cell in json.loads(path.read_text("utf-8"))["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "image/png" in data:
                name = f"{path.stem}-{len(pictures) + 1}.png"
                pictures[name] = base64.b64decode("".join(data["image/png"]))
                parts.append(f"![{_alternative(source)}]({name}){{ .figure }}")
            elif text := "".join(output.get("text", data.get("text/plain", ""))).rstrip():
                parts.append(f"```text\n{text}\n```")
    below = f"\n*This page is the notebook [`{path.name}`]({path.name}) with its outputs.*\n"
    return "\n\n".join([*parts, below]), pictures


def _alternative(source: str) -> str:
    found = re.search(r'title\(\s*"([^"]+)"', source)
    return found[1] if found else "The figure that the code above draws"


if __name__ == "__main__":
    write_pages(Path(__file__).parent)

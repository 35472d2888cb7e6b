"""``chns configs``: list, print and copy the settings that come with the package."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from chns.cli import command_parser

_EXAMPLES = """  chns configs
  chns configs chns
  chns configs compare --out compare.yaml

A preset is used by its name, and presets combine; what comes later wins:
  chns train --config chns --config thin_resnet34 --data.train vox2.parquet --out runs/chns
  chns compare ablation --out runs/ablation --dry-run"""


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = command_parser("configs", examples=_EXAMPLES)
    parser.add_argument("name", nargs="?", metavar="NAME", help="the preset to print or copy (default: list them all)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="a new file for a copy of it")
    parser.add_argument("--json", action="store_true", help="print the list, or the text, as JSON")
    return parser


def run(arguments: argparse.Namespace) -> None:
    """List all presets, or print or copy one."""
    from chns.core import atomic_path, presets, suggestion

    known = presets()
    texts = {name: path.read_text(encoding="utf-8") for name, path in known.items()}
    if arguments.name is None:
        if arguments.out is not None:
            raise ValueError(f"--out must come with the name of a preset, got {arguments.out} alone.")
        lines = {name: text.partition("\n")[0].removeprefix("# ") for name, text in texts.items()}
        width = max(map(len, lines))
        print(json.dumps(lines) if arguments.json else "\n".join(f"{n:<{width}}  {t}" for n, t in lines.items()))
        return
    text = texts.get(arguments.name.replace("-", "_"))
    if text is None:
        raise ValueError(
            f"NAME must be one of {', '.join(known)}, got {arguments.name!r}.{suggestion(arguments.name, known)}"
        )
    if arguments.out is not None:
        if arguments.out.exists():
            raise FileExistsError(f"--out must be a new file, got {arguments.out}, which exists. Choose another name.")
        with atomic_path(arguments.out) as temporary:
            temporary.write_text(text, encoding="utf-8")
        text = f"{arguments.out}: a copy of {arguments.name}\n"
    print(json.dumps({"config": text}) if arguments.json else text, end="\n" if arguments.json else "")

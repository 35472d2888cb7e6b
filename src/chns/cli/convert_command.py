"""``chns convert``: write a manifest in the format of another tool."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from chns.cli import command_parser
from chns.core import counted

if TYPE_CHECKING:
    from chns.data import Manifest

_FORMATS = ("kaldi", "lhotse", "wespeaker", "csv")
_EXAMPLES = """  chns convert train.parquet --to kaldi --out data/train         # with segments where there are parts
  chns convert train.parquet --to lhotse --out manifests/train   # recordings, supervisions and cuts
  chns convert train.parquet --to wespeaker --out train.list     # a raw list
  chns convert train.parquet --to csv --out train.csv

Paths are written absolute. `chns prepare kaldi data/train --root AUDIO` (or csv, lhotse, wespeaker) reads them back."""


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = command_parser("convert", examples=_EXAMPLES)
    parser.add_argument("manifest", type=Path, metavar="M.parquet", help="the manifest")
    parser.add_argument("--to", choices=_FORMATS, required=True, help="the format")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="PATH", help="a new folder for kaldi and lhotse, else a file"
    )
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    return parser


def run(arguments: argparse.Namespace) -> None:
    """Write the manifest and print what was written."""
    from chns.data import Manifest

    manifest = Manifest.read(arguments.manifest)
    _writer(arguments.to)(manifest, arguments.out)
    if arguments.json:
        print(
            json.dumps(
                {
                    "out": str(arguments.out),
                    "format": arguments.to,
                    "speakers": len(manifest.speakers),
                    "utterances": len(manifest),
                }
            )
        )
    else:
        written = f"{counted(len(manifest.speakers), 'speaker')}, {counted(len(manifest), 'utterance')}"
        print(f"{arguments.out}: {written} as {arguments.to}")


def _writer(form: str) -> Callable[[Manifest, Path], None]:
    if form == "kaldi":
        from chns.data import write_kaldi

        return write_kaldi
    if form == "lhotse":
        from chns.data import write_lhotse

        return write_lhotse
    if form == "wespeaker":
        from chns.data import write_wespeaker

        return write_wespeaker
    from chns.data import write_csv

    return write_csv

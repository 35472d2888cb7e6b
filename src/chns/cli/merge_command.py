"""``chns merge``: put manifests together."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from chns.cli import command_parser
from chns.core import counted

_EXAMPLES = """  chns merge vox.parquet commands.parquet --out all.parquet
  chns merge vox.parquet commands.parquet --prefix --out all.parquet         # speakers become vox/..., commands/...
  chns merge a/train.parquet b/train.parquet --prefix a b --out all.parquet  # speakers become a/..., b/...
  chns merge part1.parquet part2.parquet --same-speakers --out whole.parquet

Without --prefix or --same-speakers, a speaker's name in two manifests is an error: it may be two people."""


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = command_parser("merge", examples=_EXAMPLES)
    parser.add_argument("manifests", type=Path, nargs="+", metavar="M.parquet", help="the manifests")
    parser.add_argument("--out", type=Path, required=True, metavar="ALL.parquet", help="the merged manifest")
    names = parser.add_mutually_exclusive_group()
    names.add_argument(
        "--prefix",
        nargs="*",
        metavar="NAME",
        help="put a name before the speakers and utterances of each manifest (default: the names of the files)",
    )
    names.add_argument("--same-speakers", action="store_true", help="a name that is in several is one person")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    return parser


def run(arguments: argparse.Namespace) -> None:
    """Merge, write, and print what came out."""
    from chns.data import Manifest

    prefixes = arguments.prefix
    if prefixes == []:
        prefixes = [path.stem for path in arguments.manifests]
    manifests = [Manifest.read(path) for path in arguments.manifests]
    merged = Manifest.merge(manifests, prefixes=prefixes, same_speakers=arguments.same_speakers)
    merged.write(arguments.out)
    if arguments.json:
        summary = {"manifest": str(arguments.out), "speakers": len(merged.speakers), "utterances": len(merged)}
        print(json.dumps(summary))
    else:
        print(f"{arguments.out}: {counted(len(merged.speakers), 'speaker')}, {counted(len(merged), 'utterance')}")

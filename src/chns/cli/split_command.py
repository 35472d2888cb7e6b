"""``chns split``: split a manifest by speaker."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from chns.cli import command_parser
from chns.core import counted

_EXAMPLES = """  chns split vox2.parquet --held-out 100 --seed 0 --out train.parquet held_out.parquet

No speaker is on both sides. The same seed and the same set of speakers give the same split."""


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = command_parser("split", examples=_EXAMPLES)
    parser.add_argument("manifest", type=Path, metavar="M.parquet", help="the manifest")
    parser.add_argument("--held-out", type=int, required=True, metavar="N", help="speakers in the second part")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="(default: %(default)s)")
    parser.add_argument(
        "--out",
        type=Path,
        nargs=2,
        required=True,
        metavar=("TRAIN.parquet", "HELD_OUT.parquet"),
        help="where the two parts go",
    )
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    return parser


def run(arguments: argparse.Namespace) -> None:
    """Split, write both parts, and print what they hold."""
    from chns.data import Manifest

    if arguments.out[0].absolute() == arguments.out[1].absolute():
        raise ValueError(f"--out must be two different files, got {arguments.out[0]} twice.")
    parts = Manifest.read(arguments.manifest).split_speakers(arguments.held_out, seed=arguments.seed)
    summaries = {}
    for name, part, path in zip(("train", "held_out"), parts, arguments.out, strict=True):
        part.write(path)
        summaries[name] = {"manifest": str(path), "speakers": len(part.speakers), "utterances": len(part)}
    if arguments.json:
        print(json.dumps(summaries))
        return
    for part, path in zip(parts, arguments.out, strict=True):
        print(f"{path}: {counted(len(part.speakers), 'speaker')}, {counted(len(part), 'utterance')}")

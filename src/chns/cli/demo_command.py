"""``chns demo``: the whole job on synthetic speech."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from chns.cli import command_parser

_EXAMPLES = """  chns demo runs/demo

Makes a corpus of synthetic voices, some of them much alike, trains one small model with random and one with clustered
batches, and evaluates both on other voices. Takes about five minutes on two cores, needs
`pip install 'chns[synthetic]'`, and goes on where it was stopped."""


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = command_parser("demo", examples=_EXAMPLES)
    parser.add_argument("folder", type=Path, metavar="OUT", help="where the corpus, models and scores go")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print the metrics as JSON")
    return parser


def run(arguments: argparse.Namespace) -> None:
    """Run it and print the table."""
    from chns.demo import describe, run_demo

    results = run_demo(arguments.folder, seed=arguments.seed)
    if arguments.json:
        print(json.dumps({s: {kind: m.to_json() for kind, m in kinds.items()} for s, kinds in results.items()}))
    else:
        print(describe(results))

"""``chns demo``: the whole job on synthetic speech."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from chns.cli import command_parser

_EXAMPLES = """  chns demo runs/demo
  chns report runs/demo      # draws its page again

Makes a corpus of synthetic voices, some of them much alike; trains one small model three times on equally many
segments, with random batches (supcon), clustered ones (chns) and `auto`; tests all on other voices; prints the table
and the verdict, and draws a report. Takes about five minutes on two cores, needs
`pip install 'chns[train,synthetic,report]'`, and goes on where it was stopped."""

_ANNOUNCED = """What you will see, in about five minutes on two cores:
  1/3 a corpus of synthetic voices in families that sound alike
  2/3 one small model, trained three times on equally many segments. Only the batches differ: random speakers
      (supcon), clustered ones after a warm-up (chns), or hard ones as soon as random ones have become easy (auto)
  3/3 a table of error rates, on random pairs of other speakers and on pairs of one family; a verdict; a report page
"""


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = command_parser("demo", examples=_EXAMPLES)
    parser.add_argument("folder", type=Path, metavar="OUT", help="where the corpus, models, scores and report go")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser


def run(arguments: argparse.Namespace) -> None:
    """Run it; print what to expect, the table, the verdicts and where the page is."""
    if not arguments.json:
        print(_ANNOUNCED, flush=True)

    from chns.comparison.compare import describe
    from chns.demo import run_demo

    demo = run_demo(arguments.folder, seed=arguments.seed)
    if arguments.json:
        print(json.dumps({**demo.outcome.to_json(), "report": str(demo.report.page)}))
        return
    print(describe(demo.outcome))
    print(
        "One seed, one small model, a few minutes: read the intervals, not the means. Hard batches pay when random\n"
        "ones have become easy; docs/hard_phase.md says what to tune on yours.\n\n"
        f"look at  {demo.report.page}\n"
        f"next:    chns train --config auto --data.train M.parquet --out RUN    # on your own recordings, after\n"
        f"         chns prepare folder RECORDINGS --out M.parquet"
    )

"""``chns train``."""

from __future__ import annotations

import json
from argparse import RawDescriptionHelpFormatter
from pathlib import Path
from shlex import quote

from jsonargparse import DefaultHelpFormatter, Namespace

from chns.core import counted
from chns.training.parsing import SettingsParser, add_settings, settings_of

_EXAMPLES = """examples:
  chns train --config chns --data.train vox2.parquet --out runs/chns
  chns train --config auto --data.train vox2.parquet --out runs/auto
  chns train --config hscl --config thin_resnet34 --data.train vox2.parquet --out runs/hscl
  chns train --config chns --data.train own.parquet --out runs/own \\
      --batches.speakers_per_batch 96 --clusters.num_clusters 20 --train.precision bf16-mixed
  chns train --config chns --print_config

The same command goes on with a run that was stopped."""


class _Formatter(DefaultHelpFormatter, RawDescriptionHelpFormatter):
    """Leaves the examples as they are."""


def build_parser() -> SettingsParser:
    """The options, from the fields of the settings; later ``--config`` files win over earlier ones."""
    parser = SettingsParser(
        prog="chns train",
        description="Train an encoder with random batches, or with hard ones: clustered, of neighbours, or auto, which "
        "needs no settings (batches.kind).",
        epilog=_EXAMPLES,
        formatter_class=_Formatter,
    )
    parser.add_argument("--out", type=str, help="Folder of the run; required.")
    parser.add_argument("--json", action="store_true", help="Print the summary as JSON.")
    add_settings(parser)
    return parser


def run(arguments: Namespace) -> None:
    """Train, then print the summary."""
    if arguments.out is None:
        raise ValueError("--out must name the folder of the run, got none.")
    from chns.core.distributed import rank
    from chns.training.folder import RunFolder
    from chns.training.run import train

    summary = train(settings_of(build_parser(), arguments), Path(arguments.out))
    if rank() > 0:
        return
    if arguments.json:
        print(json.dumps(summary))
        return
    print(f"trained {counted(summary['steps'], 'step')}: {summary['model']}")
    if "validation" in summary:
        last, best = summary["validation"], summary["best_validation"]
        print(f"validation EER {100 * last['eer']:.2f} %, best {100 * best['eer']:.2f} %: {summary['best_model']}")
    if (hard := RunFolder.open(arguments.out).hard_batches()) is not None:
        print(hard)
    model, scores = summary.get("best_model", summary["model"]), Path(arguments.out) / "scores" / "test.txt"
    print(f"next: chns evaluate {quote(model)} M.parquet --trials TRIALS --out {quote(str(scores))}")
    print(f"      chns report {quote(arguments.out)} --out report")

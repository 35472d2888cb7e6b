"""``chns train``."""

from __future__ import annotations

import json
from argparse import RawDescriptionHelpFormatter
from pathlib import Path

from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace

from chns.training.settings import SettingsParser, TrainSettings, add_settings

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


def build_parser() -> ArgumentParser:
    """The options, from the fields of `TrainSettings`; later ``--config`` files win over earlier ones."""
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
    from chns.training.run import train

    settings = build_parser().instantiate(arguments)
    fields = {name: settings[name] for name in TrainSettings.__dataclass_fields__}
    summary = train(TrainSettings(**fields), Path(arguments.out))
    if rank() > 0:
        return
    if arguments.json:
        print(json.dumps(summary))
        return
    print(f"trained {summary['steps']} steps: {summary['model']}")
    if "validation" in summary:
        last, best = summary["validation"], summary["best_validation"]
        print(f"validation EER {last['eer']:.2%}, best {best['eer']:.2%}: {summary['best_model']}")

"""``chns augment-preview``."""

from __future__ import annotations

import json
from argparse import RawDescriptionHelpFormatter
from dataclasses import replace
from pathlib import Path

from jsonargparse import DefaultHelpFormatter, Namespace

from chns.cli import COMMANDS
from chns.training.parsing import SettingsParser, add_settings, settings_of

_EXAMPLES = """examples:
  chns augment-preview vox2.parquet --config augmented --out preview
  chns augment-preview vox2.parquet --config augmented --out preview --count 4 --seed 7 \\
      --augmentation.noise.probability 1 --augmentation.babble.probability 0

Takes the settings of `chns train`; --seed draws other crops and other effects."""


class _Formatter(DefaultHelpFormatter, RawDescriptionHelpFormatter):
    """Leaves the examples as they are."""


def build_parser() -> SettingsParser:
    """The options: those of `chns train`, and what is to be written where."""
    parser = SettingsParser(
        prog="chns augment-preview",
        description=COMMANDS["augment-preview"].capitalize() + ".",
        epilog=_EXAMPLES,
        formatter_class=_Formatter,
    )
    parser.add_argument("manifest", type=str, metavar="M.parquet", help="The manifest of the utterances.")
    parser.add_argument("--out", type=str, help="Folder of the examples; required.")
    parser.add_argument("--count", type=int, default=8, metavar="N", help="Crops, of different utterances.")
    parser.add_argument("--json", action="store_true", help="Print what was drawn as JSON.")
    add_settings(parser)
    return parser


def run(arguments: Namespace) -> None:
    """Write the examples, then print what was done to each."""
    if arguments.out is None:
        raise ValueError("--out must name the folder of the examples, got none.")
    from chns.training.augmenting import write_preview

    settings = settings_of(build_parser(), arguments)
    settings = replace(settings, data=replace(settings.data, train=arguments.manifest))
    examples, picture = write_preview(settings, Path(arguments.out), count=arguments.count)
    if arguments.json:
        rows = [
            {
                "utterance": example.utterance,
                "effects": list(example.effects),
                "original": str(example.original),
                "augmented": str(example.augmented),
            }
            for example in examples
        ]
        print(json.dumps({"examples": rows, "picture": str(picture)}))
        return
    for example in examples:
        print(f"{example.augmented}: {', '.join(example.effects) or 'as recorded'} ({example.utterance})")
    print(f"spectrograms: {picture}")

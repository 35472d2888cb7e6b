"""Commands of one training and its settings: ``train``, ``augment-preview`` and ``configs``."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from chns.cli import COMMANDS, command_parser
from chns.core import counted

if TYPE_CHECKING:
    from jsonargparse import Namespace

    from chns.training.parsing import SettingsParser

_TRAIN_EXAMPLES = """examples:
  chns train --config chns --data.train vox2.parquet --out runs/chns
  chns train --config auto --data.train vox2.parquet --out runs/auto
  chns train --config hscl --config thin_resnet34 --data.train vox2.parquet --out runs/hscl
  chns train --config chns --data.train own.parquet --out runs/own \\
      --batches.speakers_per_batch 96 --clusters.num_clusters 20 --train.precision bf16-mixed
  chns train --config chns --print_config

The same command goes on with a run that was stopped."""


def train_parser() -> SettingsParser:
    """The options, from the fields of the settings; later ``--config`` files win over earlier ones."""
    from chns.training.parsing import add_settings

    purpose = (
        "Train an encoder with random batches, or with hard ones: clustered, of neighbours, or auto, which needs no "
        "settings (batches.kind)."
    )
    parser = _settings_parser("train", purpose, _TRAIN_EXAMPLES)
    parser.add_argument("--out", type=str, help="Folder of the run; required.")
    parser.add_argument("--json", action="store_true", help="Print the summary as JSON.")
    add_settings(parser)
    return parser


def _settings_parser(name: str, purpose: str, examples: str) -> SettingsParser:
    from jsonargparse import DefaultHelpFormatter

    from chns.training.parsing import SettingsParser

    class Formatter(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
        """Leaves the examples as they are."""

    return SettingsParser(prog=f"chns {name}", description=purpose, epilog=examples, formatter_class=Formatter)


def run_train(arguments: Namespace) -> None:
    """Train, then print the summary."""
    if arguments.out is None:
        raise ValueError("--out must name the folder of the run, got none.")
    from chns.core.distributed import rank
    from chns.training.folder import RunFolder
    from chns.training.parsing import settings_of
    from chns.training.run import train

    summary = train(settings_of(train_parser(), arguments), Path(arguments.out))
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


_PREVIEW_EXAMPLES = """examples:
  chns augment-preview vox2.parquet --config augmented --out preview
  chns augment-preview vox2.parquet --config augmented --out preview --count 4 --seed 7 \\
      --augmentation.noise.probability 1 --augmentation.babble.probability 0

Takes the settings of `chns train`; --seed draws other crops and other effects."""


def augment_preview_parser() -> SettingsParser:
    """The options: those of `chns train`, and what is to be written where."""
    from chns.training.parsing import add_settings

    parser = _settings_parser("augment-preview", f"{COMMANDS['augment-preview'].capitalize()}.", _PREVIEW_EXAMPLES)
    parser.add_argument("manifest", type=str, metavar="M.parquet", help="The manifest of the utterances.")
    parser.add_argument("--out", type=str, help="Folder of the examples; required.")
    parser.add_argument("--count", type=int, default=8, metavar="N", help="Crops, of different utterances.")
    parser.add_argument("--json", action="store_true", help="Print what was drawn as JSON.")
    add_settings(parser)
    return parser


def run_augment_preview(arguments: Namespace) -> None:
    """Write the examples, then print what was done to each."""
    if arguments.out is None:
        raise ValueError("--out must name the folder of the examples, got none.")
    from chns.training.augmenting import write_preview
    from chns.training.parsing import settings_of

    settings = settings_of(augment_preview_parser(), arguments)
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


_CONFIGS_EXAMPLES = """  chns configs
  chns configs chns
  chns configs compare --out compare.yaml

A preset is used by its name, and presets combine; what comes later wins:
  chns train --config chns --config thin_resnet34 --data.train vox2.parquet --out runs/chns
  chns compare ablation --out runs/ablation --dry-run"""


def configs_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = command_parser("configs", examples=_CONFIGS_EXAMPLES)
    parser.add_argument("name", nargs="?", metavar="NAME", help="the preset to print or copy (default: list them all)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="a new file for a copy of it")
    parser.add_argument("--json", action="store_true", help="print the list, or the text, as JSON")
    return parser


def run_configs(arguments: argparse.Namespace) -> None:
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

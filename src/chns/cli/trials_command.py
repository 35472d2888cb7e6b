"""``chns trials``: make a trial list from a manifest."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from chns.cli import command_parser
from chns.cli.options import add_model_options, load_on_device
from chns.core import counted

_EXAMPLES = """  chns trials test.parquet --out trials.txt
  chns trials test.parquet --out trials.txt --targets 20 --nontargets 10000
  chns trials test.parquet --out trials.txt --same family                       # voices of one family
  chns trials test.parquet --out trials.txt --hardest-under runs/supcon/model   # the most similar voices

No pair of utterances occurs twice. The same seed and the same manifest give the same trials."""


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = command_parser("trials", examples=_EXAMPLES)
    parser.add_argument("manifest", type=Path, metavar="M.parquet", help="the utterances to compare")
    parser.add_argument("--out", type=Path, required=True, metavar="TRIALS", help="the trial list")
    parser.add_argument(
        "--targets", type=_all_or_number, metavar="N", help="target trials a speaker, or `all` (default: all)"
    )
    parser.add_argument(
        "--nontargets", type=int, metavar="N", help="non-target trials (default: as many as target trials)"
    )
    parser.add_argument("--same", metavar="COLUMN", help="only non-targets that agree in this column")
    parser.add_argument("--cross-session", action="store_true", help="only targets that differ in the column `session`")
    parser.add_argument("--hardest-under", metavar="MODEL", help="the non-targets that this model finds most alike")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="(default: %(default)s)")
    parser.add_argument(
        "--format", choices=["kaldi", "voxceleb", "cnceleb"], default="kaldi", help="(default: %(default)s)"
    )
    add_model_options(parser)
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    return parser


def run(arguments: argparse.Namespace) -> None:
    """Make the trials, write them, and print how many there are."""
    from chns.data import Manifest
    from chns.evaluation import make_trials, write_trials

    manifest = Manifest.read(arguments.manifest)
    embeddings = None
    if arguments.hardest_under is not None:
        from chns.evaluation import Embedder

        bundle, device = load_on_device(arguments.hardest_under, arguments)
        embeddings = Embedder(model=bundle.model, device=device, num_workers=arguments.workers).utterances(manifest)
    trials = make_trials(
        manifest,
        targets_per_speaker=arguments.targets,
        num_nontargets=arguments.nontargets,
        nontargets="random" if embeddings is None else "hardest",
        embeddings=embeddings,
        same_column=arguments.same,
        cross_session=arguments.cross_session,
        seed=arguments.seed,
    )
    write_trials(arguments.out, trials, form=arguments.format)
    num_targets = int(trials.is_target.sum()) if trials.is_target is not None else 0
    num_nontargets = len(trials) - num_targets
    if arguments.json:
        summary = {"trials": str(arguments.out), "target_trials": num_targets, "nontarget_trials": num_nontargets}
        print(json.dumps(summary))
    else:
        print(f"{arguments.out}: {num_targets:,} target and {counted(num_nontargets, 'non-target trial')}")


def _all_or_number(text: str) -> int | None:
    if text == "all":
        return None
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be `all` or a number, got {text!r}") from None

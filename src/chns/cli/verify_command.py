"""``chns verify``: tell whether two recordings are of one speaker."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from chns.cli import command_parser
from chns.cli.options import add_verifier_options, as_channel, load_verifier

if TYPE_CHECKING:
    from chns.inference.verifier import Decision

DIFFERENT_SPEAKERS = 1

_EXAMPLES = """  chns verify anna-1.wav anna-2.wav
  chns verify runs/chns/model anna-1.wav anna-2.wav
  chns verify runs/chns/model anna-1.wav somebody.mp3 --threshold 0.45 --json

The score is the cosine of the recordings' embeddings; from the threshold on, the speaker is taken to be the same.
Without --threshold, the model's calibration decides; if it has none, the threshold at which its validation misses as
often as it accepts falsely. `chns calibrate` finds the right one for your speech and your costs, and adds the natural
logarithm of how much likelier the score is from one speaker than from two.

exit code: 0 same speaker; 1 different speakers; 2 error"""


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = command_parser("verify", examples=_EXAMPLES)
    parser.add_argument(
        "model", metavar="MODEL", nargs="?", help="the model: a folder, or hf://owner/name (default: the package's own)"
    )
    parser.add_argument("first", type=Path, metavar="A", help="a recording of one speaker")
    parser.add_argument("second", type=Path, metavar="B", help="another one")
    parser.add_argument(
        "--threshold", type=float, metavar="T", help="lowest score that is accepted (default: the model's own)"
    )
    add_verifier_options(parser)
    parser.add_argument(
        "--channel",
        action="append",
        metavar="left|right|N|mix",
        help="the channel to hear of both recordings, N from 0; given twice, of A and of B (default: the mean of all, "
        "with a warning if they hold different sounds)",
    )
    parser.add_argument("--json", action="store_true", help="print the decision as JSON")
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Print score, decision and warnings; the exit code tells the decision."""
    if arguments.model is None:
        from chns.inference.verifier import PACKAGED_MODEL_IN_WORDS

        print(f"model: {PACKAGED_MODEL_IN_WORDS}.", file=sys.stderr)
    verifier = load_verifier(arguments)
    files = (arguments.first, arguments.second)
    channels = [as_channel(name) for name in arguments.channel or [None]]
    if len(channels) > 2:
        raise ValueError(f"--channel must be given once, or for A and for B, got it {len(channels)} times.")
    decision = verifier.verify(*files, channel=(channels[0], channels[-1]))
    if arguments.json:
        print(json.dumps({"files": list(map(str, files)), **decision.to_json()}))
    else:
        _print_decision(decision, files)
    return 0 if decision.accepted else DIFFERENT_SPEAKERS


def _print_decision(decision: Decision, files: tuple[Path, Path]) -> None:
    answer = "same speaker" if decision.accepted else "different speakers"
    print(f"{answer}: score {decision.score:.3f}, threshold {decision.threshold:.3f}")
    if decision.log_likelihood_ratio is not None:
        print(f"log-likelihood ratio {decision.log_likelihood_ratio:.2f}")
    for warning in decision.warnings:
        print(f"warning: {warning}")
    for file, quality in zip(files, decision.quality, strict=True):
        for warning in quality.warnings:
            print(f"warning: {file}: {warning}")

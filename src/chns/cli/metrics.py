"""``chns metrics``: error rates of a score file."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from chns.cli import command_parser

_EXAMPLES = """  chns metrics scores.txt
  chns metrics scores.txt --json

A line reads `ENROL TEST SCORE LABEL`; LABEL is target, nontarget, 1 or 0.
EER: linear interpolation where miss and false-alarm rate cross, equal scores are one threshold.
minDCF: normalised, both costs 1, at p_target 0.01 and 0.05."""


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = command_parser("metrics", examples=_EXAMPLES)
    parser.add_argument("scores", type=Path, metavar="SCORES", help="the score file")
    parser.add_argument("--json", action="store_true", help="print the metrics as JSON; the EER as a fraction")
    return parser


def run(arguments: argparse.Namespace) -> None:
    """Read the scores and print the metrics."""
    from chns.errors import TrialError
    from chns.evaluation.metrics import verification_metrics
    from chns.evaluation.scoring import read_scores

    trials, scores = read_scores(arguments.scores)
    if trials.is_target is None:
        raise TrialError(
            f"score file must have a label on each line, got `ENROL TEST SCORE` in {trials.place(0)}. "
            "Add target or nontarget."
        )
    metrics = verification_metrics(scores, trials.is_target)
    print(json.dumps(metrics.to_json()) if arguments.json else metrics)

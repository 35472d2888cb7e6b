"""``chns metrics``: error rates of a score file."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from chns.cli import command_parser
from chns.cli.interval_options import INTERVALS_HELP, add_interval_options, interval_sections
from chns.core.arrays import BoolArray, Float64Array

if TYPE_CHECKING:
    pass

_EXAMPLES = f"""  chns metrics scores.txt
  chns metrics scores.txt --p-target 0.001 --p-target 0.5 --all
  chns metrics calibrated.txt --llr
  chns metrics scores.txt --json --det det.csv
  chns metrics new.txt --intervals vox1.parquet --against old.txt

A line reads `ENROL TEST SCORE LABEL`; LABEL is target, nontarget, 1 or 0.
EER: linear interpolation where miss and false-alarm rate cross, equal scores are one threshold
(NIST, WeSpeaker; the script of the VoxSRC challenges gives the same).
minDCF: normalised, both costs 1, at p_target 0.01 and 0.05.
actDCF: the same cost at the Bayes threshold of log-likelihood ratios; Cllr: their cost in bits.

--all adds what other toolkits report:
  EER, convex hull        BOSARIS' ROCCH-EER
  EER, nearest threshold  voxceleb_trainer's: the larger rate at the threshold where both are closest
  minCllr                 Cllr in bits after the best calibration on these trials

{INTERVALS_HELP}"""


class _Section(Protocol):
    """One group of metrics: lines of text, or keys of JSON."""

    def to_json(self) -> dict[str, object]: ...


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = command_parser("metrics", examples=_EXAMPLES)
    parser.add_argument("scores", type=Path, metavar="SCORES", help="the score file")
    parser.add_argument(
        "--p-target",
        type=float,
        action="append",
        metavar="P",
        help="prior of a target trial for the costs; may be repeated (default: 0.01 and 0.05)",
    )
    parser.add_argument("--all", action="store_true", help="add the EER by other conventions, and minCllr")
    parser.add_argument(
        "--llr",
        action="store_true",
        help="scores are log-likelihood ratios (natural logarithm): add actual costs and Cllr",
    )
    parser.add_argument("--det", type=Path, metavar="OUT.csv", help="write points of the DET curve, for drawing")
    add_interval_options(parser)
    parser.add_argument("--json", action="store_true", help="print the metrics as JSON; the EER as a fraction")
    return parser


def run(arguments: argparse.Namespace) -> None:
    """Read the scores, print the metrics, and write the DET curve if wished."""
    from chns.errors import TrialError
    from chns.evaluation.scoring import read_scores

    trials, scores = read_scores(arguments.scores)
    if trials.is_target is None:
        raise TrialError(
            f"score file must have a label on each line, got `ENROL TEST SCORE` in {trials.place(0)}. "
            "Add target or nontarget."
        )
    sections = [
        *_sections(arguments, scores, trials.is_target),
        *interval_sections(arguments, trials, scores, trials.is_target),
    ]
    if arguments.json:
        print(json.dumps({key: value for section in sections for key, value in section.to_json().items()}))
    else:
        print(*sections, sep="\n")
    if arguments.det:
        from chns.evaluation.det import det_curve, write_det_curve

        write_det_curve(arguments.det, det_curve(scores, trials.is_target))


def _sections(arguments: argparse.Namespace, scores: Float64Array, is_target: BoolArray) -> Iterator[_Section]:
    """What is printed, in this order."""
    from chns.evaluation.metrics import REPORTED_P_TARGETS, verification_metrics

    p_targets = arguments.p_target or REPORTED_P_TARGETS
    yield verification_metrics(scores, is_target, p_targets=p_targets)
    if arguments.llr:
        from chns.evaluation.calibration_metrics import calibration_metrics

        yield calibration_metrics(scores, is_target, p_targets=p_targets)
    if arguments.all:
        from chns.evaluation.conventions import other_conventions

        yield other_conventions(scores, is_target)

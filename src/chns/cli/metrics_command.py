"""``chns metrics``: error rates of a score file, how sure they are, and whether two systems differ."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from chns.cli import command_parser
from chns.core import BoolArray, Float64Array, counted

if TYPE_CHECKING:
    from chns.evaluation import GroupedRates, Interval, SpoofMetrics, Trials

INTERVALS_HELP = """--intervals draws the speakers of the trials 1,000 times with replacement (bootstrap, 95 %).
--against OTHER: SCORES minus OTHER on the same draws; negative means that SCORES makes fewer errors,
and a range without 0 that this is more than chance.
--by COLUMN: trials whose both sides agree in the column, group by group, and the worst group; trials across groups are
counted apart. Misses and false alarms are at one threshold for all."""


def add_interval_options(parser: argparse.ArgumentParser) -> None:
    """Where the speakers are found, and what to compare with."""
    parser.add_argument(
        "--intervals",
        type=Path,
        metavar="M.parquet",
        help="add 95 %% intervals; the manifest tells who speaks in the utterances of the trials",
    )
    parser.add_argument(
        "--against",
        type=Path,
        metavar="OTHER",
        help="with --intervals: score file of another system on the same trials, to tell whether both differ",
    )
    parser.add_argument(
        "--by",
        action="append",
        default=[],
        metavar="COLUMN",
        help="with --intervals: error rates by the values of this column of the manifest; may be repeated",
    )


@dataclass(frozen=True)
class IntervalSection:
    """A title and the interval of each metric: lines of text, or one key of JSON."""

    key: str
    title: str
    intervals: Mapping[str, Interval]

    def to_json(self) -> dict[str, object]:
        """The intervals by metric, under one key."""
        return {self.key: {name: interval.to_json() for name, interval in self.intervals.items()}}

    def __str__(self) -> str:
        from chns.evaluation import metric_line

        lines = [
            metric_line("EER", interval.in_points() if self.key == "difference" else f"{interval:.3%}")
            if name == "eer"
            else metric_line(f"minDCF (p_target {name.removeprefix('min_dcf_')})", f"{interval:.4f}")
            for name, interval in self.intervals.items()
        ]
        return "\n".join((self.title, *lines))


@dataclass(frozen=True)
class GroupSection:
    """Error rates by one column after the other."""

    columns: Sequence[GroupedRates]

    def to_json(self) -> dict[str, object]:
        """The columns by name, under one key."""
        return {"by": {one.column: one.to_json() for one in self.columns}}

    def __str__(self) -> str:
        return "\n".join(map(str, self.columns))


def interval_sections(arguments: argparse.Namespace) -> Iterator[IntervalSection | GroupSection]:
    """Intervals of the system, of its difference to the other, and by group; nothing without ``--intervals``.

    Raises:
        ValueError: If ``--against`` or ``--by`` is there without ``--intervals``; else as `speaker_intervals` and
            `group_rates`.
        ManifestError: If there is no such column.
        TrialError: If the manifest lacks an utterance, or the other score file has other trials.
    """
    if arguments.intervals is None:
        for option, value in (("--against", arguments.against), ("--by", ", ".join(arguments.by) or None)):
            if value is not None:
                raise ValueError(f"{option} must come with --intervals, got {value} alone. Add the manifest.")
        return
    import numpy as np

    from chns.data import Manifest
    from chns.evaluation import (
        REPORTED_P_TARGETS,
        contradictions,
        group_rates,
        label_contradictions,
        paired_difference,
        read_scores,
        resolve,
        speaker_intervals,
    )

    p_targets = arguments.p_target or REPORTED_P_TARGETS
    manifest = Manifest.read(arguments.intervals)
    trials, scores = read_scores(arguments.scores)
    is_target = trials.is_target
    assert is_target is not None  # the metrics, which come first, need labels
    rows = resolve(trials, manifest)
    enrolment, test = (manifest.speaker_labels[side] for side in rows)
    for sentence in [*label_contradictions(trials, enrolment, test), *contradictions(trials, *rows)]:
        print(sentence, file=sys.stderr)
    num_speakers = len({*enrolment.tolist(), *test.tolist()})
    yield IntervalSection(
        "intervals",
        f"95 % intervals, {counted(num_speakers, 'speaker')}",
        speaker_intervals(scores, is_target, enrolment, test, p_targets=p_targets),
    )
    if arguments.against is not None:
        other = _scores_of_same_trials(arguments.against, trials)
        yield IntervalSection(
            "difference",
            f"{arguments.scores} minus {arguments.against}",
            paired_difference((other, scores), is_target, enrolment, test, p_targets=p_targets),
        )
    if arguments.by:
        grouped = []
        for column in arguments.by:
            texts = np.array(manifest.column(column), object)
            values = texts[rows[0]], texts[rows[1]]
            speakers = enrolment, test
            options = {"column": column, "p_targets": p_targets, "llr": arguments.llr}
            grouped.append(group_rates(scores, is_target, speakers, values, **options))
        yield GroupSection(grouped)


def _scores_of_same_trials(path: Path, trials: Trials) -> Float64Array:
    from chns.core import TrialError, quoted
    from chns.evaluation import read_scores

    others, scores = read_scores(path)
    if len(others) != len(trials):
        raise TrialError(
            f"other score file must have the same trials, got {len(others)} in {path} "
            f"and {len(trials)} in {trials.source}. Score one trial list with both systems."
        )
    for number, (line, other_line) in enumerate(zip(_lines(trials), _lines(others), strict=True)):
        if line != other_line:
            raise TrialError(
                f"other score file must have the same trials in the same order, got {quoted(' '.join(other_line))} in "
                f"{others.place(number)} and {quoted(' '.join(line))} in {trials.place(number)}. "
                "Score one trial list with both systems."
            )
    return scores


def _lines(trials: Trials) -> Iterator[tuple[str, ...]]:
    if trials.is_target is None:
        return zip(trials.enrolment, trials.test, strict=True)
    labels = ("target" if one else "nontarget" for one in trials.is_target.tolist())
    return zip(trials.enrolment, trials.test, labels, strict=True)


_EXAMPLES = f"""  chns metrics scores.txt
  chns metrics scores.txt --p-target 0.001 --p-target 0.5 --all
  chns metrics calibrated.txt --llr
  chns metrics scores.txt --json --det det.csv
  chns metrics new.txt --intervals vox1.parquet --against old.txt
  chns metrics scores.txt --intervals vox1.parquet --by gender --by nationality
  chns metrics sasv.txt --spoofing --countermeasure cm.txt

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


def metrics_parser() -> argparse.ArgumentParser:
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
    parser.add_argument(
        "--spoofing",
        action="store_true",
        help="some trials are labelled spoof: add SASV-EER, SPF-EER and a-DCF; all else is of the other trials",
    )
    parser.add_argument(
        "--countermeasure",
        type=Path,
        metavar="CM",
        help="with --spoofing: scores of a countermeasure, lines of TEST SCORE, higher is genuine: add the t-EER",
    )
    parser.add_argument("--det", type=Path, metavar="OUT.csv", help="write points of the DET curve, for drawing")
    add_interval_options(parser)
    parser.add_argument(
        "--out",
        type=Path,
        metavar="OUT.json",
        help="write the metrics as JSON too; `chns report` draws groups and spoofs of RUN/scores/*.json",
    )
    parser.add_argument("--json", action="store_true", help="print the metrics as JSON; the EER as a fraction")
    return parser


def run_metrics(arguments: argparse.Namespace) -> None:
    """Read the scores, print the metrics, and write them and the DET curve if wished."""
    from chns.evaluation import read_labelled_scores

    if arguments.spoofing:
        spoofed, others = _spoofing(arguments)
        scores, is_target = spoofed
        sections = [*_sections(arguments, scores, is_target), others]
    else:
        if arguments.countermeasure is not None:
            raise ValueError(f"--countermeasure must come with --spoofing, got {arguments.countermeasure} alone.")
        scores, is_target = read_labelled_scores(arguments.scores)
        sections = [*_sections(arguments, scores, is_target), *interval_sections(arguments)]
    content = {key: value for section in sections for key, value in section.to_json().items()}
    if arguments.out:
        from chns.core import write_text

        write_text(arguments.out, json.dumps(content, indent=1))
    if arguments.json:
        print(json.dumps(content))
    else:
        print(*sections, sep="\n")
    if arguments.det:
        from chns.evaluation import det_curve, write_det_curve

        write_det_curve(arguments.det, det_curve(scores, is_target))


def _spoofing(arguments: argparse.Namespace) -> tuple[tuple[Float64Array, BoolArray], SpoofMetrics]:
    """Scores and labels of the trials that are no spoofs, and the metrics of all."""
    from chns.data import Manifest
    from chns.evaluation import read_countermeasure, read_spoof_scores, resolve, spoof_metrics

    if arguments.against is not None or arguments.by:
        raise ValueError("--against and --by must come without --spoofing, got both. Leave the spoofs out for them.")
    trials, scores, kinds = spoofed = read_spoof_scores(arguments.scores)
    genuine, speakers = None, None
    if arguments.countermeasure is not None:
        genuine = read_countermeasure(arguments.countermeasure, trials)
    if arguments.intervals is not None:
        manifest = Manifest.read(arguments.intervals)
        enrolment, test = resolve(trials, manifest)
        speakers = manifest.speaker_labels[enrolment], manifest.speaker_labels[test]
    return spoofed.without_spoofs, spoof_metrics(scores, kinds, countermeasure=genuine, speakers=speakers)


def _sections(arguments: argparse.Namespace, scores: Float64Array, is_target: BoolArray) -> Iterator[_Section]:
    """What is printed, in this order."""
    from chns.evaluation import REPORTED_P_TARGETS, verification_metrics

    p_targets = arguments.p_target or REPORTED_P_TARGETS
    yield verification_metrics(scores, is_target, p_targets=p_targets)
    if arguments.llr:
        from chns.evaluation.calibration_metrics import calibration_metrics

        yield calibration_metrics(scores, is_target, p_targets=p_targets)
    if arguments.all:
        from chns.evaluation import other_conventions

        yield other_conventions(scores, is_target)

"""``chns report``: draw and explain what runs came to, in one HTML file."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chns.cli import command_parser
from chns.cli.options import add_model_options, add_root_option, resolve_device
from chns.core import counted

if TYPE_CHECKING:
    from chns.report.page import Report
    from chns.report.run_findings import ComparedRuns, RunFindings

_EXAMPLES = """  chns evaluate runs/chns/model vox1.parquet --trials veri_test2.txt --out runs/chns/scores/vox1-o.txt
  chns report runs/supcon runs/chns --out report
  chns report runs/supcon runs/chns --name random --name clustered --manifest /moved/vox2.parquet --out report
  chns report runs/comparison      # all runs, the table and the verdict of `chns compare`, to runs/comparison/report

Writes OUT/report.html, which needs neither network nor the files beside it, OUT/figures/*.png and *.svg, and
OUT/suspected_duplicates.csv. What a run lacks is said in its place. The first report of a model embeds some
utterances of every training speaker and keeps the result in RUN/report; later ones only draw."""


def report_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = command_parser("report", examples=_EXAMPLES)
    parser.add_argument(
        "runs",
        nargs="+",
        type=Path,
        metavar="RUN",
        help="folders of trainings, or one of a comparison (`chns compare`)",
    )
    parser.add_argument(
        "--out", type=Path, metavar="OUT", help="folder of the report (default: RUN/report, where there is one RUN)"
    )
    parser.add_argument(
        "--manifest",
        type=Path,
        metavar="M.parquet",
        help="the training manifest, if it has moved, or if it or its recordings are neither in the current folder nor "
        "in RUN: what a run names elsewhere is not read, as a stranger may have written it",
    )
    add_root_option(parser)
    parser.add_argument(
        "--name",
        action="append",
        metavar="NAME",
        help="what the report calls a run; once for each, in their order (default: the end of its path)",
    )
    parser.add_argument(
        "--test-manifest",
        type=Path,
        metavar="M.parquet",
        help="the recordings of the scored trials, for paths, lengths and clips (default: the comparison's)",
    )
    parser.add_argument(
        "--with-audio",
        action="store_true",
        help="put clips of the worst errors and of suspected labels into the page, 2.5 MB at most",
    )
    parser.add_argument(
        "--watch", action="store_true", help="show how far RUN is until it is finished, and write nothing"
    )
    add_model_options(parser)
    parser.add_argument("--json", action="store_true", help="print the summary and the error rates as JSON")
    return parser


def run_report(arguments: argparse.Namespace) -> None:
    """Compute the findings, write the report, and print where it is and its first sentences; or watch."""
    if arguments.watch:
        _watch(arguments.runs)
        return
    from chns.report.drawing import require_libraries

    require_libraries()  # before minutes of embedding
    if arguments.out is None and len(arguments.runs) > 1:
        raise ValueError(f"--out must name the report's folder for {len(arguments.runs)} runs, got none.")
    out = arguments.out or arguments.runs[0] / "report"
    comparison, folders = _comparison_and_runs(arguments.runs)

    from chns.report.collect import collect_findings
    from chns.report.heard import find_recordings
    from chns.report.page import write_report

    findings = collect_findings(
        folders,
        names=arguments.name,
        manifest=arguments.manifest,
        root=arguments.root,
        device=resolve_device(arguments.device),
        num_workers=arguments.workers,
        trusted_packages=arguments.trust,
    )
    recordings = find_recordings(
        {name for one in findings for name in one.scored},
        comparison,
        manifest=arguments.test_manifest,
        with_clips=arguments.with_audio,
    )
    report = write_report(out, findings, comparison=comparison, recordings=recordings)
    if arguments.json:
        print(json.dumps(_summary(report, findings)))
        return
    for paragraph in report.summary:
        print(paragraph)
    print(f"{report.page}: {counted(len(findings), 'run')}, {counted(report.num_figures, 'figure')}")


_SECONDS_BETWEEN_LOOKS = 2.0
_CLEAR_SCREEN = "\x1b[H\x1b[2J"


def _watch(given: Sequence[Path]) -> None:
    """On a terminal a screen that is drawn again and again; else a line whenever there is something new."""
    from chns.report.watch import look_at, trainings_in

    said = ""
    while True:
        size = shutil.get_terminal_size()
        seen = look_at(trainings_in(given), width=size.columns)
        if sys.stdout.isatty():
            print(f"{_CLEAR_SCREEN}{seen.screen}", flush=True)
        elif seen.line != said:
            print(seen.line, flush=True)
            said = seen.line
        if seen.is_finished:
            return
        time.sleep(_SECONDS_BETWEEN_LOOKS)


def _comparison_and_runs(given: Sequence[Path]) -> tuple[ComparedRuns | None, Sequence[Path]]:
    """What was given as runs: a comparison, which brings its own, or runs."""
    from chns.report.run_findings import FILE_NAME, read_comparison

    comparisons = [folder for folder in given if (folder / FILE_NAME).is_file()]
    if not comparisons:
        return None, given
    if len(given) > 1:
        raise ValueError(
            f"RUN must be one comparison or any number of runs, got {comparisons[0]} among {len(given)}. "
            "Make a report of each."
        )
    comparison = read_comparison(comparisons[0])
    if not comparison.runs:
        raise ValueError(
            f"comparison must have runs beside {FILE_NAME}, got none in {comparisons[0]}. "
            "Give the folder where `chns compare` trained."
        )
    return comparison, comparison.runs


def _summary(report: Report, findings: Sequence[RunFindings]) -> dict[str, Any]:
    return {
        "report": str(report.page),
        "summary": list(report.summary),
        "figures": report.num_figures,
        "suspected_duplicates": report.num_duplicates,
        "runs": [
            {
                "name": run.name,
                "path": str(run.path),
                "strategy": run.strategy,
                "trial_lists": {name: scored.metrics.to_json() for name, scored in run.scored.items()},
            }
            for run in findings
        ],
    }

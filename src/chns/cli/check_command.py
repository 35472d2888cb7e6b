"""``chns check``: listen through a corpus for what would spoil a training."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chns.cli import add_part_option, command_parser, part_of, tell_part
from chns.core import counted

if TYPE_CHECKING:
    from chns.data import Manifest
    from chns.data.check import Check

NEEDS_FIXING = 1
_SHOWN_SUSPECTS = 10

_EXAMPLES = """  chns check vox2.parquet
  chns check vox2.parquet --fix vox2.clean.parquet --workers 16
  chns check mine.parquet --fix clean.parquet --drop clipped --drop few_utterances
  chns check mine.parquet --report findings.parquet --json
  chns check vox2.clean.parquet --labels packaged --fix vox2.labelled.parquet

Every utterance is decoded; audio is never changed. A check that was stopped goes on where it was when it is called
again.

--fix drops:     missing, undecodable, truncated, misstated, not_finite, out_of_scale, silent, too_short; of the same
                 samples twice within a speaker (duplicate) all but the first; of the same samples under several
                 speakers (shared_by_speakers) all, for one name is wrong and which is not known
--fix corrects:  wrong_duration, wrong_rate
--fix keeps:     too_long, mostly_silent, quiet, clipped, dc_offset, narrow_band, and speakers with few_utterances or
                 few_sessions or of the same_looking names; --drop KIND drops them as well

--labels MODEL embeds 3 s of every utterance and lists those that are more probably under a wrong name than under the
right one; --fix leaves them out. Listen to some first. A weak model suspects too many.

Copies are found by their samples, as 16-bit mono: also losslessly in another format, but not encoded with loss,
resampled, cut otherwise, padded or louder.

exit code: 0 nothing to drop or correct; 1 something; 2 error"""


def check_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = command_parser("check", examples=_EXAMPLES)
    parser.add_argument("manifest", type=Path, metavar="M.parquet", help="the utterances")
    parser.add_argument("--fix", type=Path, metavar="OUT.parquet", help="write a manifest without what is bad")
    parser.add_argument(
        "--report",
        type=Path,
        metavar="R.parquet",
        help="where the findings go (default: M.check.parquet beside M; with --labels M.labels.csv)",
    )
    parser.add_argument(
        "--labels",
        metavar="MODEL",
        help="instead, list utterances that fit another speaker better than their own under this model: a folder, "
        "hf://owner/name, or packaged",
    )
    parser.add_argument(
        "--drop", action="append", default=[], metavar="KIND", help="drop this kind as well; may be repeated"
    )
    limits = parser.add_argument_group("limits")
    limits.add_argument("--min-seconds", type=float, default=0.5, metavar="S", help="(default: %(default)s)")
    limits.add_argument("--max-seconds", type=float, default=180.0, metavar="S", help="(default: %(default)g)")
    limits.add_argument(
        "--min-utterances", type=int, default=2, metavar="N", help="of a speaker (default: %(default)s)"
    )
    limits.add_argument(
        "--min-sessions",
        type=int,
        default=2,
        metavar="N",
        help="of a speaker, if the manifest has sessions (default: %(default)s)",
    )
    parser.add_argument("--workers", type=int, metavar="N", help="processes at most (default: one a core)")
    add_part_option(parser)
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    return parser


def run_check(arguments: argparse.Namespace) -> int:
    """Check, write the report and the corrected manifest, print what was found; the exit code tells if it was bad."""
    from chns.data import Manifest
    from chns.data.check import Limits, check_manifest, measure_manifest

    if arguments.labels is not None:
        return _check_labels(arguments)
    report = arguments.report or arguments.manifest.with_name(f"{arguments.manifest.stem}.check.parquet")
    _require_outputs(arguments, report, ".parquet")
    limits = Limits(
        min_seconds=arguments.min_seconds,
        max_seconds=arguments.max_seconds,
        min_utterances=arguments.min_utterances,
        min_sessions=arguments.min_sessions,
    )
    manifest = Manifest.read(arguments.manifest)
    started = time.monotonic()
    kept = report.with_name(f"{report.name}.partial")
    if part := part_of(arguments):
        tell_part(
            arguments, len(measure_manifest(manifest, kept=kept, jobs=arguments.workers, part=part)), "utterances"
        )
        return 0
    check = check_manifest(manifest, kept=kept, limits=limits, also_drop=arguments.drop, jobs=arguments.workers)
    elapsed_seconds = time.monotonic() - started
    check.write(report)
    fixed = None
    if arguments.fix:
        fixed = check.fixed_manifest()
        fixed.write(arguments.fix)
    if arguments.json:
        print(json.dumps(_summary(check, arguments, report, fixed)))
    else:
        _print(check, arguments, report, fixed, elapsed_seconds)
    return NEEDS_FIXING if check.needs_fixing else 0


def _check_labels(arguments: argparse.Namespace) -> int:
    """List utterances that fit another speaker better, and write a manifest without them."""
    from chns.bundle import PACKAGED_MODEL
    from chns.core import shown
    from chns.data import Manifest
    from chns.evaluation import Embedder, check_labels, embedding_bundle, label_embeddings

    report = arguments.report or arguments.manifest.with_name(f"{arguments.manifest.stem}.labels.csv")
    _require_outputs(arguments, report, ".csv")
    if arguments.drop:
        raise ValueError(f"--drop must come without --labels, got {', '.join(arguments.drop)}. Check in two steps.")
    manifest = Manifest.read(arguments.manifest)
    bundle = embedding_bundle(PACKAGED_MODEL if arguments.labels == "packaged" else arguments.labels)
    embedder = Embedder(model=bundle.model, num_workers=1 if arguments.workers is None else arguments.workers)
    kept = report.with_name(f"{report.name}.partial")
    if part := part_of(arguments):
        done = label_embeddings(embedder, manifest, kept=kept, model=bundle.digest, part=part)
        tell_part(arguments, len(done), "utterances")
        return 0
    check = check_labels(embedder, manifest, kept=kept, model=bundle.digest)
    check.write(report)
    fixed = check.fixed_manifest() if arguments.fix else None
    if fixed is not None:
        fixed.write(arguments.fix)
    suspects = check.suspects
    if arguments.json:
        content = {"manifest": str(arguments.manifest), "report": str(report), **_size(manifest)}
        found = {"model": arguments.labels, "suspects": len(suspects), "fixed": None if fixed is None else _size(fixed)}
        print(json.dumps({**content, **found}))
        return NEEDS_FIXING if len(suspects) else 0
    print(_in_words(manifest))
    names, own, other = manifest.column("utterance"), check.fit.own, check.fit.other
    for row in suspects[:_SHOWN_SUSPECTS].tolist():
        speaker, nearest = (
            manifest.speakers[one] for one in (manifest.speaker_labels[row], check.fit.other_speaker[row])
        )
        print(shown(f"  {names[row]}: {own[row]:.3f} to {speaker}, {other[row]:.3f} to {nearest}"))
    print(f"{report}: {len(suspects):,} utterances fit another speaker better")
    if fixed is not None:
        print(f"{arguments.fix}: {_in_words(fixed)}")
    return NEEDS_FIXING if len(suspects) else 0


def _require_outputs(arguments: argparse.Namespace, report: Path, suffix: str) -> None:
    from chns.data import manifest_suffix

    if report.suffix != suffix:
        raise ValueError(f"--report must end in {suffix}, got {report}.")
    if arguments.fix:
        manifest_suffix(arguments.fix)  # a million files later would be late
    outputs = [report, *([arguments.fix] if arguments.fix else [])]
    paths = [path.resolve() for path in (arguments.manifest, *outputs)]
    if len(set(paths)) < len(paths):
        raise ValueError(f"--fix and --report must be files of their own, got {', '.join(map(str, outputs))}.")


def _summary(check: Check, arguments: argparse.Namespace, report: Path, fixed: Manifest | None) -> dict[str, Any]:
    from chns.data.check import summary_by_kind

    summary: dict[str, Any] = {
        "manifest": str(arguments.manifest),
        "report": str(report),
        **_size(check.manifest),
        "findings": {line.kind: line._asdict() for line in summary_by_kind(check)},
        "needs_fixing": check.needs_fixing,
    }
    if fixed is not None:
        summary["fixed"] = {"manifest": str(arguments.fix), **_size(fixed)}
    return summary


def _size(manifest: Manifest) -> dict[str, Any]:
    return {
        "speakers": len(manifest.speakers),
        "utterances": len(manifest),
        "hours": round(float(manifest.durations_seconds.sum()) / 3600, 3),
    }


def _print(
    check: Check, arguments: argparse.Namespace, report: Path, fixed: Manifest | None, elapsed_seconds: float
) -> None:
    from chns.data.check import KINDS, summary_by_kind

    print(f"{_in_words(check.manifest)} in {elapsed_seconds:.0f} s")
    lines = summary_by_kind(check)
    if lines:
        print(f"\n{'finding':<18}  {'count':>9}  {'--fix':<8}  what it is, and an example")
    for line in lines:
        print(f"{line.kind:<18}  {line.number:>9,}  {line.action + 's':<8}  {KINDS[line.kind].meaning}")
        print(f"{'':41}{line.example}: {line.detail}")
        print(f"{'':41}{KINDS[line.kind].advice}")
    if not check.needs_fixing:
        print("\nnothing to drop or correct")
    print(f"\n{report}: {counted(len(check.findings), 'finding')}")
    if fixed is not None:
        print(f"{arguments.fix}: {_in_words(fixed)}")


def _in_words(manifest: Manifest) -> str:
    size = _size(manifest)
    speakers = counted(size["speakers"], "speaker")
    return f"{counted(size['utterances'], 'utterance')} of {speakers}, {size['hours']:,.1f} h"

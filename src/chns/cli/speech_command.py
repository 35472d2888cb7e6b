"""``chns speech``: find the speech in every utterance, and mark or trim."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chns.cli import command_parser
from chns.core import counted

if TYPE_CHECKING:
    import pyarrow as pa

    from chns.data import Manifest

_PADDING_SECONDS = 0.2

_EXAMPLES = """  chns speech vox2.parquet --out vox2.marked.parquet
  chns speech mine.parquet --out mine.trimmed.parquet --trim --workers 16

Without --trim, the columns speech_seconds and speech_share are added. With it, offset and duration of each utterance
are narrowed to what lies between the first and the last speech, and utterances without speech are left out. Audio is
never changed. A run that was stopped goes on where it was when it is called again.

The detector is Silero's: `pip install 'chns[vad]'`. It runs at about 25 times real time on a core."""


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = command_parser("speech", examples=_EXAMPLES)
    parser.add_argument("manifest", type=Path, metavar="M.parquet", help="the utterances")
    parser.add_argument("--out", type=Path, required=True, metavar="OUT.parquet", help="the new manifest")
    parser.add_argument("--trim", action="store_true", help="narrow the utterances to their speech")
    parser.add_argument(
        "--padding-seconds",
        type=float,
        metavar="S",
        help=f"what --trim leaves before and behind the speech (default: {_PADDING_SECONDS})",
    )
    parser.add_argument(
        "--threshold", type=float, default=0.5, metavar="P", help="probability that is speech (default: %(default)s)"
    )
    parser.add_argument("--workers", type=int, metavar="N", help="processes at most (default: one a core)")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    return parser


def run(arguments: argparse.Namespace) -> None:
    """Find speech, write the new manifest, and print how much there is."""
    from chns.data import Manifest, detect_speech, forget, manifest_suffix, mark_speech, trim_to_speech

    if arguments.padding_seconds is not None and not arguments.trim:
        raise ValueError(f"--padding-seconds must come with --trim, got {arguments.padding_seconds:g} alone.")
    if arguments.out.resolve() == arguments.manifest.resolve():
        raise ValueError(f"--out must be another file than the manifest, got {arguments.out}.")
    manifest_suffix(arguments.out)
    manifest = Manifest.read(arguments.manifest)
    kept = arguments.out.with_name(f"{arguments.out.name}.partial")
    activity = detect_speech(manifest, kept=kept, threshold=arguments.threshold, jobs=arguments.workers)
    if arguments.trim:
        padding = _PADDING_SECONDS if arguments.padding_seconds is None else arguments.padding_seconds
        result = trim_to_speech(manifest, activity, padding_seconds=padding)
    else:
        result = mark_speech(manifest, activity)
    result.write(arguments.out)
    forget(kept)
    summary = _summary(manifest, activity, result)
    if arguments.json:
        print(json.dumps({"manifest": str(arguments.out), **summary}))
    else:
        print(f"{arguments.out}: {counted(summary['utterances'], 'utterance')}, {summary['hours']:,} h")
        print(f"speech {summary['speech_hours']:,} h of {summary['hours_before']:,} h")
        print(f"without speech {summary['without_speech']:,}, unreadable {summary['unreadable']:,}")


def _summary(manifest: Manifest, activity: pa.Table, result: Manifest) -> dict[str, Any]:
    import pyarrow.compute as pc

    speech = activity["speech_seconds"]
    return {
        "utterances": len(result),
        "hours": _hours(float(result.durations_seconds.sum())),
        "hours_before": _hours(float(manifest.durations_seconds.sum())),
        "speech_hours": _hours(pc.sum(speech, min_count=0).as_py()),
        "without_speech": pc.sum(pc.equal(speech, 0.0), min_count=0).as_py(),
        "unreadable": activity["problem"].drop_null().length(),
    }


def _hours(seconds: float) -> float:
    return round(seconds / 3600, 3)

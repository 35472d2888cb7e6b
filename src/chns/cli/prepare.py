"""``chns prepare``: from a folder of recordings to a manifest."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chns.cli import command_parser, prepare_formats, prepare_voxceleb
from chns.cli.conversion_options import add_conversion_options, convert, require_both_or_none

if TYPE_CHECKING:
    from chns.data.manifest import Manifest
    from chns.data.prepare.scan import ScanResult

_EXAMPLES = f"""  chns prepare voxceleb /data/voxceleb2/dev/wav --out vox2.parquet
  chns prepare voxceleb downloads --unpack /data/vox2 --md5 vox2.md5 --meta vox2_meta.csv \\
      --convert flac --converted /data/vox2-flac --out vox2.parquet
  chns prepare voxceleb /data/voxceleb1/wav --out vox1.parquet --trials veri_test2.txt --trials list_test_hard2.txt
  chns prepare speech-commands /data/speech_commands --out commands.parquet
  chns prepare kaldi data/train --root /data/audio --out train.parquet
  chns prepare folder recordings --out mine.parquet
  chns prepare folder flat --speaker-pattern '(?P<speaker>[a-z]+)_[0-9]+' --out mine.parquet
{prepare_formats.EXAMPLES}
  chns prepare synthetic corpus --speakers 400 --utterances 12 --families 40 --seed 0

Files that cannot be used are listed with the reason beside the manifest, in NAME.rejected.csv."""


def build_parser() -> argparse.ArgumentParser:
    """The command's options, one subparser a corpus."""
    parser = command_parser("prepare", examples=_EXAMPLES)
    corpora = parser.add_subparsers(dest="corpus", required=True, metavar="CORPUS")
    output = argparse.ArgumentParser(add_help=False)
    output.add_argument("--json", action="store_true", help="print the summary as JSON")
    output.add_argument("--jobs", type=int, metavar="N", help="processes at most (default: one a core)")
    scan = argparse.ArgumentParser(add_help=False, parents=[output])
    scan.add_argument("source", type=Path, metavar="SOURCE", help="the corpus's folder, or its list")
    scan.add_argument("--out", type=Path, required=True, metavar="M.parquet", help="the manifest (.parquet or .csv)")
    scan.add_argument(
        "--min-seconds",
        type=float,
        default=0.5,
        metavar="S",
        help="reject shorter recordings; 0.5 keeps single spoken words and drops cut-off ones (default: %(default)s)",
    )
    scan.add_argument(
        "--channel",
        metavar="left|right|N|mix",
        help="the channel of files with several whose channel the corpus does not tell (default: their mean)",
    )
    add_conversion_options(scan)

    voxceleb = corpora.add_parser(
        "voxceleb", parents=[scan], help="idXXXXX/VIDEO/NNNNN.wav or .m4a, or the archives; the video is the session"
    )
    prepare_voxceleb.add_voxceleb_options(voxceleb)
    corpora.add_parser("speech-commands", parents=[scan], help="WORD/SPEAKER_nohash_N.wav")
    kaldi = corpora.add_parser("kaldi", parents=[scan], help="a data directory with wav.scp, utt2spk, segments")
    kaldi.add_argument("--root", type=Path, metavar="DIR", help="folder of the audio (default: SOURCE)")
    folder = corpora.add_parser("folder", parents=[scan], help="any folder; by default one folder a speaker")
    folder.add_argument(
        "--speaker-pattern",
        metavar="REGEX",
        help="searched for in the path relative to SOURCE; its group `speaker`, or the first, is the speaker",
    )
    prepare_formats.add_formats(corpora, scan)
    synthetic = corpora.add_parser("synthetic", parents=[output], help="make a corpus of synthetic speech")
    synthetic.add_argument("out", type=Path, metavar="OUT", help="folder for the recordings and the manifest")
    synthetic.add_argument("--speakers", type=int, default=400, metavar="N", help="(default: %(default)s)")
    synthetic.add_argument("--utterances", type=int, default=12, metavar="N", help="a speaker (default: %(default)s)")
    synthetic.add_argument(
        "--families", type=int, default=40, metavar="N", help="groups of similar speakers (default: %(default)s)"
    )
    synthetic.add_argument(
        "--family-spread",
        type=float,
        default=0.15,
        metavar="S",
        help="how far apart the voices of a family are, up to 1; smaller is harder (default: %(default)s)",
    )
    synthetic.add_argument("--seed", type=int, default=0, metavar="N", help="(default: %(default)s)")
    return parser


def run(arguments: argparse.Namespace) -> None:
    """Prepare a corpus and print what it holds."""
    if arguments.corpus == "synthetic":
        from chns.data.prepare.synthetic import prepare_synthetic

        manifest = prepare_synthetic(
            arguments.out,
            num_speakers=arguments.speakers,
            num_utterances=arguments.utterances,
            num_families=arguments.families,
            family_spread=arguments.family_spread,
            seed=arguments.seed,
            jobs=arguments.jobs,
        )
        _print({"manifest": str(arguments.out / "manifest.parquet"), **_summary(manifest)}, as_json=arguments.json)
        return
    from chns.data.audio import as_channel
    from chns.data.manifest_file import manifest_suffix

    manifest_suffix(arguments.out)  # a million files later would be late
    require_both_or_none(arguments)
    channel = as_channel(arguments.channel)
    is_voxceleb = arguments.corpus == "voxceleb"
    lists = prepare_voxceleb.read_lists(arguments) if is_voxceleb else []
    scanned = _scan(arguments).with_channel(channel)
    result, counts = convert(scanned, arguments)
    report = result.write(arguments.out)
    summary = {"manifest": str(arguments.out), **_summary(result.manifest), **counts}
    summary |= {"rejected": len(result.rejected), "report": str(report)}
    remarks = scanned.remarks
    if remarks:
        summary["remarks"] = list(remarks)
    if is_voxceleb:
        summary["parts"], lines = prepare_voxceleb.completeness(result.manifest, scanned.manifest.root)
        remarks += lines
    if lists:
        summary["trials"], lines = prepare_voxceleb.check_trials(lists, result.manifest, arguments.out)
        remarks += lines
    _print(summary, as_json=arguments.json, remarks=remarks)


def _scan(arguments: argparse.Namespace) -> ScanResult:
    settings: dict[str, Any] = {"min_duration_seconds": arguments.min_seconds, "jobs": arguments.jobs}
    if arguments.corpus == "voxceleb":
        return prepare_voxceleb.scan(arguments, settings)
    if arguments.corpus == "speech-commands":
        from chns.data.prepare.speech_commands import prepare_speech_commands

        return prepare_speech_commands(arguments.source, **settings)
    if arguments.corpus == "kaldi":
        from chns.data.prepare.kaldi import prepare_kaldi

        return prepare_kaldi(arguments.source, root=arguments.root, **settings)
    if arguments.corpus in prepare_formats.FORMATS:
        return prepare_formats.scan_format(arguments, settings)
    from chns.data.prepare.folder import FIRST_LEVEL, prepare_folder

    return prepare_folder(arguments.source, speaker_pattern=arguments.speaker_pattern or FIRST_LEVEL, **settings)


def _summary(manifest: Manifest) -> dict[str, Any]:
    return {
        "speakers": len(manifest.speakers),
        "utterances": len(manifest),
        "hours": round(float(manifest.durations_seconds.sum()) / 3600, 3),
    }


def _print(summary: dict[str, Any], *, as_json: bool, remarks: Sequence[str] = ()) -> None:
    """As JSON, or one line a value; lists are for programs, and people read the remarks."""
    if as_json:
        print(json.dumps(summary))
        return
    for name, value in summary.items():
        if not isinstance(value, list):
            print(f"{name:<10}  {value:,}" if isinstance(value, int) else f"{name:<10}  {value}")
    for remark in remarks:
        print(remark)

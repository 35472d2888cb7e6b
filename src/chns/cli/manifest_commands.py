"""Commands that make another manifest of one or of several: ``convert``, ``merge``, ``pack``, ``speech``, ``split``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chns.cli import add_part_option, command_parser, part_of, tell_part
from chns.core import IntArray, counted

if TYPE_CHECKING:
    import pyarrow as pa

    from chns.data import Manifest

_FORMATS = ("kaldi", "lhotse", "wespeaker", "csv")
_CONVERT_EXAMPLES = """\
  chns convert train.parquet --to kaldi --out data/train         # with segments where there are parts
  chns convert train.parquet --to lhotse --out manifests/train   # recordings, supervisions and cuts
  chns convert train.parquet --to wespeaker --out train.list     # a raw list
  chns convert train.parquet --to csv --out train.csv

Paths are written absolute. `chns prepare kaldi data/train --root AUDIO` (or csv, lhotse, wespeaker) reads them back."""


def convert_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = command_parser("convert", examples=_CONVERT_EXAMPLES)
    parser.add_argument("manifest", type=Path, metavar="M.parquet", help="the manifest")
    parser.add_argument("--to", choices=_FORMATS, required=True, help="the format")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="PATH", help="a new folder for kaldi and lhotse, else a file"
    )
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    return parser


def run_convert(arguments: argparse.Namespace) -> None:
    """Write the manifest and print what was written."""
    from chns.data import Manifest

    manifest = Manifest.read(arguments.manifest)
    _writer(arguments.to)(manifest, arguments.out)
    if arguments.json:
        print(
            json.dumps(
                {
                    "out": str(arguments.out),
                    "format": arguments.to,
                    "speakers": len(manifest.speakers),
                    "utterances": len(manifest),
                }
            )
        )
    else:
        written = f"{counted(len(manifest.speakers), 'speaker')}, {counted(len(manifest), 'utterance')}"
        print(f"{arguments.out}: {written} as {arguments.to}")


def _writer(form: str) -> Callable[[Manifest, Path], None]:
    if form == "kaldi":
        from chns.data import write_kaldi

        return write_kaldi
    if form == "lhotse":
        from chns.data import write_lhotse

        return write_lhotse
    if form == "wespeaker":
        from chns.data import write_wespeaker

        return write_wespeaker
    from chns.data import write_csv

    return write_csv


_MERGE_EXAMPLES = """  chns merge vox.parquet commands.parquet --out all.parquet
  chns merge vox.parquet commands.parquet --prefix --out all.parquet         # speakers become vox/..., commands/...
  chns merge a/train.parquet b/train.parquet --prefix a b --out all.parquet  # speakers become a/..., b/...
  chns merge part1.parquet part2.parquet --same-speakers --out whole.parquet

Without --prefix or --same-speakers, a speaker's name in two manifests is an error: it may be two people."""


def merge_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = command_parser("merge", examples=_MERGE_EXAMPLES)
    parser.add_argument("manifests", type=Path, nargs="+", metavar="M.parquet", help="the manifests")
    parser.add_argument("--out", type=Path, required=True, metavar="ALL.parquet", help="the merged manifest")
    names = parser.add_mutually_exclusive_group()
    names.add_argument(
        "--prefix",
        nargs="*",
        metavar="NAME",
        help="put a name before the speakers and utterances of each manifest (default: the names of the files)",
    )
    names.add_argument("--same-speakers", action="store_true", help="a name that is in several is one person")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    return parser


def run_merge(arguments: argparse.Namespace) -> None:
    """Merge, write, and print what came out."""
    from chns.data import Manifest

    prefixes = arguments.prefix
    if prefixes == []:
        prefixes = [path.stem for path in arguments.manifests]
    manifests = [Manifest.read(path) for path in arguments.manifests]
    merged = Manifest.merge(manifests, prefixes=prefixes, same_speakers=arguments.same_speakers)
    merged.write(arguments.out)
    if arguments.json:
        summary = {"manifest": str(arguments.out), "speakers": len(merged.speakers), "utterances": len(merged)}
        print(json.dumps(summary))
    else:
        print(f"{arguments.out}: {counted(len(merged.speakers), 'speaker')}, {counted(len(merged), 'utterance')}")


_SPLIT_EXAMPLES = """  chns split vox2.parquet --held-out 100 --seed 0 --out train.parquet held_out.parquet

No speaker is on both sides. The same seed and the same set of speakers give the same split."""


def split_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = command_parser("split", examples=_SPLIT_EXAMPLES)
    parser.add_argument("manifest", type=Path, metavar="M.parquet", help="the manifest")
    parser.add_argument("--held-out", type=int, required=True, metavar="N", help="speakers in the second part")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="(default: %(default)s)")
    parser.add_argument(
        "--out",
        type=Path,
        nargs=2,
        required=True,
        metavar=("TRAIN.parquet", "HELD_OUT.parquet"),
        help="where the two parts go",
    )
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    return parser


def run_split(arguments: argparse.Namespace) -> None:
    """Split, write both parts, and print what they hold."""
    from chns.data import Manifest

    if arguments.out[0].absolute() == arguments.out[1].absolute():
        raise ValueError(f"--out must be two different files, got {arguments.out[0]} twice.")
    parts = Manifest.read(arguments.manifest).split_speakers(arguments.held_out, seed=arguments.seed)
    summaries = {}
    for name, part, path in zip(("train", "held_out"), parts, arguments.out, strict=True):
        part.write(path)
        summaries[name] = {"manifest": str(path), "speakers": len(part.speakers), "utterances": len(part)}
    if arguments.json:
        print(json.dumps(summaries))
        return
    for part, path in zip(parts, arguments.out, strict=True):
        print(f"{path}: {counted(len(part.speakers), 'speaker')}, {counted(len(part), 'utterance')}")


_PADDING_SECONDS = 0.2

_SPEECH_EXAMPLES = """  chns speech vox2.parquet --out vox2.marked.parquet
  chns speech mine.parquet --out mine.trimmed.parquet --trim --workers 16

Without --trim, the columns speech_seconds and speech_share are added. With it, offset and duration of each utterance
are narrowed to what lies between the first and the last speech, and utterances without speech are left out. Audio is
never changed. A run that was stopped goes on where it was when it is called again.

The detector is Silero's: `pip install 'chns[vad]'`. It runs at about 25 times real time on a core."""


def speech_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = command_parser("speech", examples=_SPEECH_EXAMPLES)
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
    add_part_option(parser)
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    return parser


def run_speech(arguments: argparse.Namespace) -> None:
    """Find speech, write the new manifest, and print how much there is."""
    from chns.data import Manifest, detect_speech, forget, manifest_suffix, mark_speech, trim_to_speech

    if arguments.padding_seconds is not None and not arguments.trim:
        raise ValueError(f"--padding-seconds must come with --trim, got {arguments.padding_seconds:g} alone.")
    if arguments.out.resolve() == arguments.manifest.resolve():
        raise ValueError(f"--out must be another file than the manifest, got {arguments.out}.")
    manifest_suffix(arguments.out)
    manifest = Manifest.read(arguments.manifest)
    kept = arguments.out.with_name(f"{arguments.out.name}.partial")
    activity = detect_speech(
        manifest, kept=kept, threshold=arguments.threshold, jobs=arguments.workers, part=part_of(arguments)
    )
    if arguments.part:
        tell_part(arguments, len(activity), "utterances")
        return
    if arguments.trim:
        padding = _PADDING_SECONDS if arguments.padding_seconds is None else arguments.padding_seconds
        result = trim_to_speech(manifest, activity, padding_seconds=padding)
    else:
        result = mark_speech(manifest, activity)
    result.write(arguments.out)
    forget(kept)
    summary = _speech_summary(manifest, activity, result)
    if arguments.json:
        print(json.dumps({"manifest": str(arguments.out), **summary}))
    else:
        print(f"{arguments.out}: {counted(summary['utterances'], 'utterance')}, {summary['hours']:,} h")
        print(f"speech {summary['speech_hours']:,} h of {summary['hours_before']:,} h")
        print(f"without speech {summary['without_speech']:,}, unreadable {summary['unreadable']:,}")


def _speech_summary(manifest: Manifest, activity: pa.Table, result: Manifest) -> dict[str, Any]:
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


_PACK_EXAMPLES = """  chns pack vox2.parquet --out /data/vox2-shards
  chns pack vox2.parquet --out /data/vox2-shards --format wav       # AAC, Opus: ten times the crops a second
  chns pack vox2.parquet --out by-cluster --order cluster --clusters runs/chns/clusters/epoch-0002.safetensors
  chns train --config chns --data.train /data/vox2-shards/manifest.parquet --out runs/chns
  chns train --config chns --data.train manifest.parquet --data.root s3://bucket/vox2-shards --out runs/s3

SHARDS/manifest.parquet serves wherever a manifest does, with the same batches as the files. A shard is a plain tar
file: `tar -tf` lists it, `cd SHARDS && sha256sum -c SHA256SUMS` looks for damage. A stopped run goes on where it was.
Uploaded, the .tar files are read by ranges below a URL (https://, s3://, gs://); the manifest stays with you.
Recordings that cannot be packed are listed with the reason in SHARDS/manifest.rejected.csv.

Order by cluster only for storage that fetches whole shards: a batch of similar speakers then needs fewer of them."""


def pack_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = command_parser("pack", examples=_PACK_EXAMPLES)
    parser.add_argument("manifest", type=Path, metavar="M.parquet", help="the utterances, in files or in shards")
    parser.add_argument("--out", type=Path, required=True, metavar="SHARDS", help="folder for the shards")
    parser.add_argument(
        "--shard-mb", type=float, default=256, metavar="MB", help="about how large a shard becomes (default: 256)"
    )
    parser.add_argument(
        "--order",
        choices=["speaker", "cluster"],
        default="speaker",
        help="whose recordings lie together (default: %(default)s)",
    )
    parser.add_argument(
        "--clusters", type=Path, metavar="C.safetensors", help="with --order cluster: those of the manifest's speakers"
    )
    parser.add_argument(
        "--format",
        choices=["as-is", "flac", "wav"],
        default="as-is",
        help="as-is, or encode all as FLAC or WAV, mono, 16 kHz, 16 bits (default: %(default)s)",
    )
    parser.add_argument("--workers", type=int, metavar="N", help="processes at most (default: one a core)")
    add_part_option(parser)
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    return parser


def run_pack(arguments: argparse.Namespace) -> None:
    """Pack, and print what came out."""
    from chns.data import MANIFEST_NAME, Manifest, pack_shards

    if (arguments.order == "cluster") != (arguments.clusters is not None):
        raise ValueError("--order cluster and --clusters C.safetensors must be given together, got only one of them.")
    manifest = Manifest.read(arguments.manifest)
    packing = pack_shards(
        manifest,
        arguments.out,
        shard_bytes=round(arguments.shard_mb * 1_000_000),
        speaker_groups=_speaker_groups(arguments, manifest),
        format=arguments.format,
        jobs=arguments.workers,
        part=part_of(arguments),
    )
    if arguments.part:
        tell_part(arguments, packing.num_written + packing.num_kept, "shards")
        return
    summary = {
        "manifest": str(arguments.out / MANIFEST_NAME),
        "speakers": len(packing.manifest.speakers),
        "utterances": len(packing.manifest),
        "shards": packing.num_written + packing.num_kept,
        "written": packing.num_written,
        "rejected": len(packing.failures),
        "report": str(packing.report),
    }
    if arguments.json:
        print(json.dumps(summary))
        return
    for name, value in summary.items():
        print(f"{name:<10}  {value:,}" if isinstance(value, int) else f"{name:<10}  {value}")


def _speaker_groups(arguments: argparse.Namespace, manifest: Manifest) -> IntArray | None:
    if arguments.clusters is None:
        return None
    from chns.sampling import SpeakerClusters

    labels = SpeakerClusters.load(arguments.clusters).labels
    if len(labels) != len(manifest.speakers):
        raise ValueError(
            f"clusters must be those of the manifest's {len(manifest.speakers)} speakers, got {len(labels)} in "
            f"{arguments.clusters}. Make them from the same manifest with `chns cluster`."
        )
    return labels

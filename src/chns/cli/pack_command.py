"""``chns pack``: pack a corpus into shards for sequential reading."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from chns.cli import add_part_option, command_parser, part_of, tell_part
from chns.core import IntArray

if TYPE_CHECKING:
    from chns.data import Manifest

_EXAMPLES = """  chns pack vox2.parquet --out /data/vox2-shards
  chns pack vox2.parquet --out /data/vox2-shards --format flac      # AAC becomes FLAC, which decodes faster
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
    parser = command_parser("pack", examples=_EXAMPLES)
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
        choices=["as-is", "flac"],
        default="as-is",
        help="as-is, or encode all as FLAC, mono, 16 kHz, 16 bits (default: %(default)s)",
    )
    parser.add_argument("--workers", type=int, metavar="N", help="processes at most (default: one a core)")
    add_part_option(parser)
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    return parser


def run_pack(arguments: argparse.Namespace) -> None:
    """Pack, and print what came out."""
    from chns.data import Manifest, pack_shards
    from chns.data.packing import MANIFEST_NAME

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
    from chns.sampling.clusters import SpeakerClusters

    labels = SpeakerClusters.load(arguments.clusters).labels
    if len(labels) != len(manifest.speakers):
        raise ValueError(
            f"clusters must be those of the manifest's {len(manifest.speakers)} speakers, got {len(labels)} in "
            f"{arguments.clusters}. Make them from the same manifest with `chns cluster`."
        )
    return labels

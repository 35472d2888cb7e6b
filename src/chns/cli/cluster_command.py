"""``chns cluster``: group the speakers of a manifest by voice."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chns.cli import command_parser
from chns.cli.options import add_model_options, add_root_option, load_on_device
from chns.core import counted

if TYPE_CHECKING:
    from chns.core import Float32Array
    from chns.sampling.clusters import SpeakerClusters

_EXAMPLES = """  chns cluster runs/supcon/model vox2.parquet --num-clusters 50 --out clusters.safetensors
  chns cluster runs/supcon/model own.parquet --num-clusters 20 --out c.safetensors --table speakers.csv

Tightness is the mean cosine between a cluster's speakers and its centre. The closest pairs may be one person under
two names: such a pair is each other's hardest negative, so listen to a few before training on clusters."""


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = command_parser("cluster", examples=_EXAMPLES)
    parser.add_argument("model", metavar="MODEL", help="the model: a folder, or hf://owner/name")
    parser.add_argument("manifest", type=Path, metavar="M.parquet", help="the utterances")
    parser.add_argument("--num-clusters", type=int, default=50, metavar="K", help="(default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, metavar="C.safetensors", help="where the clusters go")
    parser.add_argument("--table", type=Path, metavar="T.csv", help="also write speaker, cluster, similarity to centre")
    parser.add_argument(
        "--utterances", type=int, default=10, metavar="N", help="utterances that make up a centroid (default: 10)"
    )
    parser.add_argument(
        "--crop-seconds", type=float, default=3.0, metavar="S", help="of each of them (default: %(default)s)"
    )
    parser.add_argument("--pairs", type=int, default=10, metavar="N", help="closest pairs to show (default: 10)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="(default: %(default)s)")
    add_root_option(parser)
    add_model_options(parser)
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    return parser


def run(arguments: argparse.Namespace) -> None:
    """Make centroids and clusters, write them, and print sizes, tightness and the closest pairs."""
    from chns.data import Manifest
    from chns.evaluation import Embedder
    from chns.sampling.clusters import cluster_speakers

    manifest = Manifest.read(arguments.manifest, root=arguments.root)
    bundle, device = load_on_device(arguments.model, arguments)
    embedder = Embedder(model=bundle.model, device=device, num_workers=arguments.workers)
    centroids = embedder.centroids(
        manifest, utterances_per_speaker=arguments.utterances, crop_seconds=arguments.crop_seconds, seed=arguments.seed
    )
    clusters = cluster_speakers(
        centroids, num_clusters=arguments.num_clusters, seed=arguments.seed, encoder=bundle.digest
    )
    clusters.save(arguments.out)
    if arguments.table is not None:
        _write_table(arguments.table, manifest.speakers, centroids, clusters)
    summary = _summary(manifest.speakers, centroids, clusters, num_pairs=arguments.pairs)
    if arguments.json:
        print(json.dumps({"clusters": str(arguments.out), **summary}))
    else:
        grouped = f"{counted(len(manifest.speakers), 'speaker')} in {counted(clusters.num_clusters, 'cluster')}"
        print(f"{arguments.out}: {grouped}")
        _print_summary(summary)


def _summary(
    speakers: list[str], centroids: Float32Array, clusters: SpeakerClusters, *, num_pairs: int
) -> dict[str, Any]:
    from chns.sampling.clusters import closest_pairs, cluster_tightness

    tightness = cluster_tightness(centroids, clusters)
    return {
        "sizes": clusters.sizes.tolist(),
        "tightness": [round(float(t), 4) if size else None for t, size in zip(tightness, clusters.sizes, strict=True)],
        "closest_pairs": [
            {"speakers": [speakers[pair.first], speakers[pair.second]], "similarity": round(pair.similarity, 4)}
            for pair in closest_pairs(centroids, clusters, count=num_pairs)
        ],
    }


def _print_summary(summary: dict[str, Any]) -> None:
    print("\ncluster  speakers  tightness")
    by_size = sorted(zip(summary["sizes"], summary["tightness"], strict=True), key=lambda row: -row[0])
    for number, (size, tightness) in enumerate(by_size):
        print(f"{number + 1:>7}  {size:>8,}  {'' if tightness is None else f'{tightness:9.3f}'}")
    print("\nclosest speakers")
    for pair in summary["closest_pairs"]:
        print(f"  {pair['similarity']:.3f}  {pair['speakers'][0]}  {pair['speakers'][1]}")


def _write_table(path: Path, speakers: list[str], centroids: Float32Array, clusters: SpeakerClusters) -> None:
    import csv

    from chns.core import atomic_path, table_cell
    from chns.sampling.clusters import similarity_to_centre

    rows = zip(speakers, clusters.labels.tolist(), similarity_to_centre(centroids, clusters).tolist(), strict=True)
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("speaker", "cluster", "similarity_to_centre"))
        writer.writerows((table_cell(speaker), cluster, f"{similarity:.4f}") for speaker, cluster, similarity in rows)

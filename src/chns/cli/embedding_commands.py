"""Commands that embed a manifest with a model: ``cluster``, ``embed`` and ``trials``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chns.cli import add_part_option, command_parser, part_of, tell_part
from chns.cli.options import add_model_options, add_root_option, load_embedder
from chns.core import counted

if TYPE_CHECKING:
    from chns.core import Float32Array
    from chns.sampling import SpeakerClusters

_CLUSTER_EXAMPLES = """  chns cluster runs/supcon/model vox2.parquet --num-clusters 50 --out clusters.safetensors
  chns cluster runs/supcon/model own.parquet --num-clusters 20 --out c.safetensors --table speakers.csv

Tightness is the mean cosine between a cluster's speakers and its centre. The closest pairs may be one person under
two names: such a pair is each other's hardest negative, so listen to a few before training on clusters."""


def cluster_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = command_parser("cluster", examples=_CLUSTER_EXAMPLES)
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


def run_cluster(arguments: argparse.Namespace) -> None:
    """Make centroids and clusters, write them, and print sizes, tightness and the closest pairs."""
    from chns.data import Manifest
    from chns.sampling import cluster_speakers

    manifest = Manifest.read(arguments.manifest, root=arguments.root)
    embedder, bundle = load_embedder(arguments.model, arguments)
    centroids = embedder.centroids(
        manifest, utterances_per_speaker=arguments.utterances, crop_seconds=arguments.crop_seconds, seed=arguments.seed
    )
    clusters = cluster_speakers(
        centroids, num_clusters=arguments.num_clusters, seed=arguments.seed, encoder=bundle.digest
    )
    clusters.save(arguments.out)
    if arguments.table is not None:
        _write_clusters(arguments.table, manifest.speakers, centroids, clusters)
    summary = _cluster_summary(manifest.speakers, centroids, clusters, num_pairs=arguments.pairs)
    if arguments.json:
        print(json.dumps({"clusters": str(arguments.out), **summary}))
    else:
        grouped = f"{counted(len(manifest.speakers), 'speaker')} in {counted(clusters.num_clusters, 'cluster')}"
        print(f"{arguments.out}: {grouped}")
        _print_clusters(summary)


def _cluster_summary(
    speakers: list[str], centroids: Float32Array, clusters: SpeakerClusters, *, num_pairs: int
) -> dict[str, Any]:
    from chns.sampling import closest_pairs, cluster_tightness

    tightness = cluster_tightness(centroids, clusters)
    return {
        "sizes": clusters.sizes.tolist(),
        "tightness": [round(float(t), 4) if size else None for t, size in zip(tightness, clusters.sizes, strict=True)],
        "closest_pairs": [
            {"speakers": [speakers[pair.first], speakers[pair.second]], "similarity": round(pair.similarity, 4)}
            for pair in closest_pairs(centroids, clusters, count=num_pairs)
        ],
    }


def _print_clusters(summary: dict[str, Any]) -> None:
    print("\ncluster  speakers  tightness")
    by_size = sorted(zip(summary["sizes"], summary["tightness"], strict=True), key=lambda row: -row[0])
    for number, (size, tightness) in enumerate(by_size):
        print(f"{number + 1:>7}  {size:>8,}  {'' if tightness is None else f'{tightness:9.3f}'}")
    print("\nclosest speakers")
    for pair in summary["closest_pairs"]:
        print(f"  {pair['similarity']:.3f}  {pair['speakers'][0]}  {pair['speakers'][1]}")


def _write_clusters(path: Path, speakers: list[str], centroids: Float32Array, clusters: SpeakerClusters) -> None:
    import csv

    from chns.core import atomic_path, table_cell
    from chns.sampling import similarity_to_centre

    rows = zip(speakers, clusters.labels.tolist(), similarity_to_centre(centroids, clusters).tolist(), strict=True)
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("speaker", "cluster", "similarity_to_centre"))
        writer.writerows((table_cell(speaker), cluster, f"{similarity:.4f}") for speaker, cluster, similarity in rows)


_EMBED_EXAMPLES = """  chns embed runs/chns/model test.parquet --out embeddings.parquet

Columns: utterance, speaker, embedding (a list of float32, not normalised); rows as in the manifest. A run that was
stopped goes on where it was when it is called again."""


def embed_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = command_parser("embed", examples=_EMBED_EXAMPLES)
    parser.add_argument("model", metavar="MODEL", help="the model: a folder, or hf://owner/name")
    parser.add_argument("manifest", type=Path, metavar="M.parquet", help="the utterances")
    parser.add_argument("--out", type=Path, required=True, metavar="E.parquet", help="where the embeddings go")
    add_root_option(parser)
    add_model_options(parser)
    add_part_option(parser)
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    return parser


def run_embed(arguments: argparse.Namespace) -> None:
    """Embed, write, and print what came out."""
    from chns.data import Manifest, embed_utterances, forget
    from chns.evaluation import write_embeddings

    manifest = Manifest.read(arguments.manifest, root=arguments.root)
    embedder, bundle = load_embedder(arguments.model, arguments)
    kept = arguments.out.with_name(f"{arguments.out.name}.partial")
    embeddings = embed_utterances(
        lambda rows: embedder.utterances(manifest.take(rows)),
        manifest,
        settings=f"whole, {bundle.digest}",
        kept=kept,
        part=part_of(arguments),
    )
    if arguments.part:
        tell_part(arguments, len(embeddings), "utterances")
        return
    write_embeddings(arguments.out, manifest, embeddings)
    forget(kept)
    count, dim = embeddings.shape
    if arguments.json:
        print(json.dumps({"embeddings": str(arguments.out), "utterances": count, "dim": dim}))
    else:
        print(f"{arguments.out}: {counted(count, 'embedding')} of {counted(dim, 'dimension')}")


_TRIALS_EXAMPLES = """  chns trials test.parquet --out trials.txt
  chns trials test.parquet --out trials.txt --targets 20 --nontargets 10000
  chns trials test.parquet --out trials.txt --same family                       # voices of one family
  chns trials test.parquet --out trials.txt --hardest-under runs/supcon/model   # the most similar voices

No pair of utterances occurs twice. The same seed and the same manifest give the same trials."""


def trials_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = command_parser("trials", examples=_TRIALS_EXAMPLES)
    parser.add_argument("manifest", type=Path, metavar="M.parquet", help="the utterances to compare")
    parser.add_argument("--out", type=Path, required=True, metavar="TRIALS", help="the trial list")
    parser.add_argument(
        "--targets", type=_all_or_number, metavar="N", help="target trials a speaker, or `all` (default: all)"
    )
    parser.add_argument(
        "--nontargets", type=int, metavar="N", help="non-target trials (default: as many as target trials)"
    )
    parser.add_argument("--same", metavar="COLUMN", help="only non-targets that agree in this column")
    parser.add_argument("--cross-session", action="store_true", help="only targets that differ in the column `session`")
    parser.add_argument("--hardest-under", metavar="MODEL", help="the non-targets that this model finds most alike")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="(default: %(default)s)")
    parser.add_argument(
        "--format", choices=["kaldi", "voxceleb", "cnceleb"], default="kaldi", help="(default: %(default)s)"
    )
    add_model_options(parser)
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    return parser


def run_trials(arguments: argparse.Namespace) -> None:
    """Make the trials, write them, and print how many there are."""
    from chns.data import Manifest
    from chns.evaluation import make_trials, write_trials

    manifest = Manifest.read(arguments.manifest)
    embeddings = None
    if arguments.hardest_under is not None:
        embedder, _ = load_embedder(arguments.hardest_under, arguments)
        embeddings = embedder.utterances(manifest)
    trials = make_trials(
        manifest,
        targets_per_speaker=arguments.targets,
        num_nontargets=arguments.nontargets,
        nontargets="random" if embeddings is None else "hardest",
        embeddings=embeddings,
        same_column=arguments.same,
        cross_session=arguments.cross_session,
        seed=arguments.seed,
    )
    write_trials(arguments.out, trials, form=arguments.format)
    num_targets = int(trials.is_target.sum()) if trials.is_target is not None else 0
    num_nontargets = len(trials) - num_targets
    if arguments.json:
        summary = {"trials": str(arguments.out), "target_trials": num_targets, "nontarget_trials": num_nontargets}
        print(json.dumps(summary))
    else:
        print(f"{arguments.out}: {num_targets:,} target and {counted(num_nontargets, 'non-target trial')}")


def _all_or_number(text: str) -> int | None:
    if text == "all":
        return None
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be `all` or a number, got {text!r}") from None

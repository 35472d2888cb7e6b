"""Does the guard against false negatives find people who go by two names? Known ones: we split them ourselves.

A share of the speakers of a manifest becomes two speakers each, half of the utterances to either. Each model embeds a
crop of up to ten utterances a speaker, and `chns.sampling.same_person` says whom it suspects to be one person. Pairs
are counted as suspected, and as joined: in one person after chains were cut. The split depends on nothing but the
manifest, the share and the seed, so a model that was trained on the split manifest is measured on the same split.

    python benchmarks/split_identities.py train.parquet --write-manifest split.parquet
    python benchmarks/split_identities.py train.parquet --models runs/supcon/model runs/chns/model
"""

import argparse
from pathlib import Path

import numpy as np
import pyarrow as pa
from report import publish

from chns.bundle.bundle import load_model
from chns.data.manifest import Manifest
from chns.evaluation.embedder import embed_crops
from chns.sampling.flat_groups import draw_per_speaker
from chns.sampling.same_person import persons_of, suspected_pairs


def split_identities(manifest: Manifest, *, share: float, seed: int) -> tuple[Manifest, np.ndarray]:
    """Give some speakers two names, ``name.1`` and ``name.2``.

    Args:
        manifest: One person a speaker.
        share: How many of the speakers become two; speakers of one utterance are not drawn.
        seed: Decides who, and which utterances go by which name.

    Returns:
        The manifest with the new names, and the true person behind each of its speakers, shape (speakers,).
    """
    if not 0 < share <= 1:
        raise ValueError(f"share must be above 0 and at most 1, got {share}.")
    rng = np.random.default_rng(seed)
    divisible = np.flatnonzero(np.bincount(manifest.speaker_labels) >= 2)
    num_split = min(round(share * len(manifest.speakers)), len(divisible))
    names = np.array(manifest.column("speaker"), dtype=object)
    for speaker in np.sort(rng.choice(divisible, num_split, replace=False)):
        utterances = rng.permutation(np.flatnonzero(manifest.speaker_labels == speaker))
        half = len(utterances) // 2
        names[utterances[:half]] += ".1"
        names[utterances[half:]] += ".2"
    column = manifest.table.column_names.index("speaker")
    split = Manifest(manifest.table.set_column(column, "speaker", pa.array(names, pa.string())), root=manifest.root)
    persons = np.zeros(len(split.speakers), np.int64)
    persons[split.speaker_labels] = manifest.speaker_labels
    return split, persons


def num_pairs(groups: np.ndarray) -> int:
    """Pairs of speakers that are in one group."""
    sizes = np.unique(groups, axis=0, return_counts=True)[1]
    return int((sizes * (sizes - 1) // 2).sum())


def found(
    embeddings: np.ndarray, speaker_labels: np.ndarray, true: np.ndarray, *, threshold: float
) -> dict[str, float]:
    """What the guard finds at one threshold: recall and precision of the pairs, before and after chains are cut."""
    pairs = suspected_pairs(embeddings, speaker_labels, threshold=threshold)
    persons = persons_of(len(true), pairs)
    right = int((true[pairs.first] == true[pairs.second]).sum())
    joined, joined_right = num_pairs(persons), num_pairs(np.stack((persons, true), axis=1))
    return {
        "suspected": len(pairs.first),
        "recall": right / num_pairs(true),
        "precision": right / max(1, len(pairs.first)),
        "joined": joined,
        "recall, joined": joined_right / num_pairs(true),
        "precision, joined": joined_right / max(1, joined),
        "with a stranger": num_wrongly_joined(persons, true),
        "most in one": int(np.bincount(persons).max()),
    }


def num_wrongly_joined(persons: np.ndarray, true: np.ndarray) -> int:
    """Speakers who share a person with somebody else."""
    _, first_of, person = np.unique(persons, return_index=True, return_inverse=True)
    mixed = np.zeros(len(first_of), bool)
    np.logical_or.at(mixed, person, true != true[first_of][person])
    return int(mixed[person].sum())


def main() -> None:
    """Split; write the manifest if asked; measure, print, write."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--out", type=Path, default=Path("split_identities.json"))
    options.add_argument("manifest", type=Path, help="true speakers")
    options.add_argument("--models", nargs="+", default=[], help="model bundles")
    options.add_argument("--share", type=float, default=0.3, help="of the speakers, split in two")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--write-manifest", type=Path, help="write the split manifest here")
    options.add_argument("--thresholds", type=float, nargs="+", default=[0.6, 0.7, 0.8, 0.85, 0.9, 1.0])
    options.add_argument("--utterances", type=int, default=10, help="embedded of a speaker, at most")
    options.add_argument("--crop-seconds", type=float, default=3.0)
    arguments = options.parse_args()

    manifest, true = split_identities(Manifest.read(arguments.manifest), share=arguments.share, seed=arguments.seed)
    if arguments.write_manifest:
        manifest.write(arguments.write_manifest)
        print(f"{arguments.write_manifest}: {len(manifest.speakers)} speakers, {num_pairs(true)} pairs of one person")
    if not arguments.models:
        return
    rng = np.random.default_rng(arguments.seed)
    utterances = draw_per_speaker(manifest.speaker_labels, arguments.utterances, rng)
    labels = manifest.speaker_labels[utterances]
    rows = {}
    for model in arguments.models:
        embeddings = embed_crops(
            load_model(model), manifest, utterances, crop_seconds=arguments.crop_seconds, seed=arguments.seed
        )
        for threshold in arguments.thresholds:
            rows[f"{model}, {threshold}"] = found(embeddings, labels, true, threshold=threshold)
    title = f"{len(manifest.speakers):,} speakers, {num_pairs(true):,} pairs of one person; by model and threshold"
    settings = {name: getattr(arguments, name) for name in ("share", "seed", "utterances", "crop_seconds")}
    publish(arguments.out, title, rows, [], **settings)


if __name__ == "__main__":
    main()

"""The figures of docs/how_it_works.md: what a hard batch looks like, how hard it is, and what two names do.

400 synthetic voices in 40 families of similar ones, 1.5 s of six utterances each, embedded by the packaged model. The
batches are those of `HardBatches` from its first epoch on, 48 speakers x 2 utterances: random, from clusters (as many
as give a batch the paper's number) and from groups of neighbours. For the last figure three speakers in ten go by two
names, half of their utterances under either.

Needs ``pip install '.[synthetic,report,benchmarks]'``; some minutes of one core.

    python benchmarks/method_figures.py OUT [--images docs/images]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import soundfile
from tqdm import tqdm

from chns import BatchShape, ClusterGroups, HardBatches, NeighbourGroups, StartAt, Verifier
from chns.data import prepare_synthetic

KINDS = {
    "random": ("random", "#7d8790"),
    "clusters": ("from clusters", "#1f5fa8"),
    "neighbours": ("from neighbours", "#c2571a"),
}
GROUPS = {"clusters": ClusterGroups(), "neighbours": NeighbourGroups()}
INK, SOFT = "#1d2226", "#5b646c"
RATE_HZ, SECONDS = 16_000, 1.5
SHAPE = BatchShape(48, 2, steps_per_epoch=200)


def embedded(folder: Path, speakers: int, utterances: int, families: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit embeddings, shape (speakers * utterances, dim), and their speakers; kept in the folder."""
    manifest = prepare_synthetic(
        folder / "corpus", num_speakers=speakers, num_utterances=utterances, num_families=families
    )
    path = folder / "embeddings.npy"
    if not path.exists():
        verifier = Verifier.load()
        vectors = []
        for name in tqdm(manifest.column("path"), desc="embedding", unit="utterance", disable=None):
            samples, rate_hz = soundfile.read(manifest.root / name, frames=round(SECONDS * RATE_HZ), dtype="float32")
            vectors.append(verifier.embed(samples, rate_hz).vector)
        np.save(path, np.stack(vectors))
    labels = np.unique(np.asarray(manifest.column("speaker")), return_inverse=True)[1]
    return np.load(path), labels


def batches_of(kind: str, labels: np.ndarray, vectors: np.ndarray, *, apart: bool = False) -> list[np.ndarray]:
    """An epoch of batches, rows of the embeddings."""
    schedule = None if kind == "random" else StartAt(0)
    made = HardBatches(
        labels,
        embed=lambda rows: vectors[rows],
        shape=SHAPE,
        groups=GROUPS.get(kind, ClusterGroups()),
        schedule=schedule,
        separate_same_person=apart,
    )
    return [np.array(rows) for rows in made]


def negatives(batch: np.ndarray, labels: np.ndarray, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cosines of all pairs of two speakers; each utterance's highest; and the row of the utterance it is to."""
    cosines = vectors[batch] @ vectors[batch].T
    different = labels[batch][:, None] != labels[batch][None, :]
    hidden = np.where(different, cosines, -np.inf)
    return cosines[different], hidden.max(axis=1), batch[hidden.argmax(axis=1)]


def style() -> None:
    """The look of all figures, on a white sheet for light and dark pages alike."""
    mpl.rcParams.update(
        {
            "font.size": 11,
            "svg.hashsalt": "chns",
            "svg.fonttype": "path",
            "axes.edgecolor": "#c9ced3",
            "axes.labelcolor": SOFT,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlelocation": "left",
            "axes.titlesize": 12,
            "text.color": INK,
            "xtick.color": SOFT,
            "ytick.color": SOFT,
            "figure.facecolor": "white",
        }
    )


def save(figure: plt.Figure, path: Path) -> None:
    """As SVG, the same bytes each time."""
    figure.savefig(path, metadata={"Date": None, "Creator": None})
    plt.close(figure)


def draw_batches(path: Path, labels: np.ndarray, vectors: np.ndarray, batches: dict[str, list[np.ndarray]]) -> None:
    """A map of the voices, with one batch of each kind."""
    from sklearn.manifold import TSNE

    speakers = np.unique(labels)
    centroids = np.stack([vectors[labels == speaker].mean(axis=0) for speaker in speakers])
    centroids /= np.linalg.norm(centroids, axis=1, keepdims=True)
    places = TSNE(metric="cosine", init="pca", perplexity=20, random_state=0).fit_transform(centroids)
    figure, axes = plt.subplots(1, 3, figsize=(10.5, 4.0), sharex=True, sharey=True, layout="constrained")
    for axis, (kind, (title, colour)) in zip(axes, KINDS.items(), strict=True):
        chosen = np.unique(labels[batches[kind][0]])
        axis.scatter(*places.T, s=9, color="#d4d8dc", linewidths=0)
        axis.scatter(*places[chosen].T, s=26, color=colour, linewidths=0)
        hardest = np.mean([negatives(batch, labels, vectors)[1].mean() for batch in batches[kind]])
        axis.set_title(f"{title}\n", color=colour, fontweight="bold")
        axis.text(
            0, 1.02, f"nearest other speaker: cosine {hardest:.2f}", transform=axis.transAxes, color=SOFT, fontsize=10
        )
        axis.set_axis_off()
    save(figure, path)


def draw_hardness(
    path: Path, labels: np.ndarray, vectors: np.ndarray, batches: dict[str, list[np.ndarray]]
) -> dict[str, float]:
    """How alike the pairs of two speakers in a batch are: all pairs, and each utterance's hardest."""
    figure, axes = plt.subplots(1, 2, figsize=(10.5, 3.4), layout="constrained")
    means = {}
    for kind, (title, colour) in KINDS.items():
        found = [negatives(batch, labels, vectors)[:2] for batch in batches[kind]]
        for axis, which, values in zip(
            axes, ("all", "hardest"), map(np.concatenate, zip(*found, strict=True)), strict=True
        ):
            heights, edges = np.histogram(values, bins=np.linspace(-0.4, 1.0, 71), density=True)
            centres = (edges[1:] + edges[:-1]) / 2
            axis.plot(centres, heights, color=colour, linewidth=2, label=title)
            axis.fill_between(centres, heights, color=colour, alpha=0.08)
            means[f"{kind}, {which}"] = round(float(values.mean()), 3)
    for axis, title in zip(axes, ("All pairs of two speakers", "The hardest of each utterance"), strict=True):
        axis.set_title(title)
        axis.set_xlabel("cosine")
        axis.set_xlim(-0.35, 1.0)
        axis.set_ylim(0)
        axis.set_yticks([])
        axis.spines["left"].set_visible(False)
    axes[0].legend(frameon=False)
    save(figure, path)
    return means


def draw_doubles(path: Path, labels: np.ndarray, vectors: np.ndarray) -> dict[str, float]:
    """Three speakers in ten under two names: how often an utterance's hardest negative is its own speaker."""
    rng = np.random.default_rng(0)
    speakers = np.unique(labels)
    doubled = rng.choice(speakers, 3 * len(speakers) // 10, replace=False)
    place = np.concatenate([np.arange((labels == speaker).sum()) for speaker in speakers])
    names = labels + np.where(np.isin(labels, doubled) & (place % 2 == 1), len(speakers), 0)
    shares = {}
    for kind in KINDS:
        for apart in (False, True):
            hits = [
                labels[negatives(batch, names, vectors)[2]] == labels[batch]
                for batch in batches_of(kind, names, vectors, apart=apart)
            ]
            shares[f"{kind}, {'kept apart' if apart else 'as they are'}"] = round(float(np.mean(hits)), 4)
    del shares["random, kept apart"]  # without groups nobody is searched for
    figure, axis = plt.subplots(figsize=(8.5, 2.9), layout="constrained")
    for row, (name, share) in enumerate(reversed(shares.items())):
        kind, _, how = name.partition(", ")
        colour = KINDS[kind][1]
        axis.barh(row, 100 * share, color=colour, height=0.62, alpha=0.45 if how == "kept apart" else 1)
        axis.text(100 * share + 0.4, row, f"{100 * share:.1f} %", va="center", color=INK)
    axis.set_yticks(
        range(len(shares)),
        [
            f"{KINDS[name.partition(', ')[0]][0]}, {name.partition(', ')[2]}"
            if not name.startswith("random")
            else "random"
            for name in reversed(shares)
        ],
    )
    axis.set_title("How often an utterance's hardest negative is its own speaker")
    axis.set_xticks([])
    axis.spines["bottom"].set_visible(False)
    axis.tick_params(length=0)
    save(figure, path)
    return shares


def main() -> None:
    """Draw the three figures, and write the numbers that the page quotes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("out", type=Path, help="where the corpus and the embeddings go; what is there is used again")
    parser.add_argument("--images", type=Path, help="where the figures go (default: OUT)")
    parser.add_argument("--speakers", type=int, default=400)
    parser.add_argument("--utterances", type=int, default=6)
    parser.add_argument("--families", type=int, default=40)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    images = options.images or options.out
    vectors, labels = embedded(options.out, options.speakers, options.utterances, options.families)
    style()
    batches = {kind: batches_of(kind, labels, vectors) for kind in KINDS}
    draw_batches(images / "hard_batch.svg", labels, vectors, batches)
    numbers = {"mean cosine": draw_hardness(images / "hardness.svg", labels, vectors, batches)}
    numbers["hardest negative is the own speaker"] = draw_doubles(images / "two_names.svg", labels, vectors)
    text = json.dumps(numbers, indent=2)
    (images / "method_figures.json").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()

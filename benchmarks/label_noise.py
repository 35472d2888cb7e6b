"""Wrong labels, on purpose: how many are found, and what a training makes of them, by six ways to deal with them.

    python benchmarks/label_noise.py M.parquet --cache embeddings.npz --json found.json --figure found.svg

A stopped run goes on at the share of wrong labels where it was.

Embeds every utterance (its first 6 s) with the packaged model, holds some speakers out, gives 0, 5, 10 and 20 % of the
other utterances the label of another one, and says how many of these each rule finds. Then trains a small network on
the embeddings with SupCon and random batches, several seeds, and tests it on the held-out speakers:

    right       the labels as they were before
    wrong       the labels as they are now
    left out    without the suspects of `chns check --labels`
    weighted    each pair counts as much as the product of the reliabilities of its two labels
    ignored     pairs of two labels of which one is suspected are neither positive nor negative
    repelled    positive pairs of reliability below .5 are negatives; reliability from two Gaussians fitted to the
                cosines of all positive pairs (PURL's idea)
    early loss  without the utterances that a first training of a quarter of the steps has a high loss on, by two
                Gaussians fitted to the losses

Intervals are of the difference to "wrong", over seeds and held-out speakers. Some minutes on a core, once embedded.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from chns.bundle.bundle_graph import PACKAGED_MODEL
from chns.data import Manifest
from chns.data.audio import read_audio
from chns.evaluation import Interval, bootstrap_metrics, mean_over_seeds
from chns.evaluation.metrics import equal_error_rate
from chns.evaluation.wrong_labels import LabelFit, higher_component, label_fit
from chns.losses import SupConLoss
from chns.losses.contrast import Pairs
from chns.sampling.batches import RandomSpeakerBatches
from chns.sampling.speaker_batches import BatchShape

_MOST_SECONDS = 6.0
_SPEAKERS, _UTTERANCES = 32, 4
_RESAMPLES = 300
WAYS = ("right", "wrong", "left out", "weighted", "ignored", "repelled", "early loss")


def embedded(manifest: Manifest) -> np.ndarray:
    """Embedding of each utterance by the packaged model, shape (utterances, 192)."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(PACKAGED_MODEL / "model.onnx"), options)
    name = session.get_inputs()[0].name
    found: dict[int, np.ndarray] = {}
    waiting: list[tuple[int, np.ndarray]] = []

    def flush() -> None:
        if waiting:
            rows, waveforms = zip(*waiting, strict=True)
            found.update(zip(rows, session.run(None, {name: np.stack(waveforms)})[0], strict=True))
            waiting.clear()
            print(f"embedded {len(found):,} of {len(manifest):,}", end="\r", flush=True)

    for row in np.argsort(manifest.durations_seconds, kind="stable").tolist():
        one = manifest[row]
        seconds = min(_MOST_SECONDS, one.duration_seconds)
        waveform = read_audio(
            one.path, sample_rate_hz=16_000, offset_seconds=one.offset_seconds, duration_seconds=seconds
        )
        if len(waiting) == 16 or (waiting and len(waiting[0][1]) != len(waveform)):
            flush()
        waiting.append((row, waveform.astype(np.float32)))
    flush()
    return np.stack([found[row] for row in range(len(manifest))])


def swapped(labels: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """The labels, a share of which are now those of other speakers; how many utterances each speaker has stays."""
    rows = rng.choice(len(labels), round(share * len(labels)), replace=False)
    wrong = labels.copy()
    wrong[rows] = np.roll(labels[rows], 1)
    for place in np.flatnonzero(wrong[rows] == labels[rows]):  # neighbours of one speaker: exchange with a stranger
        others = np.flatnonzero((wrong[rows] != labels[rows[place]]) & (labels[rows] != wrong[rows[place]]))
        if len(others):
            wrong[rows[[place, others[0]]]] = wrong[rows[[others[0], place]]]
    return wrong


def rules(fit: LabelFit) -> dict[str, np.ndarray]:
    """Whom each rule suspects."""
    return {
        "mixture of the margin, and another is nearer": fit.suspected,
        "mixture of the similarity to the own speaker": higher_component(fit.own) < 0.5,
        "another is nearer": fit.other > fit.own,
    }


def pair_reliability(embeddings: np.ndarray, labels: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Cosine of a positive pair to its reliability, from two Gaussians over the cosines of all of them."""
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    cosines = []
    for speaker in np.unique(labels):
        own = unit[labels == speaker]
        cosines.append((own @ own.T)[np.triu_indices(len(own), 1)])
    pooled = np.sort(np.concatenate(cosines).astype(np.float64))
    pooled = pooled[:: max(1, len(pooled) // 20_000)]
    reliability = higher_component(pooled)
    return lambda values: np.interp(values, pooled, reliability)


class ReliableSupCon(SupConLoss):
    """SupCon whose positive pairs have a reliability; pairs may also be masked from the negatives."""

    def forward_pairs(self, embeddings: Tensor, labels: Tensor, reliability: Tensor, masked: Tensor | None) -> Tensor:
        """The loss; reliability and masked have the shape (N, N). A pair of reliability 0 that is not masked repels."""
        normalised = F.normalize(embeddings)
        pairs = Pairs.of(labels)
        logits = (normalised / self.temperature()) @ normalised.T
        if masked is not None:
            logits = logits.masked_fill(masked, -torch.inf)
        log_shares = logits.fill_diagonal_(-torch.inf).log_softmax(dim=1)
        weights = pairs.weights * reliability[pairs.anchors, pairs.positives]
        chosen = weights > 0
        losses = log_shares[pairs.anchors, pairs.positives]
        return -(weights[chosen] * losses[chosen]).sum() / weights.sum().clamp_min(1e-9)


def trained(
    embeddings: np.ndarray,
    labels: np.ndarray,
    *,
    steps: int,
    seed: int,
    reliability: str = "",
    fit: LabelFit | None = None,
) -> nn.Module:
    """A network of one hidden layer on the embeddings, after so many steps of 32 speakers x 4 utterances."""
    torch.manual_seed(seed)
    dim = embeddings.shape[1]
    network = nn.Sequential(nn.Linear(dim, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Linear(256, 128))
    loss = ReliableSupCon()
    optimizer = torch.optim.Adam([*network.parameters(), *loss.parameters()], 2e-3, weight_decay=1e-5)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    inputs, targets = torch.from_numpy(embeddings).float(), torch.from_numpy(labels)
    of_label = torch.ones(len(labels))
    if fit is not None:
        soft = np.nan_to_num(fit.reliability, nan=1.0)
        of_label = torch.from_numpy(np.where(fit.suspected, 0.0, 1.0) if reliability == "ignored" else soft).float()
    of_pair = pair_reliability(embeddings, labels) if reliability == "repelled" else None
    batches = RandomSpeakerBatches(labels, _shape(labels, steps_per_epoch=steps, seed=seed))
    for rows in batches:
        some = torch.tensor(rows)
        reliable, masked = None, None
        same = targets[some][:, None] == targets[some][None, :]
        if of_pair is not None:
            unit = F.normalize(inputs[some])
            reliable = torch.from_numpy((of_pair((unit @ unit.T).numpy()) >= 0.5).astype(np.float32))
        elif fit is not None:
            reliable = of_label[some][:, None] * of_label[some][None, :]
            masked = same & (reliable == 0) if reliability == "ignored" else None
        output = network(inputs[some])
        if reliable is None:
            value = loss(output, targets[some])
        else:
            value = loss.forward_pairs(output, targets[some], reliable, masked)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        schedule.step()
    return network.eval()


def _shape(labels: np.ndarray, *, seed: int, steps_per_epoch: int | None = None) -> BatchShape:
    """Batches of 32 speakers, or of all who have enough utterances."""
    enough = int((np.bincount(labels) >= _UTTERANCES).sum())
    return BatchShape(min(_SPEAKERS, enough), _UTTERANCES, steps_per_epoch=steps_per_epoch, seed=seed)


def early_losses(network: nn.Module, embeddings: np.ndarray, labels: np.ndarray, *, seed: int) -> np.ndarray:
    """Mean loss of each utterance as an anchor, over three epochs of batches without training."""
    with torch.inference_mode():
        output = F.normalize(network(torch.from_numpy(embeddings).float()))
    sums, counts = np.zeros(len(labels)), np.zeros(len(labels))
    batches = RandomSpeakerBatches(labels, _shape(labels, seed=seed + 1))
    for epoch in range(3):
        batches.set_epoch(epoch)
        for rows in batches:
            logits = (output[rows] @ output[rows].T / 0.1).fill_diagonal_(-torch.inf)
            shares = logits.log_softmax(dim=1)
            same = torch.from_numpy(labels[rows][:, None] == labels[rows][None, :]).fill_diagonal_(False)
            losses = -(torch.where(same, shares, 0).sum(dim=1) / same.sum(dim=1)).numpy()
            np.add.at(sums, rows, losses)
            np.add.at(counts, rows, 1)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def with_enough(labels: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Rows of what is kept, of speakers who still have enough utterances."""
    rows = np.flatnonzero(kept)
    counts = np.bincount(labels[rows], minlength=labels.max() + 1)
    return rows[counts[labels[rows]] >= _UTTERANCES]


def network_by(
    way: str, embeddings: np.ndarray, right: np.ndarray, wrong: np.ndarray, *, steps: int, seed: int
) -> nn.Module:
    """Train in one of the ways."""
    labels = right if way == "right" else wrong
    rows, options = np.arange(len(labels)), {}
    if way in ("left out", "weighted", "ignored"):
        fit = label_fit(embeddings.astype(np.float32), labels)
        if way == "left out":
            rows = with_enough(labels, ~fit.suspected)
        else:
            options = {"fit": fit, "reliability": way}
    elif way == "repelled":
        options = {"reliability": way}
    elif way == "early loss":
        first = trained(embeddings, labels, steps=max(1, steps // 4), seed=seed)
        rows = with_enough(labels, ~(higher_component(early_losses(first, embeddings, labels, seed=seed)) >= 0.5))
    dense = np.unique(labels[rows], return_inverse=True)[1]
    return trained(embeddings[rows], dense, steps=steps, seed=seed, **options)


def test_trials(labels: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """At most 20 target trials of each speaker, and 10,000 non-targets."""
    first, second = np.triu_indices(len(labels), 1)
    same = labels[first] == labels[second]
    chosen = [rng.permutation(np.flatnonzero(same & (labels[first] == one)))[:20] for one in np.unique(labels)]
    others = rng.choice(np.flatnonzero(~same), min(10_000, int((~same).sum())), replace=False)
    rows = np.concatenate([*chosen, others])
    return first[rows], second[rows]


def cosines(vectors: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Scores of trials, shape (trials,)."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.einsum("td,td->t", unit[first], unit[second])


def measured(embeddings: np.ndarray, labels: np.ndarray, options: argparse.Namespace) -> dict[str, object]:
    """Recall, precision and error rates at each share of wrong labels."""
    speakers = np.random.default_rng(0).permutation(labels.max() + 1)
    is_test = np.isin(labels, speakers[: options.held_out])
    right = np.unique(labels[~is_test], return_inverse=True)[1]
    train = embeddings[~is_test]
    test, test_labels = embeddings[is_test], labels[is_test]
    seeds = range(options.seeds)
    found: dict[str, object] = {
        "speakers": int(right.max() + 1),
        "utterances": len(right),
        "held_out_speakers": options.held_out,
        "steps": options.steps,
        "seeds": options.seeds,
    }
    if options.steps:
        first, second = test_trials(test_labels, np.random.default_rng(0))
        sides = test_labels[first], test_labels[second]
        is_target = sides[0] == sides[1]
        found["untrained_eer"] = equal_error_rate(cosines(test, first, second), is_target)
    if options.json and options.json.is_file():
        known = json.loads(options.json.read_text())
        if {name: known.get(name) for name in found} == found:  # shares that an earlier call has measured
            found = known
    for share in options.shares:
        if f"{share:g}" in found:
            continue
        wrong = [swapped(right, share, np.random.default_rng(seed)) for seed in seeds]
        part = {"detection": detection(train, right, wrong)}
        found[f"{share:g}"] = part
        if not options.steps:
            continue
        scores, began = [], time.monotonic()
        for way in WAYS:
            for seed in seeds:
                network = network_by(way, train, right, wrong[seed], steps=options.steps, seed=seed)
                with torch.inference_mode():
                    scores.append(cosines(network(torch.from_numpy(test).float()).numpy(), first, second))
            print(f"{share:.0%} wrong: {way} trained, {time.monotonic() - began:.0f} s", flush=True)
        metrics = bootstrap_metrics(np.stack(scores), is_target, *sides, num_resamples=_RESAMPLES)
        part["error_rates"] = {
            name: by_way(metrics.estimate[name], metrics.resampled[name], options.seeds)
            for name in ("eer", "min_dcf_0.05")
        }
        if options.json:
            options.json.write_text(json.dumps(found, indent=1))
    return found


def detection(embeddings: np.ndarray, right: np.ndarray, wrong: list[np.ndarray]) -> dict[str, dict[str, float]]:
    """Means over the seeds: share of the wrong labels that are suspected, of the suspects that are wrong, of all."""
    found: dict[str, list[tuple[float, float, float]]] = {}
    for labels in wrong:
        is_wrong = labels != right
        for rule, suspected in rules(label_fit(embeddings.astype(np.float32), labels)).items():
            hits = (suspected & is_wrong).sum()
            recall, precision = hits / max(1, is_wrong.sum()), hits / max(1, suspected.sum())
            found.setdefault(rule, []).append((recall, precision, suspected.mean()))
    return {
        rule: dict(zip(("recall", "precision", "suspected"), np.mean(values, axis=0).tolist(), strict=True))
        for rule, values in found.items()
    }


def by_way(estimate: np.ndarray, resampled: np.ndarray, seeds: int) -> dict[str, dict[str, object]]:
    """Mean over the seeds of each way, and the interval of its difference to the wrong labels."""
    estimate, resampled = estimate.reshape(len(WAYS), seeds), resampled.reshape(len(WAYS), seeds, -1)
    base = WAYS.index("wrong")
    return {
        way: {
            "mean": float(estimate[row].mean()),
            "seeds": estimate[row].tolist(),
            "difference": mean_over_seeds(estimate[row] - estimate[base], resampled[row] - resampled[base]).to_json(),
        }
        for row, way in enumerate(WAYS)
    }


def show(found: dict[str, object], shares: list[float]) -> None:
    """Print two tables in Markdown."""
    print(f"{found['speakers']} speakers, {found['utterances']} utterances, {found['held_out_speakers']} held out;")
    if "untrained_eer" in found:
        print(f"embeddings as they are: EER {found['untrained_eer']:.2%}")
    print("\n| wrong labels | rule | recall | precision | suspected |\n|---|---|---|---|---|")
    for share in shares:
        for rule, one in found[f"{share:g}"]["detection"].items():
            hits = " | ".join(f"{one[name]:.1%}" for name in ("recall", "precision", "suspected"))
            print(f"| {share:.0%} | {rule} | {hits} |")
    if "error_rates" not in found[f"{shares[0]:g}"]:
        return
    print("\n| wrong labels | trained on | EER | difference to wrong | minDCF 0.05 |\n|---|---|---|---|---|")
    for share in shares:
        rates = found[f"{share:g}"]["error_rates"]
        for way, one in rates["eer"].items():
            difference = "" if way == "wrong" else f"{Interval(**one['difference']):+.2%}"
            print(
                f"| {share:.0%} | {way} | {one['mean']:.2%} | {difference} | {rates['min_dcf_0.05'][way]['mean']:.3f} |"
            )


def draw(found: dict[str, object], shares: list[float], path: Path) -> None:
    """EER by share of wrong labels, a line for each way."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for place, way in enumerate(WAYS):
        rates = [found[f"{share:g}"]["error_rates"]["eer"][way] for share in shares]
        spread = [np.ptp(one["seeds"]) * 50 for one in rates]
        x = [100 * share + 0.12 * (place - 3) for share in shares]
        axes.errorbar(
            x, [100 * one["mean"] for one in rates], spread, marker="o", markersize=3, linewidth=1.2, label=way
        )
    axes.set(xlabel="wrong labels (%)", ylabel="EER on held-out speakers (%)", xticks=[100 * share for share in shares])
    axes.legend(frameon=False)
    figure.savefig(path)


def main() -> None:
    """Embed, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--cache", type=Path, required=True, help="where the embeddings are kept (.npz)")
    parser.add_argument("--least", type=int, default=5, help="utterances that a speaker must have")
    parser.add_argument("--held-out", type=int, default=200, help="speakers to test on")
    parser.add_argument("--steps", type=int, default=200, help="0 only looks for the wrong labels")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.0, 0.05, 0.1, 0.2])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    manifest = Manifest.read(options.manifest)
    if not options.cache.is_file():
        np.savez(options.cache, embeddings=embedded(manifest))
    embeddings = np.load(options.cache)["embeddings"].astype(np.float64)
    enough = np.bincount(manifest.speaker_labels)[manifest.speaker_labels] >= options.least
    labels = np.unique(manifest.speaker_labels[enough], return_inverse=True)[1]
    found = measured(embeddings[enough], labels, options)
    show(found, options.shares)
    if options.figure:
        draw(found, options.shares, options.figure)


if __name__ == "__main__":
    main()

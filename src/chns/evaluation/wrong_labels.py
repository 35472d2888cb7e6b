"""Utterances that fit another speaker better than their own: two people under one name, whom training pulls together.

Each utterance is compared with the mean of its speaker's *other* utterances, so that a wrong one does not vouch for
itself, and with the centroids of all other speakers. The margin between the two is a mixture: right labels lie high,
wrong ones low and mostly below zero. Two Gaussians fitted to it give each label a reliability, the probability of being
right. Suspected is what is more probably wrong than right *and* fits another speaker better.

The obvious rule, a mixture over the similarity to the own speaker alone, takes an odd recording for a wrong name; that
another speaker is nearer, alone, suspects every voice that has a neighbour. On one-second words of 482 speakers, 5 % of
the labels exchanged: recall and precision of 99.8 and 86 % by this rule, 98 and 64 %, 100 and 44 % by the others
(docs/results/label_noise.md, `benchmarks/label_noise.py`).

Rejected: weights of pairs or repelling in the loss. Leaving the suspects out did as well and needs no setting; and
repelling doubled the errors where nothing was wrong.

Of a speaker with two utterances, one of them wrong, both fit each other badly: which one is wrong cannot be told, and
only the other speaker's similarity hints at it.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from chns.core import BoolArray, Float32Array, Float64Array, IntArray, JobPart, atomic_path, table_cell
from chns.data import Manifest, embed_utterances, forget
from chns.evaluation.embedder import Embedder
from chns.evaluation.pairs import unit_embeddings
from chns.sampling import unit_or_zero

_ROWS_AT_ONCE = 4096
_MOST_ROUNDS = 500


class LabelFit(NamedTuple):
    """How well each utterance fits its speaker; every array has shape (utterances,).

    Attributes:
        own: Cosine with the mean of the speaker's other utterances; NaN for the only utterance of a speaker.
        other: Highest cosine with the centroid of another speaker.
        other_speaker: The label of that speaker.
        reliability: Probability that the label is right, from 0 to 1; NaN where ``own`` is.
    """

    own: Float64Array
    other: Float64Array
    other_speaker: IntArray
    reliability: Float64Array

    @property
    def suspected(self) -> BoolArray:
        """Which are more probably wrong than right, and fit another speaker better."""
        return (self.reliability < 0.5) & (self.other > self.own)


def label_fit(embeddings: Float32Array, speaker_labels: IntArray) -> LabelFit:
    """Compare each utterance with its own speaker and with all others.

    Args:
        embeddings: One an utterance, shape (utterances, dim), not normalised.
        speaker_labels: Speaker of each, from 0 without gaps, shape (utterances,).

    Raises:
        ValueError: If there are fewer than two speakers, no speaker has two utterances, or an embedding is zero or not
            finite.

    Source:
        Leave-one-out similarities: `chns.sampling.same_person`. A mixture over within-speaker similarities as the
        reliability of positive pairs: PURL, Interspeech 2026; here over the margin to the nearest other speaker.
    """
    unit = unit_embeddings(embeddings).astype(np.float64)
    counts = _require_comparable(speaker_labels)
    sums = np.zeros((len(counts), unit.shape[1]))
    np.add.at(sums, speaker_labels, unit)
    centroids = unit_or_zero(sums)
    own, other = np.empty(len(unit)), np.empty(len(unit))
    other_speaker = np.empty(len(unit), np.int64)
    for start in range(0, len(unit), _ROWS_AT_ONCE):
        some = slice(start, start + _ROWS_AT_ONCE)
        labels, rows = speaker_labels[some], unit[some]
        own[some] = np.einsum("ud,ud->u", rows, unit_or_zero(sums[labels] - rows))
        cosines = rows @ centroids.T
        cosines[np.arange(len(labels)), labels] = -np.inf
        other_speaker[some] = cosines.argmax(axis=1)
        other[some] = cosines.max(axis=1)
    own[counts[speaker_labels] == 1] = np.nan
    return LabelFit(own, other, other_speaker, higher_component(own - other))


def _require_comparable(speaker_labels: IntArray) -> IntArray:
    counts: IntArray = np.bincount(speaker_labels)
    if len(counts) < 2 or counts.max() < 2:
        raise ValueError(
            f"labels must be of two speakers, one of them with two utterances, got {len(counts)} speakers and at most "
            f"{counts.max()} utterances of one."
        )
    return counts


def higher_component(values: Float64Array) -> Float64Array:
    """Probability of belonging to the higher of two Gaussians that are fitted to the values.

    A value that is nearer to the higher one's side never gets a lower probability than one below it: where one Gaussian
    is much wider, its far tail would otherwise claim the other end.

    Args:
        values: Any numbers, shape (n,); NaN stays NaN.

    Returns:
        Shape (n,). 1 throughout if all values are equal.

    Source:
        Expectation maximisation; Dempster, Laird and Rubin 1977.
    """
    probability = np.full(values.shape, np.nan)
    known = np.isfinite(values)
    ascending, places = np.unique(values[known], return_inverse=True)
    if len(ascending) < 2:
        probability[known] = 1.0
        return probability
    sample = values[known]
    floor = 1e-4 * sample.var()
    means, variances = np.quantile(sample, [0.05, 0.6]), np.full(2, sample.var() / 4)
    shares = np.array([0.1, 0.9])
    last = -np.inf
    for _ in range(_MOST_ROUNDS):
        joint = _log_densities(sample, shares, means, variances)
        total = np.logaddexp(*joint.T)
        weights = np.exp(joint - total[:, None])
        if total.mean() - last < 1e-9:
            break
        last = total.mean()
        mass = np.maximum(weights.sum(axis=0), 1e-9)
        shares, means = mass / mass.sum(), weights.T @ sample / mass
        variances = np.maximum((weights * (sample[:, None] - means) ** 2).sum(axis=0) / mass, floor)
    high = int(means.argmax())
    joint = _log_densities(ascending, shares, means, variances)
    higher = np.exp(joint[:, high] - np.logaddexp(*joint.T))
    top, bottom = np.searchsorted(ascending, [means[high], means[1 - high]])
    higher[top:] = np.maximum(higher[top:], higher[min(top, len(higher) - 1)])
    higher[:bottom] = np.minimum(higher[:bottom], higher[min(bottom, len(higher) - 1)])
    probability[known] = np.maximum.accumulate(higher)[places]
    return probability


def _log_densities(
    values: Float64Array, shares: Float64Array, means: Float64Array, variances: Float64Array
) -> Float64Array:
    squares = (values[:, None] - means) ** 2 / variances
    densities: Float64Array = np.log(shares) - (np.log(2 * np.pi * variances) + squares) / 2
    return densities


@dataclass(frozen=True, eq=False)
class LabelCheck:
    """What a model says about the labels of a manifest.

    Attributes:
        manifest: The utterances.
        fit: How well each fits.
    """

    manifest: Manifest
    fit: LabelFit

    @property
    def suspects(self) -> IntArray:
        """Rows of the suspected utterances, most suspicious first."""
        rows = np.flatnonzero(self.fit.suspected)
        return rows[np.argsort((self.fit.own - self.fit.other)[rows], kind="stable")]

    def write(self, path: Path) -> None:
        """Write the suspects as CSV, atomically; names of strangers hold no formulas there."""
        utterances, speakers = self.manifest.column("utterance"), self.manifest.speakers
        own, other, other_speaker, reliability = self.fit
        with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
            writer.writerow(
                ("utterance", "speaker", "own_similarity", "other_speaker", "other_similarity", "reliability")
            )
            for row in self.suspects.tolist():
                speaker = speakers[self.manifest.speaker_labels[row]]
                writer.writerow(
                    (
                        table_cell(utterances[row]),
                        table_cell(speaker),
                        round(float(own[row]), 4),
                        table_cell(speakers[other_speaker[row]]),
                        round(float(other[row]), 4),
                        round(float(reliability[row]), 4),
                    )
                )

    def fixed_manifest(self) -> Manifest:
        """The utterances that are not suspected."""
        return self.manifest.take(np.flatnonzero(~self.fit.suspected))


def check_labels(embedder: Embedder, manifest: Manifest, *, kept: Path, model: str, seconds: float = 3.0) -> LabelCheck:
    """Embed a part of every utterance and look at its label.

    A check that was stopped goes on where it was: finished embeddings lie in the folder ``kept`` until the end.

    Args:
        embedder: The model.
        manifest: The utterances.
        kept: Folder for what is finished.
        model: Tells models apart: what another one has finished is not used.
        seconds: How much of each utterance is embedded; a shorter one is repeated.

    Raises:
        ValueError: As `label_fit`.
        FileNotFoundError, AudioError: As `chns.evaluation.embedder.Embedder`.
    """
    embeddings = label_embeddings(embedder, manifest, kept=kept, model=model, seconds=seconds)
    check = LabelCheck(manifest, label_fit(embeddings, manifest.speaker_labels))
    forget(kept)
    return check


def label_embeddings(
    embedder: Embedder, manifest: Manifest, *, kept: Path, model: str, seconds: float = 3.0, part: JobPart | None = None
) -> Float32Array:
    """The first half of `check_labels`, and nearly all of the work.

    Args:
        embedder: The model.
        manifest: The utterances.
        kept: Folder in which what is done is kept for `check_labels`.
        model: As of `check_labels`.
        seconds: As of `check_labels`.
        part: The part of the utterances that is to be embedded; by default all.

    Returns:
        Shape (utterances, dim), or those of the part.

    Raises:
        ValueError, FileNotFoundError, AudioError: As `check_labels`.
    """
    _require_comparable(manifest.speaker_labels)  # before hours of work
    return embed_utterances(
        lambda rows: embedder.crops(manifest, rows, crop_seconds=seconds, purpose=f"embedding from {rows[0]:,}"),
        manifest,
        settings=f"crops of {seconds} s, {model}",
        kept=kept,
        part=part,
    )

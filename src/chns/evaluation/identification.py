"""Open-set identification: how often a person in the gallery is not found, where strangers are found so often at most.

Verification error rates do not carry over: a stranger is compared with everybody in the gallery, so that with its size
the threshold rises that lets 1 % of strangers pass, and with it the share of enrolled people who are missed.

Galleries are drawn from the speakers of a manifest. One utterance of each is enrolled, the others are mated searches;
all utterances of the speakers who are in no gallery are non-mated searches. Smaller galleries are the beginnings of
larger ones and the strangers are the same for all, so that what differs between two sizes is the size. The draw is
repeated, for it decides much.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from chns.core import BoolArray, Float32Array, Float64Array, IntArray, percent
from chns.evaluation.intervals import Interval, interval
from chns.evaluation.pairs import unit_embeddings

_SEARCHES_AT_ONCE = 4096


@dataclass(frozen=True, kw_only=True)
class GalleryRates:
    """Identification with a gallery of one size.

    Attributes:
        size: Speakers who are enrolled.
        fnir: False-negative identification rate: share of mated searches whose speaker is not both the nearest and
            above the threshold.
        confused: Share of mated searches whose nearest is somebody else, at any threshold.
        threshold: Mean over the draws; the searches above it are hits.
        mated: Mated searches of a draw, the mean.
        nonmated: Non-mated searches of a draw, the mean.
    """

    size: int
    fnir: Interval
    confused: float
    threshold: float
    mated: float
    nonmated: float

    def to_json(self) -> dict[str, object]:
        """All of it."""
        return {
            "size": self.size,
            "fnir": self.fnir.to_json(),
            "confused": self.confused,
            "threshold": self.threshold,
            "mated": self.mated,
            "nonmated": self.nonmated,
        }


@dataclass(frozen=True, kw_only=True)
class Identification:
    """FNIR by size of the gallery.

    Attributes:
        fpir: False-positive identification rate: at most this share of non-mated searches is above the threshold.
        draws: How often galleries were drawn.
        speakers: Of the manifest.
        galleries: By size.
    """

    fpir: float
    draws: int
    speakers: int
    galleries: Sequence[GalleryRates]

    def to_json(self) -> dict[str, object]:
        """All of it, under one key."""
        galleries = [one.to_json() for one in self.galleries]
        content = {"fpir": self.fpir, "draws": self.draws, "speakers": self.speakers, "galleries": galleries}
        return {"identification": content}

    def __str__(self) -> str:
        title = (
            f"open-set identification at FPIR {self.fpir:.3g}: one utterance enrolled, {self.draws} draws of galleries"
        )
        head = (
            f"{'gallery':>8}  {'FNIR':<26}  {'another nearest':>15}  {'threshold':>9}  {'mated':>7}  {'strangers':>9}"
        )
        rows = [
            f"{one.size:>8,}  {format(one.fnir, '.2%'):<26}  {percent(one.confused):>15}  {one.threshold:>9.4f}  "
            f"{one.mated:>7,.0f}  {one.nonmated:>9,.0f}"
            for one in self.galleries
        ]
        return "\n".join((f"{title}, of {self.speakers:,} speakers, 95 % intervals over speakers", head, *rows))


class _Searches(NamedTuple):
    """What searches in one gallery come to."""

    mated_speakers: IntArray
    mate_scores: Float64Array
    is_nearest: BoolArray
    stranger_speakers: IntArray
    stranger_scores: Float64Array


def identification_rates(
    embeddings: Float32Array,
    speaker_labels: IntArray,
    gallery_sizes: Sequence[int],
    *,
    fpir: float = 0.01,
    draws: int = 10,
    num_resamples: int = 300,
    seed: int = 0,
) -> Identification:
    """FNIR at a FPIR for galleries of several sizes, with 95 % intervals.

    Args:
        embeddings: One an utterance, shape (utterances, dim).
        speaker_labels: Speaker of each, from 0, shape (utterances,).
        gallery_sizes: Of speakers with two utterances or more.
        fpir: Between 0 and 1.
        draws: How often galleries are drawn; rates are means over them.
        num_resamples: The speakers of the searches are drawn so often, with replacement; galleries stay.
        seed: Of the draws.

    Raises:
        ValueError: If a number is out of range, there are too few speakers, or too few strangers for the FPIR: at least
            one over it.

    Source:
        FNIR and FPIR with one candidate (rank 1) and a threshold: ISO/IEC 19795-1:2021 and NIST's face recognition
        evaluations (Grother, Ngan and Hanaoka, NISTIR 8271).
    """
    sizes = sorted(set(gallery_sizes))
    eligible = np.flatnonzero(np.bincount(speaker_labels) >= 2)
    if not sizes or sizes[0] < 1 or draws < 1 or not 0 < fpir < 1:
        raise ValueError(
            f"gallery sizes and draws must be 1 or more and fpir between 0 and 1, got {sizes}, {draws} and {fpir}."
        )
    if sizes[-1] > len(eligible):
        raise ValueError(
            f"gallery size must be at most {len(eligible)}, the number of speakers with two utterances, "
            f"got {sizes[-1]}."
        )
    unit = unit_embeddings(embeddings)
    num_speakers = int(speaker_labels.max()) + 1
    rng = np.random.default_rng(seed)
    estimates: dict[int, list[tuple[float, float, float, int, int]]] = {size: [] for size in sizes}
    resampled = {size: np.zeros((draws, num_resamples)) for size in sizes}
    for draw in range(draws):
        for size, found in _draw(unit, speaker_labels, eligible, sizes, rng):
            if len(found.stranger_scores) * fpir < 1:
                raise ValueError(
                    f"strangers must make at least {int(np.ceil(1 / fpir))} searches for a FPIR of {fpir:g}, got "
                    f"{len(found.stranger_scores)} beside a gallery of {sizes[-1]}. Choose smaller galleries."
                )
            ones = np.ones(num_speakers)
            fnir, threshold = _fnir(found, ones, fpir)
            confused = float((~found.is_nearest).mean())
            counts = len(found.mate_scores), len(found.stranger_scores)
            estimates[size].append((fnir, confused, threshold, *counts))
            again = np.random.default_rng((seed, draw))
            for place in range(num_resamples):
                times = np.bincount(again.integers(num_speakers, size=num_speakers), minlength=num_speakers)
                resampled[size][draw, place] = _fnir(found, times.astype(np.float64), fpir)[0]
    galleries = []
    for size in sizes:
        fnir, confused, threshold, mated, nonmated = np.mean(estimates[size], axis=0).tolist()
        drawn = np.ma.masked_invalid(resampled[size]).mean(axis=0).compressed()
        ends = interval(fnir, drawn) if len(drawn) else Interval(fnir, np.nan, np.nan)
        galleries.append(
            GalleryRates(size=size, fnir=ends, confused=confused, threshold=threshold, mated=mated, nonmated=nonmated)
        )
    return Identification(fpir=fpir, draws=draws, speakers=num_speakers, galleries=galleries)


def _draw(
    unit: Float32Array, labels: IntArray, eligible: IntArray, sizes: Sequence[int], rng: np.random.Generator
) -> Iterator[tuple[int, _Searches]]:
    """Searches in galleries that are beginnings of the largest one."""
    members = rng.permutation(eligible)[: sizes[-1]]
    shuffled = rng.permutation(len(labels))
    of_label, first = np.unique(labels[shuffled], return_index=True)
    enrolled = shuffled[first[np.searchsorted(of_label, members)]]
    place = np.full(int(labels.max()) + 1, -1)
    place[members] = np.arange(len(members))
    is_enrolled = np.zeros(len(labels), np.bool_)
    is_enrolled[enrolled] = True
    mated = np.flatnonzero((place[labels] >= 0) & ~is_enrolled)
    strangers = np.flatnonzero(place[labels] < 0)
    for size in sizes:
        own = mated[place[labels[mated]] < size]
        gallery = unit[enrolled[:size]]
        mate, others = _scores(unit, gallery, own, place[labels[own]])
        _, nearest = _scores(unit, gallery, strangers, None)
        yield size, _Searches(labels[own], mate, mate > others, labels[strangers], nearest)


def _scores(
    unit: Float32Array, gallery: Float32Array, searches: IntArray, mates: IntArray | None
) -> tuple[Float64Array, Float64Array]:
    """Score of the mate of each search, if it has one, and the highest score of anybody else."""
    mate, highest = np.full(len(searches), np.nan), np.empty(len(searches))
    for start in range(0, len(searches), _SEARCHES_AT_ONCE):
        some = slice(start, start + _SEARCHES_AT_ONCE)
        cosines = unit[searches[some]] @ gallery.T
        if mates is not None:
            rows = np.arange(len(cosines))
            mate[some] = cosines[rows, mates[some]]
            cosines[rows, mates[some]] = -np.inf
        highest[some] = cosines.max(axis=1)
    return mate, highest


def _fnir(found: _Searches, times: Float64Array, fpir: float) -> tuple[float, float]:
    """FNIR and the threshold, each search counting as often as its speaker; NaN where no search of a kind counts."""
    of_strangers, of_mated = times[found.stranger_speakers], times[found.mated_speakers]
    if not of_strangers.any() or not of_mated.any():
        return np.nan, np.nan
    order = np.argsort(-found.stranger_scores, kind="stable")
    passed = np.cumsum(of_strangers[order])
    first_too_many = int(np.searchsorted(passed, fpir * passed[-1] * (1 + 1e-12), side="right"))
    threshold = float(found.stranger_scores[order[first_too_many]])  # what ties with it does not pass either
    hits = found.is_nearest & (found.mate_scores > threshold)
    return float(1 - of_mated[hits].sum() / of_mated.sum()), threshold

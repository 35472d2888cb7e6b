"""The first sentences of the report: what was looked at, which run errs least, and what to look at next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from chns.report.error_figures import RunScores
from chns.report.findings import RunFindings


def summary_words(
    runs: Sequence[RunFindings], trial_lists: Mapping[str, Sequence[RunScores]], *, num_duplicates: int
) -> str:
    """One paragraph of plain facts."""
    sentences = [_best_on(name, scored) for name, scored in trial_lists.items()]
    if not sentences:
        sentences.append("No run has scored a trial list yet, so nothing can be said about its errors.")
    sentences += _harder_batches(runs)
    if num_duplicates:
        pairs = "One pair" if num_duplicates == 1 else f"{num_duplicates:,} pairs"
        sentences.append(f"{pairs} of training speakers may be one person under two names.")
    return " ".join(sentences)


def _best_on(trial_list: str, scored: Sequence[RunScores]) -> str:
    ordered = sorted(scored, key=lambda one: one.scored.metrics.eer)
    best, worst = ordered[0], ordered[-1]
    lowest, highest = best.scored.metrics.eer, worst.scored.metrics.eer
    if len(ordered) == 1:
        return f"EER on \N{LEFT DOUBLE QUOTATION MARK}{trial_list}\N{RIGHT DOUBLE QUOTATION MARK}: {lowest:.2%}."
    return (
        f"Lowest EER on \N{LEFT DOUBLE QUOTATION MARK}{trial_list}\N{RIGHT DOUBLE QUOTATION MARK}: {lowest:.2%}, by "
        f"{best.run.name} ({best.run.strategy}); highest: {highest:.2%}, by {worst.run.name}."
    )


def _harder_batches(runs: Sequence[RunFindings]) -> list[str]:
    """By how much hard batches are harder, over the runs that trained on them; nothing if none did."""
    measured = [run.batch_hardness for run in runs if run.batch_hardness is not None and run.has_hard_phase]
    clustered = [np.mean(one.hard) - np.mean(one.random) for one in measured if one.kind == "clustered"]
    neighbours = [one.hard_closest - one.random_closest for one in measured if one.kind == "neighbours"]
    sentences = []
    if clustered:
        sentences.append(
            f"Under the final models, clustering changes the mean cosine of different speakers of a batch by "
            f"{np.mean(clustered):+.3f}."
        )
    if neighbours:
        sentences.append(
            f"Under the final models, batches of neighbours change the cosine of an utterance with the closest other "
            f"speaker of its batch by {np.mean(neighbours):+.3f}."
        )
    return sentences

"""What a comparison knows of two strategies besides their error rates: logs, training data, clusters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from chns.comparison.plan import PlannedRun
from chns.data.manifest import Manifest
from chns.training.build import read_data
from chns.training.folder import RunFolder
from chns.verdict import ConditionMixing, TwinEvidence, condition_mixing

# More corpora than these, or smaller ones, are hardly corpora but parts of names.
_MOST_CORPORA = 10
_SMALLEST_SHARE = 0.05


def twin_evidence(random: Sequence[PlannedRun], hard: Sequence[PlannedRun]) -> TwinEvidence:
    """What is known of finished runs.

    Training data and clusters, if there are any, are those of the first hard run; the other seeds' differ in the
    speakers that are held out only.

    Args:
        random: Runs of the twin.
        hard: Those of the strategy with hard batches, of the same seeds in the same order.
    """
    first = RunFolder.open(hard[0].folder)
    manifest = read_data(hard[0].settings)[0]
    return TwinEvidence(
        settings=hard[0].settings,
        random_logs=[RunFolder.open(run.folder).log() for run in random],
        hard_logs=[RunFolder.open(run.folder).log() for run in hard],
        num_training_speakers=len(manifest.speakers),
        utterances_per_speaker=float(np.median(np.bincount(manifest.speaker_labels))),
        conditions=_conditions(manifest, first),
        suspected_duplicates=first.num_same_person(),
    )


def _conditions(manifest: Manifest, run: RunFolder) -> ConditionMixing | None:
    corpora, clusters = corpora_of(manifest.speakers), run.clusters()
    if corpora is None or clusters is None:
        return None
    return condition_mixing(corpora, clusters.labels)


def corpora_of(speakers: Sequence[str]) -> list[str] | None:
    """The corpus that each speaker comes from, by the prefix that ``chns merge --prefix`` gives their names.

    Returns:
        None if names have no prefix, or what stands before their first slash can hardly be a corpus: more than ten
        different ones, or not two that hold a twentieth of the speakers each.
    """
    if not all("/" in name for name in speakers):
        return None
    prefixes = [name.partition("/")[0] for name in speakers]
    counts = Counter(prefixes)
    large = [count for count in counts.values() if count >= _SMALLEST_SHARE * len(speakers)]
    return prefixes if len(counts) <= _MOST_CORPORA and len(large) > 1 else None

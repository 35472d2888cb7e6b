"""What to try next, as settings that the kind of batches listens to, and that differ from those tried."""

from __future__ import annotations

from chns.comparison.run_evidence import TwinEvidence
from chns.sampling.clusters import derived_num_clusters

_AUTO = "batches: {kind: auto} (begins, grows and ends the hard phase by what it observes)"


def size_of_groups(evidence: TwinEvidence) -> str:
    """How many speakers who sound alike are drawn together, in a sentence."""
    clusters = evidence.settings.clusters
    if evidence.settings.batches.kind == "clustered":
        per_cluster = evidence.num_training_speakers / _num_clusters(evidence)
        return f"A cluster holds {per_cluster:.0f} speakers on average."
    return (
        f"A group holds {clusters.group_size} speakers, one and some of the nearest {clusters.first_neighbour + 1} to "
        f"{clusters.last_neighbour}."
    )


def harder(evidence: TwinEvidence) -> tuple[str, ...]:
    """Make batches harder."""
    clusters, kind = evidence.settings.clusters, evidence.settings.batches.kind
    steps = []
    if kind == "clustered":
        more = min(2 * _num_clusters(evidence), evidence.num_training_speakers // 2)
        steps += ["batches: {kind: neighbours}", f"clusters: {{num_clusters: {more}}}"]
    else:
        steps += [*closer_speakers(evidence), *_larger_groups(evidence)]
    if kind != "auto" and clusters.hard_ratio < 1:
        steps.append("clusters: {hard_ratio: 1.0}")
    return tuple(steps)


def closer_speakers(evidence: TwinEvidence) -> tuple[str, ...]:
    """Let those meet who are closer still."""
    clusters = evidence.settings.clusters
    if evidence.settings.batches.kind == "clustered":
        return ("batches: {kind: neighbours}",)
    first, last = clusters.first_neighbour, clusters.last_neighbour
    nearer = max(first + clusters.group_size - 1, (first + last) // 2)
    return (f"clusters: {{last_neighbour: {nearer}}}",) if nearer < last else ()


def less_hard(evidence: TwinEvidence) -> tuple[str, ...]:
    """Make batches easier."""
    clusters = evidence.settings.clusters
    if evidence.is_adaptive:
        sooner = (clusters.easy_share_low + clusters.easy_share_high) / 2
        return (f"clusters: {{easy_share_low: {sooner:g}}} (the hard ratio falls sooner)",)
    return (f"clusters: {{hard_ratio: {clusters.hard_ratio / 2:g}}}", _AUTO)


def doubles_apart(evidence: TwinEvidence) -> tuple[str, ...]:
    """Keep those who may be one person from being each other's negatives."""
    clusters = evidence.settings.clusters
    if not evidence.keeps_doubles_apart:
        return ("clusters: {separate_same_person: true}",)
    if evidence.settings.batches.kind == "clustered":
        return ()
    first, last = clusters.first_neighbour + 1, clusters.last_neighbour + 1
    return (f"clusters: {{first_neighbour: {first}, last_neighbour: {last}}} (leaves out the very nearest)",)


def later_start(evidence: TwinEvidence) -> tuple[str, ...]:
    """Begin the hard phase later: half-way between the present start and the end, or when more anchors are easy."""
    clusters, epochs = evidence.settings.clusters, evidence.settings.train.epochs
    if evidence.is_adaptive:
        return (f"clusters: {{start_easy_share: {(1 + clusters.start_easy_share) / 2:g}}}",)
    return (
        f"clusters: {{start_epoch: {(clusters.start_epoch + epochs) // 2}}}",
        "clusters: {start: easy} (begins when random batches have become easy)",
    )


def earlier_start(evidence: TwinEvidence) -> tuple[str, ...]:
    """Begin the hard phase earlier."""
    clusters = evidence.settings.clusters
    if evidence.is_adaptive:
        share = (clusters.easy_share_low + clusters.start_easy_share) / 2
        return (f"clusters: {{start_easy_share: {share:g}}}",)
    return (f"clusters: {{start_epoch: {clusters.start_epoch // 2}}}",) if clusters.start_epoch >= 2 else ()


def gentler_start(evidence: TwinEvidence) -> tuple[str, ...]:
    """Let the hard ratio grow slowly; an adaptive one grows by itself."""
    if evidence.is_adaptive:
        return ()
    return (f"clusters: {{ramp_epochs: {max(2, evidence.settings.train.epochs // 4)}}}",)


def more_of_it(evidence: TwinEvidence) -> tuple[str, ...]:
    """Go further where hard batches have helped: ``auto`` does so by itself."""
    settings, clusters = evidence.settings, evidence.settings.clusters
    if settings.batches.kind == "auto":
        return ()
    steps = []
    if clusters.hard_ratio < 1:
        steps.append(f"clusters: {{hard_ratio: {min(1.0, 2 * clusters.hard_ratio):g}}}")
    return tuple(steps)


def _larger_groups(evidence: TwinEvidence) -> tuple[str, ...]:
    """Twice as many speakers who sound alike, if a batch holds as many."""
    clusters = evidence.settings.clusters
    size = min(2 * clusters.group_size, evidence.settings.batches.wanted_speakers)
    if size <= clusters.group_size:
        return ()
    last = max(clusters.last_neighbour, clusters.first_neighbour + size - 1)
    return (f"clusters: {{group_size: {size}, last_neighbour: {last}}}",)


def _num_clusters(evidence: TwinEvidence) -> int:
    return evidence.settings.clusters.num_clusters or derived_num_clusters(
        evidence.num_training_speakers, evidence.settings.batches.wanted_speakers
    )

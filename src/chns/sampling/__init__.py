"""Composing batches: which speakers meet in a batch, and when they are to be ones who sound alike.

Everything here works on integers: a speaker label an utterance in, lists of utterance indices out. It neither reads
audio nor knows what an utterance is, so it serves faces or sentences as well. `HardBatches` is the whole method;
the rest are its parts.
"""

from chns.core import lazily

__getattr__, __all__ = lazily(
    __name__,
    {
        "chns.sampling.batches": "ClusterSpeakerBatches NeighbourSpeakerBatches RandomSpeakerBatches",
        "chns.sampling.clusters": (
            "CLUSTERS_PER_BATCH SpeakerClusters closest_pairs cluster_speakers cluster_tightness "
            "derived_num_clusters similarity_to_centre unit_length"
        ),
        "chns.sampling.hard_batches": "ClusterGroups Grouping HardBatches NeighbourGroups",
        "chns.sampling.neighbours": "SpeakerNeighbours find_neighbours",
        "chns.sampling.same_person": "suspected_pairs unit_or_zero",
        "chns.sampling.schedule": "EpochSignals Schedule StartAt StartWhenEasy",
        "chns.sampling.speaker_batches": "BatchShape HardSpeakerBatches centroids_of draw_per_speaker",
    },
)

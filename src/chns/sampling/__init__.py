"""Composing batches: clusters of speakers who sound alike, and batch samplers that draw from them.

Everything here works on integers: a speaker label an utterance in, lists of utterance indices out. It neither reads
audio nor knows what an utterance is, so it serves faces or sentences as well.
"""

from chns.sampling.batches import ClusterSpeakerBatches, RandomSpeakerBatches
from chns.sampling.clusters import SpeakerClusters, cluster_speakers
from chns.sampling.neighbour_batches import NeighbourSpeakerBatches
from chns.sampling.neighbours import SpeakerNeighbours, find_neighbours
from chns.sampling.schedule import HardPhaseSchedule

__all__ = [
    "ClusterSpeakerBatches",
    "HardPhaseSchedule",
    "NeighbourSpeakerBatches",
    "RandomSpeakerBatches",
    "SpeakerClusters",
    "SpeakerNeighbours",
    "cluster_speakers",
    "find_neighbours",
]

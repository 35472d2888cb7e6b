"""Composing batches: which speakers meet in a batch, and when they are to be ones who sound alike.

Everything here works on integers: a speaker label an utterance in, lists of utterance indices out. It neither reads
audio nor knows what an utterance is, so it serves faces or sentences as well. `HardBatches` is the whole method;
the rest are its parts.
"""

from chns.sampling.batches import ClusterSpeakerBatches, NeighbourSpeakerBatches, RandomSpeakerBatches
from chns.sampling.clusters import SpeakerClusters, cluster_speakers
from chns.sampling.hard_batches import ClusterGroups, HardBatches, NeighbourGroups
from chns.sampling.neighbours import SpeakerNeighbours, find_neighbours
from chns.sampling.schedule import StartAt, StartWhenEasy
from chns.sampling.speaker_batches import BatchShape

__all__ = [
    "BatchShape",
    "ClusterGroups",
    "ClusterSpeakerBatches",
    "HardBatches",
    "NeighbourGroups",
    "NeighbourSpeakerBatches",
    "RandomSpeakerBatches",
    "SpeakerClusters",
    "SpeakerNeighbours",
    "StartAt",
    "StartWhenEasy",
    "cluster_speakers",
    "find_neighbours",
]

"""Speaker-verification training with clustering-based hard negative sampling (CHNS).

Nothing heavy is imported here: import what you need from the submodules, for example
``from chns.sampling import ClusterSpeakerBatches`` or ``from chns.losses import SupConLoss``.
"""

__version__ = "0.1.0"

"""Speaker-verification training with clustering-based hard negative sampling (CHNS).

The names below are the stable interface; everything else may change. Each is imported when it is first asked for, so
``import chns`` costs nothing, and sampling needs no torch.
"""

from chns.core import lazily

__version__ = "0.1.0"

__getattr__, __all__ = lazily(
    __name__,
    {
        "chns.bundle.bundle": "load_model",
        "chns.core.errors": "ChnsError",
        "chns.data.manifest": "Manifest",
        "chns.encoders": "SpeakerEncoder",
        "chns.evaluation.embedder": "Embedder",
        "chns.evaluation.metrics": "verification_metrics",
        "chns.inference.publish": "Publication push_to_hub",
        "chns.inference.streaming": "StreamingVerifier",
        "chns.inference.verifier": "Verifier",
        "chns.losses": "AAMSoftmaxLoss HSCLLoss SupConLoss",
        "chns.sampling": (
            "BatchShape ClusterGroups ClusterSpeakerBatches HardBatches NeighbourGroups NeighbourSpeakerBatches "
            "RandomSpeakerBatches StartAt cluster_speakers find_neighbours"
        ),
        "chns.store.voiceprints": "VoiceprintStore",
    },
)

"""A model small enough to be made in a test: an ECAPA-TDNN with embeddings of size 8 that nothing has trained."""

from pathlib import Path

import torch

from chns.bundle import Architecture, save_bundle

SMALL_ECAPA = Architecture(
    encoder="chns.encoders.EcapaTdnn", encoder_settings={"channels": 16, "aggregation_channels": 24, "embedding_dim": 8}
)


def saved_model(folder: Path, *, seed: int = 0, training: dict | None = None, metrics: dict | None = None) -> Path:
    """Its folder. Batch normalisation has seen a batch, so that it is another one in evaluation mode."""
    torch.manual_seed(seed)
    network = SMALL_ECAPA.build()
    with torch.no_grad():
        network(torch.randn(8, 8_000))
    save_bundle(folder, network, SMALL_ECAPA, training=training or {}, metrics=metrics or {})
    return folder

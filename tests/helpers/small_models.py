"""Models small enough to be made in a test: ECAPA-TDNNs that nothing has trained."""

from functools import cache
from pathlib import Path

import torch

from chns.bundle import Architecture, save_bundle
from chns.bundle.bundle_graph import built_in_signal
from chns.encoders import SpeakerEncoder

LEAST = Path(__file__).with_name("least.yaml")  # for ``--config``, after tiny

SMALL_ECAPA = Architecture(
    encoder="chns.encoders.EcapaTdnn", encoder_settings={"channels": 16, "aggregation_channels": 24, "embedding_dim": 8}
)
SHALLOW_ECAPA = Architecture(
    encoder="chns.encoders.EcapaTdnn",
    encoder_settings={
        "channels": 32,
        "aggregation_channels": 48,
        "variant": {"kernels": [5, 3], "dilations": [1, 2]},
        "res2net_scale": 2,
        "embedding_dim": 16,
    },
)


def saved_model(folder: Path, *, seed: int = 0, training: dict | None = None, metrics: dict | None = None) -> Path:
    """Its folder. Batch normalisation has seen a batch, so that it is another one in evaluation mode."""
    save_bundle(folder, _network(seed), SMALL_ECAPA, training=training or {}, metrics=metrics or {})
    return folder


@cache
def _network(seed: int) -> SpeakerEncoder:
    torch.manual_seed(seed)
    network = SMALL_ECAPA.build()
    with torch.no_grad():
        network(torch.randn(8, 8_000))
    return network


def lived_in(architecture: Architecture) -> SpeakerEncoder:
    """For exports: batch normalisation has seen the built-in signal, as after training.

    What it has seen is rounded, so that the model is the same in every process of a run, and is exported once.
    """
    torch.manual_seed(0)
    model = architecture.build()
    with torch.no_grad():
        for _ in range(3):
            for batch in built_in_signal(model):
                model(torch.from_numpy(batch) + 0.01 * torch.randn(batch.shape))
        for name, statistics in model.named_buffers():
            if "running_" in name:
                statistics.copy_(statistics.bfloat16())
    return model.eval()

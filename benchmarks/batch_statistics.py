"""Is a model better with the statistics of the test batch than with its running statistics?

If it is, its batch normalisation was trained on batches unlike the mixture that its running statistics describe: as
with clusters that separate recording conditions. Random crops of the trials' utterances are embedded in random
batches, once with each kind of statistics.

    python benchmarks/batch_statistics.py runs/chns/model test.parquet --trials trials.txt
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from torch.nn.modules.batchnorm import _NormBase

from chns.bundle.bundle import load_model
from chns.data.dataset import CropRequest, SpeakerCrops
from chns.data.manifest import Manifest
from chns.encoders import SpeakerEncoder
from chns.evaluation.metrics import verification_metrics
from chns.evaluation.scoring import cosine_scores
from chns.evaluation.trials import read_trials, resolve


def embed(model: SpeakerEncoder, crops: torch.Tensor, *, batch_size: int) -> np.ndarray:
    """Embeddings of crops in random batches, shape (crops, dim)."""
    order = torch.randperm(len(crops), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        embedded = torch.cat([model(crops[rows]) for rows in order.split(batch_size)])
    in_order = torch.empty_like(embedded)
    in_order[order] = embedded
    return in_order.numpy()


def use_batch_statistics(model: torch.nn.Module) -> None:
    """Normalise by the batch, as in training."""
    for module in model.modules():
        if isinstance(module, _NormBase):
            module.train()
            module.track_running_stats = False


def main() -> None:
    """Embed twice, score, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--trials", type=Path, required=True)
    parser.add_argument("--crop-seconds", type=float, default=1.5)
    parser.add_argument("--batch-size", type=int, default=48)
    parser.add_argument("--out", type=Path, default=Path("batch_statistics.json"))
    arguments = parser.parse_args()
    model, manifest = load_model(arguments.model), Manifest.read(arguments.manifest)
    trials = read_trials(arguments.trials)
    if trials.is_target is None:
        parser.error("trials must have labels")
    enrolment, test = resolve(trials, manifest)
    dataset = SpeakerCrops(manifest, crop_seconds=arguments.crop_seconds, sample_rate_hz=model.sample_rate_hz)
    crops = torch.stack([dataset[CropRequest(row, (0, row))][0] for row in range(len(manifest))])
    results = {}
    for statistics in ("running", "batch"):
        if statistics == "batch":
            use_batch_statistics(model)
        scores = cosine_scores(embed(model, crops, batch_size=arguments.batch_size), enrolment, test)
        results[statistics] = verification_metrics(scores, trials.is_target).to_json()
        print(f"{statistics:>8} statistics: EER {results[statistics]['eer']:.2%}")
    arguments.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()

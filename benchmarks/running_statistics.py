"""Takes a trained model's running statistics anew, of random batches, and writes it as another model.

What a training by hard batches leaves in them describes the last few groups of like voices. `chns train` does this by
itself; for models of before, and to measure what it changes:

    python benchmarks/running_statistics.py runs/chns/model train.parquet anew
    chns evaluate anew test.parquet --trials trials.txt --out anew.txt
    chns metrics anew.txt --intervals test.parquet --against before.txt
"""

import argparse
from pathlib import Path

import torch
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader

from chns.bundle.bundle import load_bundle, save_bundle
from chns.data.dataset import CropBatches, SpeakerCrops
from chns.data.manifest import Manifest
from chns.sampling import BatchShape, RandomSpeakerBatches


def main() -> None:
    """Read, take anew, write."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model", type=Path), p.add_argument("manifest", type=Path), p.add_argument("out", type=Path)
    p.add_argument("--speakers", type=int, default=32), p.add_argument("--batches", type=int, default=16)
    p.add_argument("--crop-seconds", type=float, default=2.0)
    a = p.parse_args()
    bundle = load_bundle(a.model)
    crops = SpeakerCrops(
        Manifest.read(a.manifest), crop_seconds=a.crop_seconds, sample_rate_hz=bundle.model.sample_rate_hz
    )
    shape = BatchShape(a.speakers, 2, steps_per_epoch=a.batches)
    batches = CropBatches(RandomSpeakerBatches(crops.manifest.speaker_labels, shape), seed=1)
    torch.manual_seed(0)
    update_bn(DataLoader(crops, batch_sampler=list(batches)), bundle.model)
    save_bundle(a.out, bundle.model.eval(), bundle.architecture, training={}, metrics={})


if __name__ == "__main__":
    main()

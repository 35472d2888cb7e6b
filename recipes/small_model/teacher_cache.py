"""Clips and the teacher's embeddings of them, in shards of arrays that the student's training maps into memory.

    python recipes/small_model/teacher_cache.py DATA OUT --teacher MODEL [--synthetic FOLDER] [--shards 0:60]

The teacher hears a clip in a room, with some noise or neither. What is stored may have gone through a codec after that,
so the student also learns not to hear the line.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from speech_material import SAMPLE_RATE_HZ, Material, as_int16, corpora_below, decode, held_out

from chns.bundle.bundle import load_model
from chns.data.augmentation.background import Background, ColouredNoise, Layer, RecordingFolder
from chns.data.augmentation.effects import CODECS, Augmenter, Codec, without_clipping
from chns.data.augmentation.reverberation import ResponseFolder, Reverberation
from chns.encoders import SpeakerEncoder

CLIP_SECONDS = 2.0
PAIRS_PER_SHARD = 1_024
_TEACHER_BATCH = 64


def surroundings(data: Path) -> Augmenter:
    """Rooms, microphones and noises: what the teacher hears around a voice."""
    noises = RecordingFolder(data / "esc-10", sample_rate_hz=SAMPLE_RATE_HZ)
    coloured = ColouredNoise(sample_rate_hz=SAMPLE_RATE_HZ)
    rooms = ResponseFolder(data / "real-irs-101", sample_rate_hz=SAMPLE_RATE_HZ)
    return Augmenter(
        reverberation=Reverberation(rooms, probability=0.35),
        background=Background([Layer("noise", noises, 0.2, 5.0, 25.0), Layer("coloured", coloured, 0.15, 5.0, 25.0)]),
    )


def make_shard(number: int, out: Path, material: Material, augmenter: Augmenter, teacher: SpeakerEncoder) -> None:
    """Write ``clips-NNN.npy`` of shape (2 * PAIRS_PER_SHARD, samples) and ``targets-NNN.npy``; pairs lie together."""
    rng = np.random.default_rng([16, number])
    codec = Codec(probability=0.3, kinds=list(CODECS), sample_rate_hz=SAMPLE_RATE_HZ)
    clips = np.empty((2 * PAIRS_PER_SHARD, round(CLIP_SECONDS * SAMPLE_RATE_HZ)), np.int16)
    targets = []
    heard: list[np.ndarray] = []
    for pair in range(PAIRS_PER_SHARD):
        for place, clip in enumerate(material.pair(rng)):
            row = 2 * pair + place
            surrounded, _ = augmenter(clip, (16, number, row))
            heard.append(surrounded)
            clips[row] = as_int16(without_clipping(codec(surrounded, rng)[0]))
        if len(heard) >= _TEACHER_BATCH:
            targets.append(embeddings_of(teacher, np.stack(heard)))
            heard.clear()
    np.save(out / f"clips-{number:03d}.npy", clips)
    partial = out / f"partial-{number:03d}.npy"
    np.save(partial, np.concatenate(targets).astype(np.float16))
    partial.rename(out / f"targets-{number:03d}.npy")  # last: where there are targets, there are clips


def embeddings_of(model: SpeakerEncoder, waveforms: np.ndarray) -> np.ndarray:
    """Unit-length embeddings of a batch, computed in bfloat16."""
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        embeddings = model(torch.from_numpy(waveforms)).float()
    unit: np.ndarray = torch.nn.functional.normalize(embeddings).numpy()
    return unit


def main() -> None:
    """Decode the speech unless it is, then make the shards that are missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder of the corpora")
    parser.add_argument("out", type=Path)
    parser.add_argument("--teacher", required=True, help="model bundle")
    parser.add_argument("--synthetic", type=Path, help="what chns prepare synthetic made")
    parser.add_argument("--shards", default="0:60", help="which, FIRST:LAST+1[:STEP]")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    speech = arguments.out / "speech"
    if not (speech / "index.npz").exists():
        everything = corpora_below(arguments.data, arguments.synthetic)
        decode([source for source in everything if not held_out(source.corpus, source.speaker)], speech)
    teacher = load_model(arguments.teacher)
    material = Material(speech, clip_samples=round(CLIP_SECONDS * SAMPLE_RATE_HZ))
    augmenter = surroundings(arguments.data)
    for number in range(*map(int, arguments.shards.split(":"))):
        if not (arguments.out / f"targets-{number:03d}.npy").exists():
            make_shard(number, arguments.out, material, augmenter, teacher)
            print(f"shard {number} done", flush=True)


if __name__ == "__main__":
    main()

"""Seconds an utterance: a whole manifest embedded, enrolled and identified, and one person enrolled by a command.

    OMP_NUM_THREADS=1 python benchmarks/bulk.py [--model runs/chns/model] [--people 100] [--workers 1]

Each person has one recording of noise, in FLAC; noise takes the same time as speech. Without `--model` it is the mobile
ECAPA-TDNN with random weights. The sides take turns. `chns embed` writes embeddings only; enrolling also measures how
good the recordings are and puts every person on the disk, identifying searches all of them.
"""

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from report import Ratio, parser, publish, take_turns

from chns.bundle.bundle import Architecture, load_bundle, save_bundle
from chns.data import Manifest, write_audio
from chns.evaluation import Embedder
from chns.inference.bulk import enrol_many, identify_many
from chns.inference.hearing import wanted_of
from chns.inference.verifier import Verifier
from chns.store.voiceprints import VoiceprintStore

RATE_HZ = 16_000
NO_SLOWER = 1.2  # the quality of recordings is measured, and people are put on the disk


def random_bundle(folder: Path) -> Path:
    """The mobile ECAPA-TDNN with random weights; its batch normalisation has seen some noise."""
    torch.manual_seed(0)
    architecture = Architecture(encoder="chns.encoders.ecapa_tdnn_mobile")
    model = architecture.build()
    with torch.no_grad():
        model(0.1 * torch.randn(8, RATE_HZ))
    save_bundle(folder, model, architecture, training={}, metrics={})
    return folder


def recorded(folder: Path, *, people: int, seconds: float) -> Manifest:
    """A recording of noise of each person; lengths differ by a half."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(people):
        samples = round(RATE_HZ * seconds * rng.uniform(0.75, 1.25))
        noise = 0.1 * rng.standard_normal(samples).astype(np.float32)
        write_audio(folder / f"{number}.flac", np.clip(noise, -1, 1), sample_rate_hz=RATE_HZ)
        usual = {"offset_seconds": 0.0, "duration_seconds": samples / RATE_HZ, "sample_rate_hz": RATE_HZ}
        rows.append({"utterance": str(number), "speaker": f"person {number}", "path": f"{number}.flac", **usual})
    return Manifest.from_rows(rows, root=folder)


def main(options: argparse.Namespace) -> None:
    """Measure, print and write."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = options.model or random_bundle(folder / "model")
        manifest = recorded(folder, people=options.people, seconds=options.seconds)
        verifier, wanted = Verifier.load(model, threshold=0.5, backend=options.backend), wanted_of(manifest)
        embedder = Embedder(model=load_bundle(model).model, num_workers=options.workers)
        numbers = itertools.count()

        def store(path: Path) -> VoiceprintStore:
            return VoiceprintStore.open(path, model_digest=verifier.model_digest, dim=verifier.dim)

        def enrol() -> None:
            path = folder / f"{next(numbers)}.store"
            enrol_many(verifier, lambda: store(path), wanted, workers=options.workers)

        def identify() -> None:
            out = folder / f"{next(numbers)}.csv"
            identify_many(verifier, lambda: store(folder / "0.store"), wanted, out=out, workers=options.workers)

        def command() -> None:
            words = ["enrol", model, folder / f"{next(numbers)}.store", "anna", folder / "0.flac"]
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            words = [sys.executable, "-m", "chns", *map(str, words)]
            subprocess.run(words, check=True, stdout=subprocess.DEVNULL, env=environment)

        enrol()
        sides = {"chns embed": lambda: embedder.utterances(manifest), "chns enrol": enrol, "chns identify": identify}
        timings = take_turns(sides, repeats=options.repeats)
        [one] = take_turns({"one": command}, repeats=options.repeats).values()
    rows = {
        f"{side}, a manifest": {"ms an utterance": 1e3 * timing.median / len(manifest)}
        for side, timing in timings.items()
    }
    rows["chns enrol, a command for each person"] = {"ms an utterance": 1e3 * one.median}
    whole = timings["chns embed"].median
    ratios = [
        Ratio(f"{side} / chns embed, an utterance", timings[side].median / whole, at_most=NO_SLOWER)
        for side in ("chns enrol", "chns identify")
    ]
    ratios.append(Ratio("a command a person / a manifest", one.median * len(manifest) / timings["chns enrol"].median))
    sizes = {name: getattr(options, name) for name in ("people", "seconds", "workers", "backend")}
    publish(
        options.out, f"{options.people} people, a recording of about {options.seconds:g} s each", rows, ratios, **sizes
    )


def options() -> argparse.Namespace:
    """Model and sizes."""
    made = parser(__doc__, out="bulk.json", repeats=5)
    made.add_argument("--model", type=Path, help="a bundle's folder (default: mobile ECAPA-TDNN, random weights)")
    made.add_argument("--backend", default="auto", help="of enrolling and identifying; chns embed runs on torch")
    made.add_argument("--people", type=int, default=100)
    made.add_argument("--seconds", type=float, default=5.0, help="of a recording, on average")
    made.add_argument("--workers", type=int, default=1, help="processes that decode")
    return made.parse_args()


if __name__ == "__main__":
    main(options())

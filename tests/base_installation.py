"""Use a model where only `pip install chns` was run: what `make check-lowest` and `make check-newest` do.

    python tests/base_installation.py OTHER_PYTHON

This interpreter makes a model, recordings and the scores that torch gives; the other one has the base installation,
pytest and hypothesis. Exits with 1 if a score differs, a command fails, or a test of sampling or of the voiceprint
store does.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from chns.bundle.bundle import Architecture, load_bundle, save_bundle
from chns.bundle.bundle_graph import add_graph
from chns.data.audio import write_audio
from chns.inference.verifier import Verifier

TESTS = Path(__file__).parent
RATE = 16_000
BASE_TESTS = (
    "sampling/test_neighbour_batches.py",
    "sampling/test_clusters.py",
    "sampling/test_neighbours.py",
    "store/test_voiceprint_search.py",
    "store/test_store.py",
)


def main(other: str) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        _make_model(folder / "model")
        files = [folder / f"{seed}.flac" for seed in range(3)]
        for seed, file in enumerate(files):
            write_audio(file, _speech_like(seed, 2.5 + seed), sample_rate_hz=RATE)
        network = Verifier.load(folder / "model", backend="torch")
        for file in files[1:]:
            words = ("verify", folder / "model", files[0], file, "--threshold", "-1", "--json")
            score = json.loads(_said(other, "-m", "chns", *words))["score"]
            expected = _score(network, files[0], file)
            assert abs(score - expected) < 1e-4, (score, expected)
        store = folder / "people.store"
        for name, file in zip("abc", files, strict=True):
            _said(other, "-m", "chns", "enrol", folder / "model", store, name, file)
        words = ("identify", folder / "model", store, files[1], "--threshold", "0.9", "--score-by", "max", "--json")
        assert json.loads(_said(other, "-m", "chns", *words))["identified"] == "b"
    options = ("-q", "--noconftest", "-p", "no:cacheprovider", "-W", "default::DeprecationWarning")  # of old faiss
    _said(other, "-m", "pytest", *options, *(TESTS / name for name in BASE_TESTS))
    print("the base installation works:", _said(other, "-m", "pip", "--disable-pip-version-check", "list"), sep="\n")


def _said(other: str, *words: object) -> str:
    done = subprocess.run([other, *map(str, words)], check=False, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, words))}\n{done.stdout}{done.stderr}")
    return done.stdout


def _score(verifier: Verifier, one: Path, other: Path) -> float:
    return float(verifier.embed(one).vector @ verifier.embed(other).vector)


def _make_model(folder: Path) -> None:
    torch.manual_seed(0)
    architecture = Architecture(encoder="chns.encoders.ecapa_tdnn_mobile")
    model = architecture.build()
    with torch.no_grad():
        for seed in range(3):  # batch normalisation that has seen speech, as after training
            model(torch.from_numpy(np.stack([_speech_like(seed, 2), _speech_like(seed + 3, 2)])))
    save_bundle(folder, model.eval(), architecture, training={}, metrics={})
    add_graph(folder, load_bundle(folder).model)


def _speech_like(seed: int, seconds: float) -> np.ndarray:
    rng = np.random.default_rng(seed)
    times = np.arange(round(seconds * RATE)) / RATE
    phase = 2 * np.pi * np.cumsum(120 + 30 * seed + 20 * np.sin(2 * np.pi * 3 * times)) / RATE
    harmonics = sum(np.sin(number * phase) / number for number in range(1, 15))
    return (0.1 * harmonics + 0.01 * rng.normal(size=len(times))).astype(np.float32)


if __name__ == "__main__":
    main(sys.argv[1])

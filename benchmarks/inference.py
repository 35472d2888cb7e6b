"""How long a user waits: `chns verify` from a cold process, embedding on one core, and a stream's chunks.

The model is the mobile ECAPA-TDNN with random weights, the sound is noise: neither changes the time. Resemblyzer (its
own weights) and SpeechBrain's ECAPA-TDNN (1024 channels, random weights) are measured in the same run where they are
installed. Prints tables and writes JSON.

    python benchmarks/inference.py [--out inference.json]
"""

import argparse
import importlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from chns.checkpoint import Architecture, save_bundle
from chns.data.audio import write_audio
from chns.inference.streaming import StreamingVerifier
from chns.inference.verifier import Verifier

RATE_HZ = 16_000
DURATIONS_SECONDS = (3, 10, 60)
CHUNK_SECONDS = 0.1

Embed = Callable[[np.ndarray], object]


def noise(seconds: float) -> np.ndarray:
    """Sound at 16 kHz."""
    return (0.1 * np.random.default_rng(0).standard_normal(round(seconds * RATE_HZ))).astype(np.float32)


def cold_start(folder: Path, bundle: Path, *, repeats: int = 5) -> dict[str, float]:
    """Median seconds of whole processes, which take turns: whatever else the machine does meets all alike."""
    files = [folder / "a.wav", folder / "b.wav"]
    for file in files:
        write_audio(file, noise(3), sample_rate_hz=RATE_HZ)
    commands = {
        "python, nothing else": ["-c", "pass"],
        "import torch": ["-c", "import torch"],
        "chns verify, two files of 3 s": ["-m", "chns", "verify", str(bundle), *map(str, files)],
    }
    turns = [[seconds_of(lambda words=words: python(words)) for words in commands.values()] for _ in range(repeats)]
    return dict(zip(commands, np.median(turns, axis=0).tolist(), strict=True))


def python(words: list[str]) -> None:
    """Run a Python process on one core to its end."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL, env=environment)


def seconds_of(call: Callable[[], object]) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def real_time_factors(embed: Embed, *, repeats: int = 5) -> dict[int, float]:
    """Seconds of work for a second of sound, by duration: the median, after one call that warms up."""
    factors = {}
    for duration in DURATIONS_SECONDS:
        sound = noise(duration)
        embed(sound)
        times = [seconds_of(lambda sound=sound: embed(sound)) for _ in range(repeats)]
        factors[duration] = float(np.median(times)) / duration
    return factors


def resemblyzer() -> Embed:
    """Its LSTM of 1.4 M parameters, on its own partial utterances."""
    encoder = importlib.import_module("resemblyzer").VoiceEncoder("cpu", verbose=False)
    return encoder.embed_utterance


def speechbrain() -> Embed:
    """Its filterbanks, normalisation and ECAPA-TDNN, as its published recipe puts them together."""
    features = importlib.import_module("speechbrain.lobes.features").Fbank(n_mels=80)
    normalisation = importlib.import_module("speechbrain.processing.features").InputNormalization
    norm = normalisation(norm_type="sentence", std_norm=False)
    model = importlib.import_module("speechbrain.lobes.models.ECAPA_TDNN").ECAPA_TDNN(80, lin_neurons=192).eval()

    @torch.inference_mode()
    def embed(samples: np.ndarray) -> torch.Tensor:
        lengths = torch.ones(1)
        return model(norm(features(torch.from_numpy(samples)[None]), lengths), lengths)

    return embed


def streaming(verifier: Verifier, *, seconds: float = 20.0) -> dict[str, float]:
    """Milliseconds that a chunk of 0.1 s takes, most of which complete no window, and work per second of sound."""
    stream = StreamingVerifier(verifier, verifier.embed(noise(3), RATE_HZ).vector, sample_rate_hz=RATE_HZ)
    chunk_samples = round(CHUNK_SECONDS * RATE_HZ)
    chunks = noise(seconds).reshape(-1, chunk_samples)
    times = [seconds_of(lambda chunk=chunk: stream.feed(chunk)) for chunk in chunks]
    return {
        "median chunk, ms": 1e3 * float(np.median(times)),
        "95th percentile, ms": 1e3 * float(np.percentile(times, 95)),
        "longest chunk, ms": 1e3 * max(times),
        "real-time factor": sum(times) / seconds,
    }


def measured_encoders(verifier: Verifier) -> dict[str, dict[int, float]]:
    """Real-time factors of ours and of those peers that are installed."""
    encoders: dict[str, Callable[[], Embed]] = {
        "chns, mobile ECAPA-TDNN": lambda: lambda samples: verifier.embed(samples, RATE_HZ),
        "Resemblyzer": resemblyzer,
        "SpeechBrain, ECAPA-TDNN 1024": speechbrain,
    }
    results = {}
    for name, make in encoders.items():
        try:
            embed = make()
        except ImportError as error:
            print(f"{name}: not installed ({error})")
            continue
        results[name] = real_time_factors(embed)
    return results


def print_table(title: str, values: dict[str, float], unit: str) -> None:
    """One value a line."""
    print(f"\n{title}")
    for name, value in values.items():
        print(f"  {name:<32}{value:>9.3f} {unit}")


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("inference.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        architecture = Architecture(encoder="chns.encoders.ecapa_tdnn_mobile")
        metrics = {"validation": {"threshold": -1.0}}  # accepts anything, so that the command exits with 0
        save_bundle(folder / "model", architecture.build(), architecture, training={}, metrics=metrics)
        start_up = cold_start(folder, folder / "model")
        verifier = Verifier.load(folder / "model")
    factors = measured_encoders(verifier)
    stream = streaming(verifier)

    print_table("cold start, median of whole processes", start_up, "s")
    print("\nreal-time factor of one core (seconds of work for a second of sound)")
    print(f"  {'':<32}" + "".join(f"{f'{seconds} s':>10}" for seconds in DURATIONS_SECONDS))
    for encoder, by_duration in factors.items():
        print(f"  {encoder:<32}" + "".join(f"{factor:>10.4f}" for factor in by_duration.values()))
    print_table("stream in chunks of 0.1 s, windows of 3 s every second", stream, "")
    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
    }
    results = {"versions": versions, "cold_start_seconds": start_up, "real_time_factor": factors, "streaming": stream}
    arguments.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()

"""What a user of a model waits for, and what exporting it costs: side by side, on one core.

- Cold start: from the start of a process to the first answer of `chns verify`.
- Seconds of work for a second of sound, of the model in PyTorch (through `Verifier`, with its checks of quality), in
  ONNX and with 8-bit weights; of Resemblyzer (its own weights) and SpeechBrain's ECAPA-TDNN (1024 channels, random
  weights: speed only) where they are installed. The sides take turns; noise takes the same time as speech.
- Chunks of a stream.
- Error rates of PyTorch, ONNX and 8 bits on trial lists, if any are given.

    OMP_NUM_THREADS=1 python benchmarks/inference.py [--model runs/chns/model] [--trials vox1.parquet veri_test2.txt]

`--trials` may be repeated. Without `--model` it is the mobile ECAPA-TDNN with random weights.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from report import Ratio, Timing, parser, peer, publish, seconds_of, take_turns

from chns.bundle.bundle import Architecture, Bundle, load_bundle, save_bundle
from chns.bundle.bundle_graph import built_in_signal
from chns.bundle.graph import Graph, model_graph, onnx_graph
from chns.core.errors import ChnsError
from chns.data.audio import write_audio
from chns.data.manifest import Manifest
from chns.evaluation.trials import read_trials, resolve
from chns.inference.export import evaluate_graphs, export_int8, export_model
from chns.inference.streaming import StreamingVerifier
from chns.inference.verifier import Verifier

RATE_HZ = 16_000
CHUNK_SECONDS = 0.1
FIRST_ANSWER_SECONDS = 2.0
OURS, RESEMBLYZER, SPEECHBRAIN = "chns, PyTorch", "Resemblyzer", "SpeechBrain ECAPA-TDNN 1024"

Rows = dict[str, dict[str, float]]
Embed = Callable[[np.ndarray], object]


def noise(seconds: float) -> np.ndarray:
    """Sound at 16 kHz."""
    return (0.1 * np.random.default_rng(0).standard_normal(round(seconds * RATE_HZ))).astype(np.float32)


def random_bundle(folder: Path) -> Path:
    """The mobile ECAPA-TDNN with random weights; its batch normalisation has seen some sound."""
    torch.manual_seed(0)
    architecture = Architecture(encoder="chns.encoders.ecapa_tdnn_mobile")
    model = architecture.build()
    with torch.no_grad():
        for batch in 5 * built_in_signal(model):
            model(torch.from_numpy(batch) + 0.01 * torch.randn(batch.shape))
    save_bundle(folder, model, architecture, training={}, metrics={})
    return folder


def cold_start(folder: Path, model: Path, *, repeats: int) -> dict[str, Timing]:
    """Whole processes; any score is accepted, so that the command exits with 0."""
    files = [folder / "a.wav", folder / "b.wav"]
    for file in files:
        write_audio(file, noise(3), sample_rate_hz=RATE_HZ)
    commands = {
        "python, nothing else": ["-c", "pass"],
        "import torch": ["-c", "import torch"],
        "chns verify, two files of 3 s": ["-m", "chns", "verify", str(model), *map(str, files), "--threshold", "-1"],
    }
    return take_turns({name: lambda words=words: python(words) for name, words in commands.items()}, repeats=repeats)


def python(words: list[str]) -> None:
    """Run a Python process on one core to its end."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL, env=environment)


def exported(bundle: Bundle, folder: Path) -> dict[str, Graph]:
    """The model as ONNX in float and with 8-bit weights; nothing, with a line, where the packages are missing."""
    check = built_in_signal(bundle.model)
    files = {"ONNX": folder / "model.onnx", "int8": folder / "model.int8.onnx"}
    try:
        export_model(bundle.model, files["ONNX"], form="onnx", check=check)
        export_int8(files["ONNX"], files["int8"], load=onnx_graph, check=check)
    except ChnsError as error:
        print(f"exported graphs are left out: {error}")
    return {name: onnx_graph(file) for name, file in files.items() if file.is_file()}


def resemblyzer() -> Embed | None:
    """Its LSTM of 1.4 M parameters, on its own partial utterances."""
    module = peer("resemblyzer")
    return None if module is None else module.VoiceEncoder("cpu", verbose=False).embed_utterance


def speechbrain() -> Embed | None:
    """Its filterbanks, normalisation and ECAPA-TDNN, as its published recipe puts them together."""
    lobes, processing = peer("speechbrain.lobes.features"), peer("speechbrain.processing.features")
    models = peer("speechbrain.lobes.models.ECAPA_TDNN")
    if lobes is None or processing is None or models is None:
        return None
    features = lobes.Fbank(n_mels=80)
    norm = processing.InputNormalization(norm_type="sentence", std_norm=False)
    model = models.ECAPA_TDNN(80, lin_neurons=192).eval()

    @torch.inference_mode()
    def embed(samples: np.ndarray) -> torch.Tensor:
        lengths = torch.ones(1)
        return model(norm(features(torch.from_numpy(samples)[None]), lengths), lengths)

    return embed


def speed(sides: dict[str, Embed], *, durations: list[float], repeats: int) -> dict[float, dict[str, Timing]]:
    """Seconds that each side takes for so many seconds of sound."""
    timings = {}
    for duration in durations:
        sound = noise(duration)
        calls = {name: lambda embed=embed, sound=sound: embed(sound) for name, embed in sides.items()}
        timings[duration] = take_turns(calls, repeats=repeats)
    return timings


def stream_chunks(verifier: Verifier, *, seconds: float = 20.0) -> dict[str, float]:
    """What a chunk of 0.1 s takes, most of which complete no window of 3 s, and work per second of sound."""
    stream = StreamingVerifier(verifier, verifier.embed(noise(3), RATE_HZ).vector, sample_rate_hz=RATE_HZ)
    chunks = noise(seconds).reshape(-1, round(CHUNK_SECONDS * RATE_HZ))
    times = [seconds_of(lambda chunk=chunk: stream.feed(chunk)) for chunk in chunks]
    return {
        "median, ms": 1e3 * float(np.median(times)),
        "longest, ms": 1e3 * max(times),
        "real-time factor": sum(times) / seconds,
    }


def accuracy(bundle: Bundle, graphs: dict[str, Graph], manifest_path: Path, trials_path: Path) -> Rows:
    """Error rates of every graph on one trial list."""
    trials, manifest = read_trials(trials_path), Manifest.read(manifest_path)
    if trials.is_target is None:
        raise ValueError(f"trial list must have labels, got none in {trials_path}.")
    results = evaluate_graphs(graphs, bundle.model, manifest, *resolve(trials, manifest), trials.is_target)
    rows = {}
    for name, result in results.items():
        costs = {f"minDCF {p}": cost for p, cost in result.metrics.min_dcf.items()}
        rows[f"{trials_path.name}: {name}"] = {"EER, %": 100 * result.metrics.eer, **costs}
    return rows


def speed_rows(timings: dict[float, dict[str, Timing]]) -> Rows:
    """One row for each side and duration."""
    return {
        f"{duration:g} s: {name}": {
            "median, ms": 1e3 * timing.median,
            "fastest, ms": 1e3 * timing.fastest,
            "real-time factor": timing.median / duration,
        }
        for duration, by_side in timings.items()
        for name, timing in by_side.items()
    }


def claims(start: dict[str, Timing], timings: dict[float, dict[str, Timing]], rates: Rows) -> list[Ratio]:
    """Cold start, every side's time against ours, and what exporting costs in EER."""
    found = [Ratio("cold start, seconds", start["chns verify, two files of 3 s"].median, at_most=FIRST_ANSWER_SECONDS)]
    for duration, by_side in timings.items():
        ours = by_side[OURS].median
        for name, timing in by_side.items():
            if name in (RESEMBLYZER, SPEECHBRAIN):
                found.append(Ratio(f"{duration:g} s: {OURS} / {name}", ours / timing.median))
            elif name != OURS:
                found.append(Ratio(f"{duration:g} s: {name} / {OURS}", timing.median / ours))
    for name, row in rates.items():
        trials, _, graph = name.rpartition(": ")
        if graph != OURS:
            found.append(Ratio(f"{name} - PyTorch, EER points", row["EER, %"] - rates[f"{trials}: {OURS}"]["EER, %"]))
    return found


def options() -> argparse.ArgumentParser:
    """Model, trial lists and sizes."""
    made = parser(__doc__, out="inference.json", repeats=7)
    made.add_argument("--model", type=Path, help="a bundle's folder (default: mobile ECAPA-TDNN, random weights)")
    made.add_argument(
        "--trials",
        type=Path,
        nargs=2,
        action="append",
        default=[],
        metavar=("MANIFEST", "LIST"),
        help="measure error rates on these; may be repeated",
    )
    made.add_argument("--durations", type=float, nargs="+", default=[3.0, 10.0, 60.0], metavar="SECONDS")
    return made


def main() -> None:
    """Measure, print, write."""
    arguments = options().parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = arguments.model or random_bundle(folder / "model")
        start = cold_start(folder, model, repeats=arguments.repeats)
        bundle = load_bundle(model)
        verifier = Verifier(bundle, threshold=0.0)
        graphs = exported(bundle, folder)
    sides: dict[str, Embed | None] = {
        OURS: lambda samples: verifier.embed(samples, RATE_HZ),
        **{graph: lambda samples, run=run: run(samples[None]) for graph, run in graphs.items()},
        RESEMBLYZER: resemblyzer(),
        SPEECHBRAIN: speechbrain(),
    }
    present = {side: embed for side, embed in sides.items() if embed is not None}
    timings = speed(present, durations=arguments.durations, repeats=arguments.repeats)
    rates: Rows = {}
    for manifest, trials in arguments.trials:
        rates |= accuracy(bundle, {OURS: model_graph(bundle.model), **graphs}, manifest, trials)
    rows = {
        **{name: {"median, ms": 1e3 * t.median, "fastest, ms": 1e3 * t.fastest} for name, t in start.items()},
        **speed_rows(timings),
        "stream: a chunk of 0.1 s": stream_chunks(verifier),
        **rates,
    }
    publish(
        arguments.out,
        "from process start to first answer; embedding on one core; error rates",
        rows,
        claims(start, timings, rates),
        model=str(arguments.model or "ecapa_tdnn_mobile, random weights"),
        weights_sha256=bundle.digest,
        trials=[list(map(str, pair)) for pair in arguments.trials],
    )


if __name__ == "__main__":
    main()

"""What the models make of speakers that none of them was chosen, calibrated or trained on here.

    python recipes/small_model/measure_models.py DATA NAME=MODEL [NAME=MODEL ...] --out results.json
    python recipes/small_model/measure_models.py DATA NAME=MODEL --calibrate

VoxCeleb2 excerpts across videos (40 test speakers), spoken words of one second and read sentences (those speakers held
out of their corpora who are not for choosing); 95 % intervals over speakers. ``resemblyzer`` as MODEL takes the package
of that name. With --calibrate the other halves of the held-out speakers set the model's calibration and threshold,
for recordings of 1 s up to whole ones.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from development import excerpts
from speech_material import SAMPLE_RATE_HZ, corpora_below, for_choosing, held_out

from chns.bundle.bundle import add_metrics, load_bundle, read_description
from chns.bundle.bundle_graph import load_graph_bundle
from chns.bundle.graph import model_graph
from chns.data.audio import read_audio
from chns.evaluation.calibration import fit_calibration, thresholds_for_costs
from chns.evaluation.calibration_metrics import cllr, min_cllr
from chns.evaluation.intervals import speaker_intervals
from chns.evaluation.metrics import verification_metrics

_WORDS_OF_A_SPEAKER = 8
_CUTS_SECONDS = (1.0, 2.0, 4.0, None)
_BANDS_SECONDS = ((0.0, 1.5), (1.5, 3.0), (3.0, 60.0))
_P_TARGET = 0.05

Embed = Callable[[np.ndarray], np.ndarray]


def embedder(model: str) -> Embed:
    """Waveform, shape (samples,), to embedding, shape (dim,)."""
    if model == "resemblyzer":
        return _resemblyzer()
    graph = load_graph_bundle(model)
    run = model_graph(load_bundle(model).model) if graph is None else graph.run
    return lambda waveform: run(waveform[None])[0]


def _resemblyzer() -> Embed:
    from resemblyzer import VoiceEncoder, preprocess_wav

    encoder = VoiceEncoder("cpu", verbose=False)

    def embed(waveform: np.ndarray) -> np.ndarray:
        trimmed = preprocess_wav(waveform, SAMPLE_RATE_HZ)
        used = trimmed if len(trimmed) >= SAMPLE_RATE_HZ // 4 else waveform  # its detector may find no voice in a word
        embedding: np.ndarray = encoder.embed_utterance(used)
        return embedding

    return embed


def test_sets(data: Path, *, choosing: bool) -> Iterator[tuple[str, list[Path], np.ndarray, np.ndarray]]:
    """Name, files, speakers, and sessions: pairs of one session are no trials."""
    vox = excerpts(data, test=not choosing)
    yield "voxceleb2 across videos", vox.paths, vox.speakers, vox.videos
    for corpus in ("words", "speechocean"):
        sources = [
            source
            for source in corpora_below(data)
            if source.corpus == corpus and held_out(corpus, source.speaker) and for_choosing(source.speaker) == choosing
        ]
        by_speaker: dict[str, list[Path]] = {}
        for source in sources:
            by_speaker.setdefault(source.speaker, []).append(source.path)
        pairs = [
            (path, speaker)
            for speaker, paths in sorted(by_speaker.items())
            if len(paths) > 1
            for path in paths[:_WORDS_OF_A_SPEAKER]
        ]
        speakers = np.array([speaker for _, speaker in pairs])
        yield corpus, [path for path, _ in pairs], speakers, np.arange(len(pairs)).astype(str)


def trials_of(speakers: np.ndarray, sessions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First, second, same speaker: all pairs but those of one session."""
    first, second = np.triu_indices(len(speakers), 1)
    used = sessions[first] != sessions[second]
    first, second = first[used], second[used]
    return first, second, speakers[first] == speakers[second]


def measure(data: Path, model: str) -> dict[str, Any]:
    """Error rates with intervals on each test set, and the time of 3 s."""
    embed = embedder(model)
    found: dict[str, Any] = {}
    for name, paths, speakers, sessions in test_sets(data, choosing=False):
        rows = np.stack([embed(read_audio(path, sample_rate_hz=SAMPLE_RATE_HZ)) for path in paths])
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        first, second, same = trials_of(speakers, sessions)
        scores = (rows[first] * rows[second]).sum(axis=1)
        measured = speaker_intervals(scores, same, speakers[first], speakers[second], p_targets=[_P_TARGET])
        found[name] = {key: value.to_json() for key, value in measured.items()}
        found[name] |= {"speakers": len(set(speakers)), "targets": int(same.sum()), "nontargets": int((~same).sum())}
        print(model, name, {key: str(value) for key, value in measured.items()}, flush=True)
    noise = 0.1 * np.random.default_rng(0).standard_normal(3 * SAMPLE_RATE_HZ).astype(np.float32)
    times = []
    for _ in range(12):
        began = time.process_time()
        embed(noise)
        times.append(time.process_time() - began)
    found["cpu_ms_of_3_s"] = 1_000 * float(np.median(times))
    return found


def calibrate(data: Path, model: Path) -> None:
    """Fit log-likelihood ratios on the choosing halves, for the duration of the recordings, and write them down."""
    embed = embedder(str(model))
    everything = []
    for name, paths, speakers, sessions in test_sets(data, choosing=True):
        cuts = _CUTS_SECONDS if name.startswith("voxceleb") else (None,)
        rows, durations = [], []
        for number, path in enumerate(paths):
            waveform = read_audio(path, sample_rate_hz=SAMPLE_RATE_HZ)
            cut = cuts[number % len(cuts)]
            waveform = waveform if cut is None else waveform[: round(cut * SAMPLE_RATE_HZ)]
            rows.append(embed(waveform))
            durations.append(len(waveform) / SAMPLE_RATE_HZ)
        unit = np.stack(rows) / np.linalg.norm(rows, axis=1, keepdims=True)
        first, second, same = trials_of(speakers, sessions)
        seconds = np.array(durations)[np.stack([first, second], axis=1)]
        everything.append(((unit[first] * unit[second]).sum(axis=1), same, seconds))
    scores, same, seconds = everything[0]  # across sessions: the other two share a microphone and a room
    fitted = fit_calibration(scores, same, p_target=_P_TARGET, quality={"duration": seconds})
    llrs = fitted.apply(scores, {"duration": seconds})
    thresholds = thresholds_for_costs(scores, same, p_target=_P_TARGET)
    bands = {}
    for low, high in _BANDS_SECONDS:
        inside = (seconds.min(axis=1) > low) & (seconds.min(axis=1) <= high)
        bands[f"{low:g} to {high:g} s"] = {
            "eer": verification_metrics(scores[inside], same[inside]).eer,
            "cllr": cllr(llrs[inside], same[inside]),
            "min_cllr": min_cllr(llrs[inside], same[inside]),
            "target_trials": int(same[inside].sum()),
        }
    record = {
        **fitted.to_json(),
        "threshold": thresholds.llr,
        "score_threshold": thresholds.score,
        "p_target": _P_TARGET,
        "trials": "VoxCeleb2 excerpts of 40 development speakers across videos, cut to 1, 2 and 4 s or whole",
        "target_trials": int(same.sum()),
        "nontarget_trials": int((~same).sum()),
        "bands": bands,
    }
    print(json.dumps(record, indent=1))
    add_metrics(model, {"calibration": record}, digest=read_description(model)["weights_sha256"])


def main() -> None:
    """Read the command line; measure, or calibrate."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("models", nargs="+", metavar="NAME=MODEL")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--calibrate", action="store_true")
    arguments = parser.parse_args()
    results = json.loads(arguments.out.read_text()) if arguments.out and arguments.out.exists() else {}
    for name, _, model in (text.partition("=") for text in arguments.models):
        if arguments.calibrate:
            calibrate(arguments.data, Path(model))
        else:
            results[name] = measure(arguments.data, model)
        if arguments.out:
            arguments.out.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()

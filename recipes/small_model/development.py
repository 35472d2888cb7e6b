"""The development speakers: VoxCeleb2 excerpts that choose between recipes, and are never trained on.

    python recipes/small_model/development.py DATA OUT.npz --teacher MODEL

Every second of the 80 speakers, in the order of their names, is for development; the others are for the test.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from speech_material import SAMPLE_RATE_HZ, as_int16

from chns.bundle.bundle import load_model
from chns.data.audio import read_audio
from chns.encoders import SpeakerEncoder
from chns.evaluation.embedder import evaluation_mode
from chns.evaluation.metrics import verification_metrics


class Excerpts(NamedTuple):
    """Some of VoxCeleb2's excerpts.

    Attributes:
        paths: The files.
        speakers: Of each.
        videos: Of each.
    """

    paths: list[Path]
    speakers: np.ndarray
    videos: np.ndarray

    def trials(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """All pairs but those of one video: first, second, and whether they are of one speaker."""
        first, second = np.triu_indices(len(self.paths), 1)
        same = self.speakers[first] == self.speakers[second]
        used = ~same | (self.videos[first] != self.videos[second])
        return first[used], second[used], same[used]


def excerpts(data: Path, *, test: bool) -> Excerpts:
    """The excerpts of the development speakers, or of the test speakers."""
    folders = sorted((data / "voxceleb2-mini").glob("id*"))[int(test) :: 2]
    paths = [path for folder in folders for path in sorted(folder.glob("*/*.flac"))]
    return Excerpts(
        paths, np.array([path.parts[-3] for path in paths]), np.array(["/".join(path.parts[-3:-1]) for path in paths])
    )


def embed_files(model: SpeakerEncoder, waveforms: list[np.ndarray]) -> np.ndarray:
    """Unit-length embeddings, one recording at a time, in bfloat16."""
    with evaluation_mode(model), torch.autocast("cpu", torch.bfloat16):
        rows = [model(torch.from_numpy(waveform)[None])[0].float() for waveform in waveforms]
    unit: np.ndarray = torch.nn.functional.normalize(torch.stack(rows)).numpy()
    return unit


class DevelopmentSet:
    """Development speakers with the teacher's embeddings of them.

    Args:
        path: What this script wrote.
    """

    def __init__(self, path: Path) -> None:
        content = np.load(path)
        self._samples, self._ends = content["samples"], content["ends"]
        self._teacher = content["teacher"]
        self._trials = content["first"], content["second"], content["same"]

    def measure(self, model: SpeakerEncoder) -> dict[str, float]:
        """EER of whole excerpts and of their first 2 s, across videos, and the mean cosine to the teacher."""
        starts = self._ends - np.diff(self._ends, prepend=0)
        whole = [
            self._samples[start:end].astype(np.float32) / 32_768 for start, end in zip(starts, self._ends, strict=True)
        ]
        embeddings = embed_files(model, whole)
        short = embed_files(model, [waveform[: 2 * SAMPLE_RATE_HZ] for waveform in whole])
        measured = verification_metrics(self._scores(embeddings), self._trials[2])
        return {
            "eer": measured.eer,
            "min_dcf_0.05": measured.min_dcf[0.05],
            "eer_2s": verification_metrics(self._scores(short), self._trials[2]).eer,
            "cosine_to_teacher": float((embeddings * self._teacher).sum(axis=1).mean()),
        }

    def _scores(self, embeddings: np.ndarray) -> np.ndarray:
        first, second, _ = self._trials
        scores: np.ndarray = (embeddings[first] * embeddings[second]).sum(axis=1)
        return scores


def main() -> None:
    """Decode the development speakers and embed them with the teacher."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--teacher", required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    chosen = excerpts(arguments.data, test=False)
    waveforms = [read_audio(path, sample_rate_hz=SAMPLE_RATE_HZ) for path in chosen.paths]
    first, second, same = chosen.trials()
    np.savez(
        arguments.out,
        samples=as_int16(np.concatenate(waveforms)),
        ends=np.cumsum([len(waveform) for waveform in waveforms]),
        teacher=embed_files(load_model(arguments.teacher), waveforms),
        first=first,
        second=second,
        same=same,
    )
    print(DevelopmentSet(arguments.out).measure(load_model(arguments.teacher)))


if __name__ == "__main__":
    main()

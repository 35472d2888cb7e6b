"""A small corpus, good or bad, that a test puts together file by file."""

from pathlib import Path

import numpy as np
import soundfile

from chns.data.manifest import Manifest

RATE = 16_000


def voice(seed, seconds=2.0, *, rate=RATE, level=0.1):
    """Noise of the whole band that swells four times a second, as syllables do."""
    times = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(seed).normal(size=len(times))
    return (level * noise * (0.6 + 0.4 * np.sin(2 * np.pi * 4 * times))).astype(np.float32)


class MadeCorpus:
    """Recordings below a folder, and their rows."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.rows = []

    def add(self, name, waveform, *, rate=RATE, suffix=".flac", session=None, **soundfile_settings):
        """Write a recording of the speaker that its folder names; gives its path."""
        path = self.root / f"{name}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, waveform, rate, **soundfile_settings)
        self.row(name, path.name, duration=len(waveform) / rate, rate=rate, session=session)
        return path

    def row(self, name, file, *, offset=0.0, duration=2.0, rate=RATE, session=None):
        """Name an utterance without writing anything."""
        speaker = name.split("/")[0]
        row = {"utterance": name, "speaker": speaker, "path": f"{speaker}/{file}", "offset_seconds": offset}
        row |= {"duration_seconds": duration, "sample_rate_hz": rate}
        self.rows.append(row if session is None else row | {"session": session})

    @property
    def manifest(self):
        return Manifest.from_rows(self.rows, root=self.root)


def good_corpus(root, *, speakers=2, utterances=2):
    """Nothing is wrong with it."""
    corpus = MadeCorpus(root)
    for speaker in range(speakers):
        for number in range(utterances):
            corpus.add(f"s{speaker}/{number}", voice((speaker, number)))
    return corpus

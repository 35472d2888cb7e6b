"""A process that uses what it is told to and says what came of it; run by `fuzzing.outcomes`.

Each line of its input is the name of a file or folder. Each line of its output is JSON: a result, an error that users
are meant to see, or a violation, which is any other exception and too much memory.
"""

import json
import os
import re
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from chns.bundle.bundle import Architecture, load_bundle, save_bundle
from chns.core import ChnsError
from chns.data.audio import write_audio
from chns.inference.publish import Publication, model_card
from chns.inference.verifier import Verifier

TINY = Architecture(
    encoder="chns.encoders.EcapaTdnn", encoder_settings={"channels": 16, "aggregation_channels": 24, "embedding_dim": 8}
)
PUBLICATION = Publication(licence="other", training_data="none")
LARGEST_BYTES = 2**30


def use_audio(verifier, recording):
    """Embed the file."""

    def use(path):
        embedding = verifier.embed(path)
        assert abs(np.linalg.norm(embedding.vector) - 1) < 1e-4, "embedding of another length than 1"

    use(recording)
    return use


def use_bundle(verifier, recording):
    """Load the bundle, decide with it, and describe it."""

    def use(folder):
        decision = Verifier.load(folder).verify(recording, recording)
        assert abs(decision.score - 1) < 1e-3, "a recording is not like itself"
        model_card("me/voice", load_bundle(folder), PUBLICATION)

    return use


def use_fault(*_):
    """Do what must not happen, or may, to see that it is told apart."""

    def fail():
        raise ChnsError("an error of ours")

    faults = {
        "hang": lambda: time.sleep(60),
        "crash": os.abort,
        "refused memory": lambda: bytearray(2**31),
        "granted memory": lambda: b"x" * (LARGEST_BYTES - 2**26),
        "foreign error": lambda: 1 / 0,
        "error": fail,
        "result": lambda: None,
    }
    return lambda name: faults[name]()


def outcome(use, path):
    """What came of it, as a kind and a text."""
    try:
        use(path)
    except (ChnsError, ValueError, FileNotFoundError) as error:
        kind = "violation" if any(map(_is_of_memory, _chain(error))) else "error"
        return kind, f"{type(error).__name__}: {str(error)[:300]}"
    except BaseException as error:  # noqa: BLE001 - to find such is what this is for
        return "violation", f"{type(error).__name__}: {str(error)[:300]}"
    return "result", ""


def _chain(error):
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _is_of_memory(error):
    return isinstance(error, MemoryError) or "enough memory" in str(error) or "bad_alloc" in str(error)


def say(line):
    """To the process that asks."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _limit_memory():
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + LARGEST_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def peak_bytes() -> int:
    """The most memory this process has held; getrusage's maximum would count that of its parent before the exec."""
    return 1024 * int(re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))[1])


def main(kind):
    """Answer until the input ends."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as scratch:
        folder, recording = Path(scratch) / "model", Path(scratch) / "speech.wav"
        model = TINY.build()
        save_bundle(folder, model, TINY, training={}, metrics={"validation": {"threshold": 0.0}})
        sound = (0.1 * np.random.default_rng(0).normal(size=32_000)).astype(np.float32)
        write_audio(recording, sound, sample_rate_hz=16_000)
        use = {"audio": use_audio, "bundle": use_bundle, "fault": use_fault}[kind](Verifier.load(folder), recording)
        _limit_memory()
        say("ready")
        for line in sys.stdin:
            what, text = outcome(use, json.loads(line))
            peak = peak_bytes()
            if peak > LARGEST_BYTES:
                what, text = "violation", f"{peak / 2**20:.0f} MiB of memory; {text}"
            say(json.dumps([what, text]))


if __name__ == "__main__":
    main(sys.argv[1])

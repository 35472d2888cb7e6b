"""What an installation takes on disk, and how long its commands take to start: processor seconds of whole processes.

    python benchmarks/start_up.py [--python ENVIRONMENT/bin/python]

Processor seconds, not those of a clock, so that other work on the machine matters little; the smallest of all repeats.
An environment where only `pip install chns` was run is what the base installation is measured in. Its megabytes and
packages leave out pip and setuptools.
"""

import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from report import Ratio, parser, publish

from chns.data.audio import write_audio

COMMANDS = {
    "python that does nothing": ["-c", "pass"],
    "chns --help": ["-m", "chns", "--help"],
    "import chns": ["-c", "import chns"],
    "import chns.sampling": ["-c", "import chns.sampling"],
    "chns verify, two recordings of 3 s": ["-m", "chns", "verify", "a.flac", "b.flac"],
}
SIZES = """
import importlib.metadata, json, pathlib, sysconfig
packages = [one for one in importlib.metadata.distributions() if one.name not in ("pip", "setuptools")]
paths = {path.locate() for one in packages for path in one.files or ()}
print(json.dumps([len(packages), sum(path.stat().st_size for path in paths if path.is_file()) / 1e6]))
"""


def processor_seconds(words: list[str], folder: Path) -> float:
    """User and system time of a process and what it starts."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(words, cwd=folder, check=False, capture_output=True, text=True)
    if done.returncode > 1:  # 1 is an answer of `verify`
        raise SystemExit(f"{' '.join(words)} failed: {done.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Measure, print, write."""
    options = parser(__doc__, out="start_up.json", repeats=5)
    options.add_argument("--python", default=sys.executable, help="interpreter of the installation (default: this one)")
    arguments = options.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for seed, name in enumerate(("a", "b")):
            noise = 0.1 * np.random.default_rng(seed).standard_normal(48_000).astype(np.float32)
            write_audio(folder / f"{name}.flac", noise, sample_rate_hz=16_000)
        python = str(Path(arguments.python).absolute())
        seconds = {
            name: min(processor_seconds([python, *words], folder) for _ in range(arguments.repeats))
            for name, words in COMMANDS.items()
        }
    sized = subprocess.run([python, "-c", SIZES], check=True, capture_output=True, text=True)
    packages, megabytes = json.loads(sized.stdout)
    rows = {name: {"processor seconds": value} for name, value in seconds.items()}
    rows["the installation"] = {"packages": packages, "MB": megabytes}
    nothing = seconds["python that does nothing"]
    ratios = [Ratio("chns --help / python that does nothing", seconds["chns --help"] / nothing)]
    publish(arguments.out, "Start-up", rows, ratios, python=python)


if __name__ == "__main__":
    main()

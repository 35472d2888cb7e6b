"""How long `chns verify` takes, and how much memory: where only the wheel was installed, and with others' models.

    python benchmarks/first_use.py FOLDER

FOLDER holds recordings as FOLDER/SPEAKER/SESSION/NAME.flac, such as excerpts of VoxCeleb2. Two files of one speaker
from two sessions, and one of another, are compared:

1. in a new environment, in which `pip install WHEEL` is run (from a registry, or what PIP_INDEX_URL says), with the
   package's own model and no network;
2. in this environment, with models of each layout that can be named by hf://owner/name, in the sizes in which they are
   published but with random weights, from a local stand-in of the Hub. The first use converts, the second finds the
   conversion; it is compared with the package's own model in the same environment.

Every row is a process of its own: processor seconds of the whole command, seconds by the clock, and its largest
resident set. Where other programs run too, only the first and the last mean anything.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "helpers"))

_MEASURED = """
import re, sys, time
from chns.cli import main
code = main(sys.argv[1:])
held = re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())
print(f"code {code} {time.process_time():.2f} {int(held[1]) // 1024}")
"""


def recordings(folder: Path) -> tuple[Path, Path, Path]:
    """Two of one speaker, of two sessions, and one of another."""
    speakers = sorted(path for path in folder.iterdir() if len(list(path.iterdir())) > 1)[:2]
    first, second = (min(session.glob("*")) for session in sorted(speakers[0].iterdir())[:2])
    return first, second, min(min(speakers[1].iterdir()).glob("*"))


def run(python: Path | str, words: list[str], environment: Mapping[str, str]) -> str:
    """What the command says, its seconds and its megabytes, as one row."""
    begun = time.perf_counter()
    done = subprocess.run(
        [str(python), "-c", _MEASURED, *words], env={**environment}, capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - begun
    lines = done.stdout.strip().splitlines()
    if not lines or not lines[-1].startswith(("code 0", "code 1")):
        raise SystemExit(f"chns {' '.join(words)} failed:\n{done.stdout}{done.stderr}")
    _, _, busy, megabytes = lines[-1].split()
    return f"{lines[0]:<55} {busy:>6} s of processor {seconds:6.2f} s {megabytes:>6} MB"


def fresh_environment(scratch: Path) -> Path:
    """The interpreter of an environment with the wheel alone."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(scratch)],
        cwd=ROOT, check=True, capture_output=True,
    )  # fmt: skip
    (wheel,) = scratch.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", str(scratch / "venv")], check=True)
    python = scratch / "venv" / "bin" / "python"
    before = size_mb(scratch / "venv")
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", str(wheel)], check=True)
    installed = size_mb(scratch / "venv") - before
    print(f"wheel {wheel.stat().st_size / 1e6:.1f} MB, installed with all it needs {installed} MB")
    return python


def size_mb(folder: Path) -> int:
    """Of all files below, in megabytes."""
    return round(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6)


def published() -> Iterator[tuple[str, dict[str, bytes]]]:
    """Repositories in published sizes."""
    import published_models as models
    from test_sherpa_graph import graph_bytes

    yaml = models.SPEECHBRAIN_YAML.replace("res2net_scale: 4", "res2net_scale: 8")
    ecapa = {"channels": 1024, "aggregation": 3072, "dim": 192, "attention": 128, "squeezed": 128, "scale": 8}
    yield "speechbrain/spkrec-ecapa-voxceleb", models.speechbrain_files(yaml, **ecapa)
    resnet = {"channels": 32, "blocks": (3, 4, 6, 3), "dim": 256}
    yield "Wespeaker/wespeaker-voxceleb-resnet34-LM", models.wespeaker_files(**resnet)
    yield "pyannote/wespeaker-voxceleb-resnet34-LM", models.pyannote_files(**resnet)
    cam = {"front": 32, "channels": 128, "growth": 32, "layers": (12, 24, 16), "dim": 192}
    yield "funasr/campplus", models.three_d_speaker_files(**cam)
    strides, blocks = ((1, 1), (2, 1), (1, 2), (2, 1), (1, 2), (2, 1)), (2, 3, 4, 5, 4, 3)
    reductions, expansions = (36, 36, 36, 36, 18, 18), (2, 1, 1, 1, 1, 1)
    stages = tuple(
        (stride, count, wider, [(3, 3)], narrower)
        for stride, count, wider, narrower in zip(strides, blocks, expansions, reductions, strict=True)
    )
    sizes = {"channels": 12, "num_mels": 72, "out_channels": 64, "dim": 192, "stages": stages}
    config = {"C": 12, "F": 72, "out_channels": 64, "stages_setup": stages}
    yield "they/redimnet2-b0", models.redimnet_files(config, **sizes)
    yield "they/sherpa-onnx", {"speaker.onnx": graph_bytes()}


def main(folder: Path) -> None:
    """Measure both."""
    from hub_server import running_hub

    one, same, other = recordings(folder)
    offline = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    with tempfile.TemporaryDirectory() as place, running_hub() as server:
        scratch = Path(place)
        python = fresh_environment(scratch)
        alone = {name: value for name, value in offline.items() if name != "PYTHONPATH"}
        print("new environment, the package's model:")
        for name, pair in (("one speaker", (one, same)), ("two speakers", (one, other)), ("again", (one, other))):
            print(f"  {name:<22}{run(python, ['verify', *map(str, pair)], alone)}")
        print("this environment:")
        print(f"  {'the package':<22}{run(sys.executable, ['verify', str(one), str(same)], offline)}")
        online = {
            **offline,
            "HF_ENDPOINT": server.address,
            "HF_HUB_CACHE": str(scratch / "hub"),
            "CHNS_CACHE": str(scratch / "converted"),
            "NO_PROXY": "127.0.0.1",
        }
        for name, files in published():
            server.hub.repository(name).commit(files)
            for use in ("first", "second"):
                words = ["verify", f"hf://{name}", str(one), str(same), "--threshold", "0.5"]
                print(f"  {name.partition('/')[2]:<36}{use:<8}{run(sys.executable, words, online)}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    sys.path.insert(0, str(ROOT / "tests" / "bundle"))
    main(Path(sys.argv[1]))

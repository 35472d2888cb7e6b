"""Fixtures that several folders of tests use."""

import gc
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import hypothesis
import numpy as np
import pytest

from chns.bundle import bundle_graph
from chns.core import ChnsError
from chns.data.audio import write_audio
from chns.data.manifest import Manifest

sys.path.insert(0, str(Path(__file__).parent / "helpers"))  # encoders that configurations in tests name
from exports_once import exported_once
from hub_server import running_hub

hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """While tests are collected nothing is garbage, and looking for some takes as long as all the rest."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(autouse=True, scope="session")
def _no_graphs_at_the_end_of_trainings():
    """Ten seconds for each training and import; the tests of graphs call the function itself."""

    def leave_out(folder, model):
        raise ChnsError("Graphs are left out in tests.")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("chns.bundle.bundle_graph.add_graph", leave_out)
        yield


@pytest.fixture(autouse=True, scope="session")
def _each_network_is_exported_once(tmp_path_factory):
    """In all processes that share the work of the session."""
    folder = tmp_path_factory.getbasetemp()
    folder = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "exports"
    folder.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundle_graph, "_exported", exported_once(bundle_graph._exported, folder))
        yield


class Growth(NamedTuple):
    """How many megabytes a process came to hold more, at most, and how many more it asked the system for."""

    held: int
    asked_for: int
    printed: str


MEASURED = """
import re, sys
from pathlib import Path
def megabytes(field):
    return int(re.search(field + r":\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1]) // 1024
path = Path(sys.argv[1])
{before}
held, asked_for = megabytes("VmRSS"), megabytes("VmSize")
{measured}
print(megabytes("VmHWM") - held, megabytes("VmPeak") - asked_for)
"""


@pytest.fixture(scope="session")
def memory_of() -> Callable[..., Growth]:
    """Measure code in a process of its own, with a file as ``path``, from the end of the code ``before`` on.

    In this process, what any earlier test needed would hide what the code needs; and ``getrusage`` would also count
    what this process held when it started the other one.
    """

    def measure(measured: str, *, path: Path, before: str) -> Growth:
        code = MEASURED.format(measured=measured, before=before)
        command = [sys.executable, "-c", code, str(path)]
        *lines, last = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        held, asked_for = map(int, last.split())
        return Growth(held, asked_for, "\n".join(lines))

    return measure


@pytest.fixture
def undrawn(monkeypatch):
    """Figures of reports are empty, where something else of the report is looked at: drawing takes seconds."""

    def empty(stem, *_):
        svg = '<svg xmlns="http://www.w3.org/2000/svg" width="1pt" height="1pt"></svg>'
        stem.parent.mkdir(parents=True, exist_ok=True)
        stem.with_suffix(".png").touch()
        stem.with_suffix(".svg").write_text(svg)
        return svg

    monkeypatch.setattr("chns.report.drawing._draw_files", empty)


@pytest.fixture
def rng():
    """Random numbers, the same in every run."""
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real speech that does not belong to the repository: CHNS_DATA, or ../shared/data."""
    folder = Path(os.environ.get("CHNS_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real speech not found: set CHNS_DATA to its folder (looked at {folder})")
    return folder


@pytest.fixture(scope="session")
def hum_manifest(tmp_path_factory) -> Path:
    """A manifest of 20 "speakers" x 5 utterances: hums of a pitch and a spectral slope of the speaker's own."""
    root = tmp_path_factory.mktemp("hums")
    rng = np.random.default_rng(0)
    rows = []
    for speaker in range(20):
        pitch_hz, slope = rng.uniform(80, 300), rng.uniform(0.5, 2.0)
        for number in range(5):
            seconds = rng.uniform(0.8, 1.6)
            name = f"s{speaker:02d}/{number}"
            write_audio(root / f"{name}.flac", _hum(rng, pitch_hz, slope, seconds), sample_rate_hz=16_000)
            rows.append(
                {
                    "utterance": name,
                    "speaker": f"s{speaker:02d}",
                    "path": f"{name}.flac",
                    "offset_seconds": 0.0,
                    "duration_seconds": round(seconds * 16_000) / 16_000,
                    "sample_rate_hz": 16_000,
                }
            )
    Manifest.from_rows(rows, root=root).write(root / "manifest.parquet")
    return root / "manifest.parquet"


def _hum(rng: np.random.Generator, pitch_hz: float, slope: float, seconds: float) -> np.ndarray:
    times = np.arange(round(seconds * 16_000)) / 16_000
    pitch_hz *= rng.uniform(0.97, 1.03)
    harmonics = np.arange(1, int(4_000 / pitch_hz))
    waves = np.sin(2 * np.pi * pitch_hz * harmonics[:, None] * times + rng.uniform(0, 6, (len(harmonics), 1)))
    mixed = (waves / harmonics[:, None] ** slope).sum(axis=0) + 0.05 * rng.normal(size=len(times))
    return (0.3 * mixed / np.abs(mixed).max()).astype(np.float32)


@pytest.fixture(scope="session")
def configs() -> Path:
    """Folder of the shipped configurations."""
    return Path(str(files("chns") / "configs"))


@pytest.fixture
def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A stand-in for the Hub, with a cache of its own; reached by the real client."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setenv("CHNS_CACHE", str(tmp_path / "converted"))
    with running_hub() as running:
        point_to(monkeypatch, running.address)
        yield running


@pytest.fixture
def hub(server):
    """Its repositories and requests."""
    return server.hub


def point_to(monkeypatch, address):
    """Let the Hub's client ask there."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")


@pytest.fixture
def out_of_reach(monkeypatch):
    """Calling it takes the network away."""

    def cut():
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            point_to(monkeypatch, f"http://127.0.0.1:{probe.getsockname()[1]}")

    return cut

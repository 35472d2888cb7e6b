"""Each benchmark runs on tiny sizes, prints its claims and writes them with the machine; peers are optional."""

import json
import runpy
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
TINY = {
    "loss": ["--speakers", 8, "--dim", 8],
    "allocator": ["--batch", 2, "--seconds", 0.3, "--steps", 1],
    "matmul": ["--sizes", 32, 64],
    "encoder": ["--batch", 2, "--inference-batch", 2, "--seconds", 0.3, "--matrix-size", 64],
    "features": ["--batch", 2, "--seconds", 0.2],
    "kmeans": ["--speakers", 60, "--dim", 8, "--clusters", 3],
    "metrics": ["--trials", 2_000],
    "report_page": ["--trials", 500],
    "intervals": ["--trials", 400, "--speakers", 12, "--resamples", 10, "--slow-resamples", 1],
    "normalisation": ["--trials", 200, "--utterances", 50, "--cohort", 30, "--top-k", 10, "--dim", 8],
    "augmentation": ["--recordings", 2, "--turns", 1],
    "shards": ["--speakers", 12, "--utterances", 4, "--layout-speakers", 40, "--recordings", 4],
    "audio_formats": ["--recordings", 3],
    "bulk": ["--people", 3, "--seconds", 1, "--workers", 0],
    "scoring": ["--trials", 300, "--utterances", 50, "--dim", 8],
    "neighbours": ["--speakers", 1_000, "--voices", 20],
    "million_speakers": ["--speakers", 2_000],
    "hard_phase": ["--speakers", 40, "--speakers-per-batch", 4, "--dim", 8, "--step-segments", 4],
    "sampler": ["--speakers", 700, 1_400, "--peer-repeats", 1],
    "loader": ["--recordings", 8, "--speakers", 2, "--steps", 2, "--workers", 0],
    "memory": ["--segments", 4, "--chunk", 2, "--seconds", 0.1],
    "scaling": ["--segments", 8, "--seconds", 0.1, "--steps", 1],
    "start_up": [],
    "service_load": ["--rate", 4, "--seconds", 1, "--routes", "embed"],
}
OF_SECONDS = {
    "audio_formats",
    "allocator",
    "augmentation",
    "bulk",
    "encoder",
    "hard_phase",
    "loader",
    "memory",
    "million_speakers",
    "neighbours",
    "report_page",
    "scaling",
    "service_load",
    "shards",
    "start_up",
}
OURS_ALONE = {
    "shards": "flac: seconds a crop, shards / files",
    "augmentation": "augmented / none, ms a crop",
    "loss": "chns HSCLLoss / chns SupConLoss",
    "matmul": "bfloat16 / float32, largest size",
    "metrics": "seconds, chns",
    "report_page": "one run: seconds of a core",
    "scoring": "seconds, chns",
    "sampler": "random pooling: 1,400 / 700 speakers",
    "loader": "waiting share of a step, FLAC",
    "memory": "memory, chunks / whole",
    "scaling": "2 processes / 1, segments a second",
    "service_load": "MB held at most",
}


@pytest.fixture
def run_benchmark(monkeypatch, tmp_path):
    """Runs a script in this process, which has imported torch already, and returns what it wrote."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.delenv("CHNS_DATA", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def run(name):
        out = tmp_path / f"{name}.json"
        repeats = ["--repeats", 1]
        monkeypatch.setattr(sys, "argv", [name, *map(str, [*TINY[name], *repeats]), "--out", str(out)])
        runpy.run_path(str(BENCHMARKS / f"{name}.py"), run_name="__main__")
        return json.loads(out.read_text(encoding="utf-8"))

    yield run
    for module in ("report", "matmul", "shard_formats"):
        sys.modules.pop(module, None)


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in OF_SECONDS)) for name in TINY])
def test_a_benchmark_prints_and_writes_positive_measurements_with_the_machine(name, run_benchmark, capsys):
    written = run_benchmark(name)
    printed = capsys.readouterr().out
    assert written["machine"]["cores"] >= 1
    assert "torch" in written["machine"]["versions"]
    for row, values in written["rows"].items():
        assert row in printed
        assert values
        assert all(value >= 0 for value in values.values())
    assert all(ratio in printed for ratio in written["ratios"])
    if name in OURS_ALONE:
        assert OURS_ALONE[name] in written["ratios"]
    if name == "memory":
        difference = written["ratios"]["loss by running statistics, difference"]
        assert difference["value"] <= difference["at_most"]


@pytest.mark.parametrize(
    ("peer", "name"),
    [
        ("pytorch_metric_learning", "loss"),
        ("speechbrain", "encoder"),
        ("kaldi_native_fbank", "features"),
        ("sklearn", "kmeans"),
        ("sklearn", "metrics"),
    ],
)
def test_an_installed_peer_is_compared_with(peer, name, run_benchmark):
    pytest.importorskip(peer, reason="not installed")
    assert len(run_benchmark(name)["rows"]) >= 2
    assert any(" / " in ratio for ratio in run_benchmark(name)["ratios"])


@pytest.mark.parametrize(
    ("bounds", "verdict"),
    [
        ({"at_most": 2.0}, "met"),
        ({"at_most": 0.5}, "MISSED"),
        ({"at_least": 2.0}, "MISSED"),
        ({"at_least": 0.5}, "met"),
    ],
)
def test_a_claim_says_whether_it_meets_its_bound(bounds, verdict, run_benchmark):
    from report import Ratio

    assert str(Ratio("a claim", 1.0, **bounds)).endswith(verdict)

"""What a voiceprint store costs: enrolling, reading, identifying, deleting, at several sizes.

    python benchmarks/voiceprint_store.py --people 1000 100000 300000

Each person is enrolled with one embedding. The stores are filled in one transaction, which the public interface does
not offer, to keep the benchmark short; the rate of `enrol` is measured on the filled store.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from chns.store.content import Utterances
from chns.store.voiceprints import VoiceprintStore

KEY = b"a key for a benchmark only"


def main() -> None:
    """Measure and print one line a store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, nargs="+", default=[1_000, 100_000, 300_000])
    parser.add_argument("--dim", type=int, default=192)
    parser.add_argument("--encrypted", action="store_true")
    options = parser.parse_args()
    print("people   file MB  enrol/s  open+read s  identify ms  delete s")
    for count in options.people:
        with tempfile.TemporaryDirectory() as folder:
            _measure(Path(folder) / "people.store", count, options.dim, KEY if options.encrypted else None)


def _measure(path: Path, count: int, dim: int, key: bytes | None) -> None:
    rng = np.random.default_rng(0)
    query = rng.standard_normal(dim).astype(np.float32)
    with VoiceprintStore.open(path, model_digest="benchmark", dim=dim, key=key) as store:
        _fill(store, count, rng)
        enrolling = _seconds(lambda: [store.enrol(f"new {number}", query[None]) for number in range(300)]) / 300
    start = time.perf_counter()
    with VoiceprintStore.open(path, model_digest="benchmark", dim=dim, key=key) as store:
        store.identify(query)
        reading = time.perf_counter() - start
        identifying = float(np.median([_seconds(lambda: store.identify(query)) for _ in range(30)]))
        deleting = _seconds(lambda: store.delete("new 7"))
    megabytes = path.stat().st_size / 2**20
    print(
        f"{count:>7,}  {megabytes:>7.0f}  {1 / enrolling:>7.0f}  {reading:>11.2f}  {1000 * identifying:>11.2f}"
        f"  {deleting:>8.2f}"
    )


def _fill(store: VoiceprintStore, count: int, rng: np.random.Generator) -> None:
    content = store._content
    with store._transaction(writes=True):
        for number in range(count):
            vector = rng.standard_normal((1, store.dim)).astype(np.float32)
            name = f"person {number}"
            row = content.insert(name, None, datetime.now(UTC))
            content.add(row, name, Utterances(vector / np.linalg.norm(vector), [None]))


def _seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()

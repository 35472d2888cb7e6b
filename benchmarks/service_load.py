"""What `chns serve` bears: requests arrive at a fixed rate, whether earlier ones are answered or not.

It starts a service of its own on the loopback, with the packaged model and a temporary store, and calls each route for
some seconds: `/embed` and `/identify` with a recording of 3 s, `/verify` with two (at half the rate, for the same
work), and `/stream` with as many streams as the service allows, in real time. Printed are the times from when a request
was due to its answer, the share that was answered, and the memory that the service holds. The load of the machine is in
the JSON: a busy machine shows in the tail.

    pip install '.[serve]' httpx websockets
    python benchmarks/service_load.py [--rate 30] [--seconds 60] [--routes embed verify identify stream] \
        [--model BUNDLE]
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import httpx
import numpy as np
import soundfile
import websockets
from report import Ratio, parser, publish

RATE_HZ, SECONDS = 16_000, 3.0
STREAMS = 4
ROUTES = ("embed", "verify", "identify", "stream")


def voices(number: int) -> list[np.ndarray]:
    """Signals as long as an utterance, int16: what they say does not change the work."""
    rng = np.random.default_rng(0)
    times = np.arange(round(SECONDS * RATE_HZ)) / RATE_HZ
    made = []
    for _ in range(number):
        pitch_hz = rng.uniform(80, 250)
        waves = sum(np.sin(2 * np.pi * pitch_hz * harmonic * times) / harmonic for harmonic in range(1, 15))
        made.append((6_000 * (waves / np.abs(waves).max() + 0.05 * rng.standard_normal(len(times)))).astype("<i2"))
    return made


def as_file(samples: np.ndarray) -> bytes:
    """A FLAC file."""
    file = io.BytesIO()
    soundfile.write(file, samples, RATE_HZ, format="FLAC")
    return file.getvalue()


def megabytes(process: int, field: str) -> float:
    """VmRSS or VmHWM of a process."""
    found = re.search(rf"{field}:\s*(\d+) kB", Path(f"/proc/{process}/status").read_text(encoding="utf-8"))
    assert found is not None
    return int(found[1]) / 1024


async def call_at_a_rate(
    client: httpx.AsyncClient, route: str, files: list[bytes], *, rate: float, seconds: float
) -> tuple[list[float], Counter[str]]:
    """Seconds from when each request was due to its answer, and how many were answered how."""
    waited: list[float] = []
    answers: Counter[str] = Counter()

    async def call(number: int, due: float) -> None:
        names = ("first", "second") if route == "verify" else ("recording",)
        parts = {name: ("a.flac", files[(number + place) % len(files)]) for place, name in enumerate(names)}
        try:
            status = (await client.post(f"/{route}", files=parts)).status_code
        except httpx.TransportError as error:
            answers[type(error).__name__] += 1
            return
        answers[str(status)] += 1
        if status == 200:
            waited.append(time.perf_counter() - due)

    started, tasks = time.perf_counter(), []
    for number in range(round(rate * seconds)):
        due = started + number / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.append(asyncio.create_task(call(number, due)))
    await asyncio.gather(*tasks)
    return waited, answers


async def stream_in_real_time(address: str, samples: list[np.ndarray], *, seconds: float) -> list[float]:
    """Seconds from when the last sample of a window was sent to its score, over all streams."""
    waited: list[float] = []

    async def one(voice: np.ndarray) -> None:
        async with websockets.connect(f"{address.replace('http', 'ws')}/stream") as stream:
            await stream.send(json.dumps({"sample_rate_hz": RATE_HZ, "name": "somebody"}))
            sent_at: dict[float, float] = {}

            async def listen() -> None:
                async for message in stream:
                    heard = json.loads(message)
                    waited.append(time.perf_counter() - sent_at[round(heard["seconds"], 1)])

            listening = asyncio.create_task(listen())
            started, piece = time.perf_counter(), RATE_HZ // 10
            for number in range(round(10 * seconds)):
                await asyncio.sleep(max(0.0, started + number / 10 - time.perf_counter()))
                sent_at[round((number + 1) / 10, 1)] = time.perf_counter()
                await stream.send(np.roll(voice, -number * piece)[:piece].tobytes())
            await asyncio.sleep(2)
            listening.cancel()

    await asyncio.gather(*(one(voice) for voice in samples[:STREAMS]))
    return waited


def start(model: str | None) -> tuple[subprocess.Popen[bytes], str]:
    """A service on a free port of the loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CHNS_")}
    command = [sys.executable, "-m", "chns", "serve", "--port", str(port), *(["--model", model] if model else [])]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    for _ in range(1_200):
        try:
            httpx.get(f"{address}/health")
        except httpx.TransportError:
            time.sleep(0.1)
        else:
            return process, address
    raise TimeoutError("the service must answer within two minutes")


async def measure(options: argparse.Namespace, process: int, address: str) -> dict[str, dict[str, float]]:
    """Rows by route."""
    samples = voices(10)
    files = [as_file(one) for one in samples]
    rows: dict[str, dict[str, float]] = {}
    limits = httpx.Limits(max_connections=200)
    async with httpx.AsyncClient(base_url=address, timeout=60, limits=limits) as client:
        (await client.post("/voiceprints/somebody", files={"recording": ("a.flac", files[0])})).raise_for_status()
        for turn, route in enumerate(options.routes * options.repeats):
            if route == "stream":
                name = f"stream, {STREAMS} at once"
                waited, share = await stream_in_real_time(address, samples, seconds=options.seconds), 1.0
            else:
                rate = options.rate / (2 if route == "verify" else 1)
                name = f"{route}, {rate:g} a second"
                waited, answers = await call_at_a_rate(client, route, files, rate=rate, seconds=options.seconds)
                share = answers["200"] / answers.total()
                print(name, dict(answers), f"load {os.getloadavg()[0]:.1f}")
            if not waited:
                raise RuntimeError(f"{route} must be answered, got no answer.")
            quantiles = np.quantile(waited, (0.5, 0.95, 0.99)) * 1_000
            if options.repeats > 1:
                name += f", turn {turn // len(options.routes) + 1}"
            rows[name] = {
                **dict(zip(("ms, median", "ms, p95", "ms, p99"), map(float, quantiles), strict=True)),
                "answers": float(len(waited)),
                "share answered": share,
                "MB held after": megabytes(process, "VmRSS"),
            }
    return rows


def main() -> None:
    """Measure, print and write."""
    made = parser(__doc__, out="service_load.json", repeats=1)
    made.add_argument("--rate", type=float, default=30.0, help="recordings a second")
    made.add_argument("--seconds", type=float, default=60.0, help="of each route and turn")
    made.add_argument("--routes", nargs="+", choices=ROUTES, default=list(ROUTES))
    made.add_argument("--model", help="as of chns serve (default: the packaged one)")
    options = made.parse_args()
    service, address = start(options.model)
    try:
        rows = asyncio.run(measure(options, service.pid, address))
        peak = megabytes(service.pid, "VmHWM")
    finally:
        service.terminate()
        service.wait(30)
    ratios = [Ratio("MB held at most", peak, at_most=500)]
    embed = next((row for name, row in rows.items() if name.startswith("embed")), None)
    if embed is not None:
        ratios.append(Ratio("embed, ms, p95", embed["ms, p95"], at_most=150))
    publish(
        options.out,
        f"Service, recordings of {SECONDS:g} s",
        rows,
        ratios,
        rate=options.rate,
        seconds=options.seconds,
        model=options.model or "packaged",
    )


if __name__ == "__main__":
    main()

"""What the service has acknowledged is there after it was killed."""

import threading

import httpx
import pytest

pytest.importorskip("fastapi", reason="needs chns[serve]")

pytestmark = pytest.mark.slow


def test_nothing_acknowledged_is_lost_when_it_is_killed(start_service, hum_manifest, tmp_path):
    recording = (hum_manifest.parent / "s00" / "0.flac").read_bytes()
    store = tmp_path / "people.store"
    enrolled, deleted, enough = set(), set(), threading.Event()

    def call_until_it_dies(address, worker):
        with httpx.Client(base_url=address, timeout=30) as client:
            for number in range(10_000):
                name = f"person {worker} {number}"
                try:
                    answer = client.post(f"/voiceprints/{name}", files={"recording": ("a.flac", recording)})
                    assert answer.status_code == 201, answer.text
                    enrolled.add(name)
                    if number % 3 == 0:
                        assert client.delete(f"/voiceprints/{name}").status_code == 200
                        deleted.add(name)
                except httpx.TransportError:
                    return
                if len(enrolled) >= 30:
                    enough.set()

    for round_number in range(2):
        enough.clear()
        running = start_service("--store", store)
        callers = [
            threading.Thread(target=call_until_it_dies, args=(running.address, f"{round_number} {worker}"))
            for worker in range(3)
        ]
        for caller in callers:
            caller.start()
        assert enough.wait(120)
        running.process.kill()
        running.process.wait()
        for caller in callers:
            caller.join()
    running = start_service("--store", store)
    kept = set(httpx.get(f"{running.address}/voiceprints").json()["names"])
    assert enrolled - deleted <= kept
    assert not deleted & kept
    assert len(kept - (enrolled - deleted)) <= 6  # done, but killed before it was said
    for name in list(kept)[:3]:
        assert len(httpx.get(f"{running.address}/voiceprints/{name}").json()["voiceprint"]) > 100

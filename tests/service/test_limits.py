"""What one client may ask of the service: bytes, time and number; what goes beyond is refused in words."""

import asyncio
import json
import threading
from dataclasses import replace

import numpy as np
import pytest
import soundfile

pytest.importorskip("fastapi", reason="needs chns[serve]")

from fastapi.testclient import TestClient

from chns.service.app import build_app
from chns.service.engine import Limits, SpeakerEngine
from chns.service.guard import ApiKeys

STREAM = "ws://127.0.0.1:8000/stream"
LIMITS = Limits(body_bytes=500_000, audio_seconds=10, requests=4, streams=1, timeout_seconds=20)


@pytest.fixture(scope="module")
def engine():
    engine = SpeakerEngine(limits=LIMITS)
    yield engine
    engine.close()


@pytest.fixture
def limited(engine, monkeypatch):
    """A client of a service with some other limits."""

    def start(**limits):
        monkeypatch.setattr(engine, "limits", replace(LIMITS, **limits))
        return TestClient(build_app(engine, keys=ApiKeys()), base_url="http://127.0.0.1:8000")

    return start


def upload(hum_manifest):
    return {"recording": ("0.flac", (hum_manifest.parent / "s00" / "0.flac").read_bytes())}


def answer_to(app, pieces):
    """Status and body for a request whose body comes in pieces, after which the client waits without end."""
    sent = []

    async def receive():
        if pieces:
            return {"type": "http.request", "body": pieces.pop(0), "more_body": True}
        return await asyncio.Event().wait()

    async def send(message):
        sent.append(message)

    headers = [(b"host", b"127.0.0.1"), (b"content-type", b"multipart/form-data; boundary=b")]
    scope = {"type": "http", "method": "POST", "path": "/embed", "headers": headers, "query_string": b""}
    asyncio.run(asyncio.wait_for(app(scope, receive, send), 10))
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent)


@pytest.mark.parametrize("pieces", [[], [b"--b\r\n"], [b"--b\r\n", b"Content-Disposition: form-data; "]])
def test_a_body_that_does_not_come_to_its_end_is_given_up(limited, pieces):
    status, body = answer_to(limited(timeout_seconds=0.05).app, pieces)
    assert (status, json.loads(body)) == (408, {"detail": "body must arrive in time, got a part of it."})


@pytest.mark.parametrize("length", ["500001", "9" * 5_000, "-1", "1e3", "\u0663", "many"])
def test_a_body_that_says_it_is_too_large_is_not_read(limited, length):
    answer = limited().post("/embed", content=b"", headers={b"content-length": length.encode()})
    assert answer.status_code == 413
    assert "body must be at most 500,000 bytes" in answer.json()["detail"]
    assert len(answer.text) < 200


def test_an_answer_that_takes_too_long_is_given_up(limited, engine, hum_manifest, monkeypatch):
    gate = threading.Event()
    monkeypatch.setattr(engine, "hear", lambda *_, **__: gate.wait(20))
    with limited(timeout_seconds=0.2) as client:
        answer = client.post("/embed", files=upload(hum_manifest))
        gate.set()
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


def test_a_recording_of_many_channels_is_refused(limited, monkeypatch, tmp_path):
    monkeypatch.setattr("chns.service.engine._MOST_VALUES", 50_000)
    soundfile.write(tmp_path / "a.flac", np.zeros((8_000, 8), np.float32), 8_000)
    with limited() as client:
        answer = client.post("/embed", files={"recording": ("a.flac", (tmp_path / "a.flac").read_bytes())})
    assert answer.status_code == 413
    assert "at most 50,000 samples in all channels, got 64,000 in 'recording'" in answer.json()["detail"]


# ----- streams


def told(client, *messages):
    """What a stream answers to messages, before it is closed, and the code with which that is done."""
    with client.websocket_connect(STREAM) as socket:
        for message in messages:
            (socket.send_text if isinstance(message, str) else socket.send_bytes)(message)
        detail = socket.receive_json()["detail"]
        return detail, socket.receive()["code"]


@pytest.fixture
def anna(limited, hum_manifest):
    """Somebody who is enrolled, for streams need one."""
    with limited() as client:
        assert client.post("/voiceprints/anna", files=upload(hum_manifest)).status_code == 201
        yield '{"sample_rate_hz": 16000, "name": "anna"}'
        client.delete("/voiceprints/anna")


def test_one_stream_too_many_is_closed_and_the_next_is_taken(limited, anna):
    with limited(streams=1) as client:
        for _ in range(2):
            with client.websocket_connect(STREAM) as first, client.websocket_connect(STREAM) as second:
                assert second.receive()["code"] == 1013
                first.send_text("no json")
                assert "must be a JSON object" in first.receive_json()["detail"]


@pytest.mark.parametrize("how", ["too long", "paused at once", "paused later"])
def test_a_stream_without_end_is_closed(how, limited, anna, monkeypatch):
    if how != "too long":
        monkeypatch.setattr("chns.service.app._STREAM_PAUSE_SECONDS", 0.1)
    with limited(stream_seconds=0.1 if how == "too long" else 60) as client:
        detail, code = told(client, *([] if how == "paused at once" else [anna, bytes(100)]))
    assert (detail, code) == ("the stream is too long, or paused for too long", 1008)


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        (["[" * 10_000], "first message must be a JSON object"),
        (['{"a": "' + "x" * 20_000 + '"}'], "first message must be a JSON object"),
        (['{"sample_rate_hz": 0, "name": "anna"}'], "sample_rate_hz must be an integer between 4000 and 384000"),
        (['{"sample_rate_hz": -16000, "name": "anna"}'], "sample_rate_hz must be an integer between 4000 and 384000"),
        (
            ['{"sample_rate_hz": 1000000000, "name": "anna"}'],
            "sample_rate_hz must be an integer between 4000 and 384000",
        ),
        (['{"sample_rate_hz": true, "name": "anna"}'], "first message must hold sample_rate_hz"),
        (['{"sample_rate_hz": 16000, "name": ["anna"]}'], "first message must hold sample_rate_hz"),
        ([b"\x00\x01"], "first message must be a JSON object"),
        (['{"sample_rate_hz": 16000, "name": "anna"}', bytes(3)], "audio must be int16 samples"),
        (['{"sample_rate_hz": 16000, "name": "anna"}', "text"], "audio must be int16 samples"),
    ],
)
def test_a_stream_of_something_else_is_told_so(messages, words, limited, anna):
    with limited() as client:
        detail, code = told(client, *messages)
        assert words in detail
        assert code == 1008
        assert "chns_streams 0.0" in client.get("/metrics").text


@pytest.mark.parametrize("begun", [False, True])
def test_a_stream_whose_client_leaves_is_over_without_an_answer(begun, limited, anna, monkeypatch):
    monkeypatch.setattr("chns.service.app._close", lambda *_: pytest.fail("there is nobody to be told"))
    with limited() as client:
        with client.websocket_connect(STREAM) as socket:
            if begun:
                socket.send_text(anna)
        for _ in range(100):
            if "chns_streams 0.0" in client.get("/metrics").text:
                break
        assert "chns_streams 0.0" in client.get("/metrics").text

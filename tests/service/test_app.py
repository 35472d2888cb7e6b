"""The service over HTTP and WebSocket: right answers, refusals in words, and nothing of a person in log or metrics."""

import json
import logging
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from chns.cli import main
from chns.inference.decision_rule import expected_error_rates, likelihood_in_words
from chns.inference.verifier import Verifier
from chns.store.voiceprints import VoiceprintStore

pytest.importorskip("fastapi", reason="needs chns[serve]")

from fastapi.testclient import TestClient

from chns.service.app import build_app
from chns.service.engine import BatchedGraph, Limits, SpeakerEngine
from chns.service.guard import ApiKeys

KEY = "a-key-of-more-than-16"
LIMITS = Limits(body_bytes=500_000, audio_seconds=10, requests=4, streams=1, timeout_seconds=20)


@pytest.fixture(scope="module")
def recordings(hum_manifest):
    return hum_manifest.parent


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    engine = SpeakerEngine(store=tmp_path_factory.mktemp("service") / "people.store", limits=LIMITS)
    yield engine
    engine.close()


@pytest.fixture
def client(engine):
    with TestClient(build_app(engine, keys=ApiKeys()), base_url="http://127.0.0.1:8000") as client:
        yield client


@pytest.fixture
def locked(engine):
    with TestClient(build_app(engine, keys=ApiKeys([KEY])), base_url="http://voices.example") as client:
        yield client


def upload(path, name="recording"):
    return {name: (path.name, path.read_bytes())}


def test_verify_answers_what_the_library_does(client, recordings):
    files = [recordings / "s00" / "0.flac", recordings / "s01" / "1.flac"]
    answer = client.post("/verify", files={**upload(files[0], "first"), **upload(files[1], "second")}).json()
    decision = Verifier.load().verify(*files)
    assert answer["score"] == pytest.approx(decision.score, abs=1e-4)
    assert answer["same_speaker"] is decision.accepted
    assert answer["threshold"] == pytest.approx(decision.threshold)
    assert answer["in_words"] == likelihood_in_words(answer["log_likelihood_ratio"])
    assert 0 < answer["false_acceptance_rate"] < answer["false_rejection_rate"] < 0.5
    seconds = answer["recordings"][0]["duration_seconds"]
    assert answer["recordings"][0]["used_seconds"] == [[0, pytest.approx(seconds)]]
    assert answer["recordings"][0]["warnings"] == list(decision.quality[0].warnings)


@pytest.mark.slow
def test_a_person_is_enrolled_found_exported_and_deleted(client, engine, recordings):
    path = recordings / "s00" / "0.flac"
    enrolled = client.post("/voiceprints/anna", files=upload(path), data={"note": "consent of May"})
    assert (enrolled.status_code, enrolled.json()["utterances"]) == (201, 1)
    again = client.post("/voiceprints/anna", files=upload(path))
    assert again.status_code == 409
    assert "name must be new, got 'anna', who is enrolled in the store." in again.json()["detail"]
    assert client.post("/voiceprints/anna?add=true", files=upload(path)).json()["utterances"] == 2
    assert client.get("/voiceprints").json() == {"names": ["anna"]}
    found = client.post("/identify", files=upload(path)).json()
    assert found["identified"] == "anna"
    assert found["matches"][0]["score"] == pytest.approx(1, abs=1e-4)
    exported = client.get("/voiceprints/anna").json()
    assert (exported["note"], exported["utterances"]) == ("consent of May", 2)
    np.testing.assert_allclose(exported["voiceprint"], Verifier.load().embed(path).vector, atol=1e-4)
    assert client.delete("/voiceprints/anna").json() == {"deleted": "anna", "utterances": 2}
    missing = client.get("/voiceprints/anna")
    assert missing.status_code == 404
    assert str(engine.limits) not in missing.text
    assert ".store" not in missing.text


def test_what_is_acknowledged_is_in_the_file(client, engine, recordings):
    client.post("/voiceprints/bela", files=upload(recordings / "s01" / "0.flac"))
    path = engine.with_store(lambda store: store.path).result()
    with VoiceprintStore.open_existing(path) as other:
        assert other.names() == ["bela"]
    client.delete("/voiceprints/bela")


@pytest.mark.parametrize(
    ("content", "status", "words"),
    [
        (b"no audio at all", 422, "recording must be WAV, FLAC, Ogg, Opus or MP3 audio"),
        (b"", 422, "recording must hold samples, got an empty file"),
        (b"x" * 600_000, 413, "body must be at most 500,000 bytes"),
    ],
)
def test_what_is_no_recording_is_refused_in_words_without_paths(client, content, status, words):
    answer = client.post("/embed", files={"recording": ("a.wav", content)})
    assert answer.status_code == status
    assert words in answer.json()["detail"]
    assert "/tmp" not in answer.text


def test_a_long_recording_is_refused(client, tmp_path):
    import soundfile

    soundfile.write(tmp_path / "long.flac", np.zeros(11 * 8_000, np.float32), 8_000)
    answer = client.post("/embed", files=upload(tmp_path / "long.flac"))
    assert answer.status_code == 413
    assert "recording must be at most 10 s long, got 11.0 s in 'recording'" in answer.json()["detail"]


def test_a_body_without_a_stated_length_is_bounded_too(client):
    answer = client.post(
        "/embed",
        content=(b"x" * 100_000 for _ in range(7)),
        headers={"content-type": "multipart/form-data; boundary=b"},
    )
    assert answer.status_code in (400, 413)
    assert answer.status_code == 413, answer.text


def test_no_upload_stays_on_the_disk(client, engine, recordings):
    client.post("/embed", files=upload(recordings / "s00" / "0.flac"))
    client.post("/embed", files={"recording": ("a.wav", b"no audio")})
    assert list(engine._uploads.iterdir()) == []


@pytest.mark.parametrize("headers", [{}, {"x-api-key": KEY + "x"}, {"authorization": f"Basic {KEY}"}])
def test_without_the_key_nothing_of_people_is_told(locked, headers):
    for path in ("/voiceprints", "/voiceprints/anna", "/metrics"):
        assert locked.get(path, headers=headers).status_code == 401
    for path in ("/", "/health", "/docs", "/openapi.json"):
        assert locked.get(path, headers=headers).status_code == 200


@pytest.mark.parametrize("headers", [{"x-api-key": KEY}, {"authorization": f"Bearer {KEY}"}])
def test_the_key_opens(locked, headers):
    assert locked.get("/voiceprints", headers=headers).json() == {"names": []}


def test_foreign_pages_and_names_are_refused(client, locked):
    assert client.get("/health", headers={"host": "evil.example"}).status_code == 403
    assert client.get("/voiceprints", headers={"origin": "http://evil.example"}).status_code == 403
    assert client.get("/voiceprints", headers={"origin": "http://127.0.0.1:8000"}).status_code == 200
    assert locked.get("/health", headers={"origin": "http://evil.example"}).status_code == 403


def test_too_many_requests_get_503_and_the_next_ones_are_answered(client, engine, recordings, monkeypatch):
    gate, entered = threading.Event(), threading.Semaphore(0)
    hear = engine.hear

    def slow(*words, **options):
        entered.release()
        assert gate.wait(20)
        return hear(*words, **options)

    monkeypatch.setattr(engine, "hear", slow)
    files = upload(recordings / "s00" / "0.flac")
    codes = []
    callers = [
        threading.Thread(target=lambda: codes.append(client.post("/embed", files=files).status_code)) for _ in range(4)
    ]
    for caller in callers:
        caller.start()
    for _ in callers:
        assert entered.acquire(timeout=20)
    refused = client.post("/embed", files=files)
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert client.get("/health").status_code == 200
    gate.set()
    for caller in callers:
        caller.join()
    assert codes == [200] * 4
    assert client.post("/embed", files=files).status_code == 200


def test_log_and_metrics_hold_no_names(client, recordings, caplog):
    with caplog.at_level(logging.INFO, logger="chns.service.guard"):
        client.post("/voiceprints/zsuzsanna", files=upload(recordings / "s00" / "0.flac"))
        client.delete("/voiceprints/zsuzsanna")
    events = [json.loads(record.message) for record in caplog.records if record.name == "chns.service.guard"]
    assert [(event["method"], event["route"], event["status"]) for event in events] == [
        ("POST", "/voiceprints/{name}", 201),
        ("DELETE", "/voiceprints/{name}", 200),
    ]
    metrics = client.get("/metrics").text
    assert 'chns_requests_total{method="DELETE",route="/voiceprints/{name}",status="200"} 1.0' in metrics
    assert "zsuzsanna" not in metrics + caplog.text


def test_an_error_of_ours_tells_the_client_nothing(client, engine, recordings, monkeypatch, caplog):
    monkeypatch.setattr(engine, "hear", lambda *_, **__: 1 / 0)
    answer = client.post("/embed", files=upload(recordings / "s00" / "0.flac"))
    assert (answer.status_code, answer.json()) == (500, {"detail": "internal error"})
    assert '"error": "ZeroDivisionError"' in caplog.text


def test_the_pages_load_nothing_from_elsewhere(client):
    for path in ("/", "/docs"):
        answer = client.get(path)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "sha256-" in policy
        assert "http" not in policy
        assert "https://" not in answer.text
    assert client.get("/assets/swagger-ui-bundle.js").status_code == 200
    assert client.get("/assets/page.html").status_code == 404


def stream(client, opening, samples, size=8_000):
    with client.websocket_connect("ws://127.0.0.1:8000/stream") as socket:
        socket.send_text(json.dumps(opening))
        for start in range(0, len(samples), size):
            socket.send_bytes(samples[start : start + size].astype("<i2").tobytes())
        return socket.receive_json()


def voice(recordings, speaker, seconds=3.5):
    import soundfile

    samples = np.concatenate(
        [soundfile.read(path, dtype="int16")[0] for path in sorted((recordings / speaker).iterdir())]
    )
    return np.resize(samples, round(16_000 * seconds))


def test_a_stream_is_scored_while_somebody_speaks(client, recordings):
    samples = voice(recordings, "s00")
    client.post("/voiceprints/anna", files=upload(recordings / "s00" / "0.flac"))
    claimed = stream(client, {"sample_rate_hz": 16_000, "name": "anna"}, samples)
    assert claimed["seconds"] == 3.0
    assert claimed["same_speaker"] is (claimed["score"] >= claimed["threshold"])
    assert claimed["score"] > 0.3
    anybody = stream(client, {"sample_rate_hz": 16_000}, samples)
    assert anybody["matches"] == [{"name": "anna", "score": pytest.approx(claimed["score"], abs=1e-4)}]
    client.delete("/voiceprints/anna")


@pytest.mark.parametrize(
    ("opening", "words"),
    [
        ("no json", "first message must be a JSON object"),
        ("[]", "first message must be a JSON object"),
        ('{"sample_rate_hz": "fast"}', "first message must hold sample_rate_hz"),
        ('{"sample_rate_hz": 16000, "name": "nobody"}', "name must be an enrolled one"),
        ('{"sample_rate_hz": 16000}', "speakers must hold at least one voiceprint"),
    ],
)
def test_a_stream_that_begins_wrongly_is_told_so(client, opening, words):
    with client.websocket_connect("ws://127.0.0.1:8000/stream") as socket:
        socket.send_text(opening)
        detail = socket.receive_json()["detail"]
        assert words in detail
        assert ".store" not in detail


def test_a_stream_needs_the_key(locked):
    with locked.websocket_connect("/stream") as socket:
        socket.send_text('{"sample_rate_hz": 16000}')
        assert socket.receive_json()["detail"] == "API key must be a known one."


def test_waiting_waveforms_of_one_length_are_one_batch():
    entered, gate, shapes = threading.Event(), threading.Event(), []

    def run(waveforms):
        shapes.append(waveforms.shape)
        entered.set()
        assert gate.wait(20)
        return waveforms[:, :2] * 2

    graph = BatchedGraph(run, largest_samples=20)
    answers = {}

    def call(number, length):
        answers[number] = graph(np.full((1, length), number, np.float32))

    callers = [threading.Thread(target=call, args=(0, 10))]
    callers[0].start()
    assert entered.wait(20)
    for number, length in ((1, 5), (2, 7), (3, 5), (4, 5), (5, 5), (6, 5)):
        callers.append(threading.Thread(target=call, args=(number, length)))
        callers[-1].start()
        while len(graph._waiting) < number:
            pass
    gate.set()
    for caller in callers:
        caller.join()
    graph.close()
    assert shapes == [(1, 10), (4, 5), (1, 7), (1, 5)]
    assert {number: answer.tolist() for number, answer in answers.items()} == {n: [[2 * n, 2 * n]] for n in range(7)}


def test_two_threads_run_a_waveform_each_instead_of_one_both():
    at_once, sizes = threading.Barrier(2), []

    def run(waveforms):
        sizes.append(len(waveforms))
        at_once.wait(20)  # raises unless another batch runs now
        return waveforms

    graph = BatchedGraph(run, largest_samples=100, num_threads=2)
    with ThreadPoolExecutor(2) as callers:
        answers = list(callers.map(graph, [np.full((1, 5), number, np.float32) for number in (1, 2)]))
    graph.close()
    assert sizes == [1, 1]
    assert [answer[0, 0] for answer in answers] == [1, 2]


def test_an_error_reaches_each_caller_and_the_graph_lives_on():
    calls = []

    def run(waveforms):
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("once")
        return waveforms

    graph = BatchedGraph(run, largest_samples=20)
    with pytest.raises(RuntimeError, match="once"):
        graph(np.zeros((1, 5), np.float32))
    assert graph(np.zeros((1, 5), np.float32)).shape == (1, 5)
    graph.close()


def test_keys_are_read_from_a_file_or_the_environment(tmp_path):
    path = tmp_path / "keys.txt"
    path.write_text(f"# of the shop\n{KEY}\n\n")
    assert ApiKeys.read(path).allow(KEY)
    assert not ApiKeys.read(path).allow("another")
    assert ApiKeys.read(None, variable={"CHNS_SERVE_KEYS": f"{KEY}, {KEY}2"}.get).allow(KEY + "2")
    assert not ApiKeys.read(None, variable={}.get)
    with pytest.raises(FileNotFoundError, match="key file must be a file"):
        ApiKeys.read(tmp_path / "none")
    with pytest.raises(ValueError, match="API key must be at least 16 ASCII characters"):
        ApiKeys(["short"])
    with pytest.raises(ValueError, match="API keys must be at most 1,000"):
        ApiKeys(f"a-key-of-sixteen-{number}" for number in range(1_001))
    path.write_text("# none\n")
    with pytest.raises(ValueError, match="API keys must hold at least one key"):
        ApiKeys.read(path)
    path.write_bytes(b"k" * (2**20 + 1))
    with pytest.raises(ValueError, match="key file must be at most"):
        ApiKeys.read(path)


def test_a_limit_is_positive():
    with pytest.raises(ValueError, match="requests must be greater than 0, got 0"):
        Limits(requests=0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--host", "0.0.0.0"], "--host must be of this machine alone without API keys, got 0.0.0.0"),
        (["--port", "70000"], "--port must be between 1 and 65535, got 70000"),
        (["--max-seconds", "0"], "audio_seconds must be greater than 0"),
    ],
)
def test_the_command_refuses_what_is_unsafe(words, message, capsys, monkeypatch):
    monkeypatch.delenv("CHNS_SERVE_KEYS", raising=False)
    assert main(["serve", *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_a_temporary_store_goes_with_the_service():
    engine = SpeakerEngine()
    path = engine.with_store(lambda store: store.path).result()
    assert path.exists()
    engine.close()
    assert not path.parent.exists()


@pytest.mark.parametrize(
    ("ratio", "words"),
    [
        (0.0, "no support for either: about as likely from one speaker as from two"),
        (1.5, "weak support for one speaker: about 4 times likelier"),
        (-5.0, "moderately strong support for two speakers: about 150 times likelier"),
        (900.0, "extremely strong support for one speaker: over a million times likelier"),
    ],
)
def test_likelihood_in_words(ratio, words):
    assert likelihood_in_words(ratio) == words


def test_expected_error_rates_are_the_equal_error_rate_where_the_ratio_is_one():
    verifier = Verifier.load()
    metrics = {"calibration": {"scale": 20.0, "bands": {"0 to 2 s": {"eer": 0.1}, "2 to 9 s": {"eer": 0.02}}}}
    tone = verifier.embed(np.sin(np.arange(16_000) / 10).astype(np.float32), 16_000)
    decision = verifier.verify(tone, tone)
    at_one = type(decision)(**{**vars(decision), "score": 0.5, "threshold": 0.5, "log_likelihood_ratio": 0.0})
    assert expected_error_rates(metrics, at_one, seconds=1) == pytest.approx((0.1, 0.1))
    assert expected_error_rates(metrics, at_one, seconds=30) == pytest.approx((0.02, 0.02))
    stricter = type(decision)(**{**vars(at_one), "threshold": 0.6})
    rates = expected_error_rates(metrics, stricter, seconds=1)
    assert rates.false_acceptance < 0.1 < rates.false_rejection
    assert expected_error_rates({}, at_one, seconds=1) is None
    assert expected_error_rates({"calibration": {"scale": 20.0, "bands": {"x": 1}}}, at_one, seconds=1) is None

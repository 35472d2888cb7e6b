"""The OpenAPI description is true: what it allows is answered as it says, what it does not allow is refused."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="needs chns[serve]")

from starlette.testclient import TestClient

from chns.service.app import build_app
from chns.service.engine import SpeakerEngine
from chns.service.guard import ApiKeys

KEY = "a-key-of-more-than-16"
# A note is text, so what schemathesis takes for a number of another type is one: 5.2e46 is a note.
CONFIG = """
[[operations]]
include-name = "POST /voiceprints/{name}"
checks.negative_data_rejection.enabled = false
"""
HELPERS = Path(__file__).parents[1] / "helpers"


@pytest.fixture(scope="module")
def app():
    engine = SpeakerEngine()
    yield build_app(engine, keys=ApiKeys())
    engine.close()


def test_recordings_are_parts_of_a_multipart_body(app):
    description = app.openapi()
    for path, names in {
        "/verify": ["first", "second"],
        "/embed": ["recording"],
        "/identify": ["recording"],
        "/voiceprints/{name}": ["recording"],
    }.items():
        [(media_type, body)] = description["paths"][path]["post"]["requestBody"]["content"].items()
        assert media_type == "multipart/form-data"
        assert {
            name: part["contentType"].partition(",")[0] for name, part in body["encoding"].items()
        } == dict.fromkeys(names, "audio/wav")
        schema = description["components"]["schemas"][body["schema"]["$ref"].rpartition("/")[2]]
        assert set(names) <= set(schema["required"])
        assert all(schema["properties"][name]["contentMediaType"] == "application/octet-stream" for name in names)


def test_what_needs_a_key_says_so(app):
    paths = app.openapi()["paths"]
    assert "security" not in paths["/health"]["get"]
    for path in set(paths) - {"/health"}:
        assert all(operation["security"] == [{"HTTPBearer": []}] for operation in paths[path].values()), path


def test_a_method_that_is_not_there_is_answered_with_those_that_are(app):
    with TestClient(app, base_url="http://127.0.0.1:8000") as client:
        answer = client.options("/voiceprints/anna")
        assert (answer.status_code, answer.headers["allow"]) == (405, "DELETE, GET, POST")
        assert client.get("/verify").headers["allow"] == "POST"


def test_a_name_that_nobody_can_have_is_nobodys(app):
    with TestClient(app, base_url="http://127.0.0.1:8000") as client:
        assert client.get("/voiceprints/%0C").status_code == 404
        assert client.delete("/voiceprints/%0C").status_code == 404
        assert client.post("/voiceprints/%0C", files={"recording": ("a.wav", b"")}).status_code == 422


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("schemathesis") is None, reason="needs schemathesis")
def test_schemathesis_finds_nothing(start_service, tmp_path):
    """Hundreds of requests, right and wrong, single and in sequences, against the service as it is run."""
    address = start_service("--store", tmp_path / "people.store", keys=KEY).address
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{address}/openapi.json"]
    options = {
        "header": f"Authorization: Bearer {KEY}",
        "max-examples": 15,
        "seed": 1,
        "workers": 1,
        "suppress-health-check": "too_slow",
    }
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    (tmp_path / "schemathesis.toml").write_text(CONFIG)
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": "recordings_for_schemathesis", "PYTHONPATH": str(HELPERS)}
    done = subprocess.run(
        [*command, *words, "--no-color"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6_000:]
    assert "Tested: 9" in done.stdout

"""The service's routes: what comes in is checked by `Guard`, computed by `SpeakerEngine`, and described in OpenAPI."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from importlib.resources import files
from pathlib import Path as FilePath
from typing import Annotated, Any, TypeVar

import numpy as np
from fastapi import Depends, FastAPI, File, Form, Path, Query, Response, UploadFile, WebSocket, WebSocketDisconnect
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import FileResponse, HTMLResponse
from fastapi.security import HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException

from chns import __version__
from chns.core import ModelFileError
from chns.inference import likelihood_in_words
from chns.service.answers import (
    NOBODY,
    PROBLEMS,
    TAKEN,
    DeleteAnswer,
    EmbedAnswer,
    EnrolAnswer,
    HealthAnswer,
    IdentifyAnswer,
    MatchAnswer,
    NamesAnswer,
    RecordingAnswer,
    VerifyAnswer,
    VoiceprintAnswer,
    parts,
)
from chns.service.engine import Heard, SpeakerEngine, stream_feed, stream_request, voice_of, without_path
from chns.service.guard import ApiKeys, Guard, Measurements, answer_errors, content_policy, inline_sources
from chns.store import identified

_Answer = TypeVar("_Answer")

_PAGE = "page.html"
_ASSETS = ("swagger-ui-bundle.js", "swagger-ui.css", "favicon.png")
_STREAM_PAUSE_SECONDS = 15.0


# What the store accepts: printable characters without space at the ends. Only for OpenAPI.
_PRINTABLE = {"pattern": r"^[\p{L}\p{M}\p{N}\p{P}\p{S}]+( +[\p{L}\p{M}\p{N}\p{P}\p{S}]+)*$"}
_Name = Annotated[
    str, Path(min_length=1, max_length=200, examples=["anna"], description="Who speaks.", json_schema_extra=_PRINTABLE)
]
_Recording = Annotated[UploadFile, File(description="WAV, FLAC, Ogg, Opus, MP3 (AAC with `chns[aac]`), one speaker.")]


_KEYED = [Depends(HTTPBearer(auto_error=False))]  # told to OpenAPI; `Guard` looks at the key


def build_app(engine: SpeakerEngine, *, keys: ApiKeys) -> FastAPI:
    """The service.

    Args:
        engine: Closed by the caller, after the service.
        keys: Who may call it.
    """
    app = FastAPI(
        title="chns: speaker verification",
        version=__version__,
        description="Who speaks, and are two recordings of one speaker? Nothing of a recording is kept.",
        docs_url=None,
        redoc_url=None,
        responses=PROBLEMS,
    )
    measured = Measurements()
    app.add_middleware(Guard, keys=keys, limits=engine.limits, measurements=measured)
    answer_errors(app)
    _add_pages(app, engine, keys)
    _add_recognition(app, engine, measured)
    _add_voiceprints(app, engine, measured)
    _add_stream(app, engine, keys, measured)
    return app


def _add_pages(app: FastAPI, engine: SpeakerEngine, keys: ApiKeys) -> None:
    page = (files("chns.service") / _PAGE).read_text("utf-8")
    docs = get_swagger_ui_html(
        openapi_url="openapi.json",
        title=app.title,
        swagger_js_url="assets/swagger-ui-bundle.js",
        swagger_css_url="assets/swagger-ui.css",
        swagger_favicon_url="assets/favicon.png",
    )
    docs_text = bytes(docs.body).decode()

    @app.get("/", include_in_schema=False)
    async def root() -> HTMLResponse:
        policy = content_policy(inline_sources(page, "script"), inline_sources(page, "style"))
        return HTMLResponse(page, headers={"content-security-policy": policy})

    @app.get("/docs", include_in_schema=False)
    async def documentation() -> HTMLResponse:
        policy = content_policy(f"'self' {inline_sources(docs_text, 'script')}", "'self' 'unsafe-inline'")
        return HTMLResponse(docs_text, headers={"content-security-policy": policy})

    @app.get("/assets/{name}", include_in_schema=False)
    async def asset(name: str) -> FileResponse:
        if name not in _ASSETS:
            raise HTTPException(404, "There is no such asset.")
        return FileResponse(FilePath(str(files("fastapi_offline") / "static" / name)))

    @app.get("/health", tags=["service"])
    async def health() -> HealthAnswer:
        """That the service answers; needs no key."""
        return HealthAnswer(
            status="ok",
            version=__version__,
            model_digest=engine.verifier.model_digest,
            needs_key=bool(keys),
            keeps_voiceprints=engine.keeps_voiceprints,
            threshold=engine.verifier.threshold,
            sample_rate_hz=engine.verifier.sample_rate_hz,
            longest_seconds=engine.limits.audio_seconds,
        )


def _add_recognition(app: FastAPI, engine: SpeakerEngine, measured: Measurements) -> None:
    @app.post("/verify", dependencies=_KEYED, tags=["recognition"], openapi_extra=parts("first", "second"))
    async def verify(first: _Recording, second: _Recording) -> VerifyAnswer:
        """Tell whether two recordings are of one speaker."""
        one, other = await _heard(engine, measured, first=first, second=second)
        decision = engine.verifier.verify(one.embedding, other.embedding)
        ratio, rates = decision.log_likelihood_ratio, engine.error_rates(decision)
        return VerifyAnswer(
            same_speaker=decision.accepted,
            score=decision.score,
            threshold=decision.threshold,
            log_likelihood_ratio=ratio,
            in_words=None if ratio is None else likelihood_in_words(ratio),
            false_acceptance_rate=None if rates is None else rates.false_acceptance,
            false_rejection_rate=None if rates is None else rates.false_rejection,
            warnings=list(decision.warnings),
            recordings=[_recording(one), _recording(other)],
        )

    @app.post("/embed", dependencies=_KEYED, tags=["recognition"], openapi_extra=parts("recording"))
    async def embed(recording: _Recording) -> EmbedAnswer:
        """The embedding of a recording."""
        [heard] = await _heard(engine, measured, recording=recording)
        return EmbedAnswer(
            embedding=heard.embedding.vector.tolist(),
            magnitude=heard.embedding.magnitude,
            model_digest=engine.verifier.model_digest,
            recording=_recording(heard),
        )

    @app.post("/identify", dependencies=_KEYED, tags=["recognition"], openapi_extra=parts("recording"))
    async def identify(recording: _Recording, top: Annotated[int, Query(ge=1, le=100)] = 5) -> IdentifyAnswer:
        """Find the enrolled speaker of a recording."""
        [heard] = await _heard(engine, measured, recording=recording)
        vector, threshold = heard.embedding.vector, engine.verifier.threshold
        matches = await _in_time(engine, engine.with_store(lambda store: store.identify(vector, top=top)))
        return IdentifyAnswer(
            identified=identified(matches, threshold=threshold),
            threshold=threshold,
            matches=[MatchAnswer(name=match.name, score=match.score) for match in matches],
            recording=_recording(heard),
        )

    @app.get("/metrics", dependencies=_KEYED, tags=["service"], response_class=Response)
    async def metrics() -> Response:
        """Counts and times, for Prometheus."""
        return Response(generate_latest(measured.registry), media_type=CONTENT_TYPE_LATEST)


def _add_voiceprints(app: FastAPI, engine: SpeakerEngine, measured: Measurements) -> None:
    async def stored(work: Callable[[Any], _Answer], *, missing: int) -> _Answer:
        try:
            return await _in_time(engine, engine.with_store(work))
        except ModelFileError:
            raise
        except ValueError as error:
            text = without_path(error)
            is_of_the_name = text.startswith(("name must be new", "name must be an enrolled"))
            is_nobodys = missing == 404 and text.startswith("name must be")  # one that nobody can have
            raise HTTPException(missing if is_of_the_name or is_nobodys else 422, text) from None

    @app.get("/voiceprints", dependencies=_KEYED, tags=["voiceprints"])
    async def names() -> NamesAnswer:
        """Who is enrolled."""
        return NamesAnswer(names=await stored(lambda store: store.names(), missing=404))

    @app.post(
        "/voiceprints/{name}",
        dependencies=_KEYED,
        tags=["voiceprints"],
        status_code=201,
        responses=TAKEN,
        openapi_extra=parts("recording"),
    )
    async def enrol(
        name: _Name,
        recording: _Recording,
        note: Annotated[
            str | None, Form(max_length=2_000, description="For example the consent.", json_schema_extra=_PRINTABLE)
        ] = None,
        add: Annotated[bool, Query(description="Add to a person who is enrolled.")] = False,
    ) -> EnrolAnswer:
        """Enrol a person, or add a recording to one; when this answers, it is on the disk."""
        [heard] = await _heard(engine, measured, recording=recording)

        def work(store: Any) -> int:
            store.enrol(name, heard.embedding.vector[None], note=note or None, add=add)
            return int(store.show(name).num_utterances)

        utterances = await stored(work, missing=409)
        return EnrolAnswer(name=name, utterances=utterances, recordings=[_recording(heard)])

    @app.get("/voiceprints/{name}", dependencies=_KEYED, tags=["voiceprints"], responses=NOBODY)
    async def export(name: _Name) -> VoiceprintAnswer:
        """All that is kept of a person, the voiceprint itself included."""
        person = await stored(lambda store: store.show(name), missing=404)
        return VoiceprintAnswer(
            name=person.name,
            enrolled_at=person.enrolled_at,
            note=person.note,
            utterances=person.num_utterances,
            voiceprint=person.vector.tolist(),
            model_digest=engine.verifier.model_digest,
        )

    @app.delete("/voiceprints/{name}", dependencies=_KEYED, tags=["voiceprints"], responses=NOBODY)
    async def delete(name: _Name) -> DeleteAnswer:
        """Delete a person; no byte of the voiceprint stays in the store's files."""
        return DeleteAnswer(deleted=name, utterances=await stored(lambda store: store.delete(name), missing=404))


def _add_stream(app: FastAPI, engine: SpeakerEngine, keys: ApiKeys, measured: Measurements) -> None:
    open_streams = 0

    @app.websocket("/stream")
    async def stream(socket: WebSocket) -> None:
        """First ``{"sample_rate_hz": 16000, "name": "anna", "key": ...}``, then int16 samples, little-endian, mono.

        Without a name, everybody who is enrolled is listened for.
        """
        nonlocal open_streams
        await socket.accept()
        if open_streams >= engine.limits.streams:
            await socket.close(1013, "too many streams")
            return
        open_streams += 1
        measured.streams.set(open_streams)
        try:
            await asyncio.wait_for(_listen(socket, engine, keys), engine.limits.stream_seconds)
        except TimeoutError:
            await _close(socket, 1008, "the stream is too long, or paused for too long")
        except ValueError as error:
            await _close(socket, 1008, without_path(error))
        except WebSocketDisconnect:
            pass
        finally:
            open_streams -= 1
            measured.streams.set(open_streams)


async def _listen(socket: WebSocket, engine: SpeakerEngine, keys: ApiKeys) -> None:
    first = await asyncio.wait_for(socket.receive(), _STREAM_PAUSE_SECONDS)
    if first["type"] == "websocket.disconnect":
        return
    asked = stream_request(first.get("text") or "")
    if not keys.allow(str(asked.get("key", ""))):
        raise ValueError("API key must be a known one.")
    name, rate_hz = asked.get("name"), asked.get("sample_rate_hz")
    if not (name is None or isinstance(name, str)) or type(rate_hz) is not int:
        raise ValueError("first message must hold sample_rate_hz, an integer, and may hold name, a text.")
    voices = await asyncio.wrap_future(engine.with_store(lambda store: voice_of(store, name)))
    feed = stream_feed(engine, voices, name, rate_hz)
    heard_samples = 0
    while True:
        message = await asyncio.wait_for(socket.receive(), _STREAM_PAUSE_SECONDS)
        chunk = message.get("bytes")
        if message["type"] == "websocket.disconnect":
            return
        if chunk is None or len(chunk) % 2:
            raise ValueError("audio must be int16 samples in binary messages.")
        samples = np.frombuffer(chunk, "<i2")
        heard_samples += len(samples)
        answer = await asyncio.wrap_future(engine.threads.submit(feed, samples))
        if answer is not None:
            await socket.send_json({"seconds": heard_samples / rate_hz, **answer})


async def _close(socket: WebSocket, code: int, reason: str) -> None:
    with suppress(WebSocketDisconnect):  # the client may have left in the meantime
        await socket.send_json({"detail": reason})
        await socket.close(code, reason[:100])


async def _heard(engine: SpeakerEngine, measured: Measurements, **uploads: UploadFile) -> list[Heard]:
    futures = [
        engine.threads.submit(engine.hear, upload.file, file_name=upload.filename or "", label=label)
        for label, upload in uploads.items()
    ]
    heard = [await _in_time(engine, future) for future in futures]
    measured.audio_seconds.inc(sum(one.embedding.quality.duration_seconds for one in heard))
    return heard


async def _in_time(engine: SpeakerEngine, future: Future[_Answer]) -> _Answer:
    return await asyncio.wait_for(asyncio.wrap_future(future), engine.limits.timeout_seconds)


def _recording(heard: Heard) -> RecordingAnswer:
    quality = heard.embedding.quality
    return RecordingAnswer(
        duration_seconds=quality.duration_seconds,
        level_dbfs=quality.level_dbfs,
        clipped_share=quality.clipped_share,
        silent_share=quality.silent_share,
        used_seconds=heard.used_seconds,
        warnings=list(quality.warnings),
    )

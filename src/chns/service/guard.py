"""What every request passes before the service looks at it, and what is noted of it afterwards.

Keys; the names under which the service may be called and the pages that may call it; bounds of body, time and number;
headers against foreign code in the page; one line of log and the metrics. Log and metrics hold routes, never paths,
for a path names a person; and no audio, key or address.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import ipaddress
import json
import logging
import os
import re
import secrets
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from urllib.parse import urlsplit

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chns.core import AudioError, ModelFileError
from chns.service.engine import Limits, TooLongError

KEYS_VARIABLE = "CHNS_SERVE_KEYS"

_log = logging.getLogger(__name__)
_MIN_KEY_CHARACTERS, _MOST_KEYS, _LARGEST_KEY_FILE = 16, 1_000, 2**20
_OPEN_ROUTES = ("/", "/health", "/docs", "/openapi.json", "/assets/")
_CHEAP_ROUTES = (*_OPEN_ROUTES, "/metrics")
_CONTENT_POLICY = (
    "default-src 'none'; script-src {scripts}; style-src {styles}; img-src 'self' data:; media-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class ApiKeys:
    """The keys that open the service; only their digests are kept.

    Args:
        keys: Each of at least 16 printable characters without spaces; none at all opens it to everybody who reaches it.

    Raises:
        ValueError: If a key is shorter, or there are more than 1,000.
    """

    def __init__(self, keys: Iterable[str] = ()) -> None:
        found = list(dict.fromkeys(keys))
        for key in found:
            if len(key) < _MIN_KEY_CHARACTERS or not (key.isascii() and key.isprintable()) or " " in key:
                raise ValueError(
                    f"API key must be at least {_MIN_KEY_CHARACTERS} ASCII characters without spaces, got {len(key)}. "
                    f"Make one with `python -c 'import secrets; print(secrets.token_urlsafe(32))'`."
                )
        if len(found) > _MOST_KEYS:
            raise ValueError(f"API keys must be at most {_MOST_KEYS:,}, got {len(found):,}.")
        self._digests = [_digest(key) for key in found]

    @classmethod
    def read(cls, path: Path | None, *, variable: Callable[[str], str | None] = os.environ.get) -> ApiKeys:
        """The keys in a file, one a line, ``#`` for comments; without a file, those in ``CHNS_SERVE_KEYS``, by commas.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If a file or a variable that is given holds no key, the file is too large, or as the class.
        """
        if path is None:
            text = variable(KEYS_VARIABLE)
            if text is None:
                return cls()
            lines, source = text.split(","), KEYS_VARIABLE
        else:
            if not path.is_file():
                raise FileNotFoundError(f"key file must be a file, got {path}.")
            if path.stat().st_size > _LARGEST_KEY_FILE:
                raise ValueError(f"key file must be at most {_LARGEST_KEY_FILE:,} bytes, got more in {path}.")
            lines, source = path.read_text("utf-8", errors="replace").splitlines(), str(path)
        keys = [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]
        if not keys:
            raise ValueError(f"API keys must hold at least one key, got none in {source}. Leave it out for no keys.")
        return cls(keys)

    def __bool__(self) -> bool:
        return bool(self._digests)

    def allow(self, key: str) -> bool:
        """Whether the key is one of these, in a time that does not tell how much of it is right; all are without."""
        digest = _digest(key)
        return not self._digests or any(hmac.compare_digest(digest, known) for known in self._digests)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def key_of(headers: Headers) -> str:
    """The key in ``Authorization: Bearer KEY`` or ``X-API-Key: KEY``; empty if there is none."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")


def is_loopback(host: str) -> bool:
    """Whether an address or name is that of this machine alone."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


class Measurements:
    """The metrics of one service, for Prometheus."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "chns_requests", "Requests answered.", ["method", "route", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "chns_request_seconds",
            "Time from a request to its answer.",
            ["route"],
            buckets=(0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 10, 30),
            registry=self.registry,
        )
        self.working = Gauge("chns_requests_in_progress", "Requests worked on or waiting.", registry=self.registry)
        self.streams = Gauge("chns_streams", "WebSocket streams open.", registry=self.registry)
        self.audio_seconds = Counter("chns_audio_seconds", "Audio embedded.", registry=self.registry)


class Guard:
    """The middleware around all routes.

    Args:
        app: What is guarded.
        keys: Without keys only this machine's own names may be called, so that no foreign page reaches the service.
        limits: Of body, time and number.
        measurements: Where requests are counted.
    """

    def __init__(self, app: ASGIApp, *, keys: ApiKeys, limits: Limits, measurements: Measurements) -> None:
        self._app = app
        self._keys = keys
        self._limits = limits
        self._measured = measurements
        self._working = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass on what may pass."""
        if scope["type"] == "http":
            await self._answer(scope, receive, send)
        elif scope["type"] == "websocket" and self._foreign(Headers(scope=scope)):
            await send({"type": "websocket.close", "code": 1008})
        else:
            await self._app(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        started, status, request = time.perf_counter(), 500, secrets.token_hex(8)
        is_cheap = scope["path"] in _CHEAP_ROUTES

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request
                _harden(headers)
            await send(message)

        refusal = self._refusal(scope, is_cheap=is_cheap)
        counted = refusal is None and not is_cheap
        self._working += counted
        self._measured.working.set(self._working)
        try:
            if refusal is not None:
                await refusal(scope, receive, noted)
            else:
                await self._app(scope, self._bounded(receive), noted)
        except Exception as error:  # noqa: BLE001 - a trace may hold names, and the client gets none of it
            place = _place(error)
            _log.error(json.dumps({"event": "error", "request": request, "error": type(error).__name__, "at": place}))
            await JSONResponse({"detail": "internal error"}, 500)(scope, receive, noted)
        finally:
            self._working -= counted
            self._measured.working.set(self._working)
            self._note(scope, request, status, time.perf_counter() - started)

    def _refusal(self, scope: Scope, *, is_cheap: bool) -> JSONResponse | None:
        headers = Headers(scope=scope)
        if self._foreign(headers):
            return JSONResponse({"detail": "Host and Origin must be those of this service."}, 403)
        path = scope["path"]
        is_open = path in _OPEN_ROUTES or path.startswith("/assets/")
        if not is_open and not self._keys.allow(key_of(headers)):
            return JSONResponse(
                {"detail": "API key must be a known one, in Authorization: Bearer KEY or X-API-Key."},
                401,
                {"www-authenticate": "Bearer"},
            )
        stated = headers.get("content-length", "0")
        if not (stated.isascii() and stated.isdigit()) or int(stated[:15]) > self._limits.body_bytes:
            return JSONResponse(
                {"detail": f"body must be at most {self._limits.body_bytes:,} bytes, got {stated[:15]}."}, 413
            )
        if not is_cheap and self._working >= self._limits.requests:
            return JSONResponse({"detail": "too many requests at once. Try again."}, 503, {"retry-after": "1"})
        return None

    def _foreign(self, headers: Headers) -> bool:
        """Whether a page from elsewhere calls; without keys also a name that is not this machine's (DNS rebinding)."""
        host, origin = headers.get("host", ""), headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            return True
        return not self._keys and not is_loopback(urlsplit(f"//{host}").hostname or "")

    def _bounded(self, receive: Receive) -> Receive:
        """The body as far as it is small enough and arrives in time."""
        deadline = time.monotonic() + self._limits.timeout_seconds
        received, is_whole = 0, False

        async def bounded() -> Message:
            nonlocal received, is_whole
            if is_whole:  # what follows is the client's leaving
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), max(0.0, deadline - time.monotonic()))
            except TimeoutError:
                raise HTTPException(408, "body must arrive in time, got a part of it.") from None
            received += len(message.get("body", b""))
            is_whole = not message.get("more_body", False)
            if received > self._limits.body_bytes:
                raise HTTPException(413, f"body must be at most {self._limits.body_bytes:,} bytes, got more.")
            return message

        return bounded

    def _note(self, scope: Scope, request: str, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "none")
        method = scope["method"] if scope["method"] in ("GET", "POST", "DELETE", "HEAD") else "other"
        self._measured.requests.labels(method, route, status).inc()
        self._measured.seconds.labels(route).observe(seconds)
        event = {"event": "request", "request": request, "method": method, "route": route, "status": status}
        _log.info(json.dumps({**event, "ms": round(1_000 * seconds, 1)}))


def content_policy(scripts: str, styles: str) -> str:
    """The policy of a page: its own scripts and styles by their digests, and nothing from anywhere else."""
    return _CONTENT_POLICY.format(scripts=scripts, styles=styles)


def inline_sources(html: str, tag: str) -> str:
    """The sources of a content security policy that allow exactly the inline scripts or styles of a page."""
    found = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in found]
    return " ".join(f"'sha256-{digest}'" for digest in digests)


def answer_errors(app: FastAPI) -> None:
    """Turn the errors of the package into answers with their sentence."""

    async def refused(_: Request, error: Exception) -> JSONResponse:
        status = 413 if isinstance(error, TooLongError) else 422
        return JSONResponse({"detail": str(error)}, status)

    async def busy(_: Request, error: Exception) -> JSONResponse:  # noqa: ARG001
        return JSONResponse({"detail": "the service is busy. Try again."}, 503, {"retry-after": "1"})

    async def invalid(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        return JSONResponse({"detail": f"{'.'.join(map(str, first['loc']))}: {first['msg']}"}, 422)

    async def broken(_: Request, error: Exception) -> JSONResponse:
        _log.error(json.dumps({"event": "damaged", "error": str(error)}))
        return JSONResponse({"detail": "the model or the store is damaged; the service's log tells more."}, 500)

    async def not_allowed(request: Request, _: Exception) -> JSONResponse:
        met = [route for route in app.routes if route.matches(request.scope)[0] is Match.PARTIAL]
        methods = sorted({method for route in met for method in getattr(route, "methods", None) or ()})
        return JSONResponse({"detail": "Method Not Allowed"}, 405, {"allow": ", ".join(methods)})

    app.add_exception_handler(405, not_allowed)
    for kind, handler in {
        AudioError: refused,
        ValueError: refused,
        TimeoutError: busy,
        RequestValidationError: invalid,
        ModelFileError: broken,
    }.items():
        app.add_exception_handler(kind, handler)


def _harden(headers: MutableHeaders) -> None:
    headers.setdefault("content-security-policy", content_policy("'none'", "'none'"))
    headers["x-content-type-options"] = "nosniff"
    headers["referrer-policy"] = "no-referrer"
    headers["cache-control"] = "no-store"
    headers["cross-origin-resource-policy"] = "same-origin"
    headers["permissions-policy"] = "microphone=(self), camera=(), geolocation=()"


def _place(error: BaseException) -> str:
    """Where an error arose: the last of our lines, without values."""
    trace, place = error.__traceback__, "unknown"
    while trace is not None:
        place = f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place

"""Part of a file from a web server or from object storage.

Through urllib3, which has no dependencies, checks certificates and keeps connections open. fsspec's own driver for HTTP
(``cat_file``, with aiohttp and seven more packages) reads the whole answer before it looks at the status, so that a
server without ranges would send the whole shard into memory for each recording. Redirections are not followed: where
shards come from is for the user to say.

urllib3's time limits are those of single reads, so a server that sends a byte of a header, another ``100 Continue`` or
a digit of a chunk's size now and then would hold a worker for ever. So a timer cuts the connection when the time for
the whole exchange is over.

Credentials and endpoints are the driver's: its environment variables, its files, or fsspec's own configuration. So are
time limits and repeated attempts. A driver reads an answer to its end, and only then can its length be looked at: it
talks to the storage that its user has an account with, not to a stranger.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from contextlib import suppress
from functools import cache
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from chns.core import AudioError, quoted

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem
    from urllib3 import BaseHTTPResponse, PoolManager

KEPT_CONNECTIONS = 16

_OK, _PARTIAL, _OUTSIDE = 200, 206, 416
_MISSING = (404, 410)
_PASSING = (408, 429, 500, 502, 503, 504)
_MOVED = range(300, 400)
_PAUSE_SECONDS = 0.05


class Patience(NamedTuple):
    """How long to wait for a web server.

    Attributes:
        timeout_seconds: From a request to the last byte of its answer.
        attempts: Requests at most, if the trouble may pass: no connection, no whole answer, a status that says so.
        backoff_seconds: Pause before the second attempt; it doubles each time.
    """

    timeout_seconds: float = 60.0
    attempts: int = 5
    backoff_seconds: float = 0.5


class _PassingError(Exception):
    """What may work the next time."""


def http_range(url: str, start: int, length: int, *, place: str, patience: Patience) -> bytes:
    """Fetch part of a file.

    Args:
        url: The file.
        start: First byte.
        length: Number of bytes, at least 1.
        place: What to call it in an error.
        patience: How long to try.

    Returns:
        Exactly the bytes asked for.

    Raises:
        FileNotFoundError: If the server has no such file.
        AudioError: If the server refuses, does not know ranges, sends other bytes or more, or does not answer in time.
    """
    attempt, pause_seconds = 1, patience.backoff_seconds
    while True:
        try:
            return _answer(url, start, length, place, patience.timeout_seconds)
        except _PassingError as error:
            if attempt == patience.attempts:
                raise AudioError(
                    f"recording must be fetched within {patience.attempts} attempts, got {error} in {place}. Check the "
                    f"network and the server, then start again: a training goes on from its last checkpoint."
                ) from error
        time.sleep(pause_seconds)
        attempt, pause_seconds = attempt + 1, 2 * pause_seconds


@cache
def _connections(process_id: int) -> PoolManager:  # noqa: ARG001 - a forked process must not talk into its parent's
    from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager
    from urllib3.connection import HTTPConnection, HTTPSConnection

    class Plain(HTTPConnection):
        def request(self, *args: Any, **options: Any) -> None:
            _running.exchange.uses(self)
            super().request(*args, **options)

    class Encrypted(HTTPSConnection):
        def request(self, *args: Any, **options: Any) -> None:
            _running.exchange.uses(self)
            super().request(*args, **options)

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class EncryptedPool(HTTPSConnectionPool):
        ConnectionCls = Encrypted

    pools = PoolManager(maxsize=KEPT_CONNECTIONS)
    pools.pool_classes_by_scheme = {"http": PlainPool, "https": EncryptedPool}
    return pools


class _Running(threading.local):
    exchange: _Exchange


_running = _Running()


class _Exchange:
    """A request and its answer, whose connection is cut when its time is over."""

    def __init__(self, seconds: float) -> None:
        self._connection: Any = None
        self._lock = threading.Lock()
        self._is_over = False
        self.was_cut = False
        self._set_timer(seconds)

    def _set_timer(self, seconds: float) -> None:
        self._timer = threading.Timer(seconds, self._cut)
        self._timer.daemon = True
        self._timer.start()

    def __enter__(self) -> Self:
        _running.exchange = self
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def end(self) -> None:
        """Let go of the connection, which may serve the next exchange from here on."""
        with self._lock:
            self._is_over = True
            self._timer.cancel()

    def uses(self, connection: Any) -> None:
        self._connection = connection

    def _cut(self) -> None:
        with self._lock:
            if self._is_over:
                return
            open_socket = getattr(self._connection, "sock", None)
            if open_socket is None:  # still connecting
                self._set_timer(_PAUSE_SECONDS)
            else:
                self.was_cut = True
                with suppress(OSError):
                    socket.socket.shutdown(open_socket, socket.SHUT_RDWR)  # also under TLS: a reader sees the end


def _answer(url: str, start: int, length: int, place: str, timeout_seconds: float) -> bytes:
    deadline = time.monotonic() + timeout_seconds
    with _Exchange(timeout_seconds) as exchange:
        try:
            return _exchanged(url, start, length, place, deadline)
        except (_PassingError, AudioError) as error:  # a header that was cut off may look whole
            if exchange.was_cut:
                raise _PassingError(f"no whole answer in {timeout_seconds:g} s") from error
            raise


def _exchanged(url: str, start: int, length: int, place: str, deadline: float) -> bytes:
    from urllib3.exceptions import HTTPError

    headers = {"Range": f"bytes={start}-{start + length - 1}", "Accept-Encoding": "identity"}
    try:
        response = _connections(os.getpid()).request(
            "GET", url, headers=headers, timeout=_left(deadline), retries=False, redirect=False, preload_content=False
        )
        try:
            _require_range(response, start, length, place)
            content = _body(response, length, place, deadline)
        except BaseException:
            response.close()  # there may be more to come, so the connection is of no use
            raise
    except HTTPError as error:
        raise _PassingError(f"no whole answer ({' '.join(str(error).split())})") from error
    _running.exchange.end()
    response.release_conn()
    return content


def _left(deadline: float) -> float:
    return max(0.001, deadline - time.monotonic())


def _require_range(response: BaseHTTPResponse, start: int, length: int, place: str) -> None:
    status = response.status
    if status in _PASSING:
        raise _PassingError(f"status {status}")
    if status in _MISSING:
        raise FileNotFoundError(
            f"shard must be there, got status {status} for {place}. Put the shards below the root URL, or correct it."
        )
    if status == _OUTSIDE:
        raise AudioError(
            f"recording must lie inside its shard, got status {status} for bytes {start:,} to {start + length:,} in "
            f"{place}. The shard is cut off or not that of this manifest: upload both again."
        )
    if status == _OK:
        raise AudioError(
            f"server must answer with the range that was asked for (status {_PARTIAL}), got the whole file in {place}. "
            f"Choose storage that knows HTTP ranges."
        )
    if status in _MOVED:
        raise AudioError(
            f"root URL must be where the shards are, got status {status} that leads to "
            f"{quoted(response.headers.get('Location', 'nowhere'))} in {place}. Name that place as the root."
        )
    if status != _PARTIAL:
        raise AudioError(f"shard must be readable, got status {status} for {place}. Check the URL and who may read it.")
    sent, expected = response.headers.get("Content-Range", ""), f"bytes {start}-{start + length - 1}/"
    if not sent.startswith(expected):
        raise AudioError(
            f"server must send {expected[:-1]}, got {quoted(sent[:100])} in {place}. The shard is cut off or "
            "not that of "
            f"this manifest: upload both again."
        )


def _body(response: BaseHTTPResponse, length: int, place: str, deadline: float) -> bytes:
    """The content, piece by piece as it comes, so that a server that trickles cannot hold on for ever."""
    content = bytearray()
    while len(content) <= length:
        piece = response.read1(length + 1 - len(content), decode_content=False)
        if not piece:
            break
        content += piece
        if time.monotonic() > deadline:
            raise _PassingError(f"{len(content):,} of {length:,} bytes in time")
    if len(content) > length:
        raise AudioError(f"server must send {length:,} bytes, got more in {place}. Do not use this server.")
    if len(content) < length:
        raise _PassingError(f"{len(content):,} of {length:,} bytes")
    return bytes(content)


def driver_range(root: str, path: str, start: int, length: int, *, place: str) -> bytes:
    """Fetch part of a file.

    Args:
        root: URL of the folder.
        path: The file below it.
        start: First byte.
        length: Number of bytes, at least 1.
        place: What to call it in an error.

    Returns:
        Exactly the bytes asked for.

    Raises:
        FileNotFoundError: If there is no such file.
        AudioError: If the driver fails, or gives another number of bytes.
    """
    try:
        driver, folder = _driver(os.getpid(), root)
        content: bytes = driver.cat_file(f"{folder.rstrip('/')}/{path}", start=start, end=start + length)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"shard must be there, got none for {place}. Put the shards below the root URL, or correct it."
        ) from error
    except Exception as error:  # each driver has exceptions of its own
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise AudioError(
            f"shard must be readable, got an error for {place} ({reason}). Check the URL, the credentials and the "
            f"network, then start again: a training goes on from its last checkpoint."
        ) from error
    if len(content) != length:
        raise AudioError(
            f"storage must send {length:,} bytes, got {len(content):,} in {place}. The shard is cut off or not that of "
            f"this manifest: upload both again."
        )
    return content


@cache
def _driver(process_id: int, root: str) -> tuple[AbstractFileSystem, str]:  # noqa: ARG001 - not for a forked process
    from fsspec.core import url_to_fs

    driver, folder = url_to_fs(root)
    return driver, folder

"""Servers that never come to an end: one deadline for the whole exchange, and nothing of it is waited for longer."""

import select
import socket
import threading

import pytest

from chns.core import AudioError
from chns.data.storage.ranges import Patience, http_range

BRIEF = Patience(timeout_seconds=0.2, attempts=1)
START = b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-3/10\r\n"
CHUNKED = START + b"Transfer-Encoding: chunked\r\n\r\n"
# Each attack is sent piece by piece, faster than any single read could time out; then comes the rest of a valid answer.
ATTACKS = {
    "a header byte by byte": (
        b"HTTP/1.1 206 OK\r\nX-Slow: ",
        [b"x"] * 200,
        b"\r\nContent-Range: bytes 0-3/10\r\nContent-Length: 4\r\n\r\nabcd",
    ),
    "100 Continue without end": (
        b"",
        [b"HTTP/1.1 100 Continue\r\n\r\n"] * 200,
        START + b"Content-Length: 4\r\n\r\nabcd",
    ),
    "a chunk header digit by digit": (CHUNKED, [b"0"] * 200, b"4\r\nabcd\r\n0\r\n\r\n"),
    "a chunk's extension": (CHUNKED, [b"4;"] + [b"x"] * 200, b"\r\nabcd\r\n0\r\n\r\n"),
    "a body byte by byte": (START + b"Content-Length: 4\r\n\r\n", [b"a", b"b", b"c"] + [b""] * 200, b"d"),
}


@pytest.fixture
def slow_server():
    """Answers a request: the first part at once, then the pieces slowly, then the last part; tells if it got there."""
    listener = socket.create_server(("127.0.0.1", 0))
    stopped, heard_out = threading.Event(), threading.Event()

    def serve(first: bytes, pieces: list[bytes], last: bytes) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65_536)
            try:
                connection.sendall(first)
                for piece in pieces:
                    if stopped.is_set() or select.select([connection], [], [], 0.02)[0]:
                        return  # the connection was cut
                    connection.sendall(piece)
                connection.sendall(last)
                heard_out.set()
            except OSError:
                return

    threads = []

    def start(attack: str) -> str:
        threads.append(threading.Thread(target=serve, args=ATTACKS[attack]))
        threads[0].start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}/a.tar"

    yield start, threads, heard_out
    stopped.set()
    for thread in threads:
        thread.join()
    listener.close()


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_answer_without_end_is_given_up_at_the_deadline(attack, slow_server):
    start, threads, heard_out = slow_server
    with pytest.raises(AudioError, match="recording must be fetched within 1 attempts, got"):
        http_range(start(attack), 0, 4, place="a.tar", patience=BRIEF)
    threads[0].join()  # which ends when the connection is cut, or with the last part
    assert not heard_out.is_set()


@pytest.mark.slow
def test_the_slowest_of_these_answers_is_a_valid_one_for_who_has_patience(slow_server):
    start, _, heard_out = slow_server
    patience = Patience(timeout_seconds=60.0, attempts=1)
    assert http_range(start("a chunk header digit by digit"), 0, 4, place="a.tar", patience=patience) == b"abcd"
    assert heard_out.wait(10)

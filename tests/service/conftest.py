"""A service as a process of its own, which tests call, kill and start again."""

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from typing import NamedTuple

import pytest


class Running(NamedTuple):
    """A service that answers."""

    process: subprocess.Popen
    address: str


@pytest.fixture
def start_service(free_port):
    """Starts ``chns serve`` with some words, on one port; ends what is left of it."""
    started = []

    def start(*words, keys=None):
        environment = {name: value for name, value in os.environ.items() if not name.startswith("CHNS_")}
        if keys:
            environment["CHNS_SERVE_KEYS"] = keys
        command = [sys.executable, "-m", "chns", "serve", "--port", str(free_port), *map(str, words)]
        process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        started.append(process)
        address = f"http://127.0.0.1:{free_port}"
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{address}/health").read()
            except urllib.error.URLError:
                time.sleep(0.1)
            else:
                return Running(process, address)
        raise AssertionError("the service must answer within 60 s")

    yield start
    for process in started:
        process.terminate()
        process.wait(20)

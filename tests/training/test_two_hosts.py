"""Two hosts: network namespaces of this machine, which see each other over one virtual cable only."""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from chns.cli import main

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("ip") is None or os.geteuid() != 0, reason="needs iproute2, and root to make namespaces"
    ),
]
HELPERS = Path(__file__).parents[1] / "helpers"
HOSTS = {"chns-a": "10.77.0.1", "chns-b": "10.77.0.2"}


def ip(*words):
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def two_hosts():
    """Their names; the cable is plugged in."""
    first, second = HOSTS
    made = []
    try:
        for name in HOSTS:
            ip("netns", "add", name)
            made.append(name)
        ip("link", "add", "v-" + first, "type", "veth", "peer", "name", "v-" + second)
        for name, address in HOSTS.items():
            ip("link", "set", "v-" + name, "netns", name)
            ip("-n", name, "addr", "add", f"{address}/24", "dev", "v-" + name)
            ip("-n", name, "link", "set", "v-" + name, "up")
            ip("-n", name, "link", "set", "lo", "up")
    except subprocess.CalledProcessError as error:
        for name in made:
            ip("netns", "del", name)
        pytest.skip(f"namespaces cannot be made here: {error.stderr.decode().strip()}")
    yield list(HOSTS)
    for name in HOSTS:
        ip("netns", "del", name)


def words(manifest, out, *more):
    return [
        "train", "--config", "chns", "--config", "tiny", "--encoder.factory", "chns_test_encoders.Plain",
        "--encoder.settings", "{}", "--data.train", str(manifest), "--data.held_out_speakers", "4",
        "--train.device", "cpu", "--out", str(out), *more,
    ]  # fmt: skip


def start(hosts, command, log):
    """The command on each host, by torchrun with one process each."""
    processes = []
    for name in hosts:
        run = [
            "ip", "netns", "exec", name, sys.executable, "-m", "torch.distributed.run", "--nnodes", "2",
            "--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-endpoint", f"{HOSTS[hosts[0]]}:29400",
            "--rdzv-conf", f"is_host={int(name == hosts[0])}", "--rdzv-id", "chns", "--local-addr", HOSTS[name],
            "-m", "chns", *command,
        ]  # fmt: skip
        environment = {
            **os.environ,
            "PYTHONPATH": str(HELPERS),
            "GLOO_SOCKET_IFNAME": "v-" + name,
            "OMP_NUM_THREADS": "1",
        }
        with (log / name).open("a") as file:
            processes.append(subprocess.Popen(run, env=environment, stdout=file, stderr=file, start_new_session=True))
    return processes


def ended(processes, log, *, seconds):
    """Exit codes, once all have ended; whatever has not by then is killed."""
    until = time.monotonic() + seconds
    try:
        codes = [process.wait(timeout=max(1, until - time.monotonic())) for process in processes]
        logging.warning("exit codes %s; %s", codes, {path.name: path.read_text()[-1500:] for path in log.iterdir()})
        return codes
    except subprocess.TimeoutExpired:
        said = {path.name: path.read_text()[-2000:] for path in log.iterdir()}
        raise AssertionError(said) from None
    finally:
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def step_of(folder):
    path = folder / "training.pt"
    return torch.load(path, weights_only=True)["step"] if path.is_file() else 0


def weights(folder):
    return load_file(folder / "model" / "model.safetensors")


def test_two_hosts_train_as_one_process_and_go_on_after_one_was_cut_off(two_hosts, hum_manifest, tmp_path):
    longer = ["--train.epochs", "20"]
    assert main(words(hum_manifest, tmp_path / "one", *longer)) == 0
    log = tmp_path / "log"
    log.mkdir()
    assert ended(start(two_hosts, words(hum_manifest, tmp_path / "two", *longer), log), log, seconds=600) == [0, 0]
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name in one:
        torch.testing.assert_close(one[name], two[name], atol=1e-4, rtol=1e-3)

    cut = words(hum_manifest, tmp_path / "cut", *longer, "--train.timeout_minutes", "0.5")
    processes = start(two_hosts, cut, log)
    until = time.monotonic() + 300
    while step_of(tmp_path / "cut") < 20:
        assert time.monotonic() < until, (log / two_hosts[0]).read_text()[-2000:]
        time.sleep(0.2)
    ip("-n", two_hosts[1], "link", "set", "v-" + two_hosts[1], "down")
    until = time.monotonic() + 30 + 60
    said = "the other processes must answer within train.timeout_minutes, 0.5, got no answer"
    while not all(said in (log / name).read_text() for name in two_hosts):
        assert time.monotonic() < until, {name: (log / name).read_text()[-2000:] for name in two_hosts}
        time.sleep(0.5)
    assert ended(processes[:1], log, seconds=60) == [1]
    os.killpg(processes[1].pid, signal.SIGKILL)  # torchrun itself, which waits for the other host's
    processes[1].wait()
    assert 20 <= step_of(tmp_path / "cut") < 120
    assert not (tmp_path / "cut" / "summary.json").exists()

    ip("-n", two_hosts[1], "link", "set", "v-" + two_hosts[1], "up")
    assert ended(start(two_hosts, cut, log), log, seconds=600) == [0, 0]
    assert json.loads((tmp_path / "cut" / "summary.json").read_text())["steps"] == 120
    assert all(torch.equal(two[name], value) for name, value in weights(tmp_path / "cut").items())

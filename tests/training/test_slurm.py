"""The scripts of `examples/cluster` under SLURM itself: a controller and two nodes, all daemons on this machine."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from chns.cli import main

DAEMONS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "sinfo")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not all(map(shutil.which, DAEMONS)) or os.geteuid() != 0, reason="needs munge and SLURM, and root to start them"
    ),
]
HELPERS = Path(__file__).parents[1] / "helpers"
SCRIPTS = Path(__file__).parents[2] / "examples" / "cluster"

CONF = """
ClusterName=chns
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1
NodeName=node2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.fixture
def slurm(tmp_path_factory):
    """The environment in which SLURM's commands find it."""
    folder = tmp_path_factory.mktemp("slurm")
    for parent in (folder, *folder.parents[:2]):
        parent.chmod(0o755)  # munge wants everybody to reach its socket
    for name in ("state", "spool.node1", "spool.node2"):
        (folder / name).mkdir()
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o600)
    (folder / "slurm.conf").write_text(CONF.format(folder=folder, host=socket.gethostname(), ports=free_ports(3)))
    environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf"), "PYTHONPATH": str(HELPERS)}
    environment |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    environment |= {"MASTER_ADDR": "127.0.0.1"}  # nodes of a real cluster have names, which Fabric takes from SLURM
    files = {"key-file": "munge.key", "socket": "munge.socket", "pid-file": "munge.pid", "log-file": "munge.log"}
    munge = ["munged", "--force", f"--seed-file={folder}/seed"]
    daemons = [[*munge, *(f"--{option}={folder}/{name}" for option, name in files.items())], ["slurmctld", "-c"]]
    try:
        for words in [*daemons, ["slurmd", "-N", "node1"], ["slurmd", "-N", "node2"]]:
            subprocess.run(words, check=True, env=environment, capture_output=True)
        until = time.monotonic() + 60
        while ask(environment, "sinfo", "--noheader", "--states=idle", "--format=%D").strip() != "2":
            assert time.monotonic() < until, ask(environment, "sinfo")
            time.sleep(0.5)
        yield environment
    finally:
        for file in folder.glob("*.pid"):
            os.kill(int(file.read_text()), signal.SIGTERM)


def ask(environment, *words):
    return subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stdout


def submit(environment, folder, *words):
    """Wait for a job; what it printed, if it failed."""
    command = ["sbatch", "--parsable", "--wait", f"--output={folder}/%A-%a.out", *map(str, words)]
    done = subprocess.run(command, check=False, env=environment, capture_output=True, text=True, timeout=900)
    said = "".join(path.read_text()[-3000:] for path in Path(folder).glob("*.out"))
    assert done.returncode == 0, done.stderr + said


def test_two_nodes_train_as_one_process(slurm, hum_manifest, tmp_path):
    words = [
        "--config", "chns", "--config", "tiny", "--encoder.factory", "chns_test_encoders.Plain",
        "--encoder.settings", "{}", "--data.train", str(hum_manifest), "--data.held_out_speakers", "4",
        "--train.device", "cpu", "--out",
    ]  # fmt: skip
    assert main(["train", *words, str(tmp_path / "one")]) == 0
    nodes = ["--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=1"]
    submit(slurm, tmp_path, *nodes, SCRIPTS / "train.sbatch", *words, tmp_path / "two")
    one, two = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("one", "two"))
    for name in one:
        torch.testing.assert_close(one[name], two[name], atol=1e-4, rtol=1e-3)


def test_an_array_of_jobs_packs_what_one_run_packs(slurm, hum_manifest, tmp_path):
    out = tmp_path / "shards"
    words = ["pack", str(hum_manifest), "--out", str(out), "--shard-mb", "0.5"]
    assert main([*words, "--workers", "1"]) == 0
    alone = {path.name: path.read_bytes() for path in out.iterdir() if path.name != ".lock"}
    shutil.rmtree(out)
    submit(slurm, tmp_path, "--array=1-3", SCRIPTS / "prepare.sbatch", *words)
    assert not (out / "manifest.parquet").exists()
    submit(slurm, tmp_path, SCRIPTS / "prepare.sbatch", *words)
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.name != ".lock"} == alone

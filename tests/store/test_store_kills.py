"""Processes that write at once and are killed at random: what was acknowledged is there, and nothing is half."""

import logging
import random
import subprocess
import sys
import time
import zlib

import numpy as np
import pytest

from chns.store.voiceprints import VoiceprintStore

DIM = 32
UTTERANCES = 5

WRITER = f"""
import os, sys, zlib
import numpy as np
from chns.store.voiceprints import VoiceprintStore

path, log, prefix, deletes = sys.argv[1:]
acknowledged = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

def acknowledge(text):
    os.write(acknowledged, (text + "\\n").encode())

with VoiceprintStore.open(path, model_digest="m", dim={DIM}) as store:
    number = 0
    while True:
        name = f"{{prefix}}-{{number}}"
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        store.enrol(name, rng.standard_normal(({UTTERANCES}, {DIM})), note=f"note of {{name}}")
        acknowledge(f"+{{name}}")
        if deletes == "yes" and number % 3 == 2:
            acknowledge(f"?{{name}}")
            store.delete(name)
            acknowledge(f"-{{name}}")
        number += 1
"""


def unit_embeddings(name):
    vectors = np.random.default_rng(zlib.crc32(name.encode())).standard_normal((UTTERANCES, DIM))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def voiceprint_of(name):
    mean = unit_embeddings(name).mean(axis=0)
    return mean / np.linalg.norm(mean)


def first_bytes(name):
    return unit_embeddings(name)[0].astype("<f4").tobytes()[:32]


def start(path, log, prefix, deletes):
    words = [sys.executable, "-c", WRITER, path, log, prefix, deletes]
    return subprocess.Popen(words, stderr=subprocess.PIPE)


def acknowledgements(logs):
    lines = [line for log in logs if log.exists() for line in log.read_text().splitlines()]
    return {sign: {line[1:] for line in lines if line[0] == sign} for sign in "+?-"}


def write_and_kill(folder, *, writers, rounds, deletes, rng):
    """Several processes write; each is killed at a random moment after its first acknowledgement."""
    path, logs = folder / "people.store", []
    for round_number in range(rounds):
        names = [f"{round_number}-{writer}" for writer in range(writers)]
        logs += [folder / f"{name}.log" for name in names]
        processes = [start(path, folder / f"{name}.log", name, deletes) for name in names]
        try:
            for process, name in zip(processes, names, strict=True):
                wait_for_acknowledgement(process, folder / f"{name}.log")
                time.sleep(rng.uniform(0, 0.1))
                assert process.poll() is None, process.stderr.read().decode()
                process.kill()
        finally:
            for process in processes:
                process.kill()
                process.communicate()
        check(path, acknowledgements(logs))
    return logs


def wait_for_acknowledgement(process, log):
    while not log.exists() or not log.stat().st_size:
        assert process.poll() is None, process.stderr.read().decode()
        time.sleep(0.005)


def check(path, acknowledged):
    with VoiceprintStore.open_existing(path) as store:
        people = {person.name: person for person in store.voiceprints()}
        assert acknowledged["+"] - acknowledged["?"] <= people.keys()
        assert not acknowledged["-"] & people.keys()
        for name, person in people.items():
            assert (person.num_utterances, person.note) == (UTTERANCES, f"note of {name}")
            np.testing.assert_allclose(person.vector, voiceprint_of(name), atol=1e-5)
        assert store._connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert store._connection.execute("PRAGMA foreign_key_check").fetchall() == []
    content = b"".join(file.read_bytes() for file in path.parent.glob("people.store*"))
    assert all(first_bytes(name) in content for name in list(people)[:10])
    assert not [name for name in acknowledged["-"] if first_bytes(name) in content]


def test_two_writers_being_killed_lose_nothing_that_was_acknowledged(tmp_path):
    logs = write_and_kill(tmp_path, writers=2, rounds=2, deletes="no", rng=random.Random(0))
    assert len(acknowledgements(logs)["+"]) >= 4


def test_writers_that_also_delete_and_are_killed_leave_nothing_half_done(tmp_path):
    write_and_kill(tmp_path, writers=2, rounds=1, deletes="yes", rng=random.Random(1))


@pytest.mark.slow
@pytest.mark.parametrize("deletes", ["no", "yes"])
def test_eight_writers_being_killed_lose_nothing_that_was_acknowledged(tmp_path, deletes):
    """Which `check` looks at after every round; the log says how much there was to lose."""
    logs = write_and_kill(tmp_path, writers=8, rounds=8, deletes=deletes, rng=random.Random(2))
    acknowledged = acknowledgements(logs)
    enrolled, deleted = len(acknowledged["+"]), len(acknowledged["-"])
    logging.info("64 writers killed: %d enrolments and %d deletions acknowledged, none lost", enrolled, deleted)
    assert enrolled >= 64

"""A deleted person leaves no byte in the files of the store."""

import sqlite3
import subprocess
import sys

import numpy as np
import pytest

from chns.store import store_file
from chns.store import voiceprints as store
from chns.store.voiceprints import VoiceprintStore

DIM = 96


def embeddings_of(number, count=4):
    vectors = np.random.default_rng(number).standard_normal((count, DIM)).astype(np.float32)
    return vectors / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True).astype(np.float32)


def opened(path):
    return VoiceprintStore.open(path, model_digest="m", dim=DIM)


def enrol(store, number):
    store.enrol(name(number), embeddings_of(number), note=f"note of {number:03d}", sources=[f"{number:03d}.wav"] * 4)


def name(number):
    return f"Person {number:03d}"


def bytes_of(path):
    """Bytes of all files of the store, read by another process: closing the file in this one would drop its locks."""
    code = "import pathlib, sys\nfor f in pathlib.Path(sys.argv[1]).iterdir(): sys.stdout.buffer.write(f.read_bytes())"
    return subprocess.run([sys.executable, "-c", code, path.parent], capture_output=True, check=True).stdout


def traces(content, number):
    """What is left of a person: name, note, source, and any 32 bytes of an embedding as the store has written them."""
    units = embeddings_of(number).astype(np.float64)
    units = (units / np.linalg.norm(units, axis=1, keepdims=True)).astype("<f4")
    pieces = [unit.tobytes()[start : start + 32] for unit in units for start in range(0, DIM * 4, 32)]
    texts = [f"{name(number)}".encode(), f"note of {number:03d}".encode(), f"{number:03d}.wav".encode()]
    return [piece for piece in [*texts, *pieces] if piece in content]


def test_deleting_a_person_leaves_no_byte_of_them_and_all_of_the_others(tmp_path):
    path = tmp_path / "people.store"
    with opened(path) as people:
        for number in range(30):
            enrol(people, number)
        assert all(traces(bytes_of(path), number) for number in range(30))
        for number in range(0, 30, 7):
            assert people.delete(name(number)) == 4
            content = bytes_of(path)
            assert traces(content, number) == []
        assert people.names() == [name(number) for number in range(30) if number % 7]
        assert len(traces(content, 1)) == 3 + 4 * DIM * 4 // 32
        assert people.show(name(1)).sources == ("001.wav",) * 4
    content = bytes_of(path)
    assert not any(traces(content, number) for number in range(0, 30, 7))


def test_deleting_one_of_a_family_of_names_deletes_only_that_one(tmp_path):
    with opened(tmp_path / "people.store") as people:
        enrol(people, 1)
        people.enrol("Person 0011", embeddings_of(2))
        people.delete(name(1))
        assert people.names() == ["Person 0011"]
        enrol(people, 1)
        assert people.show(name(1)).num_utterances == 4


def test_a_deletion_that_was_cut_off_is_finished_by_the_next_opening(tmp_path, monkeypatch):
    path = tmp_path / "people.store"
    people = opened(path)
    enrol(people, 1)
    enrol(people, 2)
    monkeypatch.setattr(store, "scrub", lambda *_: None)
    people.delete(name(1))
    assert traces(bytes_of(path), 1)
    with opened(path) as other:
        assert traces(bytes_of(path), 1) == []
        assert other.names() == [name(2)]
    people.close()


def test_readers_that_stay_keep_a_deletion_from_being_finished_and_it_says_so(tmp_path, monkeypatch, caplog):
    path = tmp_path / "people.store"
    opened(path).close()
    monkeypatch.setattr(store_file, "BUSY_SECONDS", 0.05)
    with opened(path) as people:
        enrol(people, 1)
        reader = sqlite3.connect(path, isolation_level=None)
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM enrolments").fetchone()
        told = (
            r"^others must stop reading within 0\.05 s, got some that still do in .*people\.store\. "
            r"The person is deleted, but bytes stay in the files until the store is next opened while nobody reads\.$"
        )
        with pytest.raises(TimeoutError, match=told) as raised:
            people.delete(name(1))
        assert people.names() == []
        assert traces(bytes_of(path), 1)
        with opened(path):
            assert caplog.messages == [str(raised.value)]
        reader.close()
        with opened(path):
            assert traces(bytes_of(path), 1) == []


def test_a_store_that_others_write_is_not_scrubbed_and_the_error_names_it(tmp_path, monkeypatch):
    path = tmp_path / "people.store"
    monkeypatch.setattr(store_file, "BUSY_SECONDS", 0.05)
    with opened(path) as people:
        writer = sqlite3.connect(path, isolation_level=None)
        writer.execute("BEGIN IMMEDIATE")
        with pytest.raises(TimeoutError, match=r"store must be free within 0\.05 s, .*people\.store\. Try again"):
            store_file.scrub(people._connection, path)
        writer.close()


@pytest.fixture
def careless(monkeypatch):
    """SQLite as some systems build it: nothing is safe by default."""
    connect = sqlite3.connect

    def connect_carelessly(*words, **options):
        connection = connect(*words, **options)
        connection.execute("PRAGMA secure_delete = OFF")
        connection.execute("PRAGMA synchronous = OFF")
        return connection

    monkeypatch.setattr(sqlite3, "connect", connect_carelessly)


@pytest.mark.usefixtures("careless")
@pytest.mark.parametrize("key", [None, b"k" * 32])
def test_every_connection_zeroes_what_is_deleted_and_waits_for_the_disk(tmp_path, monkeypatch, key):
    path = tmp_path / "people.store"
    settings = []
    connected = store_file._connected

    def noting(*words, **options):
        connection = connected(*words, **options)
        settings.append(
            [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("secure_delete", "synchronous")]
        )
        return connection

    monkeypatch.setattr(store_file, "_connected", noting)
    VoiceprintStore.open(path, model_digest="m", dim=DIM, key=key).close()
    VoiceprintStore.open_existing(path, key=key).close()
    full = 2
    assert settings == [[1, full]] * 3  # to make it, to open it, to open it again


@pytest.mark.usefixtures("careless")
def test_the_place_of_the_deleted_is_zeroed_before_the_file_is_written_anew(tmp_path, monkeypatch):
    path = tmp_path / "people.store"
    with opened(path) as people:
        for number in range(8):
            enrol(people, number)
        monkeypatch.setattr(store, "scrub", lambda *_: None)
        people.delete(name(3))
        raw = sqlite3.connect(path)
        assert raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
        raw.close()
        assert traces(bytes_of(path), 3) == []
        assert traces(bytes_of(path), 4)


def test_after_a_deletion_the_file_has_no_unused_pages(tmp_path):
    path = tmp_path / "people.store"

    def pages():
        raw = sqlite3.connect(path)
        counts = [raw.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count")]
        raw.close()
        return counts

    with opened(path) as people:
        for number in range(30):
            enrol(people, number)
        before, _ = pages()
        for number in range(25):
            people.delete(name(number))
        after, unused = pages()
    assert unused == 0
    assert after < before / 2

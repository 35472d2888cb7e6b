"""Files from strangers: an error that names the file, never a crash and never nonsense."""

import os
import resource
import shutil
import sqlite3
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest

from chns.core import ModelFileError
from chns.store import store_file
from chns.store.voiceprints import VoiceprintStore

DIM = 64


def vectors(seed, count=2):
    return np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float32)


@pytest.fixture(scope="session")
def forty_people(tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "people.store"
    with VoiceprintStore.open(path, model_digest="m", dim=DIM) as store:
        for number in range(40):
            store.enrol(f"person {number}", vectors(number), note="note", sources=["1.wav", "2.wav"])
    return path


@pytest.fixture
def path(forty_people, tmp_path):
    return shutil.copy(forty_people, tmp_path / "people.store")


def change(path, *statements):
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA foreign_keys = OFF")
    connection.execute("PRAGMA ignore_check_constraints = ON")
    for statement in statements:
        connection.execute(statement)
    connection.close()


def use_all(path):
    with VoiceprintStore.open(path, model_digest="m", dim=DIM) as store:
        store.identify(vectors(0)[0], top=100)
        people = store.voiceprints()
        assert store.names() == sorted(person.name for person in people)
        store.enrol("somebody new", vectors(99))
        store.delete("somebody new")
        return people


@pytest.mark.parametrize(
    "content", [b"", b"not a database", b"SQLite format 3\0", b"SQLite format 3\0" + b"\xff" * 9_000]
)
def test_what_is_no_database_is_refused(tmp_path, content):
    (tmp_path / "x.store").write_bytes(content)
    with pytest.raises(ModelFileError, match=r"store must be .*x\.store"):
        VoiceprintStore.open_existing(tmp_path / "x.store")
    assert (tmp_path / "x.store").read_bytes() == content


def test_the_database_of_another_program_is_refused_and_left_as_it_was(tmp_path):
    change(tmp_path / "x.store", "CREATE TABLE store (id)", "INSERT INTO store VALUES (1)")
    before = (tmp_path / "x.store").read_bytes()
    for open_store in (
        VoiceprintStore.open_existing,
        lambda path: VoiceprintStore.open(path, model_digest="m", dim=DIM),
    ):
        with pytest.raises(
            ModelFileError, match=r"store must be a file that `chns enrol` made, got another .*x\.store"
        ):
            open_store(tmp_path / "x.store")
    assert (tmp_path / "x.store").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_a_store_of_a_later_version_is_refused(path):
    change(path, "PRAGMA user_version = 2")
    way_out = r"Open it with the chns that made it\.$"
    with pytest.raises(
        ModelFileError, match=rf"^store must be of version 1, got version 2 in .*people\.store\. {way_out}"
    ):
        use_all(path)


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TRIGGER t AFTER INSERT ON enrolments BEGIN DELETE FROM enrolments; END",
        "CREATE VIEW v AS SELECT * FROM enrolments",
        "ALTER TABLE utterances ADD COLUMN more",
        "ALTER TABLE utterances RENAME TO others",
        "DROP INDEX utterances_by_enrolment",
        "DROP TABLE utterances",
    ],
)
def test_a_schema_that_is_not_ours_to_the_letter_is_refused(path, statement):
    change(path, statement)
    with pytest.raises(
        ModelFileError, match=r"store must have the tables of a voiceprint store, got others in .*people"
    ):
        use_all(path)


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("DELETE FROM store", "store must tell its model and its key in one row"),
        ("INSERT INTO store (id, model_digest, dim) VALUES (2, 'm', 64)", "store must tell its model and"),
        ("UPDATE store SET dim = 'many'", "store must tell its model and its key in one row"),
        ("UPDATE store SET model_digest = x'00'", "store must tell its model and its key in one row"),
        ("UPDATE store SET salt = x'00'", "store must tell its model and its key in one row"),
        ("UPDATE store SET dim = 1000000000", "store must name a model of 1 to 16384 dimensions, got 1000000000"),
        ("UPDATE store SET dim = -1", "store must name a model of 1 to 16384 dimensions, got -1"),
        ("UPDATE store SET model_digest = char(27)", "store must name a model of 1 to 16384 dimensions"),
        ("UPDATE store SET model_digest = CAST(x'ff' AS TEXT)", "store must be an undamaged voiceprint store"),
        ("UPDATE utterances SET embedding = zeroblob(255) WHERE id = 7", "embedding must have 256 bytes, got one of"),
        ("UPDATE utterances SET embedding = zeroblob(256) WHERE id = 7", "embedding must be of unit length"),
        ("UPDATE utterances SET embedding = CAST(replace(hex(zeroblob(32)), '00', 'ffffffff') AS BLOB) WHERE id = 7",
         "embedding must be of unit length"),
        (f"UPDATE utterances SET embedding = x'{'0100807f' * 64}' WHERE id = 7", "embedding must be of unit length"),
        ("UPDATE utterances SET embedding = zeroblob(2000000) WHERE id = 7", "store must be an undamaged"),
        ("UPDATE utterances SET embedding = 'text' WHERE id = 7", "embedding must be bytes, got str"),
        ("UPDATE utterances SET embedding = 7 WHERE id = 7", "embedding must be bytes, got int"),
        ("UPDATE utterances SET source = 0.5 WHERE id = 7", "source must be bytes, got float"),
        ("DELETE FROM utterances WHERE enrolment = 7", "embeddings of a person must not cancel out"),
        ("UPDATE enrolments SET name = x'ff' WHERE id = 7", "name must be text, got something else"),
        ("UPDATE enrolments SET name = x'41' WHERE id = 7", "name must be the one it is looked up by, got another"),
        ("UPDATE enrolments SET name = x'1b', lookup = x'1b' WHERE id = 7", "name must be the one it is looked up by"),
        ("UPDATE enrolments SET lookup = 7 WHERE id = 7", "lookup must be bytes, got int"),
        ("UPDATE enrolments SET enrolled_at = 'yesterday' WHERE id = 7", "enrolled_at must be a time, got 'yesterday'"),
        ("UPDATE enrolments SET enrolled_at = x'00' WHERE id = 7", "enrolled_at must be a time, got b'.x00'"),
        ("UPDATE enrolments SET enrolled_at = '0001-01-01T00:00:00+23:00' WHERE id = 7", "enrolled_at must be a time"),
    ],
)  # fmt: skip
def test_a_value_that_the_store_never_writes_is_refused(path, statement, message):
    change(path, statement)
    with pytest.raises(ModelFileError, match=rf"{message}.*people\.store"):
        use_all(path)


def test_a_person_without_utterances_is_refused(path):
    change(path, "DELETE FROM utterances WHERE enrolment = 7")
    with (
        VoiceprintStore.open_existing(path) as store,
        pytest.raises(
            ModelFileError, match=r"enrolment must have utterances, got none of 'person 6' in .*people\.store"
        ),
    ):
        store.show("person 6")


def test_an_index_that_names_somebody_who_is_not_there_is_refused(path, monkeypatch):
    with VoiceprintStore.open_existing(path) as store:
        monkeypatch.setattr(store._content, "find", lambda _: 41)
        told = r"^enrolment must be in the table that its index names, got none in .*people\.store\.$"
        with pytest.raises(ModelFileError, match=told):
            store.show("person 41")


def test_somebody_without_utterances_is_refused_where_each_is_compared(path):
    change(path, "DELETE FROM utterances WHERE enrolment = 7")
    told = r"^enrolment must have utterances, got none of somebody in .*people\.store\.$"
    with VoiceprintStore.open_existing(path) as store, pytest.raises(ModelFileError, match=told):
        store.identify(vectors(0)[0], score_by="max")


def test_control_characters_in_a_note_are_shown_as_escapes(path):
    change(path, "UPDATE enrolments SET note = CAST('a' || char(27) || '[2J' AS BLOB) WHERE id = 7")
    with VoiceprintStore.open_existing(path) as store:
        assert store.show("person 6").note == "a\\x1b[2J"


@pytest.mark.parametrize("part", [0.02, 0.1, 0.3, 0.5, 0.7, 0.9])
def test_a_truncated_store_is_refused(path, part):
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    with pytest.raises(ModelFileError, match=r"store must be .*people\.store"):
        use_all(path)


def test_random_damage_gives_an_error_of_ours_or_valid_people(path):
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        damaged = bytearray(content)
        for place in rng.integers(0, len(content), size=rng.integers(1, 30)):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            people = use_all(path)
        except ModelFileError as error:
            refused += "people.store" in str(error)
        else:
            assert all(abs(np.linalg.norm(person.vector) - 1) < 1e-3 for person in people)
        for left in path.parent.glob("people.store-*"):
            left.unlink()
    assert refused > 20


def test_every_connection_is_wary(path, monkeypatch):
    """Functions in a schema do not run, damaged cells are found, and rows that name no row are refused."""
    connect = sqlite3.connect

    def connect_carelessly(*words, **options):
        connection = connect(*words, **options)
        for pragma in ("trusted_schema = ON", "cell_size_check = OFF", "foreign_keys = OFF"):
            connection.execute(f"PRAGMA {pragma}")
        return connection

    monkeypatch.setattr(sqlite3, "connect", connect_carelessly)
    with VoiceprintStore.open_existing(path) as store:
        ask = store._connection.execute
        names = ("trusted_schema", "cell_size_check", "foreign_keys", "journal_mode", "busy_timeout")
        assert [ask(f"PRAGMA {name}").fetchone()[0] for name in names] == [0, 1, 1, "wal", 30_000]


def test_a_store_that_another_program_has_set_to_a_rollback_journal_gets_its_log_back(path):
    change(path, "PRAGMA journal_mode = DELETE")
    VoiceprintStore.open_existing(path).close()
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


def test_a_store_is_made_beside_its_place_and_left_by_who_comes_second(tmp_path, monkeypatch):
    link, linked, synced = os.link, [], []
    fsync = os.fsync

    def noting(descriptor):
        synced.append(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    def quicker(temporary, path):
        linked.append((temporary.parent, temporary.name[: len(".people.store-")]))
        path.write_bytes(b"of the quicker one")
        link(temporary, path)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "fsync", noting)
    monkeypatch.setattr(os, "link", quicker)
    path = tmp_path / "people.store"
    store_file.create_store_file(path, store_file.StoreIdentity("m", DIM, None))
    assert linked == [(tmp_path, ".people.store-")]
    assert path.read_bytes() == b"of the quicker one"
    assert synced == [tmp_path.stat().st_ino]
    monkeypatch.setattr(os, "link", link)
    path.unlink()
    VoiceprintStore.open(path, model_digest="m", dim=DIM).close()
    assert [entry.name for entry in tmp_path.iterdir()] == ["people.store"]


@pytest.mark.parametrize("most_bytes", [0, 8_192])  # not even its kind can be written; its tables cannot
def test_a_disk_that_is_too_full_for_a_new_store_is_an_error_that_names_it_and_leaves_nothing(
    tmp_path, most_bytes, monkeypatch
):
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # a module cut off by the limit would be broken for everybody
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, limits[1]))
    try:
        with pytest.raises(OSError, match=r"^store must be readable and writable, got an error in .*/people\.store \("):
            store_file.create_store_file(tmp_path / "people.store", store_file.StoreIdentity("m", DIM, None))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_synced_is_no_error(tmp_path, monkeypatch):
    def refuse(_):
        raise OSError(22, "not for folders")

    monkeypatch.setattr(os, "fsync", refuse)
    VoiceprintStore.open(tmp_path / "people.store", model_digest="m", dim=DIM).close()


def test_a_store_is_written_anew_only_after_a_deletion(path, monkeypatch):
    monkeypatch.setattr(store_file, "scrub", None)
    VoiceprintStore.open_existing(path).close()
    change(path, "UPDATE store SET deletions = deletions + 1")
    with pytest.raises(TypeError, match="not callable"):
        VoiceprintStore.open_existing(path)


@pytest.mark.parametrize("closed", ["medium", "folder", "file"])
def test_a_store_that_can_only_be_read_is_read_and_left_as_it_was(path, monkeypatch, closed):
    change(path, "UPDATE store SET deletions = deletions + 1")  # which nobody can scrub now
    before = path.read_bytes()
    if closed == "medium":
        flags = {path: SimpleNamespace(f_flag=os.ST_RDONLY | 1024)}
        monkeypatch.setattr(os, "statvfs", flags.__getitem__)
    else:
        refused = {"folder": path.parent, "file": path}[closed]
        monkeypatch.setattr(os, "access", lambda place, how: how == os.W_OK and place != refused)
    path.with_name("people.store-wal").touch()  # an empty log keeps nothing back
    with VoiceprintStore.open_existing(path) as store:
        assert len(store.names()) == 40
        assert store.identify(vectors(3)[0])[0].name == "person 3"
        with pytest.raises(OSError, match=r"^store must be readable and writable, got an error in .*people\.store \("):
            store.enrol("somebody new", vectors(99))
    assert path.read_bytes() == before
    path.with_name("people.store-wal").write_bytes(b"log")
    told = (
        r"^store must be closed where it can only be read, got one with a log that is not taken over: .*store-wal\. "
        r"Open it once where it can be written, for instance by `chns store list`, and copy it again\.$"
    )
    with pytest.raises(OSError, match=told):
        VoiceprintStore.open_existing(path)


def test_sqlite_is_told_that_a_name_is_a_uri_where_it_is_one_for_not_every_build_asks(path, monkeypatch):
    connect, told = sqlite3.connect, []
    monkeypatch.setattr(
        sqlite3, "connect", lambda name, **how: told.append((name, how.get("uri"))) or connect(name, **how)
    )
    VoiceprintStore.open_existing(path).close()
    monkeypatch.setattr(os, "access", lambda *_: False)
    VoiceprintStore.open_existing(path).close()
    assert told[::2] == [(str(path), False), (f"{path.as_uri()}?mode=ro&immutable=1", True)]  # beside those of a schema


def test_a_log_that_another_empties_is_waited_for(monkeypatch):
    """SQLite itself does not wait for the checkpoint of another."""
    now, asked = [100.0], []

    def after(times):
        answers = iter([(1, 5, 5)] * times + [(0, 0, 0)])
        execute = lambda statement: asked.append(statement) or SimpleNamespace(fetchone=lambda: next(answers))  # noqa: E731
        return store_file._emptied_log(SimpleNamespace(execute=execute))

    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: now.append(now.pop() + seconds))
    assert after(0)
    assert now == [100.0]
    assert after(7)
    assert now == pytest.approx([100.07])
    assert set(asked) == {"PRAGMA wal_checkpoint(TRUNCATE)"}
    assert not after(4_000)
    assert now == pytest.approx([100.07 + store_file.BUSY_SECONDS], abs=0.02)


@pytest.mark.parametrize("dim", [1, 16_384])
def test_a_model_may_have_one_dimension_or_very_many(tmp_path, dim):
    VoiceprintStore.open(tmp_path / "x.store", model_digest="m", dim=dim).close()
    with VoiceprintStore.open_existing(tmp_path / "x.store") as store:
        assert store.dim == dim

"""Files from strangers: an error that names the file, never a crash and never nonsense."""

import sqlite3

import numpy as np
import pytest

from chns.core.errors import ModelFileError
from chns.store.voiceprints import VoiceprintStore

DIM = 64


def vectors(seed, count=2):
    return np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float32)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "people.store"
    with VoiceprintStore.open(path, model_digest="m", dim=DIM) as store:
        for number in range(40):
            store.enrol(f"person {number}", vectors(number), note="note", sources=["1.wav", "2.wav"])
    return path


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
    with pytest.raises(ModelFileError, match=r"store must be of version 1, got version 2 in .*people\.store"):
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

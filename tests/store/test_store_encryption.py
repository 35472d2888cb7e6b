"""An encrypted store: nothing can be read without the key, and nothing can be moved from person to person."""

import sqlite3
import sys

import numpy as np
import pytest

from chns.core import ChnsError, ModelFileError
from chns.store.content import export_voiceprints
from chns.store.encryption import EncryptedValues, read_key
from chns.store.voiceprints import VoiceprintStore

DIM = 48
KEY = b"correct horse battery staple"


def vectors(seed, count=2):
    return np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float32)


def opened(path, key=KEY):
    return VoiceprintStore.open(path, model_digest="m", dim=DIM, key=key)


@pytest.fixture
def path(tmp_path):
    pytest.importorskip("cryptography")
    with opened(tmp_path / "secret.store") as store:
        store.enrol("Anna Secret", vectors(0), note="a hidden note", sources=["hidden-1.wav", "hidden-2.wav"])
        store.enrol("Berta Secret", vectors(1))
    return tmp_path / "secret.store"


def test_with_the_key_an_encrypted_store_answers_as_a_plain_one(path, tmp_path):
    with opened(tmp_path / "plain.store", key=None) as plain, opened(path) as secret:
        plain.enrol("Anna Secret", vectors(0), note="a hidden note", sources=["hidden-1.wav", "hidden-2.wav"])
        plain.enrol("Berta Secret", vectors(1))
        assert secret.is_encrypted
        assert not plain.is_encrypted
        assert secret.names() == plain.names() == ["Anna Secret", "Berta Secret"]
        assert secret.identify(vectors(0)[0]) == plain.identify(vectors(0)[0])
        hidden, clear = secret.show("Anna Secret"), plain.show("Anna Secret")
        np.testing.assert_array_equal(hidden.vector, clear.vector)
        assert (hidden.note, hidden.sources) == (clear.note, clear.sources)
        with pytest.raises(ValueError, match="name must be new"):
            secret.enrol("Anna Secret", vectors(2))
        secret.enrol("Anna Secret", vectors(2), note="another", add=True)
        assert (secret.show("Anna Secret").num_utterances, secret.show("Anna Secret").note) == (4, "another")
        assert secret.delete("Anna Secret") == 4
        assert secret.names() == ["Berta Secret"]


def test_the_file_holds_no_name_note_source_embedding_or_key(path):
    content = path.read_bytes()
    units = vectors(0) / np.linalg.norm(vectors(0).astype(np.float64), axis=1, keepdims=True)
    secrets = [b"Anna", b"Secret", b"hidden", KEY, units.astype("<f4").tobytes()[:16]]
    assert [secret for secret in secrets if secret in content] == []


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (
            b"incorrect horse battery",
            r"key must be the one that the store was made with, got another for .*secret\.store",
        ),
        (None, r"key must be given for an encrypted store, got none for .*secret\.store. Pass --key-file or set CHNS_"),
        (b"short", r"key must have 16 to 4096 bytes, got 5 for .*secret\.store. Make one with"),
    ],
)
def test_without_the_right_key_a_store_does_not_open(path, key, message):
    for open_store in (opened, VoiceprintStore.open_existing):
        with pytest.raises(ValueError, match=message):
            open_store(path, key=key)


def test_a_key_for_a_plain_store_is_refused_since_it_would_protect_nothing(tmp_path):
    opened(tmp_path / "plain.store", key=None).close()
    with pytest.raises(ValueError, match="key must be left out for a store that is not encrypted"):
        opened(tmp_path / "plain.store")


def test_a_short_key_makes_no_store(tmp_path):
    with pytest.raises(ValueError, match="key must have 16 to 4096 bytes, got 3"):
        opened(tmp_path / "secret.store", key=b"key")
    assert list(tmp_path.iterdir()) == []


def test_without_the_package_an_encrypted_store_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography.exceptions", None)
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(ChnsError, match=r"cryptography must be installed .* `pip install 'chns\[store\]'`"):
        opened(tmp_path / "secret.store")


@pytest.mark.parametrize(
    ("statement", "kind"),
    [
        ("UPDATE utterances SET embedding = (SELECT embedding FROM utterances WHERE enrolment = 2)", "embedding"),
        ("UPDATE enrolments SET name = (SELECT name FROM enrolments WHERE id = 2) WHERE id = 1", "name"),
        ("UPDATE enrolments SET note = (SELECT name FROM enrolments WHERE id = 1) WHERE id = 1", "note"),
        ("UPDATE utterances SET embedding = x'0102'", "embedding"),
        ("UPDATE utterances SET source = zeroblob(64) WHERE enrolment = 1", "source"),
    ],
)
def test_a_value_that_was_moved_or_changed_does_not_open(path, statement, kind):
    with sqlite3.connect(path) as connection:
        connection.execute(statement)
    connection.close()
    with (
        opened(path) as store,
        pytest.raises(ModelFileError, match=rf"{kind} must be as it was encrypted, got a changed"),
    ):
        store.voiceprints()


def test_equal_values_are_never_written_equally():
    pytest.importorskip("cryptography")
    values = EncryptedValues(KEY, b"0" * 16, source="s")
    sealed = [values.seal(b"content", "note", b"owner") for _ in range(100)]
    assert len(set(sealed)) == 100
    assert {values.unseal(each, "note", b"owner") for each in sealed} == {b"content"}


def test_a_key_comes_from_the_file_or_else_from_the_environment(tmp_path, monkeypatch):
    (tmp_path / "key").write_bytes(KEY + b"\n")
    monkeypatch.delenv("CHNS_STORE_KEY", raising=False)
    assert read_key(None) is None
    monkeypatch.setenv("CHNS_STORE_KEY", "from the environment")
    assert read_key(None) == b"from the environment"
    assert read_key(tmp_path / "key") == KEY


def test_a_key_that_is_missing_empty_or_a_large_file_is_refused(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"key file must be a file, got .*none. Make one with `python -c"):
        read_key(tmp_path / "none")
    (tmp_path / "empty").write_bytes(b"\n")
    with pytest.raises(ValueError, match=r"key must not be empty, got nothing in .*empty"):
        read_key(tmp_path / "empty")
    monkeypatch.setenv("CHNS_STORE_KEY", "")
    with pytest.raises(ValueError, match="key must not be empty, got nothing in CHNS_STORE_KEY"):
        read_key(None)
    (tmp_path / "large").write_bytes(b"x" * 5_000)
    with pytest.raises(ValueError, match=r"key file must have at most 4096 bytes, got more in .*large"):
        read_key(tmp_path / "large")


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM utterances WHERE id = 1",
        "INSERT INTO utterances (enrolment, embedding) SELECT enrolment, embedding FROM utterances LIMIT 1",
        "UPDATE enrolments SET note = NULL WHERE id = 1",
        "UPDATE enrolments SET enrolled_at = '2001-01-01T00:00:00+00:00' WHERE id = 1",
        "UPDATE utterances SET source = NULL WHERE id = 1",
        "UPDATE utterances SET id = 9 WHERE id = 1",
        "UPDATE enrolments SET seal = NULL WHERE id = 1",
        "UPDATE enrolments SET seal = (SELECT seal FROM enrolments WHERE id = 2) WHERE id = 1",
    ],
)
def test_rows_that_were_removed_doubled_or_changed_are_noticed_wherever_people_are_read(path, statement, tmp_path):
    connection = sqlite3.connect(path)
    connection.execute(statement)
    connection.commit()
    connection.close()
    with opened(path) as store:
        for read in (
            lambda: store.show("Anna Secret"),
            lambda: store.identify(vectors(0)[0]),
            lambda: store.identify(vectors(0)[0], score_by="max"),
            lambda: export_voiceprints(store, tmp_path / "all.parquet"),
        ):
            with pytest.raises(ModelFileError, match="enrolment must be as it was written, got rows that were removed"):
                read()
        assert store.show("Berta Secret").num_utterances == 2
        store.delete("Anna Secret")
        assert store.identify(vectors(1)[0])[0].name == "Berta Secret"


def test_who_is_added_to_is_vouched_for_anew(path):
    with opened(path) as store:
        store.enrol("Anna Secret", vectors(5), add=True, note="another")
        assert store.show("Anna Secret").num_utterances == 4
    with opened(path) as store:
        assert store.show("Anna Secret").note == "another"

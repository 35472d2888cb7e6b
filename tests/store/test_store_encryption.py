"""An encrypted store: nothing can be read without the key, and nothing can be moved from person to person."""

import os
import shutil
import sqlite3
import sys

import numpy as np
import pytest

from chns.core import ChnsError, ModelFileError
from chns.store.content import _as_bytes, export_voiceprints
from chns.store.encryption import EncryptedValues, prove, read_key, values_for
from chns.store.voiceprints import VoiceprintStore

DIM = 48
MAKE_ONE = r"Make one with `python -c 'import secrets; print\(secrets\.token_hex\(32\)\)'`\.$"
KEY = b"correct horse battery staple"


def vectors(seed, count=2):
    return np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float32)


def opened(path, key=KEY):
    return VoiceprintStore.open(path, model_digest="m", dim=DIM, key=key)


@pytest.fixture(scope="session")
def two_secrets(tmp_path_factory):
    pytest.importorskip("cryptography")
    path = tmp_path_factory.mktemp("store") / "secret.store"
    with opened(path) as store:
        store.enrol("Anna Secret", vectors(0), note="a hidden note", sources=["hidden-1.wav", "hidden-2.wav"])
        store.enrol("Berta Secret", vectors(1))
    return path


@pytest.fixture
def path(two_secrets, tmp_path):
    return shutil.copy(two_secrets, tmp_path / "secret.store")


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
        for score_by in ("mean", "max"):
            assert secret.identify(vectors(0)[0], score_by=score_by) == plain.identify(vectors(0)[0], score_by=score_by)
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
            r"^key must be the one that the store was made with, got another for .*secret\.store\.$",
        ),
        (
            None,
            r"key must be given for an encrypted store, got none for .*secret\.store. Pass --key-file or set "
            r"CHNS_STORE_KEY \(key= in Python\)\.$",
        ),
        (b"short", rf"key must have 16 to 4096 bytes, got 5 for .*secret\.store. {MAKE_ONE}"),
    ],
)
def test_without_the_right_key_a_store_does_not_open(path, key, message):
    for open_store in (opened, VoiceprintStore.open_existing):
        with pytest.raises(ValueError, match=message):
            open_store(path, key=key)


NOT_ENCRYPTED = (
    r"^key must be left out for a store that is not encrypted, got one for .*plain\.store\. "
    r"Encryption is chosen when a store is made\.$"
)


def test_a_key_for_a_plain_store_is_refused_since_it_would_protect_nothing(tmp_path):
    opened(tmp_path / "plain.store", key=None).close()
    with pytest.raises(ValueError, match=NOT_ENCRYPTED):
        opened(tmp_path / "plain.store")


def test_a_short_key_makes_no_store(tmp_path):
    with pytest.raises(ValueError, match=r"key must have 16 to 4096 bytes, got 3 for .*secret\.store"):
        opened(tmp_path / "secret.store", key=b"key")
    assert list(tmp_path.iterdir()) == []


NOT_INSTALLED = (
    r"^cryptography must be installed for an encrypted store, got no such package\. "
    r"Run `pip install 'chns\[store\]'`\.$"
)


def test_without_the_package_an_encrypted_store_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography.exceptions", None)
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(ChnsError, match=NOT_INSTALLED):
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


def test_what_was_encrypted_by_the_first_version_opens_in_every_later_one():
    """Known answers: how keys are derived, what is bound to a value and how it is laid out are the file's format."""
    pytest.importorskip("cryptography")
    values = EncryptedValues(KEY, bytes(range(16)), source="s")
    assert values.lookup("Zo\u00eb").hex() == "1c9335ac3aab783cf99545925307e0e2abdf6af714ce21e5c54846b63691a977"
    rows = values.vouch(b"rows", b"owner").hex()
    assert rows == "e4817ae28679e4ab213e85a95c7ded10ac17d9e70e28078b32b45045219f52d0"
    sealed = bytes.fromhex("000102030405060708090a0bac619c820d84141c84b82bb1d7f45e9c636837fd729bf9")
    assert values.unseal(sealed, "note", b"owner") == b"content"
    for kind, owner in (("name", b"owner"), ("note", b"other"), ("note:", b"owner"), ("note:owner", b"")):
        with pytest.raises(ModelFileError, match=f"^{kind} must be as it was encrypted, got a changed one in s.$"):
            values.unseal(sealed, kind, owner)
    assert len(values.seal(b"content", "note", b"owner")) == len(sealed)


def test_a_proof_recognises_its_key_only():
    pytest.importorskip("cryptography")
    proof, another = prove(KEY, source="s"), prove(KEY, source="s")
    assert len(proof.salt) == 16
    assert proof.salt != another.salt
    sealed = values_for(KEY, proof, source="s").seal(b"content", "note", b"")
    assert values_for(KEY, proof, source="s").unseal(sealed, "note", b"") == b"content"
    with pytest.raises(ValueError, match="another for s"):
        values_for(KEY, another._replace(check=proof.check), source="s")


@pytest.mark.parametrize("length", [16, 4_096])
def test_the_shortest_and_the_longest_key_are_keys(tmp_path, length):
    pytest.importorskip("cryptography")
    (tmp_path / "key").write_bytes(b"k" * length)
    assert EncryptedValues(read_key(tmp_path / "key"), b"0" * 16, source="s").lookup("anna")
    with pytest.raises(ValueError, match=r"key must have 16 to 4096 bytes, got (15|4097) for s"):
        EncryptedValues(b"k" * (15 if length == 16 else 4_097), b"0" * 16, source="s")


def test_plain_values_are_what_they_are():
    values = values_for(None, None, source="s")
    assert values.lookup("Zo\u00eb") == b"Zo\xc3\xab"
    assert values.unseal(values.seal(b"content", "note", b"owner"), "name", b"other") == b"content"
    assert values.vouch(b"rows", b"owner") is None


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
    with pytest.raises(FileNotFoundError, match=rf"^key file must be a file, got .*none\. {MAKE_ONE}"):
        read_key(tmp_path / "none")
    (tmp_path / "empty").write_bytes(b"\n")
    with pytest.raises(ValueError, match=rf"^key must not be empty, got nothing in .*empty\. {MAKE_ONE}"):
        read_key(tmp_path / "empty")
    monkeypatch.setenv("CHNS_STORE_KEY", "")
    with pytest.raises(ValueError, match="key must not be empty, got nothing in CHNS_STORE_KEY"):
        read_key(None)
    (tmp_path / "large").touch()
    os.truncate(tmp_path / "large", 2**42)  # of which no more is read than a key may have
    with pytest.raises(ValueError, match=r"^key file must have at most 4096 bytes, got more in .*large\.$"):
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


@pytest.mark.parametrize("also", [[], ["DELETE FROM utterances WHERE enrolment = 1"]])
def test_somebody_who_is_looked_up_by_no_bytes_is_refused(path, also):
    connection = sqlite3.connect(path)
    for statement in ["UPDATE enrolments SET lookup = 7 WHERE id = 1", *also]:
        connection.execute(statement)
    connection.commit()
    connection.close()
    with opened(path) as store:
        with pytest.raises(ModelFileError, match=r"^lookup must be bytes, got int in .*secret\.store\.$"):
            store.names()
        for score_by in ("voiceprint", "max"):
            with pytest.raises(ModelFileError, match=r"lookup must be bytes, got int in|got none of somebody in"):
                store.identify(vectors(0)[0], score_by=score_by)


def test_what_is_vouched_for_is_every_field_in_its_order():
    """A known answer: how rows are laid out is the file's format. Lookup and seal of a person are no part."""
    rows = [(b"lookup", b"seal", "2026-07-01T00:00:00+00:00", None, b"one", b"from"), (0, 0, 0, 0, b"another", None)]
    told = b"str27:'2026-07-01T00:00:00+00:00'NoneType4:Nonebytes3:onebytes4:frombytes7:anotherNoneType4:None"
    assert _as_bytes(rows) == told


def test_who_is_added_to_is_vouched_for_anew(path):
    with opened(path) as store:
        store.enrol("Anna Secret", vectors(5), add=True, note="another")
        assert store.show("Anna Secret").num_utterances == 4
    with opened(path) as store:
        assert store.show("Anna Secret").note == "another"

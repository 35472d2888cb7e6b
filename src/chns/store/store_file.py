"""The SQLite file of a voiceprint store: made whole, opened with distrust, scrubbed after a deletion.

A store may come from a stranger. Its schema must be ours to the letter (so there are no triggers, views or
generated columns), nothing is written before that is known, and no value may be longer than a megabyte.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from chns.core import ModelFileError
from chns.store.encryption import KeyProof

BUSY_SECONDS = 30.0
LARGEST_DIM = 16_384

_logger = logging.getLogger(__name__)

_APPLICATION_ID = int.from_bytes(b"CHNS", "big")
_VERSION = 1
_LARGEST_VALUE_BYTES = 2**20
_CHECKPOINT_PAUSE_SECONDS = 0.01
_SCHEMA = (
    """CREATE TABLE store (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        model_digest TEXT NOT NULL,
        dim INTEGER NOT NULL,
        salt BLOB,
        key_check BLOB,
        deletions INTEGER NOT NULL DEFAULT 0,
        scrubbed INTEGER NOT NULL DEFAULT 0
    )""",
    """CREATE TABLE enrolments (
        id INTEGER PRIMARY KEY,
        lookup BLOB NOT NULL UNIQUE,
        name BLOB NOT NULL,
        enrolled_at TEXT NOT NULL,
        note BLOB,
        seal BLOB
    )""",
    """CREATE TABLE utterances (
        id INTEGER PRIMARY KEY,
        enrolment INTEGER NOT NULL REFERENCES enrolments (id) ON DELETE CASCADE,
        embedding BLOB NOT NULL,
        source BLOB
    )""",
    "CREATE INDEX utterances_by_enrolment ON utterances (enrolment)",
)
# These tell of the machine, not of the file's content.
_BUSY_CODES = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL}
_DISK_CODES = {
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PERM,
}


class StoreIdentity(NamedTuple):
    """Which model a store is of, and how its key is recognised.

    Attributes:
        model_digest: Digest of the model's weights.
        dim: Dimensions of its embeddings.
        proof: None if the store is not encrypted.
    """

    model_digest: str
    dim: int
    proof: KeyProof | None


def create_store_file(path: Path, identity: StoreIdentity) -> None:
    """Make an empty store under a temporary name, then give it its own; if another process was quicker, keep its store.

    Only the owner may read and write it, for it holds biometric data.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    os.close(descriptor)
    temporary = Path(name)
    try:
        with plain_errors(path), closing(_connected(temporary)) as connection:
            connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {_VERSION}")
            with transaction(connection, path):
                _lay_out(connection)
                salt, check = identity.proof or (None, None)
                connection.execute(
                    "INSERT INTO store (id, model_digest, dim, salt, key_check) VALUES (1, ?, ?, ?, ?)",
                    (identity.model_digest, identity.dim, salt, check),
                )
            connection.execute("PRAGMA journal_mode = WAL").fetchone()
        with suppress(FileExistsError):
            os.link(temporary, path)
        _sync_folder(path.parent)
    finally:
        temporary.unlink()


def open_store_file(path: Path) -> tuple[sqlite3.Connection, StoreIdentity]:
    """Open a store; finish a deletion that was cut off. One that can only be read is opened to be read.

    Raises:
        FileNotFoundError: If there is no such file.
        ModelFileError: If it is no voiceprint store, a damaged one, or one of another version.
        TimeoutError: If another process keeps it locked.
    """
    if not path.is_file():
        raise FileNotFoundError(f"store must be a file, got {path}. `chns enrol` makes one.")
    with plain_errors(path):
        read_only = _is_on_read_only_medium(path)
        connection = _connected(path, read_only=read_only)
        try:
            _check_kind(connection, path)
            _check_schema(connection, path)
            if not read_only:
                connection.execute("PRAGMA journal_mode = WAL").fetchone()
            identity, is_scrubbed = _read_identity(connection, path)
            if not is_scrubbed and not read_only:
                _scrub_if_free(connection, path)
        except BaseException:
            connection.close()
            raise
    return connection, identity


@contextmanager
def transaction(connection: sqlite3.Connection, path: Path, *, writes: bool = True) -> Iterator[None]:
    """All or nothing: committed, and on the disk, when the block ends; undone if it fails.

    Raises:
        ModelFileError, TimeoutError, OSError: See `plain_errors`.
    """
    with plain_errors(path):
        connection.execute("BEGIN IMMEDIATE" if writes else "BEGIN")
        try:
            yield
            connection.execute("COMMIT")
        finally:
            connection.rollback()


@contextmanager
def plain_errors(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into ours.

    Raises:
        ModelFileError: If the file is damaged.
        TimeoutError: If another process keeps it locked.
        OSError: If it cannot be read or written.
    """
    try:
        yield
    except sqlite3.ProgrammingError:  # a mistake of the caller, such as another thread
        raise
    except UnicodeDecodeError as error:  # SQLite's message quotes a damaged schema
        raise _damaged(path, error) from error
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
        if code == sqlite3.SQLITE_NOTADB:
            raise _foreign(path) from error
        if code in _BUSY_CODES:
            raise TimeoutError(
                f"store must be free within {BUSY_SECONDS:g} s, got one that others keep locked: {path}. Try again."
            ) from error
        if code in _DISK_CODES:
            raise OSError(f"store must be readable and writable, got an error in {path} ({error}).") from error
        raise _damaged(path, error) from error


def _foreign(path: Path) -> ModelFileError:
    return ModelFileError(f"store must be a file that `chns enrol` made, got another kind of file: {path}.")


def _damaged(path: Path, error: Exception) -> ModelFileError:
    return ModelFileError(f"store must be an undamaged voiceprint store, got {path} ({error}).")


def scrub(connection: sqlite3.Connection, path: Path) -> None:
    """Leave no bytes of the deleted in the files of the store.

    ``secure_delete`` has zeroed their place in the pages. VACUUM writes all pages anew, without what moving rows
    between pages may have left behind, and the checkpoint empties the write-ahead log.

    Raises:
        TimeoutError: If others read for so long that the log cannot be emptied; the next one who opens the store does.
    """
    with plain_errors(path):
        (deletions,) = connection.execute("SELECT deletions FROM store").fetchone()
        connection.execute("VACUUM")
        if not _emptied_log(connection):
            raise TimeoutError(
                f"others must stop reading within {BUSY_SECONDS:g} s, got some that still do in {path}. The person is "
                "deleted, but bytes stay in the files until the store is next opened while nobody reads."
            )
        connection.execute("UPDATE store SET scrubbed = max(scrubbed, ?)", (deletions,))


def _emptied_log(connection: sqlite3.Connection) -> bool:
    """Empty the write-ahead log; SQLite waits for readers and writers, but not for another's checkpoint."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        is_blocked, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if not is_blocked or time.monotonic() > deadline:
            return not is_blocked
        time.sleep(_CHECKPOINT_PAUSE_SECONDS)


def _is_on_read_only_medium(path: Path) -> bool:
    """Whether SQLite cannot make its log beside the store.

    Raises:
        OSError: If there is a log already, whose content would be left out.
    """
    mounted_read_only = hasattr(os, "statvfs") and bool(os.statvfs(path).f_flag & os.ST_RDONLY)
    if not mounted_read_only and os.access(path.parent, os.W_OK) and os.access(path, os.W_OK):
        return False
    log = Path(f"{path}-wal")
    if log.exists() and log.stat().st_size:
        raise OSError(
            f"store must be closed where it can only be read, got one with a log that is not taken over: {log}. "
            "Open it once where it can be written, for instance by `chns store list`, and copy it again."
        )
    return True


def _connected(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    name = f"{path.absolute().as_uri()}?mode=ro&immutable=1" if read_only else os.fspath(path)
    connection = sqlite3.connect(name, timeout=BUSY_SECONDS, isolation_level=None, uri=read_only)
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LARGEST_VALUE_BYTES)
    try:
        for pragma in (
            "trusted_schema = OFF",
            "cell_size_check = ON",
            "foreign_keys = ON",
            "secure_delete = ON",
            "synchronous = FULL",
        ):
            connection.execute(f"PRAGMA {pragma}").fetchone()
    except BaseException:
        connection.close()
        raise
    return connection


def _lay_out(connection: sqlite3.Connection) -> None:
    for statement in _SCHEMA:
        connection.execute(statement)


def _sync_folder(folder: Path) -> None:
    with suppress(OSError):  # not every system can do that for folders
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _check_kind(connection: sqlite3.Connection, path: Path) -> None:
    """Ask SQLite; to open the file beside it and close it again would drop the locks of this process."""
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    if application_id != _APPLICATION_ID:
        raise _foreign(path)
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version != _VERSION:
        raise ModelFileError(
            f"store must be of version {_VERSION}, got version {version} in {path}. Open it with the chns that made it."
        )


def _check_schema(connection: sqlite3.Connection, path: Path) -> None:
    with closing(sqlite3.connect(":memory:")) as model:
        _lay_out(model)
        expected = _schema_of(model)
    if _schema_of(connection) != expected:
        raise ModelFileError(f"store must have the tables of a voiceprint store, got others in {path}.")


def _schema_of(connection: sqlite3.Connection) -> set[tuple[Any, ...]]:
    return set(connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master LIMIT 100"))


def _read_identity(connection: sqlite3.Connection, path: Path) -> tuple[StoreIdentity, bool]:
    """The identity, and whether all deletions are scrubbed."""
    query = "SELECT model_digest, dim, salt, key_check, deletions, scrubbed FROM store LIMIT 2"
    match connection.execute(query).fetchall():
        case [(str(digest), int(dim), None, None, int(deletions), int(scrubbed))]:
            proof = None
        case [(str(digest), int(dim), bytes(salt), bytes(check), int(deletions), int(scrubbed))]:
            proof = KeyProof(salt, check)
        case _:
            raise ModelFileError(f"store must tell its model and its key in one row, got another content in {path}.")
    if not 1 <= dim <= LARGEST_DIM or not digest.isprintable():
        raise ModelFileError(f"store must name a model of 1 to {LARGEST_DIM} dimensions, got {dim} in {path}.")
    return StoreIdentity(digest, dim, proof), scrubbed >= deletions


def _scrub_if_free(connection: sqlite3.Connection, path: Path) -> None:
    try:
        scrub(connection, path)
    except TimeoutError as error:
        _logger.warning("%s", error)

"""The rows of a voiceprint store, the search among them, and their export."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from chns.core import Float32Array, IntArray, ModelFileError, atomic_path, quoted
from chns.store.encryption import StoredValues

if TYPE_CHECKING:
    from chns.store.voiceprints import VoiceprintStore

MOST_BY_NUMPY = 100_000

_Search = Callable[[Float32Array, int], tuple[IntArray, Float32Array]]


class VoiceprintSearch:
    """Voiceprints in memory.

    Args:
        vectors: Unit-length voiceprints, shape (speakers, dim).
    """

    def __init__(self, vectors: Float32Array) -> None:
        self._count = len(vectors)
        self._vectors = vectors
        self._search = _by_numpy(vectors) if len(vectors) <= MOST_BY_NUMPY else _by_faiss(vectors)

    def scores(self, embedding: Float32Array) -> Float32Array:
        """Cosine with every voiceprint, shape (speakers,), for an embedding of unit length, shape (dim,)."""
        scores: Float32Array = self._vectors @ embedding
        return scores

    def best(self, embedding: Float32Array, top: int) -> tuple[IntArray, Float32Array]:
        """The nearest voiceprints, the best first.

        Args:
            embedding: Unit length, shape (dim,).
            top: How many at most.

        Returns:
            Their rows and their cosines in [-1, 1], both of shape (min(top, speakers),).
        """
        rows, scores = self._search(embedding, min(top, self._count))
        return rows, np.clip(scores, -1.0, 1.0)


class ExemplarSearch:
    """Every stored utterance in memory; a person scores by several cosines instead of that of one voiceprint.

    Args:
        embeddings: Unit length, those of a person beside one another, shape (utterances, dim).
        firsts: Row of each person's first utterance, rising from 0, shape (speakers,).
        num_best: How many of a person's highest cosines are averaged; fewer if there are no more. All by default.
    """

    def __init__(self, embeddings: Float32Array, firsts: IntArray, *, num_best: int | None = None) -> None:
        self._embeddings = embeddings
        self._firsts = firsts
        self._num_best = num_best
        self._counts = np.diff(firsts, append=len(embeddings))
        self._people = np.repeat(np.arange(len(firsts)), self._counts)
        self._ranks = np.arange(len(embeddings)) - np.repeat(firsts, self._counts)

    def scores(self, embedding: Float32Array) -> Float32Array:
        """Of each person, shape (speakers,), for an embedding of unit length, shape (dim,)."""
        if not len(self._firsts):
            return np.empty(0, np.float32)
        cosines = self._embeddings @ embedding
        if self._num_best is None:
            return (np.add.reduceat(cosines, self._firsts) / self._counts).astype(np.float32)
        if self._num_best == 1:
            return np.maximum.reduceat(cosines, self._firsts)
        best_first = cosines[np.lexsort((-cosines, self._people))]
        sums = np.add.reduceat(np.where(self._ranks < self._num_best, best_first, np.float32(0)), self._firsts)
        return (sums / np.minimum(self._counts, self._num_best)).astype(np.float32)

    def best(self, embedding: Float32Array, top: int) -> tuple[IntArray, Float32Array]:
        """As `VoiceprintSearch.best`."""
        rows, scores = _highest(self.scores(embedding), min(top, len(self._firsts)))
        return rows, np.clip(scores, -1.0, 1.0)


def _by_numpy(vectors: Float32Array) -> _Search:
    def search(embedding: Float32Array, top: int) -> tuple[IntArray, Float32Array]:
        return _highest(vectors @ embedding, top)

    return search


def _highest(scores: Float32Array, top: int) -> tuple[IntArray, Float32Array]:
    """Places of the highest scores, the best first, and the scores there."""
    first = len(scores) - top
    candidates = np.sort(np.argpartition(scores, first)[first:])
    best_first = candidates[np.argsort(-scores[candidates], kind="stable")]
    return best_first, scores[best_first]


def _by_faiss(vectors: Float32Array) -> _Search:
    import faiss

    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)

    def search(embedding: Float32Array, top: int) -> tuple[IntArray, Float32Array]:
        scores, rows = index.search(embedding[None], top)
        return rows[0], scores[0]

    return search


_STORED = np.dtype("<f4")
_ROWS_AT_ONCE = 4_096
_PEOPLE = (
    "SELECT e.id, e.lookup, e.name, e.enrolled_at, e.note, u.embedding, u.source "
    "FROM enrolments e LEFT JOIN utterances u ON u.enrolment = e.id"
)

_ROWS = (
    "SELECT e.lookup, e.seal, e.enrolled_at, e.note, u.embedding, u.source "
    "FROM enrolments e LEFT JOIN utterances u ON u.enrolment = e.id"
)


class Voiceprint(NamedTuple):
    """An enrolled person.

    Attributes:
        name: Who.
        enrolled_at: When first, in UTC.
        note: For example what the person consented to.
        num_utterances: How many embeddings the voiceprint is made of.
        vector: Their normalised mean, shape (dim,), float32.
        sources: Where each utterance came from, if that was told.
    """

    name: str
    enrolled_at: datetime
    note: str | None
    num_utterances: int
    vector: Float32Array
    sources: tuple[str | None, ...]


class Utterances(NamedTuple):
    """What is enrolled of a person.

    Attributes:
        embeddings: Unit length, shape (utterances, dim).
        sources: Where each came from, if that is known.
    """

    embeddings: Float32Array
    sources: Sequence[str | None]


class StoreContent:
    """Reads and writes the rows.

    Args:
        connection: The store's file.
        values: How values are written.
        dim: Dimensions of the embeddings.
        path: The store, for error messages.
    """

    def __init__(self, connection: sqlite3.Connection, values: StoredValues, *, dim: int, path: Path) -> None:
        self._connection = connection
        self._values = values
        self._dim = dim
        self._path = path

    def version(self) -> int:
        """A number that changes when another connection has written."""
        (version,) = self._connection.execute("PRAGMA data_version").fetchone()
        return int(version)

    def count(self) -> int:
        """How many people there are."""
        (count,) = self._connection.execute("SELECT count(*) FROM enrolments").fetchone()
        return int(count)

    def find(self, name: str) -> int | None:
        """Row of a person's enrolment."""
        lookup = self._values.lookup(name)
        row = self._connection.execute("SELECT id FROM enrolments WHERE lookup = ?", (lookup,)).fetchone()
        return None if row is None else int(row[0])

    def insert(self, name: str, note: str | None, enrolled_at: datetime) -> int:
        """Store a person without utterances; gives the row."""
        owner = self._values.lookup(name)
        cursor = self._connection.execute(
            "INSERT INTO enrolments (lookup, name, enrolled_at, note) VALUES (?, ?, ?, ?)",
            (
                owner,
                self._sealed_text(name, "name", owner),
                enrolled_at.isoformat(timespec="seconds"),
                self._sealed_text(note, "note", owner),
            ),
        )
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def set_note(self, enrolment: int, name: str, note: str) -> None:
        """Replace a person's note."""
        owner = self._values.lookup(name)
        sealed = self._sealed_text(note, "note", owner)
        self._connection.execute("UPDATE enrolments SET note = ? WHERE id = ?", (sealed, enrolment))
        self._seal_rows(enrolment, owner)

    def add(self, enrolment: int, name: str, utterances: Utterances) -> None:
        """Store utterances of a person."""
        owner = self._values.lookup(name)
        rows = [
            (
                enrolment,
                self._values.seal(vector.tobytes(), "embedding", owner),
                self._sealed_text(source, "source", owner),
            )
            for vector, source in zip(utterances.embeddings.astype(_STORED), utterances.sources, strict=True)
        ]
        self._connection.executemany("INSERT INTO utterances (enrolment, embedding, source) VALUES (?, ?, ?)", rows)
        self._seal_rows(enrolment, owner)

    def delete(self, enrolment: int) -> int:
        """Delete a person, and remember that the files must be scrubbed; gives the number of utterances."""
        cursor = self._connection.execute("DELETE FROM utterances WHERE enrolment = ?", (enrolment,))
        self._connection.execute("DELETE FROM enrolments WHERE id = ?", (enrolment,))
        self._connection.execute("UPDATE store SET deletions = deletions + 1")
        return cursor.rowcount

    def names(self) -> list[str]:
        """Who is enrolled, in the order of the rows."""
        return [self.name(*row) for row in self._connection.execute("SELECT lookup, name FROM enrolments ORDER BY id")]

    def name(self, owner: Any, stored: Any) -> str:
        """A name from its row."""
        name = self._text(stored, "name", self._bytes(owner, "lookup"))
        if name is None or self._values.lookup(name) != owner:
            raise ModelFileError(f"name must be the one it is looked up by, got another in {self._path}.")
        return name

    def voiceprint(self, enrolment: int) -> Voiceprint:
        """One person."""
        match self._voiceprints(_PEOPLE + " WHERE e.id = ? ORDER BY u.id", (enrolment,)):
            case [voiceprint]:
                self._require_whole(enrolment)
                return voiceprint
            case _:
                raise ModelFileError(f"enrolment must be in the table that its index names, got none in {self._path}.")

    def voiceprints(self) -> list[Voiceprint]:
        """All people, in the order of the rows."""
        people = self._voiceprints(_PEOPLE + " ORDER BY e.id, u.id")
        self._require_whole()
        return people

    def vectors(self) -> tuple[list[tuple[bytes, bytes]], Float32Array]:
        """What is searched: lookup and stored name of each person, and the voiceprints, shape (people, dim).

        Names stay as they are stored, because only those of the best matches are needed.
        """
        people = self._connection.execute("SELECT id, lookup, name FROM enrolments ORDER BY id").fetchall()
        row_of = {enrolment: row for row, (enrolment, *_) in enumerate(people)}
        sums = np.zeros((len(people), self._dim), np.float32)
        utterances = self._connection.execute(
            "SELECT e.id, e.lookup, u.embedding FROM utterances u JOIN enrolments e ON e.id = u.enrolment "
            "ORDER BY u.enrolment, u.id"
        )
        while block := utterances.fetchmany(_ROWS_AT_ONCE):
            units = self._embeddings((owner, stored) for _, owner, stored in block)
            rows, firsts = np.unique([row_of[enrolment] for enrolment, *_ in block], return_index=True)
            sums[rows] += np.add.reduceat(units, firsts)
        self._require_whole()
        return [(owner, name) for _, owner, name in people], self._normalised(sums)

    def exemplars(self) -> tuple[list[tuple[bytes, bytes]], Float32Array, IntArray]:
        """Lookup and stored name of each person, all embeddings, shape (utterances, dim), and each one's first row."""
        people = self._connection.execute("SELECT id, lookup, name FROM enrolments ORDER BY id").fetchall()
        cursor = self._connection.execute(
            "SELECT e.id, e.lookup, u.embedding FROM utterances u JOIN enrolments e ON e.id = u.enrolment "
            "ORDER BY u.enrolment, u.id"
        )
        blocks, owners = [np.empty((0, self._dim), np.float32)], []
        while block := cursor.fetchmany(_ROWS_AT_ONCE):
            blocks.append(self._embeddings((owner, stored) for _, owner, stored in block))
            owners += [enrolment for enrolment, *_ in block]
        present, firsts = np.unique(owners, return_index=True)
        if present.tolist() != [enrolment for enrolment, *_ in people]:
            raise ModelFileError(f"enrolment must have utterances, got none of somebody in {self._path}.")
        self._require_whole()
        return [(owner, name) for _, owner, name in people], np.concatenate(blocks), firsts

    def _seal_rows(self, enrolment: int, owner: bytes) -> None:
        """Vouch for a person's rows as they are now."""
        rows = self._connection.execute(_ROWS + " WHERE e.id = ? ORDER BY u.id", (enrolment,)).fetchall()
        seal = self._values.vouch(_as_bytes(rows), owner)
        self._connection.execute("UPDATE enrolments SET seal = ? WHERE id = ?", (seal, enrolment))

    def _require_whole(self, enrolment: int | None = None) -> None:
        """Make sure that no row of a person, or of anybody, was removed, added or changed without the key.

        Raises:
            ModelFileError: If one was.
        """
        if self._values.vouch(b"", b"") is None:
            return
        where, values = ("", ()) if enrolment is None else (" WHERE e.id = ?", (enrolment,))
        rows = self._connection.execute(f"{_ROWS}{where} ORDER BY e.id, u.id", values)
        for (owner, seal), of_person in groupby(rows, key=itemgetter(0, 1)):
            if self._values.vouch(_as_bytes(list(of_person)), self._bytes(owner, "lookup")) != seal:
                raise ModelFileError(
                    f"enrolment must be as it was written, got rows that were removed, doubled or changed without the "
                    f"key in {self._path}. Delete the person and enrol anew, or go back to a copy."
                )

    def _voiceprints(self, query: str, values: tuple[int, ...] = ()) -> list[Voiceprint]:
        rows = self._connection.execute(query, values)
        return [self._voiceprint(list(of_person)) for _, of_person in groupby(rows, key=itemgetter(0))]

    def _voiceprint(self, rows: list[tuple[Any, ...]]) -> Voiceprint:
        _, owner, stored_name, stored_time, stored_note, first, _ = rows[0]
        name = self.name(owner, stored_name)
        if first is None:
            raise ModelFileError(f"enrolment must have utterances, got none of {quoted(name)} in {self._path}.")
        try:
            enrolled_at = datetime.fromisoformat(stored_time).astimezone(UTC)
        except (ValueError, TypeError, OverflowError) as error:
            raise ModelFileError(f"enrolled_at must be a time, got {quoted(stored_time)} in {self._path}.") from error
        units = self._embeddings((owner, row[5]) for row in rows)
        return Voiceprint(
            name=name,
            enrolled_at=enrolled_at,
            note=self._text(stored_note, "note", owner),
            num_utterances=len(rows),
            vector=self._normalised(units.sum(axis=0, keepdims=True))[0],
            sources=tuple(self._text(row[6], "source", owner) for row in rows),
        )

    def _embeddings(self, rows: Iterator[tuple[Any, Any]]) -> Float32Array:
        content = [
            self._values.unseal(self._bytes(stored, "embedding"), "embedding", self._bytes(owner, "lookup"))
            for owner, stored in rows
        ]
        num_bytes = self._dim * _STORED.itemsize
        wrong = next((len(vector) for vector in content if len(vector) != num_bytes), None)
        if wrong is not None:
            raise ModelFileError(f"embedding must have {num_bytes} bytes, got one of {wrong} in {self._path}.")
        units = np.frombuffer(b"".join(content), _STORED).reshape(len(content), self._dim).astype(np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            is_unit = np.abs(np.linalg.norm(units, axis=1) - 1) < 1e-3
        if not is_unit.all():
            raise ModelFileError(f"embedding must be of unit length, got one that is not in {self._path}.")
        return units

    def _normalised(self, sums: Float32Array) -> Float32Array:
        norms = np.linalg.norm(sums, axis=1, keepdims=True)
        if len(sums) and norms.min() < 1e-3:
            raise ModelFileError(f"embeddings of a person must not cancel out, got some that do in {self._path}.")
        normalised: Float32Array = sums / norms
        return normalised

    def _sealed_text(self, text: str | None, kind: str, owner: bytes) -> bytes | None:
        return None if text is None else self._values.seal(text.encode(), kind, owner)

    def _text(self, stored: Any, kind: str, owner: bytes) -> str | None:
        if stored is None:
            return None
        try:
            text = self._values.unseal(self._bytes(stored, kind), kind, owner).decode()
        except UnicodeDecodeError as error:
            raise ModelFileError(f"{kind} must be text, got something else in {self._path}.") from error
        return text if text.isprintable() else ascii(text)[1:-1]

    def _bytes(self, stored: Any, kind: str) -> bytes:
        if not isinstance(stored, bytes):
            raise ModelFileError(f"{kind} must be bytes, got {type(stored).__name__} in {self._path}.")
        return stored


def export_voiceprints(store: VoiceprintStore, path: Path) -> int:
    """Write everybody's voiceprint, name, time, note and number of utterances, unencrypted and atomically.

    Only the owner may read and write the file, for it holds biometric data.

    The digest of the model is in the file's metadata as ``model_digest``.

    Args:
        store: Where from.
        path: The Parquet file.

    Returns:
        How many people were written.

    Raises:
        ValueError: If the name of the file does not end in ``.parquet``.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if path.suffix != ".parquet":
        raise ValueError(f"name of the export must end in .parquet, got {path}.")
    people = store.voiceprints()
    vectors = np.ravel([person.vector for person in people])
    columns = {
        "name": pa.array([person.name for person in people], pa.string()),
        "enrolled_at": pa.array([person.enrolled_at for person in people], pa.timestamp("s", tz="UTC")),
        "note": pa.array([person.note for person in people], pa.string()),
        "num_utterances": pa.array([person.num_utterances for person in people], pa.int64()),
        "voiceprint": pa.FixedSizeListArray.from_arrays(pa.array(vectors, pa.float32()), store.dim),
    }
    with atomic_path(path, mode=0o600) as temporary:
        table = pa.table(columns, metadata={"model_digest": store.model_digest})
        pq.write_table(table, temporary, compression="zstd")
    return len(people)


def _as_bytes(rows: Sequence[tuple[Any, ...]]) -> bytes:
    """Time and note of a person, and the utterances in their order: the same bytes for the same rows only."""
    fields = [*rows[0][2:4], *(field for row in rows for field in row[4:])]
    return b"".join(_field_bytes(field) for field in fields)


def _field_bytes(field: Any) -> bytes:
    content = field if isinstance(field, bytes) else repr(field).encode()
    return f"{type(field).__name__}{len(content)}:".encode() + content

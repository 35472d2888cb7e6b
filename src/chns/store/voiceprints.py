"""Voiceprints of enrolled people in one SQLite file.

Every utterance's embedding is kept; a voiceprint is their normalised mean, computed when it is needed. What was
enrolled when the call returns is on the disk, whatever is killed or loses power afterwards, and a deleted person leaves
no bytes in the store's files. Any number of processes may use a store at once, on a local disk: SQLite's write-ahead
log does not work over a network.
"""

from __future__ import annotations

import re
import sqlite3
import unicodedata
from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np

from chns.core import Float32Array, ModelFileError
from chns.store.content import ExemplarSearch, StoreContent, Utterances, Voiceprint, VoiceprintSearch
from chns.store.encryption import StoredValues, prove, values_for
from chns.store.store_file import LARGEST_DIM, StoreIdentity, create_store_file, open_store_file, scrub, transaction

_LONGEST_NAME, _LONGEST_SOURCE = 200, 4_096
_TOP = re.compile("top-0*([1-9][0-9]{0,5})")


def unit_length(embeddings: Float32Array, shape: tuple[int, ...]) -> Float32Array:
    """The embeddings at unit length, in float32; the shape is (dim,), or (-1, dim) for any number but zero."""
    vectors = np.asarray(embeddings, np.float64)
    if vectors.ndim != len(shape) or vectors.shape[-1:] != shape[-1:] or not vectors.size:
        described = str(shape).replace("-1", "utterances")
        raise ValueError(f"embeddings must have shape {described}, got {vectors.shape}.")
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    if not (np.isfinite(norms) & (norms > 0)).all():
        raise ValueError("embeddings must be finite and not zero, got one that is not.")
    units: Float32Array = (vectors / norms).astype(np.float32)
    return units


def averaged_cosines(score_by: str) -> int | None:
    """How many of a person's highest cosines "mean" (None: all), "max" or "top-3" averages.

    Raises:
        ValueError: If it is none of these.
    """
    if score_by == "mean":
        return None
    if score_by == "max":
        return 1
    if number := _TOP.fullmatch(score_by):
        return int(number[1])
    raise ValueError(f"score_by must be voiceprint, mean, max or top-K (top-3, say), got {score_by!r:.100}.")


def plain_name(name: str) -> str:
    """A name with its accents composed, if it is one."""
    name = unicodedata.normalize("NFC", name)
    require_plain("name", name, longest=_LONGEST_NAME)
    return name


def plain_sources(sources: Sequence[str] | None, count: int) -> Sequence[str | None]:
    """One source an embedding; none of them is known if there are no sources."""
    if sources is None:
        return [None] * count
    if len(sources) != count:
        raise ValueError(f"sources must be one an embedding, got {len(sources)} for {count}.")
    for source in sources:
        require_plain("source", source, longest=_LONGEST_SOURCE)
    return sources


def require_plain(what: str, text: str, *, longest: int) -> None:
    """Refuse what could move a terminal's cursor, hide in a list, or break a line."""
    if not text.isprintable() or text != text.strip() or not 0 < len(text) <= longest:
        raise ValueError(
            f"{what} must be 1 to {longest} printable characters without space at the ends, got {text[:50]!r}."
        )


def _require_plain_letters(name: str) -> None:
    """Of a new name; one from another store is kept as it is there."""
    plain = unicodedata.normalize("NFKC", name)
    if plain != name:
        raise ValueError(f"name must not look like another one, got {name!a}. Enrol {plain!r} instead.")


_LONGEST_DIGEST, _LONGEST_NOTE = 200, 2_000
_MOST_STRANGERS = 2_000


class Match(NamedTuple):
    """How like an enrolled person an utterance is.

    Attributes:
        name: Who.
        score: Cosine of utterance and voiceprint, in [-1, 1].
    """

    name: str
    score: float


def identified(matches: Sequence[Match], *, threshold: float, margin: float = 0.0) -> str | None:
    """Who it is among the best matches, or None for nobody.

    Args:
        matches: The best first, two of them at least if a margin is asked for.
        threshold: The lowest score that is accepted.
        margin: How much the first must be ahead of the runner-up, if there is one.
    """
    if not matches or matches[0].score < threshold:
        return None
    lead = lead_of(matches)
    return matches[0].name if lead is None or lead >= margin else None


def lead_of(matches: Sequence[Match]) -> float | None:
    """How much the best match is ahead of the runner-up; None without one."""
    return matches[0].score - matches[1].score if len(matches) > 1 else None


class _Loaded(NamedTuple):
    """What is searched, and the version of the store that it was read from."""

    version: int
    people: list[tuple[bytes, bytes]]
    search: VoiceprintSearch | ExemplarSearch


class VoiceprintStore:
    """An open store; close it, or use it in a ``with`` block. Every thread and every forked process opens its own.

    Made by `open`, or by `open_existing` where no model is at hand. Each method raises `TimeoutError` if another
    process keeps the store locked, `ModelFileError` if the file turns out to be damaged, and `OSError` if the disk
    fails or is full.

    Attributes:
        path: The file.
        model_digest: Identity of the model whose embeddings it holds.
        dim: Their dimensions.
        is_encrypted: Whether it has a key.

    Examples:
        >>> from chns import Verifier, VoiceprintStore
        >>> verifier = Verifier.load()
        >>> with VoiceprintStore.open("people.store", model_digest=verifier.model_digest, dim=verifier.dim) as store:
        ...     _ = verifier.enrol(store, "anna", ["a.wav"], note="consent of May")
        ...     best = verifier.identify(store, "b.wav")[0]
        ...     print(best.name, best.score > verifier.threshold, store.delete("anna"))
        anna True 1
    """

    def __init__(
        self, path: Path, connection: sqlite3.Connection, identity: StoreIdentity, values: StoredValues
    ) -> None:
        self.path = path
        self.model_digest = identity.model_digest
        self.dim = identity.dim
        self.is_encrypted = identity.proof is not None
        self._connection = connection
        self._content = StoreContent(connection, values, dim=identity.dim, path=path)
        self._loaded: dict[str, _Loaded] = {}

    @classmethod
    def open(
        cls, path: Path | str, *, model_digest: str, dim: int, key: bytes | None = None, create: bool = True
    ) -> Self:
        """Open the store of a model, or make it.

        Args:
            path: The file.
            model_digest: Identity of the model whose embeddings it holds: the digest of its weights.
            dim: Dimensions of the embeddings.
            key: Of at least 16 bytes, for an encrypted store; a store that is made with a key is encrypted.
            create: Make a store if there is none.

        Raises:
            FileNotFoundError: If there is no store, and none is to be made.
            ModelFileError: If the file is no voiceprint store, or one of another model.
            ValueError: If the key is missing, wrong or not needed, or an argument is no identity of a model.
        """
        path = Path(path).absolute()
        if not 1 <= dim <= LARGEST_DIM:
            raise ValueError(f"dim must be between 1 and {LARGEST_DIM}, got {dim}.")
        require_plain("model_digest", model_digest, longest=_LONGEST_DIGEST)
        if create and not path.exists():
            proof = None if key is None else prove(key, source=path)
            create_store_file(path, StoreIdentity(model_digest, dim, proof))
        store = cls.open_existing(path, key=key)
        if (store.model_digest, store.dim) != (model_digest, dim):
            store.close()
            raise ModelFileError(
                f"store must be of the model {model_digest[:12]} with {dim} dimensions, got one of "
                f"{store.model_digest[:12]} with {store.dim} in {path}. Embeddings of two models cannot be compared: "
                f"make a store for this one with `chns store re-embed {path} MODEL --out NEW_STORE`."
            )
        return store

    @classmethod
    def open_existing(cls, path: Path | str, *, key: bytes | None = None) -> Self:
        """Open a store of any model.

        Raises:
            FileNotFoundError: If there is none.
            ModelFileError: If the file is no voiceprint store.
            ValueError: If the key is missing, wrong or not needed.
        """
        path = Path(path).absolute()
        connection, identity = open_store_file(path)
        try:
            values = values_for(key, identity.proof, source=path)
        except BaseException:
            connection.close()
            raise
        return cls(path, connection, identity, values)

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        with self._reading():
            return self._content.count()

    def enrol(
        self,
        name: str,
        embeddings: Float32Array,
        *,
        note: str | None = None,
        sources: Sequence[str] | None = None,
        add: bool = False,
        enrolled_at: datetime | None = None,
    ) -> None:
        """Store a person, all or nothing; on the disk when this returns.

        Args:
            name: Who; printable, on one line, and if new without full-width letters, ligatures and the like, which
                look like others. It makes no difference how accents are composed.
            embeddings: One an utterance, shape (utterances, dim); need not be normalised.
            note: For example what the person consented to.
            sources: Where each utterance came from, shape (utterances,).
            add: If the name is enrolled, add to it (a note replaces the old one). Otherwise that is an error, because
                two people under one name would become one voiceprint.
            enrolled_at: When, of somebody who is taken over from another store; by default now.

        Raises:
            ValueError: If an argument breaks these rules, or the embeddings of the person cancel out.
        """
        name = plain_name(name)
        units = unit_length(embeddings, (-1, self.dim))
        if note is not None:
            require_plain("note", note, longest=_LONGEST_NOTE)
        utterances = Utterances(units, plain_sources(sources, len(units)))
        with self._writing():
            enrolment = self._content.find(name)
            if enrolment is None:
                if enrolled_at is None:
                    _require_plain_letters(name)
                enrolment = self._content.insert(name, note, enrolled_at or datetime.now(UTC))
            elif not add:
                raise ValueError(
                    f"name must be new, got {name!r}, who is enrolled in {self.path}. "
                    "Use --add (add=True in Python) to add to a person, or delete the old voiceprint first."
                )
            elif note is not None:
                self._content.set_note(enrolment, name, note)
            self._content.add(enrolment, name, utterances)
            self._content.voiceprint(enrolment)  # raises if the embeddings cancel out
        self._loaded = {}

    def names(self) -> list[str]:
        """Who is enrolled, in alphabetical order."""
        with self._reading():
            return sorted(self._content.names())

    def show(self, name: str) -> Voiceprint:
        """One person.

        Raises:
            ValueError: If nobody has this name.
        """
        with self._reading():
            return self._content.voiceprint(self._enrolled(name))

    def voiceprints(self) -> list[Voiceprint]:
        """Everybody, in the order of enrolment."""
        with self._reading():
            return self._content.voiceprints()

    def delete(self, name: str) -> int:
        """Delete a person; afterwards the store's files hold no byte of the embeddings, the name or the note.

        If the process is killed in between, the next one that opens the store finishes this. The whole file is written
        anew, so it takes time in proportion to the store. Copies and what a disk keeps of blocks that a file no longer
        uses are beyond its reach.

        Returns:
            How many utterances were deleted.

        Raises:
            ValueError: If nobody has this name.
            TimeoutError: Also if the person is deleted, but others read for so long that bytes are still in the files.
        """
        with self._writing():
            num_utterances = self._content.delete(self._enrolled(name))
        self._loaded = {}
        scrub(self._connection, self.path)
        return num_utterances

    def identify(self, embedding: Float32Array, *, top: int = 5, score_by: str = "voiceprint") -> list[Match]:
        """The people who sound most like an utterance, the best first.

        Args:
            embedding: Shape (dim,); need not be normalised.
            top: How many at most.
            score_by: "voiceprint", the cosine of utterance and voiceprint; or of the cosines of the utterance and each
                of a person's stored ones the "mean", the "max", or the mean of the k highest, as "top-3". The highest
                suit people who sound different from time to time; they rise with the number of stored utterances.

        Raises:
            ValueError: If the embedding has another shape or is zero or not finite, top is less than 1, or score_by is
                none of these.
        """
        if top < 1:
            raise ValueError(f"top must be at least 1, got {top}.")
        unit = unit_length(embedding, (self.dim,))
        loaded = self._refreshed(score_by)
        rows, scores = loaded.search.best(unit, top)
        names = [self._content.name(*loaded.people[row]) for row in rows.tolist()]
        return list(map(Match, names, scores.tolist()))

    def open_set_threshold(self, false_positive_rate: float, *, score_by: str = "voiceprint") -> float:
        """The score that a share of strangers reach with somebody: a threshold for "nobody" that knows the store.

        Everybody's utterances play a stranger's part among all others, whom they are scored against as by `identify`;
        of more than 2,000 utterances 2,000 are taken, evenly. Real strangers sound like the people of the store only if
        they come from where these do.

        Args:
            false_positive_rate: Share of strangers who may be taken for somebody, between 0 and 1.
            score_by: As `identify`.

        Returns:
            The lowest score that at most this share reaches.

        Raises:
            ValueError: If the rate is no such share, the store has fewer than two people, or fewer utterances than
                would show the rate once.

        Source:
            False-positive identification rate as in ISO/IEC 19795-1 and NIST's open-set evaluations.
        """
        if not 0 < false_positive_rate < 1:
            raise ValueError(f"false_positive_rate must be between 0 and 1, both excluded, got {false_positive_rate}.")
        search = self._refreshed(score_by).search
        with self._reading():
            people, embeddings, firsts = self._content.exemplars()
        taken = np.unique(np.linspace(0, len(embeddings) - 1, _MOST_STRANGERS).astype(np.int64))
        num_strangers = min(len(taken), len(embeddings))
        allowed = int(false_positive_rate * num_strangers)
        if len(people) < 2 or not allowed:
            raise ValueError(
                f"store must hold two people and {int(np.ceil(1 / false_positive_rate)):,} utterances to show a "
                f"false-positive rate of {false_positive_rate:g}, got {len(people):,} and {num_strangers:,}. "
                "State a threshold."
            )
        best = np.empty(num_strangers)
        for place, row in enumerate(taken.tolist()):
            scores = search.scores(embeddings[row])
            scores[np.searchsorted(firsts, row, side="right") - 1] = -np.inf  # the stranger's own place
            best[place] = scores.max()
        beyond = np.sort(np.clip(best, -1.0, 1.0))[::-1][allowed]
        return float(np.nextafter(beyond, np.inf))

    def _refreshed(self, score_by: str) -> _Loaded:
        """What is searched, in memory, read again if anybody has written since."""
        num_best = None if score_by == "voiceprint" else averaged_cosines(score_by)
        with self._reading():
            version = self._content.version()
            if score_by not in self._loaded or self._loaded[score_by].version != version:
                search: VoiceprintSearch | ExemplarSearch
                if score_by == "voiceprint":
                    people, vectors = self._content.vectors()
                    search = VoiceprintSearch(vectors)
                else:
                    people, vectors, firsts = self._content.exemplars()
                    search = ExemplarSearch(vectors, firsts, num_best=num_best)
                self._loaded[score_by] = _Loaded(version, people, search)
        return self._loaded[score_by]

    def _enrolled(self, name: str) -> int:
        enrolment = self._content.find(plain_name(name))
        if enrolment is None:
            raise ValueError(
                f"name must be an enrolled one, got {name!r} for {self.path}. `chns store list` shows who is enrolled."
            )
        return enrolment

    def _reading(self) -> AbstractContextManager[None]:
        return transaction(self._connection, self.path, writes=False)

    def _writing(self) -> AbstractContextManager[None]:
        return transaction(self._connection, self.path)

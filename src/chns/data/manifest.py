"""The manifest: one row an utterance, columns in Arrow.

Arrow keeps every column in one immutable buffer without Python objects, so a million rows load in about a second
and forked loader workers read the parent's pages instead of copying them. Parquet is the format for programs; CSV,
with the same column names, is for people.

A manifest may come from a stranger: its paths cannot leave its root. The root that a Parquet file names is believed,
because a corpus may lie anywhere; whoever does not believe it passes their own. It is always a folder: only
a user names a URL.

Columns of a manifest as arrays, and manifests with other columns.
"""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from chns.core import Float64Array, IntArray, ManifestError, quoted
from chns.data.manifest_file import (
    CHANNEL_COLUMN,
    PACKED_COLUMNS,
    REQUIRED_COLUMNS,
    moved,
    prefixed,
    read_table,
    require_packed,
    require_valid,
    with_types,
    write_table,
)
from chns.data.storage.packed import PackedRecording, Recording, file_channel, split_path
from chns.data.storage.remote import RemoteRecording, RemoteRoot, is_url
from chns.data.text_rows import split_rows

_AUDIO_SUFFIX = re.compile(
    r"\.(wav|flac|og[ag]|opus|mp[1-4]|m4[ab]|aac|sph|nist|aif[fc]?|au|snd|w64|rf64|caf|wma|amr|awb|3gp|webm|mk[av]|mov"
    r"|avi|ape|wv|tta|ac3|ra|spx|shn|dss|vox|gsm|raw|pcm|mpc|dsf|mpe?g)$",
    re.IGNORECASE,
)
_NO_WIDTH = "[\u00ad\u200b\u2060\ufeff]"  # not the joiners, which some scripts spell with


class Utterance(NamedTuple):
    """One row of a manifest, ready to be read."""

    name: str
    speaker: str
    path: Recording
    offset_seconds: float
    duration_seconds: float
    sample_rate_hz: int
    channel: int | None = None


class Manifest:
    """A validated table of utterances.

    Columns: ``utterance`` (unique), ``speaker``, ``path`` (relative to ``root``, never outside it), ``offset_seconds``
    and ``duration_seconds`` within the file, ``sample_rate_hz`` of the file. Recordings that lie in shards are named
    ``shard.tar/member`` and also have ``byte_offset`` and ``byte_length``. ``channel``, counted from 0, is the one that
    is heard of a file with several; where it is empty or missing, all are averaged. Any further column is text, may be
    empty in places and is carried along: ``session`` (recordings made on one occasion share it), or whatever a corpus
    knows (gender, family, ...).

    Speakers are numbered by their sorted names, so the same set of speakers always gets the same labels.

    Args:
        table: The columns above, in any order.
        root: Folder, or URL of packed shards, that the paths are relative to.
        source: Where the table came from, for error messages.

    Attributes:
        location: The root.

    Raises:
        ManifestError: If a column is missing, doubled or of the wrong type, a value is missing or holds a line break
            or another control character, an utterance appears twice, a path leaves the root, a time or rate is not a
            positive finite number, a place in a shard is none, or a recording below a URL is not in a shard. Names the
            source and the row.

    Examples:
        >>> from chns import Manifest
        >>> manifest = Manifest.read("own.parquet")
        >>> len(manifest), manifest.column("speaker")[0]
        (100, 's00')
        >>> training, test = manifest.split_speakers(5, seed=0)
        >>> len(training), len(test)
        (75, 25)
    """

    def __init__(self, table: pa.Table, *, root: Path | RemoteRoot, source: str = "manifest") -> None:
        self.location = root
        table = with_types(table, source).combine_chunks()
        require_valid(table, source)
        if isinstance(root, RemoteRoot):
            require_packed(table, root, source)
        names = pc.unique(table["speaker"])
        ordered = names.take(pc.sort_indices(names))
        self.speakers: list[str] = ordered.to_pylist()
        labels = pc.index_in(table["speaker"], ordered).to_numpy()
        self.speaker_labels: IntArray = labels.astype(np.int64)
        self._table = table
        self._has_channels = "channel" in table.column_names
        self._is_packed = all(name in table.column_names for name in PACKED_COLUMNS)
        self._report: Path | None = None

    @classmethod
    def read(cls, path: Path | str, *, root: Path | str | RemoteRoot | None = None) -> Manifest:
        """Read a Parquet (``.parquet``) or CSV (``.csv``) manifest.

        Args:
            path: The manifest.
            root: Folder of the audio, or URL below which its packed shards are (``https://``, ``s3://``, ...). By
                default the folder that a Parquet manifest names, see `chns.data.manifest_file.read_table`, and the
                manifest's own for CSV.

        Raises:
            ValueError: If the root is a URL that is not valid or that nothing reads.
            FileNotFoundError: If there is no such file.
            ManifestError: If it is neither format, holds no utterance, or its content is not valid.
            ChnsError: If the root is a URL and the package that reads it is not installed.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"manifest must be a file, got {path}. Make one with `chns prepare`.")
        table, named_root = read_table(path)
        manifest = cls(table, root=named_root if root is None else _as_root(root), source=str(path))
        if not len(manifest):
            raise ManifestError(f"manifest must hold at least one utterance, got none in {path}.")
        manifest._report = path.with_name(f"{path.stem}.rejected.csv")
        return manifest

    def rejected_paths(self) -> list[str]:
        """Recordings that the report beside this manifest's file rejects; copies of a kept utterance are not meant."""
        if self._report is None or not self._report.is_file():
            return []
        rows = [fields for fields, _ in split_rows(self._report)]
        if rows[:1] != [["path", "reason"]]:
            return []
        return [fields[0] for fields in rows[1:] if not fields[-1].startswith("utterance must be unique")]

    @classmethod
    def from_rows(
        cls, rows: Sequence[dict[str, object]], *, root: Path | RemoteRoot, source: str = "manifest"
    ) -> Manifest:
        """Build a manifest from one dict an utterance; all need the same keys."""
        columns = list(rows[0]) if rows else list(REQUIRED_COLUMNS)
        types = REQUIRED_COLUMNS | CHANNEL_COLUMN | PACKED_COLUMNS
        data = {name: pa.array([row[name] for row in rows], types.get(name, pa.string())) for name in columns}
        return cls(pa.table(data), root=root, source=source)

    @classmethod
    def merge(
        cls, manifests: Sequence[Manifest], *, prefixes: Sequence[str] | None = None, same_speakers: bool = False
    ) -> Manifest:
        """Put manifests together under the deepest folder that holds all their audio.

        A column that only some of them have is empty for the others.

        Args:
            manifests: At least one.
            prefixes: One a manifest; speakers and utterances become ``prefix/name``, so that equal names of different
                corpora stay apart.
            same_speakers: Whether a speaker's name that is in several manifests is one person.

        Raises:
            ValueError: If there is no manifest or the number of prefixes differs.
            ManifestError: If an utterance is in two manifests, or a speaker is and ``same_speakers`` is not set, or the
                root of one is a URL and not that of all.
        """
        if not manifests:
            raise ValueError("manifests must be at least one, got none.")
        if prefixes is not None and len(prefixes) != len(manifests):
            raise ValueError(f"prefixes must be one for each of {len(manifests)} manifests, got {len(prefixes)}.")
        tables = [manifest.table for manifest in manifests]
        if prefixes is not None:
            for name in ("speaker", "utterance"):
                tables = [prefixed(table, name, prefix) for table, prefix in zip(tables, prefixes, strict=True)]
        if not same_speakers:
            _refuse_shared_speakers(tables)
        top, tables = _below_one_root(tables, manifests)
        return cls(pa.concat_tables(tables, promote_options="default"), root=top, source="merged manifest")

    def __getstate__(self) -> dict[str, Any]:
        """What another process needs: the table, and not its columns once more."""
        return {name: value for name, value in vars(self).items() if name != "_columns"}

    @cached_property
    def _columns(self) -> dict[str, pa.ChunkedArray]:
        """To look one up in the table takes longer than to read a row of it."""
        return dict(zip(self._table.column_names, self._table.columns, strict=True))

    def __len__(self) -> int:
        """Number of utterances."""
        return int(self._table.num_rows)

    def __getitem__(self, index: int) -> Utterance:
        """One utterance, with its path joined to the root."""
        columns = self._columns
        return Utterance(
            name=columns["utterance"][index].as_py(),
            speaker=self.speakers[self.speaker_labels[index]],
            path=self.recording(index),
            offset_seconds=columns["offset_seconds"][index].as_py(),
            duration_seconds=columns["duration_seconds"][index].as_py(),
            sample_rate_hz=columns["sample_rate_hz"][index].as_py(),
            channel=columns["channel"][index].as_py() if self._has_channels else None,
        )

    @property
    def root(self) -> Path:
        """Folder that the paths are relative to.

        Raises:
            ManifestError: If they are relative to a URL.
        """
        if isinstance(self.location, RemoteRoot):
            raise ManifestError(
                f"root must be a folder here, got the URL {self.location}: only recordings are read from there. "
                f"Copy the shards, or mount the storage, and name that folder."
            )
        return self.location

    def recording(self, index: int) -> Recording:
        """Where the recording of one utterance is: a file below the root, or part of a shard; and its channel."""
        columns = self._columns
        path: str = columns["path"][index].as_py()
        channel: int | None = columns["channel"][index].as_py() if self._has_channels else None
        byte_offset = columns["byte_offset"][index].as_py() if self._is_packed else None
        if byte_offset is None:
            return file_channel(self.root / path, channel)
        byte_length = columns["byte_length"][index].as_py()
        shard, member = split_path(path)
        if isinstance(self.location, RemoteRoot):
            utterance = columns["utterance"][index].as_py()
            return RemoteRecording(self.location, shard, member, byte_offset, byte_length, utterance, channel)
        return PackedRecording(self.root / shard, member, byte_offset, byte_length, channel)

    @property
    def channels(self) -> list[int | None]:
        """The channel of every utterance; none where all are averaged."""
        if not self._has_channels:
            return [None] * len(self)
        channels: list[int | None] = self._table["channel"].to_pylist()
        return channels

    @property
    def table(self) -> pa.Table:
        """All columns, one row an utterance; shared, not a copy."""
        return self._table

    @property
    def column_names(self) -> list[str]:
        """Names of all columns, optional ones included."""
        return list(self._table.column_names)

    @property
    def durations_seconds(self) -> Float64Array:
        """Duration of every utterance, shape (utterances,)."""
        return np.asarray(self._table["duration_seconds"].to_numpy())

    def column(self, name: str) -> list[str]:
        """The values of a text column; where an optional one is missing, the text is empty.

        Raises:
            ManifestError: If there is no such column.
        """
        texts = [column.name for column in self._table.schema if column.type == pa.string()]
        if name not in texts:
            raise ManifestError(f"column must be one of {', '.join(texts)}, got {name!r}.")
        values: list[str] = pc.fill_null(self._table[name], "").to_pylist()
        return values

    def take(self, indices: npt.ArrayLike) -> Manifest:
        """The utterances at ``indices``, in that order, as a manifest with its own speaker labels.

        Raises:
            ValueError: If the indices are a mask or other numbers than integers.
            IndexError: If one is beyond the last utterance.
            ManifestError: If one is there twice.
        """
        indices = np.asarray(indices)
        if indices.size and indices.dtype.kind not in "iu":
            raise ValueError(
                f"indices must be integers, got {indices.dtype}. Turn a mask into indices with numpy.flatnonzero."
            )
        return Manifest(self._table.take(pa.array(indices.astype(np.int64))), root=self.location)

    def split_speakers(self, num_held_out: int, *, seed: int) -> tuple[Manifest, Manifest]:
        """Split by speaker: no speaker is on both sides.

        Args:
            num_held_out: How many speakers, drawn at random, the second part gets.
            seed: Same seed and same set of speakers, same split.

        Returns:
            The manifest of the remaining speakers, and that of the held-out ones.

        Raises:
            ValueError: If num_held_out is not between 1 and the number of speakers minus one.
        """
        if not 1 <= num_held_out < len(self.speakers):
            raise ValueError(
                f"num_held_out must be between 1 and {len(self.speakers) - 1} (one speaker fewer than there are), "
                f"got {num_held_out}."
            )
        chosen = np.random.default_rng(seed).choice(len(self.speakers), num_held_out, replace=False)
        held_out = np.isin(self.speaker_labels, chosen)
        return self.take(np.flatnonzero(~held_out)), self.take(np.flatnonzero(held_out))

    def write(self, path: Path | str) -> None:
        """Write Parquet or CSV, by suffix, atomically; see `chns.data.manifest_file.write_table`.

        Raises:
            ManifestError: If the suffix is neither, a CSV is to lie where no relative path leads to the audio, or the
                root is a URL, which no manifest remembers.
        """
        write_table(Path(path), self._table, root=self.root)


def _as_root(root: Path | str | RemoteRoot) -> Path | RemoteRoot:
    if isinstance(root, RemoteRoot):
        return root
    return RemoteRoot(root) if is_url(root) else Path(root)


def relative_name(path: PurePosixPath) -> str:
    """The usual utterance name for a file: its path in the corpus without the suffix."""
    return without_suffix(path.as_posix())


def without_suffix(path: str) -> str:
    """Only suffixes of audio go: what is behind the dot of ``take.2`` is part of the name."""
    return _AUDIO_SUFFIX.sub("", path)


def one_spelling(speaker: str) -> str:
    """The one name of a speaker among those that look the same: accents composed, no space at the ends or of no width.

    `chns enrol` composes and refuses likewise. Unpaired surrogates stay, to be reported.
    """
    return unicodedata.normalize("NFC", re.sub(_NO_WIDTH, "", speaker)).strip()


def plain_letters(name: str) -> str:
    """The name without full-width letters, ligatures and the like (NFKC), which may be meant to differ."""
    return unicodedata.normalize("NFKC", one_spelling(name))


def same_looking(speakers: Iterable[str], *, spelling: Callable[[str], str] = one_spelling) -> list[list[str]]:
    """Names that have one spelling, two or more at a time, each sorted."""
    spellings: dict[str, set[str]] = {}
    for speaker in speakers:
        spellings.setdefault(spelling(speaker), set()).add(speaker)
    return [sorted(names) for _, names in sorted(spellings.items()) if len(names) > 1]


def _below_one_root(tables: list[pa.Table], manifests: Sequence[Manifest]) -> tuple[Path | RemoteRoot, list[pa.Table]]:
    """The deepest folder that holds all audio, or the URL that all share, and the tables seen from there."""
    first = manifests[0].location
    if isinstance(first, RemoteRoot) and all(manifest.location == first for manifest in manifests):
        return first, tables
    roots = [manifest.root.resolve() for manifest in manifests]
    top = Path(os.path.commonpath(roots))
    return top, [moved(table, root.relative_to(top)) for table, root in zip(tables, roots, strict=True)]


def _refuse_shared_speakers(tables: Sequence[pa.Table]) -> None:
    speakers = pa.concat_arrays([pc.unique(table["speaker"]) for table in tables])
    counts = pc.value_counts(speakers)
    shared = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")
    if len(shared):
        raise ManifestError(
            f"speaker must be in one manifest only, got {quoted(shared[0].as_py())} and {len(shared) - 1} "
            "more in several. "
            f"If they are different people, keep them apart with a prefix; if they are the same, say so "
            f"(`chns merge --prefix` or `--same-speakers`)."
        )


def numbers(manifest: Manifest, name: str) -> Float64Array:
    """A column of numbers, shape (utterances,)."""
    return np.asarray(manifest.table[name].to_numpy(), np.float64)


def with_columns(manifest: Manifest, columns: Mapping[str, Any]) -> Manifest:
    """The same utterances with some columns added or replaced.

    Args:
        manifest: The utterances.
        columns: One value an utterance.

    Raises:
        ManifestError: If a value breaks the rule of its column.
    """
    table = manifest.table
    for name, values in columns.items():
        column = pa.array(values)
        place = table.column_names.index(name) if name in table.column_names else None
        table = table.append_column(name, column) if place is None else table.set_column(place, name, column)
    return Manifest(table, root=manifest.location)


def fingerprint(manifest: Manifest) -> str:
    """The same for the same rows under the same root, and else another."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, manifest.table.schema) as writer:
        writer.write_table(manifest.table)
    location = manifest.location
    named = str(location).encode() if isinstance(location, RemoteRoot) else bytes(location.resolve())
    digest = hashlib.blake2b(named, digest_size=8)
    digest.update(sink.getvalue())
    return digest.hexdigest()


# More corpora than these, or smaller ones, are hardly corpora but parts of names.
_MOST_CORPORA = 10
_SMALLEST_SHARE = 0.05


def corpora_of(speakers: Sequence[str]) -> list[str] | None:
    """The corpus that each speaker comes from, by the prefix that ``chns merge --prefix`` gives their names.

    Returns:
        None if names have no prefix, or what stands before their first slash can hardly be a corpus: more than ten
        different ones, or not two that hold a twentieth of the speakers each.
    """
    if not all("/" in name for name in speakers):
        return None
    prefixes = [name.partition("/")[0] for name in speakers]
    counts = Counter(prefixes)
    large = [count for count in counts.values() if count >= _SMALLEST_SHARE * len(speakers)]
    return prefixes if len(counts) <= _MOST_CORPORA and len(large) > 1 else None

"""Tar files that others have packed, WebDataset's and WeSpeaker's, read as they are.

Their headers are read once, here; the manifest then says where each recording lies, and crops are read straight from
the tars, as from those of ``chns pack``. A member's name is only a name: nothing is ever unpacked.

WebDataset (``webdataset.tariterators``): files in a row whose names agree up to the first dot behind the last slash
are a sample. WeSpeaker (``tools/make_shard_list.py``): the same up to the last dot, ``KEY.spk`` with the speaker's
name, and a list of the tars.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from tqdm import tqdm

from chns.core import ManifestError, quoted
from chns.data.audio import EXTENSIONS, UNREAD_EXTENSIONS
from chns.data.corpora.listed import columns_of, relative_path, text_of
from chns.data.corpora.scan import MIN_DURATION_SECONDS, Candidate, Rejected, ScanResult, scan_recordings
from chns.data.storage.packed import PackedRecording, ShardMember, shard_members
from chns.data.text_rows import text_lines

SPEAKER_FIELDS = ("spk", "speaker", "cls", "json.speaker", "json.speaker_id", "json.spk_id")
"""Where a sample of WebDataset, which has no rule for it, may name its speaker: a file by its suffix, a key of JSON."""

_MAX_TEXT_BYTES, _MAX_JSON_BYTES = 2**10, 2**20


def prepare_webdataset(
    source: Path,
    *,
    root: Path | None = None,
    speaker_field: str | None = None,
    min_duration_seconds: float = MIN_DURATION_SECONDS,
    jobs: int | None = None,
) -> ScanResult:
    """Scan tars of samples; what a sample's ``.json`` says as text becomes columns.

    An utterance is called as its sample, with its shard before it if several shards have samples of one name.

    Args:
        source: A folder with tars, at any depth; a list with one path a line; or a tar.
        root: Folder of the tars that a list names; by default that of the list.
        speaker_field: What names the speaker: the suffix of a file of the sample, ``spk``, or a key of one that holds
            JSON, ``json.speaker``. By default the first of ``SPEAKER_FIELDS`` that the sample has.
        min_duration_seconds: Shorter recordings are rejected.
        jobs: See ``scan_recordings``.

    Raises:
        FileNotFoundError: If the source or a tar is not there.
        ManifestError: If a tar is compressed, cut off or damaged, a path leaves the root, or nothing usable remains.
    """
    fields = SPEAKER_FIELDS if speaker_field is None else (speaker_field,)
    samples = _Samples(fields, from_end=False)
    return _scanned(source, root, samples, min_duration_seconds=min_duration_seconds, jobs=jobs)


def prepare_wespeaker_shards(
    source: Path,
    *,
    root: Path | None = None,
    min_duration_seconds: float = MIN_DURATION_SECONDS,
    jobs: int | None = None,
) -> ScanResult:
    """Scan tars with ``KEY.spk`` and ``KEY.wav`` (or another format) of each utterance.

    Args:
        source: The list of the tars, one path a line; or their folder, or one of them.
        root: See ``prepare_webdataset``.
        min_duration_seconds: Shorter recordings are rejected.
        jobs: See ``scan_recordings``.

    Raises:
        FileNotFoundError, ManifestError: As `prepare_webdataset`.
    """
    samples = _Samples(("spk",), from_end=True)
    return _scanned(source, root, samples, min_duration_seconds=min_duration_seconds, jobs=jobs)


def _scanned(
    source: Path, root: Path | None, samples: _Samples, *, min_duration_seconds: float, jobs: int | None
) -> ScanResult:
    root = root or (source if source.is_dir() else source.parent)
    shards = _shards(source, root)
    found: list[tuple[str, Candidate]] = []
    rejected: list[Rejected] = []
    passed_over: Counter[str] = Counter()
    for shard in tqdm(shards, desc="reading headers", unit="shard", disable=None):
        for each in samples.of(root, shard, passed_over):
            if isinstance(each, Rejected):
                rejected.append(each)
            else:
                found.append((shard, each))
    is_numbered_anew = len({each.utterance for _, each in found}) < len(
        {(shard, each.utterance) for shard, each in found}
    )
    candidates = [
        each._replace(utterance=f"{shard.removesuffix('.tar')}/{each.utterance}") if is_numbered_anew else each
        for shard, each in found
    ]
    return scan_recordings(
        candidates,
        root=root,
        rejected=rejected,
        min_duration_seconds=min_duration_seconds,
        jobs=jobs,
        passed_over=passed_over,
    )


def _shards(source: Path, root: Path) -> list[str]:
    """Paths of the tars, seen from the root."""
    if source.is_dir():
        shards = sorted(path.relative_to(source).as_posix() for path in source.rglob("*.tar"))
        if not shards:
            raise ManifestError(f"folder must hold shards that are called NAME.tar, got none in {source}.")
        return shards
    if source.suffix == ".tar":
        return [relative_path(str(source.absolute()), root, str(source))]
    shards = []
    for line, place in text_lines(source):
        if not line.strip():
            continue
        shard = relative_path(line.strip(), root, place)
        if not shard.endswith(".tar"):
            raise ManifestError(
                f"shard must be called NAME.tar, got {quoted(line.strip())} in {place}. Unpack compressed ones with "
                f"gunzip: a recording cannot be read from the middle of them."
            )
        shards.append(shard)
    return list(dict.fromkeys(shards))


class _Samples(NamedTuple):
    """How the members of a tar belong together.

    Attributes:
        speaker_fields: Where the speaker may be named.
        from_end: Whether a name ends before its last dot, not before its first one.
    """

    speaker_fields: Sequence[str]
    from_end: bool

    def of(self, root: Path, shard: str, passed_over: Counter[str]) -> Iterator[Candidate | Rejected]:
        """The utterances of a shard, or why a sample is none; counts hidden files by suffix."""
        for key, group in groupby(shard_members(root / shard), key=lambda member: self._split(member.name)[0]):
            if key is None:
                passed_over.update(PurePosixPath(member.name).suffix.lower() for member in group)
                continue
            members = [*group]
            try:
                yield self._candidate(root, shard, key, members)
            except _NoUtteranceError as error:
                yield Rejected(f"{shard}/{error.member or key}", str(error))

    def _split(self, name: str) -> tuple[str | None, str]:
        """What a member's name begins with, as its sample, and its suffix; none of a hidden file."""
        folder, slash, base = name.removeprefix("./").rpartition("/")
        stem, dot, suffix = base.rpartition(".") if self.from_end else base.partition(".")
        return (f"{folder}{slash}{stem}" if stem and dot else None), suffix

    def _candidate(self, root: Path, shard: str, key: str, members: list[ShardMember]) -> Candidate:
        recordings = [member for member in members if _suffix(member) in (*EXTENSIONS, *UNREAD_EXTENSIONS)]
        if len(recordings) != 1:
            named = ", ".join(quoted(PurePosixPath(member.name).name) for member in members[:5])
            raise _NoUtteranceError(f"sample must have one recording, got {len(recordings)} among {named}")
        (recording,) = recordings
        for member in members:
            if member.problem:
                raise _NoUtteranceError(member.problem, member.name)
        fields = {self._split(member.name)[1].lower(): member for member in members if member is not recording}
        if len(fields) < len(members) - 1:
            raise _NoUtteranceError("sample must have one file of a kind, got two of the same name", members[-1].name)
        texts = _Texts(root / shard, fields)
        entry = texts.entry("json") if "json" in fields else {}
        keys = [name.removeprefix("json.") for name in self.speaker_fields]
        session = entry.get("session")
        return Candidate(
            utterance=key,
            speaker=self._speaker(texts, recording),
            path=f"{shard}/{recording.name}",
            session=session if isinstance(session, str) and session else None,
            columns=columns_of(entry, without=("session", *keys)),
            packed=(recording.byte_offset, recording.byte_length),
        )

    def _speaker(self, texts: _Texts, recording: ShardMember) -> str:
        for field in self.speaker_fields:
            file, _, key = field.rpartition(".")
            if field in texts.fields:
                return texts.line(field)
            if file in texts.fields and key in (entry := texts.entry(file)):
                return _text_of(entry, key, texts.fields[file].name)
        found = ", ".join(texts.fields) or "nothing"
        raise _NoUtteranceError(
            f"sample must name its speaker in {' or '.join(self.speaker_fields)}, got {found} beside the recording",
            recording.name,
        )


class _NoUtteranceError(Exception):
    """Why a sample is no utterance, and the member whose fault it is."""

    def __init__(self, reason: str, member: str | None = None) -> None:
        super().__init__(reason)
        self.member = member


class _Texts:
    """The small files of a sample, by their suffixes; each is read once."""

    def __init__(self, shard: Path, fields: Mapping[str, ShardMember]) -> None:
        self.fields = fields
        self._shard = shard
        self._entries: dict[str, Mapping[str, Any]] = {}

    def line(self, field: str) -> str:
        """One that is a line of text."""
        content = self._content(field, _MAX_TEXT_BYTES)
        try:
            text = content.decode("utf-8-sig").strip()
        except UnicodeDecodeError:
            text = ""
        if not text or "\n" in text:
            raise _NoUtteranceError(f"speaker must be a line of UTF-8, got {quoted(content)}", self.fields[field].name)
        return text

    def entry(self, field: str) -> Mapping[str, Any]:
        """One that is a JSON object."""
        if field in self._entries:
            return self._entries[field]
        content = self._content(field, _MAX_JSON_BYTES)
        try:
            entry = json.loads(content)
        except (ValueError, RecursionError):
            entry = None
        if not isinstance(entry, dict):
            raise _NoUtteranceError(f"file must be one JSON object, got {quoted(content)}", self.fields[field].name)
        self._entries[field] = entry
        return entry

    def _content(self, field: str, max_bytes: int) -> bytes:
        name, byte_offset, byte_length, _ = self.fields[field]
        if byte_length > max_bytes:
            raise _NoUtteranceError(f"file must have at most {max_bytes:,} bytes, got {byte_length:,}", name)
        with PackedRecording(self._shard, name, byte_offset, byte_length).open() as file:
            return file.read()


def _suffix(member: ShardMember) -> str:
    return PurePosixPath(member.name).suffix.lower()


def _text_of(entry: Mapping[str, Any], key: str, member: str) -> str:
    try:
        return text_of(entry, key, member)
    except ManifestError as error:
        raise _NoUtteranceError(str(error), member) from error

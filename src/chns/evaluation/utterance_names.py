"""Find utterances by the names that lists give them, which are not always the manifest's."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from chns.core.arrays import IntArray
from chns.errors import TrialError

if TYPE_CHECKING:
    from chns.data.manifest import Manifest


_AUDIO_SUFFIX = re.compile(
    r"\.(wav|flac|ogg|oga|opus|mp3|m4a|mp4|aac|sph|nist|aif|aiff|aifc|au|snd|w64|caf|wv|wma|webm|pcm|raw)$",
    re.IGNORECASE,
)


def find_utterances(names: Sequence[str], manifest: Manifest, *, listed: str, place: Callable[[int], str]) -> IntArray:
    """Find utterances that a list names in a manifest.

    A name is matched, in this order and at last with its ``./``, double slashes and backslashes made plain, with the
    manifest's utterance names, its paths, its paths without suffix
    (lists say ``.wav`` where the corpus may be FLAC), and the ends of its paths (a list names
    ``id10270/x/00001.wav``, the path may be ``test/wav/id10270/x/00001.flac``). A match counts only if it is the
    only one.

    Args:
        names: Any of them may be there several times.
        manifest: Where they are looked for.
        listed: What names them, for error messages.
        place: Where the name at a position stands, as ``file:line``.

    Returns:
        Row of each name, shape (names,), int64.

    Raises:
        TrialError: If a name matches no utterance or several: how many such names, and the first of them.
    """
    wanted = set(names)
    found = matching_rows(wanted, manifest)
    if len(found) == len(wanted):
        return np.fromiter(map(found.__getitem__, names), np.int64, len(names))
    unknown: dict[str, int] = {}
    for position, name in enumerate(names):
        if name not in found:
            unknown.setdefault(name, position)
    shown = ", ".join(f"{name!r} in {place(position)}" for name, position in islice(unknown.items(), 3))
    raise TrialError(
        f"{listed} must name one utterance of the manifest each time, got {len(unknown)} names that match none or "
        f"several: {shown}{', ...' if len(unknown) > 3 else ''}. Check that list and manifest are of one corpus."
    )


def matching_rows(names: set[str], manifest: Manifest) -> dict[str, int]:
    """Row of each name that matches exactly one utterance; see `find_utterances`."""
    found: dict[str, int] = {}
    for column in ("utterance", "path"):
        found |= _match({name: name for name in names - found.keys()}, manifest.column(column))
    for column in ("utterance", "path"):
        found |= _match({name: _plain_path(name) for name in names - found.keys()}, manifest.column(column))
    stems = {name: _without_suffix(_plain_path(name)) for name in names - found.keys()}
    if stems:
        path_stems = [_without_suffix(path) for path in manifest.column("path")]
        found |= _match(stems, path_stems)
        for depth in {stem.count("/") for stem in stems.values()}:
            same_depth = {name: stem for name, stem in stems.items() if stem.count("/") == depth}
            ends = ("/".join(path.rsplit("/", depth + 1)[-depth - 1 :]) for path in path_stems)
            found = _match(same_depth, ends) | found
    return found


def _match(keys: dict[str, str], candidates: Iterable[str]) -> dict[str, int]:
    """Row of the one candidate that equals each name's key; a name whose key occurs never or twice is left out."""
    wanted = set(keys.values())
    rows: dict[str, int] = {}
    repeated = set()
    for row, candidate in enumerate(candidates):
        if candidate in wanted:
            if candidate in rows:
                repeated.add(candidate)
            rows[candidate] = row
    return {name: rows[key] for name, key in keys.items() if key in rows and key not in repeated}


def _without_suffix(path: str) -> str:
    """Only suffixes of audio go: what is behind the dot of ``take.2`` is part of the name."""
    return _AUDIO_SUFFIX.sub("", path)


def _plain_path(name: str) -> str:
    """Paths written as ``./a//0.wav``, or with backslashes, are ``a/0.wav``."""
    return posixpath.normpath(name.replace("\\", "/"))

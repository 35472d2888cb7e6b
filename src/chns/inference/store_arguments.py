"""What may be put into a voiceprint store."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import numpy as np

from chns.core.arrays import Float32Array

_LONGEST_NAME, _LONGEST_SOURCE = 200, 4_096


def unit_length(embeddings: Float32Array, shape: tuple[int, ...]) -> Float32Array:
    """The embeddings at unit length, in float32; -1 in the shape is any number but zero."""
    vectors = np.asarray(embeddings, np.float64)
    wanted = tuple(size if length == -1 else length for length, size in zip(shape, vectors.shape, strict=False))
    if len(shape) != vectors.ndim or vectors.shape != wanted or not vectors.size:
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
    kind, _, number = score_by.partition("-")
    if score_by == "max" or (kind == "top" and number.isascii() and number.isdigit() and 0 < int(number[:9]) < 10**6):
        return 1 if score_by == "max" else int(number)
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

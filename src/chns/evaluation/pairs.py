"""Make trial lists from a manifest.

Lists are exact samples without rejection: the pairs that qualify are numbered, never stored, so drawing pairs is
drawing distinct numbers, however few of them are left to draw.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from chns.core import BoolArray, Float32Array, IntArray, ManifestError, TrialError, quoted
from chns.evaluation.trials import Trials

if TYPE_CHECKING:
    from chns.data import Manifest

Nontargets = Literal["random", "hardest"]


def make_trials(
    manifest: Manifest,
    *,
    targets_per_speaker: int | None = None,
    num_nontargets: int | None = None,
    nontargets: Nontargets = "random",
    embeddings: Float32Array | None = None,
    same_column: str | None = None,
    cross_session: bool = False,
    seed: int = 0,
) -> Trials:
    """Make a trial list: target trials first, then non-target trials; no pair of utterances occurs twice.

    Args:
        manifest: Utterances to compare.
        targets_per_speaker: Target trials drawn of each speaker, who gives all if there are fewer; None takes all.
        num_nontargets: Number of non-target trials; None makes as many as there are target trials.
        nontargets: ``random``: every pair of utterances of different speakers is equally likely. ``hardest``: the pairs
            with the highest cosine under ``embeddings``, highest first.
        embeddings: For ``hardest`` only: one an utterance, shape (utterances, dim).
        same_column: Manifest column in which both speakers of a non-target trial agree, as VoxCeleb1-H does with
            gender and nationality.
        cross_session: Whether the two utterances of a target trial must differ in the column ``session``.
        seed: Same seed and same manifest, same trials.

    Raises:
        ValueError: If a number is below 1, nontargets is neither, or embeddings are not there exactly for ``hardest``,
            have another shape or a zero or non-finite row.
        ManifestError: If a named column does not exist or has no value somewhere.
        TrialError: If no speaker has a target pair, or there are fewer non-target pairs than num_nontargets.
    """
    for name, number in (("targets_per_speaker", targets_per_speaker), ("num_nontargets", num_nontargets)):
        if number is not None and number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}.")
    if nontargets not in ("random", "hardest"):
        raise ValueError(f"nontargets must be random or hardest, got {nontargets!r}.")
    if (nontargets == "hardest") != (embeddings is not None):
        raise ValueError(
            f"embeddings must be given exactly if nontargets is 'hardest', got {nontargets!r} "
            f"{'without' if embeddings is None else 'with'} embeddings."
        )
    rng = np.random.default_rng(seed)
    targets = _draw_targets(manifest, targets_per_speaker, cross_session=cross_session, rng=rng)
    others = _draw_nontargets(
        manifest,
        len(targets[0]) if num_nontargets is None else num_nontargets,
        embeddings=embeddings,
        same_column=same_column,
        rng=rng,
    )
    names = np.array(manifest.column("utterance"), dtype=object)
    enrolment, test = (
        names[np.concatenate((target, other))].tolist() for target, other in zip(targets, others, strict=True)
    )
    return Trials(enrolment, test, is_target=np.arange(len(enrolment)) < len(targets[0]))


def _draw_targets(
    manifest: Manifest, per_speaker: int | None, *, cross_session: bool, rng: np.random.Generator
) -> tuple[IntArray, IntArray]:
    blocks = _codes(manifest, "session") if cross_session else np.arange(len(manifest))
    pairs = NumberedPairs(manifest.speaker_labels, blocks)
    if len(pairs) == 0:
        apart = " of different sessions" if cross_session else ""
        raise TrialError(
            f"target trials must have a speaker with two utterances{apart}, got none among "
            f"{len(manifest.speakers)} speakers."
        )
    if per_speaker is None:
        return pairs.rows(np.arange(len(pairs)))
    drawn = [
        first + np.sort(rng.choice(count, min(per_speaker, count), replace=False, shuffle=False))
        for first, count in pairs.ranges()
    ]
    return pairs.rows(np.concatenate(drawn))


def _draw_nontargets(
    manifest: Manifest,
    count: int,
    *,
    embeddings: Float32Array | None,
    same_column: str | None,
    rng: np.random.Generator,
) -> tuple[IntArray, IntArray]:
    groups = np.zeros(len(manifest), np.int64) if same_column is None else _codes(manifest, same_column)
    pairs = NumberedPairs(groups, manifest.speaker_labels)
    if count > len(pairs):
        agreeing = "" if same_column is None else f" and equal {same_column}"
        raise TrialError(
            f"num_nontargets must be at most {len(pairs)}, all pairs of different speakers{agreeing}, got {count}. "
            f"Ask for fewer."
        )
    if embeddings is None:
        return pairs.rows(np.sort(rng.choice(len(pairs), count, replace=False, shuffle=False)))
    if len(embeddings) != len(manifest):
        raise ValueError(f"embeddings must be one for each of {len(manifest)} utterances, got {len(embeddings)}.")
    return pairs.most_similar(unit_embeddings(embeddings), count)


def _codes(manifest: Manifest, column: str) -> IntArray:
    """The values of a column as integers."""
    values = manifest.column(column)
    if "" in values:
        name = manifest.column("utterance")[values.index("")]
        raise ManifestError(f"{column} must have a value for every utterance, got none for {quoted(name)}.")
    codes: IntArray = np.unique(np.array(values), return_inverse=True)[1].astype(np.int64)
    return codes


class NumberedPairs:
    """All unordered pairs of rows that agree in their group and differ in their block, numbered from 0, never stored.

    Rows are sorted by group and block, so the partners of a row that come after it are one stretch: from the end of
    its block to the end of its group. Pairs are numbered row by row along these stretches, hence group by group.

    Args:
        groups: Group of each row, shape (rows,).
        blocks: Block of each row, shape (rows,).
    """

    _TILE_ROWS, _TILE_COLUMNS = 1024, 8192

    def __init__(self, groups: IntArray, blocks: IntArray) -> None:
        self._order = np.lexsort((blocks, groups))
        groups, blocks = groups[self._order], blocks[self._order]
        new_group = groups[1:] != groups[:-1]
        self._group_end = _run_ends(new_group)
        self._block_end = _run_ends(new_group | (blocks[1:] != blocks[:-1]))
        self._first = np.concatenate(([0], np.cumsum(self._group_end - self._block_end)))

    def __len__(self) -> int:
        """Number of pairs."""
        return int(self._first[-1])

    def rows(self, numbers: IntArray) -> tuple[IntArray, IntArray]:
        """Both rows of the pairs with these numbers."""
        position = np.searchsorted(self._first, numbers, side="right") - 1
        partner = self._block_end[position] + numbers - self._first[position]
        return self._order[position], self._order[partner]

    def ranges(self) -> Iterator[tuple[int, int]]:
        """The first number and the count of each group's pairs, groups without any left out."""
        ends = self._first[np.unique(self._group_end)].tolist()
        for first, end in pairwise([0, *ends]):
            if end > first:
                yield first, end - first

    def most_similar(self, unit: Float32Array, count: int) -> tuple[IntArray, IntArray]:
        """Both rows of the ``count`` pairs with the highest cosine, highest first.

        Compares tile by tile and keeps only candidates that may still be among the highest, so the memory is that of
        one tile and twice ``count``.

        Args:
            unit: Unit-length embedding of each row, shape (rows, dim).
            count: At most the number of pairs.
        """
        unit = unit[self._order]
        cosines, left, right = np.empty(0, np.float32), np.empty(0, np.int64), np.empty(0, np.int64)
        floor = -np.inf
        for rows, columns in self._tiles():
            tile = unit[rows] @ unit[columns].T
            partners = np.arange(columns.start, columns.stop)
            pairs = (partners >= self._block_end[rows, None]) & (partners < self._group_end[rows, None])
            row, column = np.nonzero(pairs & (tile > floor))
            cosines = np.concatenate((cosines, tile[row, column]))
            left = np.concatenate((left, row + rows.start))
            right = np.concatenate((right, column + columns.start))
            if len(cosines) > count:
                best = np.argpartition(-cosines, count - 1)[:count]
                cosines, left, right = cosines[best], left[best], right[best]
                floor = cosines.min()
        descending = np.lexsort((right, left, -cosines))
        return self._order[left[descending]], self._order[right[descending]]

    def _tiles(self) -> Iterator[tuple[slice, slice]]:
        """Rectangles of sorted rows that together hold every pair."""
        for start in range(0, len(self._order), self._TILE_ROWS):
            stop = min(start + self._TILE_ROWS, len(self._order))
            last = int(self._group_end[stop - 1])
            for left in range(int(self._block_end[start]), last, self._TILE_COLUMNS):
                yield slice(start, stop), slice(left, min(left + self._TILE_COLUMNS, last))


def _run_ends(is_new: BoolArray) -> IntArray:
    """For each position the end of its run of equal values, given where the following ones differ."""
    ends = np.append(np.flatnonzero(is_new) + 1, len(is_new) + 1)
    return np.repeat(ends, np.diff(ends, prepend=0))


def unit_embeddings(embeddings: npt.ArrayLike) -> Float32Array:
    """Embeddings scaled to length 1, so that their dot product is the cosine.

    Args:
        embeddings: Shape (utterances, dim).

    Returns:
        The same shape, float32.

    Raises:
        ValueError: If the shape is another, or a row is zero or not finite.
    """
    embeddings = np.asarray(embeddings, dtype=np.float32)
    if embeddings.ndim != 2:
        raise ValueError(f"embeddings must have shape (utterances, dim), got {embeddings.shape}.")
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    unusable = np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))
    if len(unusable):
        raise ValueError(
            f"embeddings must be finite and not zero, got row {unusable[0]} ({len(unusable)} such rows). "
            f"Check the model and the recording."
        )
    unit: Float32Array = embeddings / lengths
    return unit

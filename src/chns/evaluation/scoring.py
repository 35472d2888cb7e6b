"""Score trials by cosine, and keep scores in files of ``ENROL TEST SCORE LABEL``.

Files are read in blocks, by Arrow: 3.7 million lines must be a matter of seconds and of the numbers' own memory. Python
splits a block that is not plain: one with blank lines, odd white space, a number that Arrow does not know, or an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv

from chns.core import BoolArray, Float32Array, Float64Array, IntArray, TrialError, atomic_path, number
from chns.evaluation.pairs import unit_embeddings
from chns.evaluation.trials import FieldLines, Trials, require_plain_names

_TRIALS_AT_ONCE = 8192  # their embeddings stay in the processor's cache
_LABELS = {"nontarget": False, "0": False, "target": True, "1": True}
_BLOCK_BYTES = 2**22
_OTHER_ASCII_SPACE = b"\x00\x0b\x0c\x1c\x1d\x1e\x1f"  # the first is none, but ends texts for some
_OTHER_SPACE = re.compile(
    rb"[\x00\x0b\x0c\x1c-\x1f]|\xc2[\x85\xa0]|\xe1\x9a\x80|\xe2\x80[\x80-\x8a\xa8\xa9\xaf]|\xe2\x81\x9f|\xe3\x80\x80"
)


def cosine_scores(embeddings: npt.ArrayLike, enrolment_rows: IntArray, test_rows: IntArray) -> Float32Array:
    """Cosine of the two embeddings of each trial.

    The raw cosine, not (cosine + 1) / 2: thresholds would not carry over between the two.

    Args:
        embeddings: One an utterance, shape (utterances, dim); need not be normalised.
        enrolment_rows: Row of each trial's enrolment utterance, shape (trials,).
        test_rows: Row of its test utterance, shape (trials,).

    Returns:
        Scores between -1 and 1, shape (trials,). Memory beyond them does not grow with the number of trials.

    Raises:
        ValueError: If an embedding is zero or not finite, the two kinds of rows differ in number, or there is no such
            row.
    """
    unit = unit_embeddings(embeddings)
    require_rows(len(unit), enrolment_rows, test_rows)
    scores = np.empty(len(enrolment_rows), np.float32)
    for start in range(0, len(scores), _TRIALS_AT_ONCE):
        some = slice(start, start + _TRIALS_AT_ONCE)
        np.einsum("td,td->t", unit[enrolment_rows[some]], unit[test_rows[some]], out=scores[some])
    return np.clip(scores, -1, 1)


def require_rows(num_embeddings: int, enrolment_rows: IntArray, test_rows: IntArray) -> None:
    """Check that rows name two embeddings for each trial.

    Raises:
        ValueError: If the two kinds of rows differ in number, or there is no such row.
    """
    if len(enrolment_rows) != len(test_rows):
        raise ValueError(
            f"enrolment_rows and test_rows must be equally many, got {len(enrolment_rows)} and {len(test_rows)}."
        )
    for name, rows in (("enrolment_rows", enrolment_rows), ("test_rows", test_rows)):
        if len(rows) and not 0 <= rows.min() <= rows.max() < num_embeddings:
            raise ValueError(
                f"{name} must be between 0 and {num_embeddings - 1}, the rows of embeddings, "
                f"got {rows.min()} to {rows.max()}."
            )


def write_scores(path: Path | str, trials: Trials, scores: npt.NDArray[np.floating]) -> None:
    """Write one line a trial, ``ENROL TEST SCORE LABEL`` or, without labels, ``ENROL TEST SCORE``, atomically.

    Scores get as many digits as their type needs to be read back unchanged.

    Raises:
        ValueError: If there is not one score a trial.
        TrialError: If an utterance's name is empty or contains white space.
    """
    if scores.shape != (len(trials),):
        raise ValueError(f"scores must have shape ({len(trials)},), one a trial, got {scores.shape}.")
    require_plain_names(trials)
    columns = [trials.enrolment, trials.test, map(str, scores)]
    if trials.is_target is not None:
        columns.append("target" if target else "nontarget" for target in trials.is_target.tolist())
    with atomic_path(Path(path)) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(" ".join(fields) + "\n" for fields in zip(*columns, strict=True))


def read_scores(path: Path | str) -> tuple[Trials, Float64Array]:
    """Read a score file.

    Args:
        path: Lines of ``ENROL TEST SCORE LABEL`` with LABEL one of target, nontarget, 1 and 0, or all without LABEL, or
            all ``ENROL TEST LABEL SCORE``. Where both orders fit, the file is read as the first.

    Returns:
        The trials, and their scores, shape (trials,).

    Raises:
        FileNotFoundError: If there is no such file.
        TrialError: If it is empty or not UTF-8, or a line has another number of fields, a score that is not a finite
            number in ASCII digits or a label that is none.
    """
    names: dict[str, int] = {}
    parts = _read(Path(path), names)
    by_number = np.array([*names, None], object)
    enrolment, test = (by_number[np.concatenate([part.names[side] for part in parts])].tolist() for side in (0, 1))
    lines = np.concatenate([part.lines for part in parts])
    trials = Trials(enrolment, test, _labels_of(parts), source=str(path), lines=lines)
    return trials, np.concatenate([part.scores for part in parts])


def read_labelled_scores(path: Path | str) -> tuple[Float64Array, BoolArray]:
    """Scores and labels of a score file, both of shape (trials,), without the names, which take most of the memory.

    Raises:
        FileNotFoundError: If there is no such file.
        TrialError: As `read_scores`, or if there are no labels.
    """
    parts = _read(Path(path), None)
    labels = _labels_of(parts)
    if labels is None:
        raise TrialError(
            f"score file must have a label on each line, got `ENROL TEST SCORE` in {path}:{parts[0].lines[0]}. "
            "Add target or nontarget."
        )
    return np.concatenate([part.scores for part in parts]), labels


class _ScoredLines(NamedTuple):
    """Some lines of a score file."""

    scores: Float64Array
    is_target: BoolArray | None
    lines: IntArray
    names: Sequence[npt.NDArray[np.int32]]  # numbers of the enrolment and of the test utterances, if they are kept


class _UnfitError(Exception):
    """A line does not read as it should."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


def _labels_of(parts: Sequence[_ScoredLines]) -> BoolArray | None:
    labels = [part.is_target for part in parts if part.is_target is not None]
    return np.concatenate(labels) if labels else None


def _read(path: Path, names: dict[str, int] | None) -> list[_ScoredLines]:
    """All lines by the order of columns that fits them; if none does, the error of that which fits furthest.

    Names get numbers, which are added to `names`; without it they are not looked at.
    """
    if not path.is_file():
        raise FileNotFoundError(f"score file must be a file, got {path}.")
    errors: list[_UnfitError] = []
    for last in ("label", "score"):
        try:
            parts = list(_read_in_order(path, last, names))
        except _UnfitError as error:
            errors.append(error)
            continue
        if not parts:
            raise TrialError(f"score file must have at least one line, got none in {path}.")
        return parts
    raise TrialError(str(max(errors, key=lambda error: error.line)))


def _read_in_order(path: Path, last: str, names: dict[str, int] | None) -> Iterator[_ScoredLines]:
    columns: tuple[str, ...] = ()
    for block, first in _blocks(path):
        lines = block.strip()
        if not lines:
            continue
        if not columns:
            num_fields = len(lines.split(b"\n", 1)[0].decode(errors="replace").split())
            columns = ("score",) if num_fields == 3 else ("score", "label") if last == "label" else ("label", "score")
        part = _plain_lines(block, first, columns, names)
        yield part if part is not None else _split_lines(block, first, columns, names, path)


def _blocks(path: Path) -> Iterator[tuple[bytes, int]]:
    """Whole lines, with line feeds and single spaces, and the number of the first."""
    rest, number = b"", 1
    with path.open("rb") as file:
        if file.read(3) != b"\xef\xbb\xbf":
            file.seek(0)
        while piece := file.read(max(_BLOCK_BYTES, len(rest))):
            block = rest + piece
            end = 1 + (block.rfind(b"\n") if b"\n" in block else block.rfind(b"\r", 0, -1))
            block, rest = _plain_space(block[:end]), block[end:]
            yield block, number
            number += block.count(b"\n")
    yield _plain_space(rest), number


def _plain_space(block: bytes) -> bytes:
    block = block.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\t", b" ")
    if b"  " in block:
        block = re.sub(rb"  +", b" ", block)
    return block.replace(b" \n", b"\n").replace(b"\n ", b"\n").strip(b" ")


def _plain_lines(block: bytes, first: int, columns: Sequence[str], names: dict[str, int] | None) -> _ScoredLines | None:
    """The lines as Arrow reads them, if there is nothing odd about any."""
    table = _as_table(block, columns, named=names is not None)
    if table is None or table.num_rows != block.count(b"\n") + (not block.endswith(b"\n")):
        return None
    scores = table["score"].to_numpy()
    labels: BoolArray | None = None
    if "label" in columns:
        if not _LABELS.keys() >= set(_dictionary(table["label"])):
            return None
        labels = _by_value(table["label"], _LABELS).astype(np.bool_)
    if not np.isfinite(scores).all():
        return None
    lines = np.arange(first, first + len(scores))
    if names is None:
        return _ScoredLines(scores, labels, lines[:1], ())
    sides = [table["enrolment"], table["test"]]
    for side in sides:
        _number(_dictionary(side), names)
    return _ScoredLines(scores, labels, lines, [_by_value(side, names) for side in sides])


def _as_table(block: bytes, columns: Sequence[str], *, named: bool) -> pa.Table | None:
    if _has_other_space(block):
        return None
    kept = ["enrolment", "test", *columns] if named else [*columns]
    types = {name: pa.dictionary(pa.int32(), pa.string()) for name in kept} | {"score": pa.float64()}
    try:
        if not named:
            block.decode()  # Arrow does not check what it does not convert
        return pyarrow.csv.read_csv(
            pa.BufferReader(block),
            pyarrow.csv.ReadOptions(use_threads=False, column_names=["enrolment", "test", *columns]),
            pyarrow.csv.ParseOptions(delimiter=" ", quote_char=False),
            pyarrow.csv.ConvertOptions(column_types=types, null_values=[], include_columns=kept),
        )
    except (pa.ArrowException, UnicodeDecodeError):
        return None


def _has_other_space(block: bytes) -> bool:
    if block.isascii():  # ten times faster than the expression
        return len(block.translate(None, _OTHER_ASCII_SPACE)) < len(block)
    return _OTHER_SPACE.search(block) is not None


def _dictionary(column: pa.ChunkedArray) -> list[str]:
    return [value for chunk in column.chunks for value in chunk.dictionary.to_pylist()]


def _by_value(column: pa.ChunkedArray, numbers: Mapping[str, int]) -> npt.NDArray[np.int32]:
    """The number of each value of a column of dictionaries."""
    found = [np.empty(0, np.int32)]
    for chunk in column.chunks:
        known = np.array([numbers[value] for value in chunk.dictionary.to_pylist()], np.int32)
        found.append(known[chunk.indices.to_numpy()])
    return np.concatenate(found)


def _number(values: Sequence[str], numbers: dict[str, int]) -> list[int]:
    """The number of each value; a new value gets the next."""
    return [numbers.setdefault(value, len(numbers)) for value in values]


def _split_lines(
    block: bytes, first: int, columns: Sequence[str], names: dict[str, int] | None, path: Path
) -> _ScoredLines:
    """The lines as Python splits them, or what is wrong with the first that does not fit."""
    try:
        content = FieldLines.of(block.decode(), str(path), first=first)
    except UnicodeDecodeError as error:
        line = first + block.count(b"\n", 0, error.start)
        raise TrialError(f"score file must be UTF-8 text, got {error.reason} in {path}:{line}.") from error
    num_leading = content.num_leading(2 + len(columns))
    if num_leading < len(content.counts):
        layout = "ENROL TEST SCORE LABEL" if len(columns) == 2 else "ENROL TEST SCORE"
        raise _unfit(content, num_leading, f"score file must have lines like `{layout}`")
    enrolment, test, *values = content.columns(2 + len(columns))
    texts = values[columns.index("score")]
    scores = np.array([_score(text) for text in texts])
    if not np.isfinite(scores).all():
        raise _unfit(content, int(np.argmin(np.isfinite(scores))), "score must be a finite number")
    labels: BoolArray | None = None
    if "label" in columns:
        words = values[columns.index("label")]
        unknown = next((line for line, word in enumerate(words) if word not in _LABELS), None)
        if unknown is not None:
            raise _unfit(content, unknown, f"label must be one of {', '.join(_LABELS)}")
        labels = np.fromiter(map(_LABELS.__getitem__, words), np.bool_, len(words))
    numbers = [] if names is None else [np.array(_number(side, names), np.int32) for side in (enrolment, test)]
    return _ScoredLines(scores, labels, content.numbers, numbers)


def _unfit(content: FieldLines, line: int, rule: str) -> _UnfitError:
    return _UnfitError(int(content.numbers[line]), f"{rule}, got {content.quote(line)}.")


def _score(text: str) -> float:
    """Python also takes ``1_000`` and the digits of all scripts for numbers."""
    try:
        return number(text)
    except ValueError:
        return np.nan

"""Score trials by cosine, and keep scores in files of ``ENROL TEST SCORE LABEL``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from chns.core.arrays import BoolArray, Float32Array, Float64Array, IntArray
from chns.core.errors import TrialError
from chns.core.files import atomic_path, number
from chns.evaluation.pairs import unit_embeddings
from chns.evaluation.trials import FieldLines, Trials, require_plain_names

_TRIALS_AT_ONCE = 8192  # their embeddings stay in the processor's cache
_LABELS = {"nontarget": False, "0": False, "target": True, "1": True}


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
            all ``ENROL TEST LABEL SCORE``. Which of both orders it is, words tell; where labels are digits, the file is
            read as the first if its last column holds nothing but labels.

    Returns:
        The trials, and their scores, shape (trials,).

    Raises:
        FileNotFoundError: If there is no such file.
        TrialError: If it is empty or not UTF-8, or a line has another number of fields, a score that is not a finite
            number in ASCII digits or a label that is none.
    """
    content = FieldLines.read(path, "score file")
    num_fields = 3 if content.counts[0] == 3 else 4
    num_leading = content.num_leading(num_fields)
    if num_leading < len(content.counts):
        line = "ENROL TEST SCORE LABEL" if num_fields == 4 else "ENROL TEST SCORE"
        raise TrialError(f"score file must have lines like `{line}`, got {content.quote(num_leading)}.")
    enrolment, test, texts, *labels = content.columns(num_fields)
    if labels and not _LABELS.keys() >= set(labels[0]) and _LABELS.keys() >= set(texts):
        texts, labels = labels[0], [texts]
    scores = np.array([_number(text) for text in texts])
    if not np.isfinite(scores).all():
        raise TrialError(f"score must be a finite number, got {content.quote(int(np.argmin(np.isfinite(scores))))}.")
    is_target = _read_labels(labels[0], content) if labels else None
    return Trials(enrolment, test, is_target, source=content.source, lines=content.numbers), scores


def _number(text: str) -> float:
    """Python also takes ``1_000`` and the digits of all scripts for numbers."""
    try:
        return number(text)
    except ValueError:
        return np.nan


def _read_labels(labels: list[str], content: FieldLines) -> BoolArray:
    unknown = set(labels) - _LABELS.keys()
    if unknown:
        line = next(line for line, label in enumerate(labels) if label in unknown)
        raise TrialError(f"label must be one of {', '.join(_LABELS)}, got {content.quote(line)}.")
    return np.fromiter(map(_LABELS.__getitem__, labels), np.bool_, len(labels))

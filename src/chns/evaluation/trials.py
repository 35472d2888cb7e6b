"""Trial lists: which utterances are compared, whether one speaker is behind both, and what a manifest has of them."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from chns.core import BoolArray, IntArray, TrialError, atomic_path, quoted
from chns.data.manifest import Manifest, without_suffix


def find_utterances(names: Sequence[str], manifest: Manifest, *, listed: str, place: Callable[[int], str]) -> IntArray:
    """Find utterances that a list names in a manifest.

    A name is matched, in this order and at last with its ``./``, double slashes and backslashes made plain, with the
    manifest's utterance names, its paths, its paths without suffix
    (lists say ``.wav`` where the corpus may be FLAC), and the ends of its paths (a list names
    ``id10270/x/00001.wav``, the path may be ``test/wav/id10270/x/00001.flac``). A match counts only if it is the
    only one, and no recording that was rejected (`Manifest.rejected_paths`) has that path without suffix or that end.

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
    shown = ", ".join(f"{quoted(name)} in {place(position)}" for name, position in islice(unknown.items(), 3))
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
    stems = {name: without_suffix(_plain_path(name)) for name in names - found.keys()}
    if stems:
        paths = [*manifest.column("path"), *manifest.rejected_paths()]
        path_stems = [without_suffix(path) for path in paths]
        found |= _match(stems, path_stems)
        for depth in {stem.count("/") for stem in stems.values()}:
            same_depth = {name: stem for name, stem in stems.items() if stem.count("/") == depth}
            ends = ("/".join(path.rsplit("/", depth + 1)[-depth - 1 :]) for path in path_stems)
            found = _match(same_depth, ends) | found
    return {name: row for name, row in found.items() if row < len(manifest)}


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


def _plain_path(name: str) -> str:
    """Paths written as ``./a//0.wav``, or with backslashes, are ``a/0.wav``."""
    return posixpath.normpath(name.replace("\\", "/"))


class _Form(NamedTuple):
    """How one line of a trial list reads."""

    line: str
    label_column: int | None = None
    labels: tuple[str, str] = ("0", "1")

    @property
    def num_fields(self) -> int:
        return 2 if self.label_column is None else 3


FORMS = {
    "voxceleb": _Form("1 ENROL TEST", 0),
    "kaldi": _Form("ENROL TEST target", 2, ("nontarget", "target")),
    "cnceleb": _Form("ENROL TEST 1", 2),
    "unlabelled": _Form("ENROL TEST"),
}


@dataclass(frozen=True, eq=False)
class Trials:
    """A list of trials, as columns.

    Attributes:
        enrolment: Name of each trial's enrolment utterance.
        test: Name of each trial's test utterance.
        is_target: Whether both are one speaker, shape (trials,); None where the list does not say.
        source: File that the trials came from, for error messages.
        lines: Line of each trial in that file, counted from 1; None if they did not come from a file.

    Raises:
        ValueError: If the columns differ in length.
    """

    enrolment: Sequence[str]
    test: Sequence[str]
    is_target: BoolArray | None
    source: str = "trials"
    lines: IntArray | None = None

    def __post_init__(self) -> None:
        labels = len(self) if self.is_target is None else len(self.is_target)
        if not len(self.enrolment) == len(self.test) == labels:
            raise ValueError(
                f"columns must be equally long, got {len(self.enrolment)} enrolment and {len(self.test)} test "
                f"utterances and {labels} labels."
            )

    def __len__(self) -> int:
        """Number of trials."""
        return len(self.enrolment)

    def place(self, trial: int) -> str:
        """Where a trial stands, as ``file:line``."""
        return f"{self.source}:{trial + 1 if self.lines is None else self.lines[trial]}"


def read_trials(path: Path | str, *, form: str = "auto") -> Trials:
    """Read a trial list.

    Args:
        path: A text file in UTF-8; blank lines are skipped, any white space separates.
        form: ``voxceleb`` (``1 ENROL TEST``), ``kaldi`` (``ENROL TEST target`` or ``nontarget``), ``cnceleb``
            (``ENROL TEST 1``), ``unlabelled`` (``ENROL TEST``), or ``auto``: the one that every line of the file fits.

    Raises:
        FileNotFoundError: If there is no such file.
        TrialError: If the file is empty or not UTF-8, a line does not fit, or (``auto``) several forms fit.
        ValueError: If form is none of these.
    """
    if form != "auto" and form not in FORMS:
        raise ValueError(f"form must be auto or one of {', '.join(FORMS)}, got {form!r}.")
    content = FieldLines.read(path, "trial list")
    chosen = _fitting_form(content, FORMS if form == "auto" else {form: FORMS[form]})
    columns = content.columns(chosen.num_fields)
    is_target = None
    if chosen.label_column is not None:
        is_target = np.array(columns.pop(chosen.label_column)) == chosen.labels[True]
    enrolment, test = columns
    return Trials(enrolment, test, is_target, source=content.source, lines=content.numbers)


class FieldLines(NamedTuple):
    """The lines of a text file that are not blank, split at white space.

    All fields are in one list: a list for each line would keep the garbage collector busy for longer than the reading.

    Attributes:
        fields: Fields of all lines, one after the other.
        counts: How many of them are of each line, shape (lines,).
        numbers: The number of each line in the file, counted from 1, shape (lines,).
        source: The file.
    """

    fields: list[str]
    counts: IntArray
    numbers: IntArray
    source: str

    @classmethod
    def read(cls, path: Path | str, name: str) -> FieldLines:
        """Read a UTF-8 file with any line ends.

        Args:
            path: The file.
            name: What it is, for error messages.

        Raises:
            FileNotFoundError: If there is no such file.
            TrialError: If it is not UTF-8 or has only blank lines.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{name} must be a file, got {path}.")
        content = path.read_bytes()
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            number = content.count(b"\n", 0, error.start) + 1
            raise TrialError(f"{name} must be UTF-8 text, got {error.reason} in {path}:{number}.") from error
        del content
        found = cls.of(text, str(path))
        if not found.fields:
            raise TrialError(f"{name} must have at least one line, got none in {path}.")
        return found

    @classmethod
    def of(cls, text: str, source: str, *, first: int = 1) -> FieldLines:
        """Split text that is at a line of the source, which may be blank lines only."""
        fields: list[str] = []
        ends = [0]
        known: dict[str, str] = {}  # a name is kept once, however many trials have it
        for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n"):
            fields.extend([known.setdefault(field, field) for field in line.split()])
            ends.append(len(fields))
        counts = np.diff(ends)
        return cls(fields, counts[counts > 0], np.flatnonzero(counts) + first, source)

    def columns(self, num_fields: int) -> list[list[str]]:
        """The columns of a file whose every line has this number of fields."""
        return [self.fields[column::num_fields] for column in range(num_fields)]

    def num_leading(self, num_fields: int) -> int:
        """How many lines have this number of fields before the first that has not."""
        others = np.flatnonzero(self.counts != num_fields)
        return int(others[0]) if len(others) else len(self.counts)

    def quote(self, line: int) -> str:
        """A line and its place, for error messages."""
        end = int(self.counts[: line + 1].sum())
        fields = self.fields[end - int(self.counts[line]) : end]
        return f"{quoted(' '.join(fields))} in {self.source}:{self.numbers[line]}"


def _fitting_form(content: FieldLines, forms: dict[str, _Form]) -> _Form:
    """The form that all lines fit; else an error about the line that the best form stumbles over."""
    num_fitting = {name: _num_leading_fits(content, form) for name, form in forms.items()}
    most = max(num_fitting.values())
    best = [name for name, number in num_fitting.items() if number == most]
    if most < len(content.counts):
        expected = ", or ".join(f"`{forms[name].line}` ({name})" for name in best)
        raise TrialError(f"trial list must have lines like {expected}, got {content.quote(most)}.")
    if len(best) > 1:
        raise TrialError(
            f"trial list must read in one way only, got {content.quote(0)}, which like all other lines is "
            f"{' or '.join(best)}. Say which with --format (form= in Python)."
        )
    return forms[best[0]]


def _num_leading_fits(content: FieldLines, form: _Form) -> int:
    end = content.num_leading(form.num_fields)
    if form.label_column is None:
        return end
    labels = content.fields[form.label_column : end * form.num_fields : form.num_fields]
    return next((line for line, label in enumerate(labels) if label not in form.labels), end)


def write_trials(path: Path | str, trials: Trials, *, form: str = "kaldi") -> None:
    """Write a trial list, atomically.

    Args:
        path: The file.
        trials: Any trials; they need labels unless form is ``unlabelled``.
        form: One of the forms of `read_trials`, except ``auto``.

    Raises:
        ValueError: If form is unknown, or needs labels that the trials lack.
        TrialError: If an utterance's name is empty or contains white space, which no trial list can express.
    """
    if form not in FORMS:
        raise ValueError(f"form must be one of {', '.join(FORMS)}, got {form!r}.")
    chosen = FORMS[form]
    require_plain_names(trials)
    columns = [trials.enrolment, trials.test]
    if chosen.label_column is not None:
        if trials.is_target is None:
            raise ValueError(f"trials must have labels to be written as {form}, got none. Use form='unlabelled'.")
        columns.insert(chosen.label_column, [chosen.labels[target] for target in trials.is_target.tolist()])
    with atomic_path(Path(path)) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(" ".join(fields) + "\n" for fields in zip(*columns, strict=True))


def require_plain_names(trials: Trials) -> None:
    """Refuse names that a file with fields between spaces cannot hold.

    Raises:
        TrialError: If an utterance's name is empty or contains white space.
    """
    for name in {*trials.enrolment, *trials.test}:
        if name.split() != [name]:
            raise TrialError(
                f"utterance name must not be empty or contain white space, got {quoted(name)}. "
                "Rename it in the manifest."
            )


def contradictions(trials: Trials, enrolment: npt.NDArray[np.generic], test: npt.NDArray[np.generic]) -> list[str]:
    """What labels say against the speakers of a manifest, and pairs that are there twice, in sentences to print.

    Args:
        trials: Labelled or not.
        enrolment: Row of each trial's enrolment utterance or number of its model, shape (trials,).
        test: Row of its test utterance, shape (trials,).

    Returns:
        A sentence for pairs that are both target and non-target, in either order, and one for repeated trials.
    """
    first, second = np.minimum(enrolment, test).astype(np.int64), np.maximum(enrolment, test).astype(np.int64)
    order = np.lexsort((second, first))
    same = (first[order][1:] == first[order][:-1]) & (second[order][1:] == second[order][:-1])
    found = []
    if trials.is_target is not None:
        labels = trials.is_target[order]
        both = np.flatnonzero(same & (labels[1:] != labels[:-1]))
        found += _said(trials, order[both + 1], "as target and as non-target", "trials name their pair")
        same &= labels[1:] == labels[:-1]
    return found + _said(trials, order[np.flatnonzero(same) + 1], "before", "trials were there")


def label_contradictions(
    trials: Trials, enrolment_speakers: npt.NDArray[np.generic], test_speakers: npt.NDArray[np.generic]
) -> list[str]:
    """A sentence if labels disagree with the speakers of the utterances: how many, and the first."""
    if trials.is_target is None:
        return []
    wrong = np.flatnonzero((enrolment_speakers == test_speakers) != trials.is_target)
    return _said(trials, wrong, "otherwise than the manifest's speakers", "trials are labelled")


def _said(trials: Trials, numbers: IntArray, how: str, what: str) -> list[str]:
    if not len(numbers):
        return []
    trial = int(numbers.min())
    pair = f"{trials.enrolment[trial]} {trials.test[trial]}"
    return [f"warning: {len(numbers):,} {what} {how}, the first in {trials.place(trial)}: {quoted(pair)}"]


def resolve(trials: Trials, manifest: Manifest) -> tuple[IntArray, IntArray]:
    """Find the utterances of the trials in a manifest, by name as `find_utterances` does.

    Returns:
        Row of the enrolment and of the test utterance of each trial, both of shape (trials,), int64.

    Raises:
        TrialError: If a name matches no utterance or several: how many such names, and the first of them.
    """
    names = [name for pair in zip(trials.enrolment, trials.test, strict=True) for name in pair]
    rows = find_utterances(names, manifest, listed="trials", place=lambda position: trials.place(position // 2))
    enrolment, test = rows.reshape(-1, 2).T.copy()
    return enrolment, test


_OFFICIAL = {  # trials, targets
    (37_720, 18_860): "Vox1-O (original)",
    (37_611, 18_802): "Vox1-O (cleaned)",
    (581_480, 290_743): "Vox1-E (original)",
    (579_818, 289_921): "Vox1-E (cleaned)",
    (552_536, 276_270): "Vox1-H (original)",
    (550_894, 275_488): "Vox1-H (cleaned)",
}


@dataclass(frozen=True, eq=False)
class TrialCoverage:
    """What of a trial list a manifest covers.

    Attributes:
        official_name: The VoxCeleb1 list that has as many trials and targets; None if none has.
        num_trials: Of the list.
        remaining: Those whose two utterances the manifest has.
        missing: Names of the list that match no utterance of the manifest, or several; sorted.
    """

    official_name: str | None
    num_trials: int
    remaining: Trials
    missing: list[str]

    def write(self, folder: Path, stem: str) -> list[Path]:
        """Write ``STEM.missing.txt`` and, if any trial remains, ``STEM.txt``; nothing if nothing is missing.

        Returns:
            The files.
        """
        if not self.missing:
            return []
        files = [folder / f"{stem}.missing.txt"]
        with atomic_path(files[0]) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(f"{name}\n" for name in self.missing)
        if len(self.remaining):
            files.append(folder / f"{stem}.txt")
            form = "unlabelled" if self.remaining.is_target is None else "voxceleb"
            write_trials(files[1], self.remaining, form=form)
        return files


def trial_coverage(trials: Trials, manifest: Manifest) -> TrialCoverage:
    """Look every utterance of a list up in a manifest, by name as `find_utterances` does."""
    names = {*trials.enrolment, *trials.test}
    missing = names - matching_rows(names, manifest).keys()
    rows = [row for row, pair in enumerate(zip(trials.enrolment, trials.test, strict=True)) if missing.isdisjoint(pair)]
    remaining = Trials(
        [trials.enrolment[row] for row in rows],
        [trials.test[row] for row in rows],
        None if trials.is_target is None else trials.is_target[np.array(rows, np.int64)],
        source=trials.source,
    )
    official = None
    if trials.is_target is not None:
        official = _OFFICIAL.get((len(trials), int(trials.is_target.sum())))
    return TrialCoverage(official, len(trials), remaining, sorted(missing))

"""CN-Celeb's lists of enrolments and trials, checked against the recordings that are there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from chns.data.manifest import Manifest, relative_name
from chns.data.prepare.scan import Rejected
from chns.data.text_rows import text_lines
from chns.errors import ManifestError


class ListCheck(NamedTuple):
    """What the lists of an evaluation come to.

    Attributes:
        num_models: Enrolment models that the lists name.
        usable_models: Those whose recordings are all there.
        num_trials: Trials that the lists name.
        usable_trials: Those whose model and test recording are there.
        missing: Every recording and model that a list names and that is not there.
    """

    num_models: int
    usable_models: int
    num_trials: int
    usable_trials: int
    missing: list[Rejected]

    def __str__(self) -> str:
        return (
            f"{self.usable_trials:,} of {self.num_trials:,} trials and {self.usable_models:,} of {self.num_models:,} "
            f"enrolment models have their recordings"
        )


def check_lists(folder: Path, manifest: Manifest) -> ListCheck:
    """Check ``enroll.lst``, ``enroll.map`` and ``trials.lst``, as far as they are there.

    A name means a recording if it is an utterance or, without suffix, the end of the path of one recording only, which
    is how ``chns evaluate`` finds it.

    Args:
        folder: Where the lists are.
        manifest: The recordings.

    Raises:
        ManifestError: If a line is not ``MODEL PATH``, ``MODEL UTTERANCE ...`` or ``MODEL PATH 0`` (or ``1``).
    """
    recordings = _Recordings(manifest)
    models: dict[str, bool] = {}
    for name in ("enroll.lst", "enroll.map"):
        for (model, *members), place in _lines(folder / name, num_fields=2 if name == "enroll.lst" else None):
            known = [recordings.has(member, place) for member in members]
            models[model] = models.get(model, True) and all(known)
    num_trials = usable_trials = 0
    for (model, test, label), place in _lines(folder / "trials.lst", num_fields=3):
        if label not in ("0", "1"):
            raise ManifestError(f"label must be 0 or 1, got {label[:80]!r} in {place}. Correct the list.")
        if model not in models:
            recordings.missing.setdefault(model, f"{place} names it, but no enrolment list does")
        num_trials += 1
        usable_trials += recordings.has(test, place) and models.get(model, False)
    missing = [Rejected(name, reason) for name, reason in recordings.missing.items()]
    return ListCheck(len(models), sum(models.values()), num_trials, usable_trials, missing)


class _Recordings:
    """Names that mean one recording, and those that were asked for in vain, with the reason."""

    def __init__(self, manifest: Manifest) -> None:
        ends: Counter[str] = Counter()
        for path in manifest.column("path"):
            parts = relative_name(PurePosixPath(path)).split("/")
            ends.update("/".join(parts[first:]) for first in range(len(parts)))
        self._names = {*manifest.column("utterance"), *(end for end, count in ends.items() if count == 1)}
        self.missing: dict[str, str] = {}

    def has(self, name: str, place: str) -> bool:
        if name in self._names or name.rsplit(".", 1)[0] in self._names:
            return True
        self.missing.setdefault(name, f"{place} names it, but it is not among the usable recordings")
        return False


def _lines(path: Path, *, num_fields: int | None) -> Iterator[tuple[Sequence[str], str]]:
    if not path.is_file():
        return
    for line, place in text_lines(path):
        fields = line.split()
        if fields and (len(fields) < 2 if num_fields is None else len(fields) != num_fields):
            raise ManifestError(
                f"line must have {num_fields or 'at least 2'} fields, got {len(fields)} in {place}. Correct the list."
            )
        if fields:
            yield fields, place

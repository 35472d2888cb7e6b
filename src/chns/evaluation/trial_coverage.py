"""How much of a trial list can be scored with a manifest, and which of the official VoxCeleb1 lists it is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from chns.data.manifest import Manifest
from chns.evaluation.trials import Trials, write_trials
from chns.evaluation.utterance_names import matching_rows
from chns.files import atomic_path

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

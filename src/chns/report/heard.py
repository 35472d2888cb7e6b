"""What to listen to: the worst errors and the suspected labels, with everything that helps to judge them by ear.

Errors are those of all runs together: a trial that every model gets wrong by far says more of the recordings than of a
model. A run's margin is how far a score is on the wrong side of its own threshold, in standard deviations of its
scores; trials are ordered by the mean of the margins.

Clips are in the page only if that is asked for: they are voices of people, and a page is handed on. They are MP3, which
every browser plays: the first seconds of a recording, about 3 kB a second, until the page holds as many as it may.
"""

from __future__ import annotations

import base64
import io
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from chns.core import AudioError, Float64Array, IntArray, ManifestError
from chns.data import Manifest, measure_quality, read_audio
from chns.evaluation import matching_rows
from chns.report.curve_figures import RunScores
from chns.report.drawing import Group
from chns.report.run_findings import (
    ComparedList,
    ComparedRuns,
    OddUtterance,
    RunFindings,
    SuspectedDuplicate,
    require_near,
)

_log = logging.getLogger(__name__)

CLIP_SECONDS = 4.0
MOST_CLIP_BYTES = 2_500_000
_RATE_HZ = 16_000
_SMALL = 0.8
"""Of libsndfile's compression levels, from 0 to below 1."""
_NUM_IMPOSTORS = 3


class Recording(NamedTuple):
    """A recording as the page tells of it.

    Attributes:
        name: As the trial list or the manifest names it.
        path: Of the file; empty if no manifest has it.
        seconds: Its length; None if not known.
        level_dbfs: Its mean level; None if it was not read.
        clip: Its beginning as a ``data:`` address; None where there is none.
        problem: Why it could not be read.
    """

    name: str
    path: str = ""
    seconds: float | None = None
    level_dbfs: float | None = None
    clip: str | None = None
    problem: str = ""

    @property
    def facts(self) -> str:
        """Length, level and problem, as far as they are known."""
        seconds = "" if self.seconds is None else f"{self.seconds:.1f}\N{NO-BREAK SPACE}s"
        level = "" if self.level_dbfs is None else f"{self.level_dbfs:.0f}\N{NO-BREAK SPACE}dBFS"
        return ", ".join(part for part in (seconds, level.replace("-", "\N{MINUS SIGN}"), self.problem) if part)


@dataclass
class Recordings:
    """Where recordings are looked up, each read once.

    Args:
        manifests: Of the recordings of each trial list, by its name.
        with_clips: Whether clips are made; else nothing is decoded.
    """

    manifests: Mapping[str, Manifest] = field(default_factory=dict)
    with_clips: bool = False
    num_clips: int = 0
    num_bytes: int = 0
    _known: dict[tuple[int, int], Recording] = field(default_factory=dict)

    def of_list(self, trial_list: str, names: set[str]) -> dict[str, Recording]:
        """The recordings of a trial list by name; of those that no manifest has, nothing but the name is known."""
        manifest = self.manifests.get(trial_list)
        rows = {} if manifest is None else matching_rows(names, manifest)
        found = {name: self.of_row(manifest, row, name) for name, row in rows.items() if manifest is not None}
        return {name: found.get(name, Recording(name)) for name in names}

    def of_row(self, manifest: Manifest, row: int, name: str | None = None) -> Recording:
        """The recording of a row of a manifest."""
        key = (id(manifest), row)
        if key not in self._known:
            self._known[key] = self._read(manifest, row)
        known = self._known[key]
        return known if name is None else known._replace(name=name)

    def _read(self, manifest: Manifest, row: int) -> Recording:
        utterance = manifest[row]
        plain = Recording(utterance.name, manifest.column("path")[row], utterance.duration_seconds)
        if not self.with_clips:
            return plain
        try:
            waveform = read_audio(
                utterance.path,
                sample_rate_hz=_RATE_HZ,
                offset_seconds=utterance.offset_seconds,
                duration_seconds=utterance.duration_seconds,
                channel=utterance.channel,
            )
        except (AudioError, OSError, ValueError) as error:
            _log.warning("%s cannot be heard in the report: %s", utterance.name, error)
            return plain._replace(problem="cannot be read")
        level = measure_quality(waveform, sample_rate_hz=_RATE_HZ).level_dbfs
        return plain._replace(level_dbfs=level, clip=self._clip(waveform[: round(CLIP_SECONDS * _RATE_HZ)]))

    def _clip(self, samples: np.typing.NDArray[np.float32]) -> str | None:
        import soundfile

        if self.num_bytes >= MOST_CLIP_BYTES:
            return None
        content = io.BytesIO()
        soundfile.write(content, np.clip(samples, -1, 1), _RATE_HZ, format="MP3", compression_level=_SMALL)
        encoded = base64.b64encode(content.getvalue()).decode()
        if self.num_bytes + len(encoded) > MOST_CLIP_BYTES:
            return None
        self.num_clips += 1
        self.num_bytes += len(encoded)
        return f"data:audio/mpeg;base64,{encoded}"


def find_recordings(
    trial_lists: Collection[str],
    comparison: ComparedRuns | None,
    *,
    manifest: Path | str | None = None,
    with_clips: bool = False,
) -> Recordings:
    """Where the recordings of trial lists are.

    Args:
        trial_lists: Names of the lists.
        comparison: Names a manifest for each of its lists; one that is gone, or that `require_near` does not allow, is
            said to be, and its recordings have neither length nor sound.
        manifest: Of the recordings of all lists, in place of those.
        with_clips: Whether the page gets clips.

    Raises:
        FileNotFoundError, ManifestError: If ``manifest`` is missing or not valid.
    """
    if manifest is not None:
        return Recordings(dict.fromkeys(trial_lists, Manifest.read(manifest)), with_clips)
    found: dict[str, Manifest] = {}
    read: dict[tuple[str, str | None], Manifest | None] = {}
    for table in comparison.lists if comparison else ():
        key = (table.manifest, table.root)
        if table.manifest and key not in read:
            try:
                read[key] = _near_manifest(table, comparison)
            except (FileNotFoundError, ManifestError, ValueError) as error:
                _log.warning(
                    "recordings of %s are not looked up: %s (--test-manifest names another)", table.name, error
                )
                read[key] = None
        if (known := read.get(key)) is not None:
            found[table.name] = known
    return Recordings(found, with_clips)


def _near_manifest(table: ComparedList, comparison: ComparedRuns | None) -> Manifest:
    run = next(iter(comparison.runs), None) if comparison else None
    require_near(table.manifest, run, option="--test-manifest")
    manifest = Manifest.read(table.manifest, root=table.root)
    require_near(manifest.location, run, option="--test-manifest")
    return manifest


class Impostor(NamedTuple):
    """A recording of somebody else in the trial list, and the mean score with it."""

    name: str
    score: float


class Side(NamedTuple):
    """One of the two recordings of a trial, and who of the others in the list scores highest with it."""

    recording: Recording
    impostors: Sequence[Impostor]


class GroupScore(NamedTuple):
    """A strategy's mean score of a trial, its mean threshold, and how many of its runs get the trial wrong."""

    label: str
    score: float
    threshold: float
    wrong: int
    asked: int


class ErrorCase(NamedTuple):
    """A trial that runs get wrong."""

    sides: tuple[Side, Side]
    scores: Sequence[GroupScore]


class ListErrors(NamedTuple):
    """The worst errors of all runs on one trial list, worst first.

    Attributes:
        trial_list: Its name.
        false_accepts: Non-targets that are accepted.
        false_rejects: Targets that are rejected.
        first: The run whose trials these are.
        left_out: Runs whose list of this name holds other trials.
    """

    trial_list: str
    false_accepts: Sequence[ErrorCase]
    false_rejects: Sequence[ErrorCase]
    first: str
    left_out: Sequence[str]


def list_errors(
    trial_lists: Mapping[str, Sequence[RunScores]], groups: Sequence[Group], recordings: Recordings, *, most: int
) -> list[ListErrors]:
    """The worst errors by trial list.

    Args:
        trial_lists: Scores of the runs by trial list. Runs whose trials are not those of the first are left out.
        groups: The runs by strategy.
        recordings: Where recordings are looked up.
        most: Most false accepts, and most false rejects, of each list.
    """
    return [_errors_of(name, scored, groups, recordings, most) for name, scored in trial_lists.items()]


def _errors_of(
    name: str, scored: Sequence[RunScores], groups: Sequence[Group], recordings: Recordings, most: int
) -> ListErrors:
    trials = scored[0].scored.trials
    alike = [
        one
        for one in scored
        if one.scored.trials.enrolment == trials.enrolment and one.scored.trials.test == trials.test
    ]
    scores = np.stack([one.scored.scores for one in alike])
    thresholds = np.array([one.scored.metrics.threshold for one in alike])
    is_target = np.asarray(trials.is_target)
    wrong_side = (scores - thresholds[:, None]) / np.maximum(scores.std(axis=1), 1e-9)[:, None]
    margin = np.where(is_target, -wrong_side, wrong_side).mean(axis=0)
    rows = [_worst(np.where(kind, margin, -np.inf), most) for kind in (~is_target, is_target)]
    chosen = np.concatenate(rows)
    names = {side[row] for row in chosen.tolist() for side in (trials.enrolment, trials.test)}
    impostors = _impostors(names, scored[0], scores.mean(axis=0))
    known = recordings.of_list(name, names)

    def case(row: int) -> ErrorCase:
        pair = trials.enrolment[row], trials.test[row]
        first, second = (
            Side(known[own], [one for one in impostors.get(own, ()) if one.name != other][:_NUM_IMPOSTORS])
            for own, other in (pair, pair[::-1])
        )
        return ErrorCase((first, second), _group_scores(row, alike, groups))

    accepts, rejects = ([case(row) for row in of_kind.tolist()] for of_kind in rows)
    asked = {one.run.name for one in alike}
    others = [one.run.name for one in scored if one.run.name not in asked]
    return ListErrors(name, accepts, rejects, first=scored[0].run.name, left_out=others)


def _worst(margin: Float64Array, most: int) -> IntArray:
    """Rows of the largest margins above 0, largest first; equal ones in their order."""
    found = np.flatnonzero(margin > 0)
    if len(found) > most:
        found = np.sort(found[np.argpartition(-margin[found], most)[: most + 1]])
    return found[np.argsort(-margin[found], kind="stable")][:most].astype(np.int64)


def _impostors(names: set[str], one: RunScores, means: Float64Array) -> dict[str, list[Impostor]]:
    """For each name those of other people in the list, by falling mean score; a few more than are shown."""
    trials = one.scored.trials
    nontarget = ~np.asarray(trials.is_target)
    found: dict[str, dict[str, float]] = {}
    for own, others in ((trials.enrolment, trials.test), (trials.test, trials.enrolment)):
        for row, name in enumerate(own):
            if name in names and nontarget[row]:
                of_name = found.setdefault(name, {})
                of_name[others[row]] = max(of_name.get(others[row], -np.inf), float(means[row]))
    return {
        name: [Impostor(*one) for one in sorted(of_name.items(), key=lambda other: -other[1])[: _NUM_IMPOSTORS + 1]]
        for name, of_name in found.items()
    }


def _group_scores(row: int, alike: Sequence[RunScores], groups: Sequence[Group]) -> list[GroupScore]:
    by_run = {one.run.name: one.scored for one in alike}
    found = []
    for group in groups:
        of_group = [by_run[run.name] for run in group.runs if run.name in by_run]
        if not of_group:
            continue
        scores = [float(one.scores[row]) for one in of_group]
        thresholds = [one.metrics.threshold for one in of_group]
        is_target = bool(np.asarray(of_group[0].trials.is_target)[row])
        wrong = sum((score >= limit) != is_target for score, limit in zip(scores, thresholds, strict=True))
        found.append(GroupScore(group.label, float(np.mean(scores)), float(np.mean(thresholds)), wrong, len(of_group)))
    return found


class SuspectedPair(NamedTuple):
    """A pair of speakers as the run suspects it that is most sure of it, and how many runs do."""

    speakers: tuple[str, str]
    similarity: float
    own_similarity: float
    suspected_by: int
    asked: int
    recordings: tuple[Recording, Recording] | None = None


class OddRecording(NamedTuple):
    """An utterance that may not be its speaker's, and how many runs find it so."""

    recording: Recording
    odd: OddUtterance
    found_by: int
    asked: int


def suspected_pairs(runs: Sequence[RunFindings]) -> list[SuspectedPair]:
    """The pairs that any run suspects: those of most runs first, among these the most suspicious first."""
    asked = [run.duplicates for run in runs if run.duplicates is not None]
    found: dict[tuple[str, ...], list[SuspectedDuplicate]] = {}
    for duplicates in asked:
        for duplicate in duplicates:
            found.setdefault(tuple(sorted(duplicate.speakers)), []).append(duplicate)
    surest = [(max(same, key=_suspicion), len(same)) for same in found.values()]
    surest.sort(key=lambda pair: (-pair[1], -_suspicion(pair[0])))
    return [
        SuspectedPair(one.speakers, one.similarity, one.own_similarity, number, len(asked)) for one, number in surest
    ]


def _suspicion(duplicate: SuspectedDuplicate) -> float:
    return duplicate.similarity / duplicate.own_similarity


def with_recordings(
    pairs: Sequence[SuspectedPair], runs: Sequence[RunFindings], recordings: Recordings
) -> list[SuspectedPair]:
    """Pairs with a recording of each speaker, as the first run that suspects them heard them."""
    utterances: dict[frozenset[str], tuple[dict[str, str], RunFindings]] = {}
    for run in runs:
        for one in run.duplicates or ():
            key = frozenset(one.speakers)
            utterances.setdefault(key, (dict(zip(one.speakers, one.utterances, strict=True)), run))
    found = []
    for pair in pairs:
        by_speaker, run = utterances[frozenset(pair.speakers)]
        if run.utterances is None:
            found.append(pair)
            continue
        first, second = (_of_training(run, by_speaker[speaker], recordings) for speaker in pair.speakers)
        found.append(pair._replace(recordings=(first, second)))
    return found


def odd_recordings(runs: Sequence[RunFindings], recordings: Recordings, *, most: int) -> list[OddRecording]:
    """Utterances that runs find odd: those of most runs first, among these the oddest first."""
    asked = [run for run in runs if run.utterances is not None]
    found: dict[str, list[tuple[OddUtterance, RunFindings]]] = {}
    for run in asked:
        for odd in run.odd_utterances:
            found.setdefault(odd.utterance, []).append((odd, run))
    surest = [(max(same, key=lambda one: _oddness(one[0])), len(same)) for same in found.values()]
    surest.sort(key=lambda one: (-one[1], -_oddness(one[0][0])))
    return [
        OddRecording(_of_training(run, odd.utterance, recordings), odd, number, len(asked))
        for (odd, run), number in surest[:most]
    ]


def _oddness(odd: OddUtterance) -> float:
    return odd.similarity - odd.own_similarity


def _of_training(run: RunFindings, utterance: str, recordings: Recordings) -> Recording:
    row = -1 if run.utterances is None else matching_rows({utterance}, run.utterances).get(utterance, -1)
    return Recording(utterance) if run.utterances is None or row < 0 else recordings.of_row(run.utterances, row)

"""What the report shows, as plain data."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from chns.core import Float64Array, IntArray, ManifestError, RunFolderError, bounded_text, moved_along, quoted
from chns.data import Manifest
from chns.evaluation import Trials, VerificationMetrics


@dataclass(frozen=True, eq=False, kw_only=True)
class ScoredTrials:
    """One trial list under one run's model.

    Attributes:
        name: Of the trial list.
        trials: With labels.
        scores: Cosine of each trial, shape (trials,).
        metrics: Error rates of these scores.
    """

    name: str
    trials: Trials
    scores: Float64Array
    metrics: VerificationMetrics


class ColumnPurity(NamedTuple):
    """How a column of the manifest goes with what a model hears.

    Attributes:
        column: Its name.
        num_values: Different values.
        neighbours: Share of a speaker's ten nearest speakers, by centroid, who have the same value, the mean.
        neighbours_by_chance: The same if speakers were neighbours by chance.
        clusters: Share of the speakers whose value is the most common one of their cluster; NaN without clusters.
        clusters_by_chance: The same for clusters of these sizes to which speakers are dealt at random.
    """

    column: str
    num_values: int
    neighbours: float
    neighbours_by_chance: float
    clusters: float
    clusters_by_chance: float


@dataclass(frozen=True, eq=False, kw_only=True)
class SpeakerMap:
    """Training speakers in two dimensions.

    Attributes:
        speakers: Names, one a point.
        points: Shape (speakers, 2).
        clusters: Cluster of each speaker, shape (speakers,), or None if the run never clustered.
        explained: Share of the variance of the centroids that the two axes keep.
        columns: What the manifest knows of the speakers, by its column: a value each, empty where it knows none.
        purities: How clusters and neighbours go with these columns.
    """

    speakers: Sequence[str]
    points: Float64Array
    clusters: IntArray | None
    explained: float
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)
    purities: Sequence[ColumnPurity] = ()


@dataclass(frozen=True, eq=False, kw_only=True)
class ClusterShapes:
    """How large and how tight clusters are.

    Attributes:
        sizes: Speakers of each cluster, shape (clusters,).
        tightness: Mean cosine of a cluster's speakers with its centre, shape (clusters,); NaN for an empty one.
    """

    sizes: IntArray
    tightness: Float64Array


@dataclass(frozen=True, eq=False, kw_only=True)
class BatchHardness:
    """Cosine of utterances of different speakers within batches, under one model: random batches and hard ones.

    Attributes:
        kind: How the hard batches are composed.
        random: Of pairs in random batches, shape (pairs,).
        hard: Of pairs in hard batches of the same size, shape (pairs,).
        random_closest: Of an utterance and the most similar one of another speaker in its random batch, the mean.
        hard_closest: The same in hard batches. In large batches made of small groups it rises where the mean of all
            pairs does not, since the groups are strangers to each other.
    """

    kind: Literal["clustered", "neighbours"]
    random: Float64Array
    hard: Float64Array
    random_closest: float
    hard_closest: float

    @property
    def hard_batches(self) -> str:
        """The hard batches in words."""
        return "clustered batches" if self.kind == "clustered" else "batches of neighbours"


@dataclass(frozen=True, kw_only=True)
class SuspectedDuplicate:
    """Two training speakers who may be one person; see `chns.report.collect` for when they are suspected.

    Attributes:
        speakers: Their names.
        similarity: Mean cosine of the utterances of each with the centroid of the other.
        own_similarity: Mean cosine of the utterances of each with the centroid of their own speaker, each utterance
            left out of the centroid that it is compared with. About the same as ``similarity`` if they are one person.
        utterances: Of each the one that is most like the other speaker.
    """

    speakers: tuple[str, str]
    similarity: float
    own_similarity: float
    utterances: tuple[str, str] = ("", "")


class OddUtterance(NamedTuple):
    """A training utterance that is less like its own speaker than like another.

    Attributes:
        utterance: Its name.
        speaker: Whose it is said to be.
        own_similarity: Cosine with the mean of that speaker's other utterances.
        other: The speaker whose centroid it is most like.
        similarity: Cosine with that.
    """

    utterance: str
    speaker: str
    own_similarity: float
    other: str
    similarity: float


@dataclass(frozen=True, eq=False, kw_only=True)
class RunFindings:
    """Everything about one run.

    Attributes:
        name: What the report calls it; unique in a report.
        path: Its folder.
        strategy: In words, e.g. "SupCon, clustered batches, hard ratio 1.0".
        log: Columns of its log, as `chns.training.folder.RunFolder.log` gives them.
        scored: By trial list.
        speaker_map: None if the training speakers were not embedded.
        cluster_shapes: None if it never clustered, or the speakers were not embedded.
        batch_hardness: None if the training speakers were not embedded.
        duplicates: Most suspicious first; None if the training speakers were not embedded.
        odd_utterances: Most suspicious first; empty if the training speakers were not embedded.
        utterances: Those of the training speakers that were embedded; None if they were not.
        batches: What kind of batches the run was to train on.
        decisions: What it decided about them while it trained, in words.
        num_training_speakers: How many there are; if ``speaker_map`` has fewer, then it, ``batch_hardness``,
            ``duplicates`` and the tightness are of a random part of them. None if they were not embedded.
        why_not_embedded: The error that kept them from being embedded.
        settings: Of the run, flat: ``clusters.hard_ratio`` and so on, with what was derived.
        trained_on: What its bundle tells of its training: ``manifest``, ``speakers``, ``utterances``, ``hours``.
        num_parameters: Of the encoder; None if the bundle could not be read.
    """

    name: str
    path: Path
    strategy: str
    log: Mapping[str, Float64Array]
    scored: Mapping[str, ScoredTrials]
    speaker_map: SpeakerMap | None
    cluster_shapes: ClusterShapes | None
    batch_hardness: BatchHardness | None
    duplicates: Sequence[SuspectedDuplicate] | None
    odd_utterances: Sequence[OddUtterance] = ()
    utterances: Manifest | None = None
    batches: str = "random"
    decisions: Sequence[str] = ()
    num_training_speakers: int | None = None
    why_not_embedded: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    trained_on: Mapping[str, Any] = field(default_factory=dict)
    num_parameters: int | None = None

    @property
    def has_hard_phase(self) -> bool:
        """Whether it has trained on hard batches."""
        return bool(np.any(self.log.get("hard_ratio", np.zeros(0)) > 0))

    @property
    def is_too_weak_to_suspect(self) -> bool:
        """Whether it suspects more pairs than if everybody went by two names: then it tells nobody apart."""
        embedded = 0 if self.speaker_map is None else len(self.speaker_map.speakers)
        return self.duplicates is not None and 2 * len(self.duplicates) > embedded


FILE_NAME = "comparison.json"
_MOST_BYTES = 2**24
_METRICS = ("eer", "min_dcf_0.05", "min_dcf_0.01")


class Difference(NamedTuple):
    """A paired difference and its interval; an EER as a fraction."""

    estimate: float
    low: float
    high: float

    @property
    def is_measurable(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0


class ComparedValue(NamedTuple):
    """An error rate of a strategy on a trial list.

    Attributes:
        per_seed: Of each training.
        mean: Over the seeds.
        difference: To the baseline; None in the baseline's own row.
    """

    per_seed: Sequence[float]
    mean: float
    difference: Difference | None


class ComparedChange(NamedTuple):
    """An error rate of a strategy with hard batches, and of its twin with random ones."""

    trial_list: str
    metric: str
    before: float
    difference: Difference


class ComparedStrategy(NamedTuple):
    """A row of the table: ``eer``, ``min_dcf_0.05`` and ``min_dcf_0.01``."""

    name: str
    values: Mapping[str, ComparedValue]


@dataclass(frozen=True, kw_only=True)
class ComparedList:
    """The table of one trial list.

    Attributes:
        manifest: Where its utterances are, as the comparison's settings name it; empty if not known.
        root: Where their audio is, if not where the manifest says.
    """

    name: str
    speakers: int
    targets: int
    nontargets: int
    strategies: Sequence[ComparedStrategy]
    manifest: str = ""
    root: str | None = None


@dataclass(frozen=True, kw_only=True)
class VerdictWords:
    """Whether hard sampling helped one strategy.

    Attributes:
        strategy: With hard batches.
        twin: With random ones.
        effect: ``helped``, ``hurt``, ``mixed`` or ``none``, as `chns.comparison.verdict` judges.
        changes: Each error rate that was looked at.
        headline: In a sentence.
        caveats: What the numbers cannot say.
        findings: What in the logs may explain it.
        next_steps: What to try.
    """

    strategy: str
    twin: str
    effect: str
    changes: Sequence[ComparedChange]
    headline: str
    caveats: Sequence[str]
    findings: Sequence[str]
    next_steps: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class ComparedRuns:
    """A comparison, ready for the page.

    Attributes:
        baseline: The strategy that the others are compared with.
        seeds: Each strategy was trained with each.
        steps: Of each training.
        segments_per_step: Utterances of a batch.
        lists: Tables.
        verdicts: On the strategies with hard batches.
        runs: Folders of its trainings that there are.
    """

    baseline: str
    seeds: Sequence[int]
    steps: int
    segments_per_step: int
    lists: Sequence[ComparedList]
    verdicts: Sequence[VerdictWords]
    runs: Sequence[Path]


def read_comparison(folder: Path) -> ComparedRuns:
    """Read the result of a comparison.

    Args:
        folder: What ``chns compare`` was given as ``--out``.

    Raises:
        FileNotFoundError: If it holds no ``comparison.json``.
        RunFolderError: If that is not what ``chns compare`` writes.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        raise FileNotFoundError(f"comparison must be a folder with {FILE_NAME}, got {folder}.")
    try:
        content = json.loads(bounded_text(path, most_bytes=_MOST_BYTES))
        trainings = [f"{strategy}/seed-{seed}" for strategy in content["strategies"] for seed in content["seeds"]]
        inside = {one.parent.relative_to(folder).as_posix() for one in folder.glob("*/seed-*/config.yaml")}
        return ComparedRuns(
            baseline=str(content["baseline"]),
            seeds=[int(seed) for seed in content["seeds"]],
            steps=int(content["steps"]),
            segments_per_step=int(content["segments_per_step"]),
            lists=[
                _compared_list(name, one, before=Path(str(content.get("folder", folder))), now=folder.resolve())
                for name, one in content["trial_lists"].items()
            ],
            verdicts=[_verdict(one) for one in content["verdicts"]],
            runs=[folder / training for training in trainings if training in inside],
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RunFolderError(
            f"{FILE_NAME} must be what `chns compare` writes, got something else in {path} "
            f"({type(error).__name__}: {error}). Run the same `chns compare` again."
        ) from error


def require_near(path: object, folder: Path | None, *, option: str) -> None:
    """Make sure that what a run's folder names may be read though nobody at the keyboard has named it.

    A stranger may have written the folder. So a report reads, unasked, only what is on this machine and below the
    current folder, the run's, or its comparison's, with links followed.

    Args:
        path: A manifest, or where one's recordings are.
        folder: That of the run; None if not known.
        option: What names the manifest at the keyboard.

    Raises:
        ManifestError: If it is a URL or lies elsewhere.
    """
    homes = [Path.cwd()]
    if folder is not None:
        compared = folder.resolve().parents[1]
        homes.append(compared if (compared / FILE_NAME).is_file() else folder.resolve())
    is_remote = "://" in str(path)
    if is_remote or not any(Path(str(path)).resolve().is_relative_to(home.resolve()) for home in homes):
        raise ManifestError(
            f"what a run names must be below its folder or the current one to be read without being asked for, "
            f"got {quoted(str(path))}. If it is yours, name the manifest with {option}."
        )


def _compared_list(name: str, content: Mapping[str, Any], *, before: Path, now: Path) -> ComparedList:
    return ComparedList(
        name=name,
        speakers=int(content["speakers"]),
        targets=int(content["target_trials"]),
        nontargets=int(content["nontarget_trials"]),
        strategies=[
            ComparedStrategy(strategy, {metric: _value(metrics[metric]) for metric in _METRICS})
            for strategy, metrics in content["results"].items()
        ],
        manifest=moved_along(str(content.get("manifest") or ""), before, now),
        root=None if content.get("root") is None else moved_along(str(content["root"]), before, now),
    )


def _value(content: Mapping[str, Any]) -> ComparedValue:
    difference = content["difference"]
    return ComparedValue(
        per_seed=[float(value) for value in content["per_seed"]],
        mean=float(content["mean"]["estimate"]),
        difference=None if difference is None else _difference(difference),
    )


def _difference(content: Mapping[str, Any]) -> Difference:
    return Difference(*(float(content[name]) for name in ("estimate", "low", "high")))


def _verdict(content: Mapping[str, Any]) -> VerdictWords:
    return VerdictWords(
        strategy=str(content["strategy"]),
        twin=str(content["twin"]["name"]),
        effect=str(content["effect"]),
        changes=[
            ComparedChange(
                str(one["trial_list"]), str(one["metric"]), float(one["before"]), _difference(one["difference"])
            )
            for one in content["changes"]
        ],
        headline=str(content["headline"]),
        caveats=[str(caveat) for caveat in content["caveats"]],
        findings=[str(finding["text"]) for finding in content["findings"]],
        next_steps=[str(step) for step in content["next_steps"]],
    )

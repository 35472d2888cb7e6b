"""From the folders of runs to findings: everything that the report shows, computed.

Such a pair is each other's hardest negative, and clustering finds exactly these. `chns.sampling.same_person` has the
rule by which they are suspected, and what it finds and misses.
"""

from __future__ import annotations

import csv
import logging
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from chns.bundle import Bundle, load_bundle, read_description
from chns.core import Float64Array, ManifestError, RunFolderError, atomic_path, table_cell
from chns.evaluation import Embedder, Trials, read_scores, verification_metrics
from chns.report.run_findings import OddUtterance, RunFindings, ScoredTrials, SuspectedDuplicate, require_near
from chns.report.speakers import (
    CACHE_NAME,
    TrainingSpeakers,
    batch_hardness,
    cluster_shapes,
    embed_training_speakers,
    speaker_map,
)
from chns.sampling import suspected_pairs, unit_length
from chns.training.build import training_manifest
from chns.training.folder import ClusterSettings, RunFolder, TrainSettings, flat_settings, read_settings, strategy_name

_log = logging.getLogger(__name__)


def suspected_duplicates(speakers: TrainingSpeakers, *, most: int | None = None) -> list[SuspectedDuplicate]:
    """Pairs of speakers who may be one person, most suspicious first.

    Args:
        speakers: Whom to compare.
        most: Most pairs returned; by default 1,000, or one more than there would be if everybody went by two names.
    """
    if most is None:
        most = max(1_000, len(speakers.names) // 2 + 1)
    pairs = suspected_pairs(speakers.embeddings, speakers.labels)
    unit = unit_length(speakers.embeddings)
    names = _utterance_names(speakers)
    rows = np.split(np.argsort(speakers.labels, kind="stable"), np.cumsum(np.bincount(speakers.labels))[:-1])

    def closest(own: int, other: int) -> str:
        place = int(np.argmax(unit[rows[own]] @ speakers.centroids[other]))
        return names[int(rows[own][place])]

    return [
        SuspectedDuplicate(
            speakers=(speakers.names[first], speakers.names[second]),
            similarity=float(similarity),
            own_similarity=float(own_similarity),
            utterances=(closest(first, second), closest(second, first)),
        )
        for first, second, similarity, own_similarity in zip(*(array[:most] for array in pairs), strict=True)
    ]


def _utterance_names(speakers: TrainingSpeakers) -> list[str]:
    """Names of the embedded utterances; empty ones if only embeddings are known."""
    known = speakers.utterances
    return [""] * len(speakers.labels) if known is None else known.column("utterance")


def odd_utterances(speakers: TrainingSpeakers, *, most: int = 20) -> list[OddUtterance]:
    """Utterances less like their own speaker than like another: perhaps of somebody else, noise, or two voices.

    Args:
        speakers: Whose embedded utterances are looked at; of these only the ones least like their speaker.
        most: Most that are returned, by the difference of the two similarities, largest first.
    """
    unit, labels = unit_length(speakers.embeddings).astype(np.float64), speakers.labels
    sums = np.zeros((len(speakers.names), unit.shape[1]))
    np.add.at(sums, labels, unit)
    others = sums[labels] - unit
    length = np.linalg.norm(others, axis=1)
    own = np.where(length > 1e-6, (unit * others).sum(axis=1) / np.maximum(length, 1e-6), np.inf)
    rows = np.argsort(own, kind="stable")[: 10 * most]
    cosines = unit[rows] @ speakers.centroids.T
    cosines[np.arange(len(rows)), labels[rows]] = -np.inf
    nearest = cosines.argmax(axis=1)
    gaps = cosines.max(axis=1) - own[rows]
    names = _utterance_names(speakers)
    return [
        OddUtterance(
            names[rows[place]],
            speakers.names[labels[rows[place]]],
            float(own[rows[place]]),
            speakers.names[nearest[place]],
            float(cosines[place, nearest[place]]),
        )
        for place in np.argsort(-gaps, kind="stable")[:most].tolist()
        if gaps[place] > 0
    ]


def write_duplicates(path: Path, duplicates: Sequence[SuspectedDuplicate]) -> None:
    """Write speaker_a, speaker_b, similarity and own_similarity as CSV, atomically.

    Names come from whoever made the manifest, and a spreadsheet would run one that begins like a formula. Such a name
    gets an apostrophe in front, and all names are in quotes, so that no separator in one starts a new cell.

    Args:
        path: The file.
        duplicates: In the order of the lines.
    """
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
        writer.writerow(("speaker_a", "speaker_b", "similarity", "own_similarity"))
        for duplicate in duplicates:
            names = map(table_cell, duplicate.speakers)
            writer.writerow((*names, round(duplicate.similarity, 4), round(duplicate.own_similarity, 4)))


def scored_trials(run: RunFolder) -> dict[str, ScoredTrials]:
    """What the score files of a run say, by trial list.

    A file without labels, or with targets or non-targets only, has no error rates; it is left out and named in the log.

    Args:
        run: Its folder ``scores`` holds files as `chns.evaluation.scoring.write_scores` makes them.

    Raises:
        TrialError: If a file is not a score file.
    """
    found = {}
    for name, path in run.scores().items():
        trials, scores = read_scores(path)
        if trials.is_target is None or trials.is_target.all() or not trials.is_target.any():
            _log.warning("%s has not both targets and non-targets, so no error rates; it is left out.", path)
            continue
        found[name] = judged_trials(name, trials, scores)
    return found


def judged_trials(name: str, trials: Trials, scores: Float64Array) -> ScoredTrials:
    """Error rates of scored trials.

    Args:
        name: Of the trial list.
        trials: With labels, both targets and non-targets.
        scores: One a trial, shape (trials,).
    """
    assert trials.is_target is not None
    return ScoredTrials(name=name, trials=trials, scores=scores, metrics=verification_metrics(scores, trials.is_target))


def collect_findings(
    run_folders: Sequence[Path | str],
    *,
    names: Sequence[str] | None = None,
    manifest: Path | str | None = None,
    root: str | None = None,
    device: torch.device | str = "cpu",
    num_workers: int = 0,
    trusted_packages: Collection[str] = (),
) -> list[RunFindings]:
    """Compute what a report shows of each run.

    The log and the score files (``RUN/scores/*.txt``) are read. Map, clusters, batches and duplicates need embeddings
    of the training speakers under the run's model; these are kept in ``RUN/report``, so only the first report of a
    model takes time. Where the training data are gone, or are no longer what the model was trained on, the rest is
    reported without them, and a warning says so.

    Args:
        run_folders: What ``chns train`` was given as ``--out``.
        names: What the report calls them; by default as much of the end of each path as tells them apart.
        manifest: Training manifest of all runs, in place of those that their settings name. If it does not fit,
            that is an error. One that the settings name is read only if `require_near` allows it.
        root: Folder of its recordings, or URL below which they are, if not where the manifest says.
        device: Where models run.
        num_workers: Processes that decode.
        trusted_packages: Further packages whose encoders may be built, see `chns.bundle.bundle.load_bundle`.

    Returns:
        One a run, in the order of the folders.

    Raises:
        ValueError: If there is no run, or names are not one a run and different.
        FileNotFoundError: If a folder is not that of a run that has begun, or something of ``manifest`` is missing.
        RunFolderError, TrialError, ModelFileError, AudioError: If a file is damaged.
        ManifestError: If ``manifest`` is damaged or not what a model was trained on.
    """
    names = _checked_names([Path(folder) for folder in run_folders], names)
    runs = [RunFolder.open(folder) for folder in run_folders]
    findings = []
    problems: dict[str, list[str]] = {}
    for name, run in zip(names, runs, strict=True):
        _log.info("%s: computing", name)
        settings = read_settings(run)
        speakers, problem, bundle = None, None, None
        try:
            bundle = load_bundle(run.model, trusted_packages=trusted_packages)
            bundle.model.to(device)
            speakers = _training_speakers(
                run, bundle, settings, manifest=manifest, root=root, device=device, num_workers=num_workers
            )
        except (FileNotFoundError, ManifestError) as error:
            if manifest is not None:
                raise
            problem = str(error)
            problems.setdefault(problem, []).append(name)
        found = replace(_findings(name, run, settings, speakers), why_not_embedded=problem)
        findings.append(found if bundle is None else replace(found, **_told(run, bundle)))
    for problem, without in problems.items():
        _log.warning("%s: reported without training speakers: %s", ", ".join(without), problem)
    return findings


def _told(run: RunFolder, bundle: Bundle) -> dict[str, Any]:
    """What the bundle tells of the training."""
    kept = ("manifest", "speakers", "utterances", "hours")
    version = read_description(run.model).get("chns_version")
    return {
        "trained_on": {**{name: bundle.training.get(name) for name in kept}, "version": version},
        "num_parameters": sum(parameter.numel() for parameter in bundle.model.encoder.parameters()),
    }


def _training_speakers(
    run: RunFolder,
    bundle: Bundle,
    settings: TrainSettings,
    *,
    manifest: Path | str | None,
    root: str | None,
    device: torch.device | str,
    num_workers: int,
) -> TrainingSpeakers:
    if manifest is None and settings.data.train:
        require_near(settings.data.train, run.path, option="--manifest")
    if manifest is not None or root is not None:
        named = settings.data.train if manifest is None else str(manifest)
        settings = replace(settings, data=replace(settings.data, train=named, root=root))
    trained = training_manifest(settings)
    if manifest is None and root is None:
        require_near(trained.location, run.path, option="--manifest")
    return embed_training_speakers(
        bundle,
        trained,
        embedder=Embedder(model=bundle.model, device=device, num_workers=num_workers),
        cache=run.path / "report" / CACHE_NAME,
        crop_seconds=settings.clusters.crop_seconds,
        seed=settings.seed,
    )


def _findings(name: str, run: RunFolder, settings: TrainSettings, speakers: TrainingSpeakers | None) -> RunFindings:
    without_speakers = RunFindings(
        name=name,
        path=run.path,
        strategy=strategy_name(settings),
        log=run.log(),
        scored=scored_trials(run),
        speaker_map=None,
        cluster_shapes=None,
        batch_hardness=None,
        duplicates=None,
        batches=settings.batches.kind,
        decisions=run.decisions(),
        settings=dict(flat_settings(run.settings)),
    )
    if speakers is None:
        return without_speakers
    clusters = run.clusters()
    if clusters is not None and len(clusters.labels) != speakers.num_training_speakers:
        raise RunFolderError(
            f"clusters must group the {speakers.num_training_speakers} training speakers, "
            f"got {len(clusters.labels)} in {run.path / 'clusters'}."
        )
    return replace(
        without_speakers,
        speaker_map=speaker_map(speakers, clusters),
        cluster_shapes=None if clusters is None else cluster_shapes(speakers, clusters),
        batch_hardness=batch_hardness(
            speakers,
            clusters,
            batches=settings.batches,
            hard_phase=_as_trained(settings, without_speakers.log["hard_ratio"]),
            seed=settings.seed,
        ),
        duplicates=suspected_duplicates(speakers),
        odd_utterances=odd_utterances(speakers),
        utterances=speakers.utterances,
        num_training_speakers=speakers.num_training_speakers,
    )


def _as_trained(settings: TrainSettings, hard_ratios: Float64Array) -> ClusterSettings:
    """The hard phase with the largest hard ratio that it came to, which for an adaptive one is not in the settings.

    ``auto`` does not ask the settings at all: if its hard phase never began, the ratio is the largest it could have.
    """
    reached = float(np.nanmax(hard_ratios, initial=0.0))
    of_settings = 1.0 if settings.batches.kind == "auto" else settings.clusters.hard_ratio
    return replace(settings.clusters, hard_ratio=reached or of_settings)


def _checked_names(folders: Sequence[Path], names: Sequence[str] | None) -> Sequence[str]:
    if not folders:
        raise ValueError("run_folders must be at least one, got none.")
    if names is None:
        return _distinct_ends([folder.resolve() for folder in folders])
    if len(names) != len(folders) or len(set(names)) < len(names):
        raise ValueError(f"names must be one for each of {len(folders)} runs and different, got {', '.join(names)}.")
    return names


def _distinct_ends(paths: Sequence[Path]) -> Sequence[str]:
    """The last parts of each path, as few as tell all apart."""
    for depth in range(1, max(len(path.parts) for path in paths) + 1):
        ends = ["/".join(path.parts[-depth:]) for path in paths]
        if len(set(ends)) == len(ends):
            return ends
    raise ValueError(f"run_folders must be different, got {', '.join(map(str, paths))}.")

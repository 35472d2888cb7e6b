"""The report: one HTML file that needs no network, and beside it its figures and the suspected duplicates.

Coordinates are whole numbers up to 2,000, finer than a screen; runs of one corpus share one list of names. 6,000
speakers take 60 kB of names, and 75 kB a run: an ``<svg>`` with a titled circle for each would take six times as much,
and be slow to point at.

The page forbids itself every connection (Content-Security-Policy) and every script but its own, which it names by its
digest: a speaker or a file whose name is a piece of HTML stays a name. Fifteen runs on two trial lists with 6,000
training speakers make a page of 2.5 MB in half a minute, nearly all of it matplotlib's.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from chns import __version__
from chns.core import atomic_path
from chns.report.collect import write_duplicates
from chns.report.curve_figures import (
    QUANTITIES,
    RunScores,
    by_trial_list,
    det_figures,
    measured,
    score_figures,
    training_figures,
)
from chns.report.drawing import CATEGORY_COLOURS, COLOURS, Group, require_libraries, run_groups
from chns.report.first_screen import dot_figures, first_words, what_was_run
from chns.report.heard import CLIP_SECONDS, Recordings, list_errors, odd_recordings, suspected_pairs, with_recordings
from chns.report.review import review_figures
from chns.report.run_findings import ComparedRuns, RunFindings, SpeakerMap, SuspectedDuplicate
from chns.report.speaker_figures import cluster_figures, hardness_figures, map_figure
from chns.report.tables import (
    cluster_rows,
    compared_rows,
    list_sizes,
    purity_rows,
    run_decisions,
    run_rows,
    verdict_boxes,
)

__all__ = ["Recordings", "Report", "harder_batches", "map_data", "missing_reasons", "write_report"]

_EXTENT = 2_000


def map_data(runs: Sequence[RunFindings]) -> dict[str, Any]:
    """Content of the page's JSON element.

    Returns:
        ``num_colours``; ``speakers``: lists of names, each with the columns of the manifest; ``runs``: for each run
        with a map its name, which list its names are, coordinates, their extent, clusters (null if it never clustered)
        and the share of variance kept.
    """
    places: dict[tuple[str, ...], int] = {}
    lists: list[dict[str, Any]] = []
    maps = []
    for run in runs:
        if run.speaker_map is not None:
            names = tuple(run.speaker_map.speakers)
            if names not in places:
                places[names] = len(lists)
                columns = {name: _coded(values) for name, values in run.speaker_map.columns.items()}
                lists.append({"names": list(names), "columns": columns})
            maps.append({"name": run.name, "speakers": places[names], **_points(run.speaker_map)})
    return {"num_colours": len(CATEGORY_COLOURS), "speakers": lists, "runs": maps}


def _coded(values: Sequence[str]) -> dict[str, Any]:
    """The different values, and the place of each speaker's among them."""
    different, codes = np.unique(np.asarray(values), return_inverse=True)
    return {"values": different.tolist(), "codes": codes.tolist()}


def _points(speakers: SpeakerMap) -> dict[str, Any]:
    from_corner = speakers.points - speakers.points.min(axis=0)
    scale = _EXTENT / (from_corner.max() or 1.0)
    x, y = np.rint(scale * from_corner).astype(np.int64).T
    return {
        "x": x.tolist(),
        "y": y.tolist(),
        "size": [int(x.max()), int(y.max())],
        "clusters": None if speakers.clusters is None else speakers.clusters.tolist(),
        "explained": round(speakers.explained, 4),
    }


def harder_batches(groups: Sequence[Group]) -> list[str]:
    """By how much hard batches are harder, for each strategy that trained on them."""
    sentences = []
    for group in groups:
        found = [run.batch_hardness for run in group.runs if run.batch_hardness is not None and run.has_hard_phase]
        if not found:
            continue
        closest = np.mean([one.hard_closest - one.random_closest for one in found])
        mean = np.mean([one.hard.mean() - one.random.mean() for one in found])
        sentences.append(
            f"{group.label}: hard batches change the mean cosine of different speakers of a batch by {mean:+.3f}, that "
            f"of an utterance with the closest of them by {closest:+.3f}, under the final models."
        )
    return sentences


_NOT_EMBEDDED = "the training speakers were not embedded"
_WITHOUT_CLUSTERS: dict[str, str] = {
    "random": "random batches, so no clusters",
    "clustered": "it has not clustered yet",
    "neighbours": "batches of neighbours, so no clusters",
    "auto": "batches of neighbours, so no clusters",
}


def missing_reasons(runs: Sequence[RunFindings]) -> dict[str, list[str]]:
    """Sentences, one a reason, by section of the page."""
    found: dict[str, dict[str, list[str]]] = {
        name: {} for name in ("scores", "hardness", "map", "clusters", "training", "duplicates")
    }
    for run in runs:
        for section, reason in _reasons(run).items():
            found[section].setdefault(reason, []).append(run.name)
    return {
        section: [f"{', '.join(names)}: {reason}." for reason, names in reasons.items()]
        for section, reasons in found.items()
    }


def _reasons(run: RunFindings) -> dict[str, str]:
    reasons = {}
    if not run.scored:
        scores = run.path / "scores"
        reasons["scores"] = (
            f"no score file with labels was found in {scores}. Run "
            f"`chns evaluate {run.path / 'model'} M.parquet --trials LIST.txt --scores {scores / 'LIST.txt'}`"
        )
    if run.speaker_map is None:
        problem = f" ({run.why_not_embedded.rstrip('.')})" if run.why_not_embedded else ""
        reasons |= dict.fromkeys(
            ("hardness", "map", "clusters", "duplicates"), f"{_NOT_EMBEDDED}{problem}. Another manifest: --manifest"
        )
    else:
        if run.batch_hardness is None:
            reasons["hardness"] = "fewer than two speakers have enough utterances for a batch"
        if run.cluster_shapes is None:
            reasons["clusters"] = _WITHOUT_CLUSTERS[run.batches]
        reasons |= _part_of_speakers(run, shown=len(run.speaker_map.speakers))
    unmeasured = [one.title for one in QUANTITIES if not (one.is_recent or len(measured(run.log, one)))]
    if unmeasured:
        reasons["training"] = f"the log has no values of {', '.join(unmeasured)}"
    return reasons


def _part_of_speakers(run: RunFindings, *, shown: int) -> dict[str, str]:
    if run.num_training_speakers is None or run.num_training_speakers <= shown:
        return {}
    part = f"of {run.num_training_speakers:,} training speakers, {shown:,} drawn at random were looked at"
    return dict.fromkeys(("map", "duplicates"), part)


_MOST_DUPLICATES = 10
_MOST_ERRORS = 6
_MOST_DECISIONS = 50


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was written.

    Attributes:
        page: The HTML file.
        summary: Its first sentences: title, sentence to quote, notes.
        num_figures: How many figures are beside it.
        num_duplicates: How many pairs of speakers may be one person.
    """

    page: Path
    summary: Sequence[str]
    num_figures: int
    num_duplicates: int


def write_report(
    folder: Path | str,
    runs: Sequence[RunFindings],
    *,
    comparison: ComparedRuns | None = None,
    recordings: Recordings | None = None,
) -> Report:
    """Write ``report.html``, ``figures/`` and ``suspected_duplicates.csv``.

    Args:
        folder: Where to; made if missing. Files of other names are left alone.
        runs: In the order in which the report has them.
        comparison: What they were trained for; its verdicts come first.
        recordings: Where the recordings of trial lists are, and whether the page gets clips of them.

    Raises:
        ValueError: If there is no run, or two have one name.
        ChnsError: If jinja2 or matplotlib is not installed.
    """
    folder = Path(folder)
    names = [run.name for run in runs]
    if not runs or len(set(names)) < len(names):
        raise ValueError(f"runs must be at least one, with different names, got {', '.join(names) or 'none'}.")
    require_libraries()
    trial_lists, groups = by_trial_list(runs), run_groups(runs)
    if comparison is not None:  # OUT/STRATEGY/seed-N: with one seed a group would have the name of its run
        groups = [group._replace(label=group.runs[0].path.parent.name) for group in groups]
    pairs = suspected_pairs(runs)
    sections, num_figures = _figures(folder / "figures", groups, trial_lists, comparison)
    write_duplicates(
        folder / "suspected_duplicates.csv",
        [
            SuspectedDuplicate(speakers=p.speakers, similarity=p.similarity, own_similarity=p.own_similarity)
            for p in pairs
        ],
    )
    recordings = recordings or Recordings()
    errors = list_errors(trial_lists, groups, recordings, most=_MOST_ERRORS)
    weak = [run for run in runs if run.is_too_weak_to_suspect]
    heard = {
        "error_lists": errors,
        "duplicates": [] if weak else with_recordings(pairs[:_MOST_DUPLICATES], runs, recordings),
        "odd": [] if weak else odd_recordings(runs, recordings, most=_MOST_DUPLICATES),
        "too_weak": weak,
    }
    words = first_words(groups, trial_lists, comparison)
    html = _render(
        words=words,
        facts=what_was_run(groups, comparison),
        harder=harder_batches(groups),
        runs=run_rows(runs, list(trial_lists)),
        trial_lists=list_sizes(trial_lists),
        comparison=comparison,
        compared=compared_rows(comparison) if comparison else [],
        verdicts=verdict_boxes(comparison) if comparison else [],
        styles={run.name: group.style for group in groups for run in group.runs},
        map=map_data(runs),
        purities=purity_rows(groups),
        cluster_rows=cluster_rows(runs),
        decisions=run_decisions(runs, most=_MOST_DECISIONS),
        **heard,
        recordings=recordings,
        clip_seconds=CLIP_SECONDS,
        num_duplicates=len(pairs),
        num_asked=sum(run.duplicates is not None for run in runs),
        missing=missing_reasons(runs),
        navigation=_navigation(comparison, with_review=bool(sections["review"])),
        **sections,
    )
    page = folder / "report.html"
    with atomic_path(page) as path:
        path.write_text(html, encoding="utf-8", errors="replace")
    told = (f"{words.title}.", words.quote, *words.notes)
    summary = [text.replace("\N{NO-BREAK SPACE}", " ") for text in told]  # a terminal would show it escaped
    return Report(page=page, summary=summary, num_figures=num_figures, num_duplicates=len(pairs))


def _navigation(comparison: ComparedRuns | None, *, with_review: bool) -> list[tuple[str, str]]:
    return [
        *([("comparison", "Comparison")] if comparison else []),
        ("runs", "Runs"),
        ("det", "DET curves"),
        ("scores", "Scores"),
        *([("review", "Closer looks")] if with_review else []),
        ("hardness", "Harder batches"),
        ("map", "Speaker map"),
        ("clusters", "Clusters"),
        ("training", "Training"),
        ("errors", "Worst errors"),
        ("duplicates", "Wrong labels?"),
    ]


def _figures(
    folder: Path,
    groups: Sequence[Group],
    trial_lists: Mapping[str, Sequence[RunScores]],
    comparison: ComparedRuns | None,
) -> tuple[dict[str, Sequence[Any]], int]:
    """Figures by the name that the template knows them under, and how many files there are of each kind."""
    maps = [(run.name, run.speaker_map) for group in groups for run in group.runs if run.speaker_map is not None]
    steps: list[tuple[str, Callable[[], Any]]] = [
        ("dots", lambda: dot_figures(folder, groups, trial_lists, comparison)),
        ("det", lambda: det_figures(folder, trial_lists, groups)),
        ("scores", lambda: score_figures(folder, trial_lists, groups)),
        ("review", lambda: review_figures(folder, groups)),
        ("hardness", lambda: hardness_figures(folder, groups)),
        ("clusters", lambda: cluster_figures(folder, groups)),
        ("training", lambda: [training_figures(folder, quantity, groups) for quantity in QUANTITIES]),
        ("maps", lambda: [map_figure(folder, f"map-{place + 1}", *one) for place, one in enumerate(maps)]),
    ]
    with tqdm(steps, desc="drawing", unit="section", disable=None, leave=False) as progress:
        drawn: dict[str, Any] = {name: make() for name, make in progress}
    del drawn["maps"]  # the page draws its own
    over_steps, over_time = zip(*drawn.pop("training"), strict=True)
    drawn["training"] = [figure for figure in over_steps if figure is not None]
    drawn["training_time"] = [figure for figure in over_time if figure is not None]
    return drawn, len(maps) + sum(map(len, drawn.values()))


def _render(**content: Any) -> str:
    """Fill the template."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(loader=PackageLoader("chns.report"), autoescape=True, undefined=StrictUndefined)
    templates = files("chns.report") / "templates"
    script = (templates / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("page.html.j2").render(
        colours=COLOURS,
        stylesheet=(templates / "page.css").read_text(encoding="utf-8"),
        script=script,
        script_digest=f"sha256-{digest}",
        version=__version__,
        **content,
    )

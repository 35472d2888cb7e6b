"""The maps of the training speakers as the page's script reads them.

Coordinates are whole numbers up to 2,000, finer than a screen; runs of one corpus share one list of names. 6,000
speakers take 60 kB of names, and 75 kB a run: an ``<svg>`` with a titled circle for each would take six times as much,
and be slow to point at.

The first sentences of the report: what was looked at, which run errs least, and what to look at next.

Why a section of the report is empty, for each run that has nothing to show in it.

The report: one HTML file that needs no network, and beside it its figures and the suspected duplicates.

The page forbids itself every connection (Content-Security-Policy) and every script but its own, which it names by its
digest: a speaker or a file whose name is a piece of HTML stays a name. Fifteen runs on two trial lists with 6,000
training speakers make a page of 2.5 MB in half a minute, nearly all of it matplotlib's.
"""

from __future__ import annotations

import base64
import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from chns import __version__
from chns.core.files import atomic_path
from chns.report.collect import write_duplicates
from chns.report.compared import Comparison
from chns.report.drawing import COLOURS, NUM_CLUSTER_COLOURS, Figure, RunStyle, require_libraries, run_styles
from chns.report.error_figures import RunScores, by_trial_list, det_figure, score_figure, score_limits
from chns.report.run_findings import RunFindings, SpeakerMap, SuspectedDuplicate
from chns.report.speaker_figures import (
    hardness_figure,
    hardness_limits,
    map_figure,
    runs_with_clusters,
    sizes_figure,
    tightness_figure,
)
from chns.report.tables import cluster_rows, list_errors, list_sizes, run_decisions, run_rows, suspected_pairs
from chns.report.training_figures import QUANTITIES, measured, training_figure

_log = logging.getLogger(__name__)

_EXTENT = 2_000


def map_data(runs: Sequence[RunFindings]) -> dict[str, Any]:
    """Content of the page's JSON element.

    Returns:
        ``num_colours``; ``speakers``: lists of names; ``runs``: for each run with a map its name, which list its names
        are, coordinates, their extent, clusters (null if it never clustered) and the share of variance kept.
    """
    lists: dict[tuple[str, ...], int] = {}
    maps = []
    for run in runs:
        if run.speaker_map is not None:
            names = tuple(run.speaker_map.speakers)
            maps.append({"name": run.name, "speakers": lists.setdefault(names, len(lists)), **_points(run.speaker_map)})
    return {"num_colours": NUM_CLUSTER_COLOURS, "speakers": [list(names) for names in lists], "runs": maps}


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


def summary_words(
    runs: Sequence[RunFindings], trial_lists: Mapping[str, Sequence[RunScores]], *, num_duplicates: int
) -> str:
    """One paragraph of plain facts."""
    sentences = [_best_on(name, scored) for name, scored in trial_lists.items()]
    if not sentences:
        sentences.append("No run has scored a trial list yet, so nothing can be said about its errors.")
    sentences += _harder_batches(runs)
    if num_duplicates:
        pairs = "One pair" if num_duplicates == 1 else f"{num_duplicates:,} pairs"
        sentences.append(f"{pairs} of training speakers may be one person under two names.")
    return " ".join(sentences)


def _best_on(trial_list: str, scored: Sequence[RunScores]) -> str:
    ordered = sorted(scored, key=lambda one: one.scored.metrics.eer)
    best, worst = ordered[0], ordered[-1]
    lowest, highest = best.scored.metrics.eer, worst.scored.metrics.eer
    if len(ordered) == 1:
        return f"EER on \N{LEFT DOUBLE QUOTATION MARK}{trial_list}\N{RIGHT DOUBLE QUOTATION MARK}: {lowest:.2%}."
    return (
        f"Lowest EER on \N{LEFT DOUBLE QUOTATION MARK}{trial_list}\N{RIGHT DOUBLE QUOTATION MARK}: {lowest:.2%}, by "
        f"{best.run.name} ({best.run.strategy}); highest: {highest:.2%}, by {worst.run.name}."
    )


def _harder_batches(runs: Sequence[RunFindings]) -> list[str]:
    """By how much hard batches are harder, over the runs that trained on them; nothing if none did."""
    measured = [run.batch_hardness for run in runs if run.batch_hardness is not None and run.has_hard_phase]
    clustered = [np.mean(one.hard) - np.mean(one.random) for one in measured if one.kind == "clustered"]
    neighbours = [one.hard_closest - one.random_closest for one in measured if one.kind == "neighbours"]
    sentences = []
    if clustered:
        sentences.append(
            f"Under the final models, clustering changes the mean cosine of different speakers of a batch by "
            f"{np.mean(clustered):+.3f}."
        )
    if neighbours:
        sentences.append(
            f"Under the final models, batches of neighbours change the cosine of an utterance with the closest other "
            f"speaker of its batch by {np.mean(neighbours):+.3f}."
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


_MOST_DUPLICATES = 20
_MOST_ERRORS = 10
_MOST_DECISIONS = 50


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was written.

    Attributes:
        page: The HTML file.
        summary: Its first sentences.
        num_figures: How many figures are beside it.
        num_duplicates: How many pairs of speakers may be one person.
    """

    page: Path
    summary: Sequence[str]
    num_figures: int
    num_duplicates: int


def write_report(folder: Path | str, runs: Sequence[RunFindings], *, comparison: Comparison | None = None) -> Report:
    """Write ``report.html``, ``figures/`` and ``suspected_duplicates.csv``.

    Args:
        folder: Where to; made if missing. Files of other names are left alone.
        runs: In the order in which the report has them.
        comparison: What they were trained for; its verdicts come first.

    Raises:
        ValueError: If there is no run, or two have one name.
        ChnsError: If jinja2 or matplotlib is not installed.
    """
    folder = Path(folder)
    names = [run.name for run in runs]
    if not runs or len(set(names)) < len(names):
        raise ValueError(f"runs must be at least one, with different names, got {', '.join(names) or 'none'}.")
    require_libraries()
    trial_lists = by_trial_list(runs)
    pairs = suspected_pairs(runs)
    _log.info("drawing %d runs", len(runs))
    drawn = _Drawn.of(folder / "figures", runs, trial_lists, run_styles(runs))
    write_duplicates(
        folder / "suspected_duplicates.csv",
        [
            SuspectedDuplicate(speakers=p.speakers, similarity=p.similarity, own_similarity=p.own_similarity)
            for p in pairs
        ],
    )
    verdicts = [verdict.headline for verdict in comparison.verdicts] if comparison else []
    summary = [*verdicts, summary_words(runs, trial_lists, num_duplicates=len(pairs))]
    html = _render(
        title=_title(names),
        summary=summary,
        runs=run_rows(runs, list(trial_lists)),
        trial_lists=list_sizes(trial_lists),
        comparison=comparison,
        styles=run_styles(runs),
        styles_shared=len({run.strategy for run in runs}) not in (1, len(runs)),
        map=map_data(runs),
        cluster_rows=cluster_rows(runs),
        decisions=run_decisions(runs, most=_MOST_DECISIONS),
        error_lists=list_errors(trial_lists, most=_MOST_ERRORS),
        duplicates=pairs[:_MOST_DUPLICATES],
        num_duplicates=len(pairs),
        num_asked=sum(run.duplicates is not None for run in runs),
        missing=missing_reasons(runs),
        navigation=_navigation(comparison),
        **drawn.sections,
    )
    page = folder / "report.html"
    with atomic_path(page) as path:
        path.write_text(html, encoding="utf-8", errors="replace")
    return Report(page=page, summary=summary, num_figures=drawn.number, num_duplicates=len(pairs))


def _title(names: Sequence[str]) -> str:
    return f"What {names[0]} came to" if len(names) == 1 else f"What {len(names)} runs came to"


def _navigation(comparison: Comparison | None) -> list[tuple[str, str]]:
    return [
        ("runs", "Runs"),
        *([("comparison", "Comparison")] if comparison else []),
        ("det", "DET curves"),
        ("scores", "Scores"),
        ("hardness", "Harder batches"),
        ("map", "Speaker map"),
        ("clusters", "Clusters"),
        ("training", "Training"),
        ("errors", "Worst errors"),
        ("duplicates", "Duplicates"),
    ]


@dataclass(frozen=True, kw_only=True)
class _Drawn:
    """Figures by the name that the template knows them under, and how many files there are of each kind."""

    sections: Mapping[str, Sequence[Figure]]
    number: int

    @classmethod
    def of(
        cls,
        folder: Path,
        runs: Sequence[RunFindings],
        trial_lists: Mapping[str, Sequence[RunScores]],
        styles: Mapping[str, RunStyle],
    ) -> _Drawn:
        numbers = {run.name: place + 1 for place, run in enumerate(runs)}
        first = _first_of_strategies(runs)
        scores, hardness = _Folded(first), _Folded(first)
        det = []
        for place, (trial_list, scored) in enumerate(trial_lists.items()):
            det.append(det_figure(folder, f"det-{place + 1}", trial_list, scored, styles))
            limits = score_limits(scored)
            for one in scored:
                name = f"scores-{place + 1}-{numbers[one.run.name]}"
                scores.add(one.run, score_figure(folder, name, one, styles[one.run.name], limits))
        maps = 0
        for run in runs:
            if run.batch_hardness is not None:
                name = f"batch-hardness-{numbers[run.name]}"
                hardness.add(
                    run,
                    hardness_figure(
                        folder, name, run.name, run.batch_hardness, styles[run.name], hardness_limits(runs)
                    ),
                )
            if run.speaker_map is not None:
                maps += 1
                map_figure(folder, f"map-{numbers[run.name]}", run.name, run.speaker_map)
        shapes = runs_with_clusters(runs)
        clusters = [
            draw(folder, name, shapes, styles)
            for name, draw in (("cluster-sizes", sizes_figure), ("cluster-tightness", tightness_figure))
            if shapes
        ]
        curves = [training_figure(folder, q.column.replace("_", "-"), q, runs, styles) for q in QUANTITIES]
        sections = {
            "det": det,
            "scores": scores.shown,
            "scores_folded": scores.folded,
            "hardness": hardness.shown,
            "hardness_folded": hardness.folded,
            "clusters": clusters,
            "training": [curve for curve in curves if curve is not None],
        }
        return cls(sections=sections, number=maps + sum(map(len, sections.values())))


def _first_of_strategies(runs: Sequence[RunFindings]) -> set[str]:
    """Names of the runs whose own figures are in view: of each strategy the first; all, if there are few."""
    if len(runs) <= 4:
        return {run.name for run in runs}
    return set({run.strategy: run.name for run in reversed(runs)}.values())


class _Folded:
    """Figures of single runs, some in view and some folded away."""

    def __init__(self, in_view: set[str]) -> None:
        self.shown: list[Figure] = []
        self.folded: list[Figure] = []
        self._in_view = in_view

    def add(self, run: RunFindings, figure: Figure) -> None:
        (self.shown if run.name in self._in_view else self.folded).append(figure)


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

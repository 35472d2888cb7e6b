"""The report: one HTML file that needs no network, and beside it its figures and the suspected duplicates.

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

from chns import __version__
from chns.files import atomic_path
from chns.report.comparison import Comparison
from chns.report.drawing import Figure, require_libraries
from chns.report.duplicates import write_duplicates
from chns.report.error_figures import RunScores, by_trial_list, det_figure, score_figure, score_limits
from chns.report.findings import RunFindings, SuspectedDuplicate
from chns.report.map_data import map_data
from chns.report.palette import COLOURS, RunStyle, run_styles
from chns.report.reasons import missing_reasons
from chns.report.speaker_figures import (
    hardness_figure,
    hardness_limits,
    map_figure,
    runs_with_clusters,
    sizes_figure,
    tightness_figure,
)
from chns.report.summary import summary_words
from chns.report.tables import cluster_rows, list_errors, list_sizes, run_decisions, run_rows, suspected_pairs
from chns.report.training_figures import QUANTITIES, training_figure

_log = logging.getLogger(__name__)

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

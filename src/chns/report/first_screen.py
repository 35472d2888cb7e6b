"""The first screen of the page: what came out as the title, the figure that shows it, what was run.

The title says what the intervals bear out and nothing else: the error rate is the EER if its interval leaves out zero
on some list, else a minDCF; of several strategies with hard batches the one that changed most. What the others did
stands below it, and how many intervals were looked at in the caveats of the verdict.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from chns import __version__
from chns.core import in_short, percent
from chns.report.curve_figures import RunScores
from chns.report.drawing import INK, MUTED, PAPER, Figure, Group, LegendEntry, draw, label_of
from chns.report.run_findings import ComparedChange, ComparedList, ComparedRuns, ComparedValue, Difference, VerdictWords

if TYPE_CHECKING:
    from matplotlib.axes import Axes


_MINUS, _PERCENT = "\N{MINUS SIGN}", "\N{NO-BREAK SPACE}%"


class FirstWords(NamedTuple):
    """What the page begins with.

    Attributes:
        title: What came out, in a sentence without a full stop.
        quote: A sentence with its numbers, complete enough to stand elsewhere.
        notes: What else was found, and what the numbers cannot say.
    """

    title: str
    quote: str
    notes: Sequence[str]


def first_words(
    groups: Sequence[Group], trial_lists: Mapping[str, Sequence[RunScores]], comparison: ComparedRuns | None
) -> FirstWords:
    """Title, sentence to quote and notes of a report.

    Args:
        groups: The runs by strategy.
        trial_lists: Scores of the runs by trial list.
        comparison: What they were trained for, if they were.
    """
    if comparison is not None and comparison.verdicts:
        return _of_comparison(groups, comparison)
    if trial_lists:
        return _of_lists(groups, trial_lists)
    runs = [run.name for group in groups for run in group.runs]
    title = f"What {runs[0]} came to" if len(runs) == 1 else f"What {len(runs)} runs came to"
    return FirstWords(title, "No run has scored a trial list yet, so nothing can be said about its errors.", ())


def _of_comparison(groups: Sequence[Group], comparison: ComparedRuns) -> FirstWords:
    leading = max(comparison.verdicts, key=_weight)
    several = len(comparison.verdicts) > 1
    who = f"Hard batches ({leading.strategy})" if several else "Hard batches"
    told = _told(leading)
    others = [
        f"{one.strategy} against {one.twin}: {'; '.join(map(_effect, _told(one))) or 'no measurable difference'}."
        for one in comparison.verdicts
        if one is not leading
    ]
    title = f"{who} {' but '.join(map(_effect, told))}" if told else f"{who} made no measurable difference"
    if told and len(comparison.seeds) == 1:
        title = f"In one training, {title[0].lower()}{title[1:]}"
    change = told[0] if told else leading.changes[0]
    return FirstWords(title, _quote(change, leading, groups, comparison), (*others, *leading.caveats))


_RANKS = {"helped": 3, "mixed": 2, "hurt": 1}


def _weight(verdict: VerdictWords) -> tuple[int, float]:
    changes = _told(verdict)
    size = abs(changes[0].difference.estimate) / changes[0].before if changes and changes[0].before > 0 else 0.0
    return _RANKS.get(verdict.effect, 0), size


def _told(verdict: VerdictWords) -> list[ComparedChange]:
    """The measurable changes that a title tells: the largest for the better and, if there is one, for the worse.

    Those of the EER if there are any, else those of a minDCF: a list is not told twice.
    """
    measurable = [change for change in verdict.changes if change.difference.is_measurable and change.before > 0]
    of_eer = [change for change in measurable if change.metric == "eer"] or measurable
    better = sorted((c for c in of_eer if c.difference.estimate < 0), key=_relative)
    worse = sorted((c for c in measurable if c.difference.estimate > 0), key=_relative)
    return [*better[:1], *worse[-1:]]


def _relative(change: ComparedChange) -> float:
    return change.difference.estimate / change.before


def _effect(change: ComparedChange) -> str:
    percent = 100 * abs(_relative(change))
    more = change.difference.estimate > 0
    if change.metric == "eer":
        return f"made {percent:.0f}{_PERCENT} {'more' if more else 'fewer'} errors on {_list_name(change.trial_list)}"
    name = metric_name(change.metric)
    return f"{'raised' if more else 'lowered'} {name} by {percent:.0f}{_PERCENT} on {_list_name(change.trial_list)}"


def _list_name(name: str) -> str:
    """``same_family`` reads as same-family trials; a name such as vox1-h is one."""
    words = name.replace("_", "-")
    return words if any(character.isdigit() for character in words) or "trial" in words else f"{words} trials"


def metric_name(metric: str) -> str:
    """``eer`` and ``min_dcf_P`` as people write them."""
    return "EER" if metric == "eer" else f"minDCF {metric.removeprefix('min_dcf_')}"


def rate_text(metric: str, value: float, *, signed: bool = False) -> str:
    """An error rate, or a difference of two, with its unit: an EER in per cent (differences in points)."""
    sign, is_eer = "+" if signed else "", metric == "eer"
    text = f"{100 * value:{sign}.2f}" if is_eer else f"{value:{sign}.3f}"
    return text.replace("-", _MINUS) + (_PERCENT if is_eer and not signed else "")


def _quote(change: ComparedChange, verdict: VerdictWords, groups: Sequence[Group], comparison: ComparedRuns) -> str:
    metric, difference = change.metric, change.difference
    table = next(one for one in comparison.lists if one.name == change.trial_list)
    seeds = len(comparison.seeds)
    interval = f"[{rate_text(metric, difference.low, signed=True)}, {rate_text(metric, difference.high, signed=True)}]"
    told = {name: values for group in groups for name, values in [(group.label, group.runs[0].trained_on)] if values}
    trained = told.get(verdict.strategy) or next(iter(told.values()), {})
    speakers = f", trained on {trained['speakers']:,} speakers" if isinstance(trained.get("speakers"), int) else ""
    return (
        f"{verdict.strategy} has {metric_name(metric)} {rate_text(metric, change.before + difference.estimate)} on "
        f"{_list_name(change.trial_list)} against {rate_text(metric, change.before)} of {verdict.twin}: "
        f"{rate_text(metric, difference.estimate, signed=True)}{' points' if metric == 'eer' else ''} {interval} "
        f"(95 % interval, paired, {'over speakers' if seeds == 1 else f'over speakers and {seeds} seeds'}; "
        f"{table.targets:,} targets, {table.nontargets:,} non-targets of {table.speakers:,} speakers{speakers})."
    )


def _of_lists(groups: Sequence[Group], trial_lists: Mapping[str, Sequence[RunScores]]) -> FirstWords:
    name, scored = next(iter(trial_lists.items()))
    eers = {one.run.name: one.scored.metrics.eer for one in scored}
    means = {
        group.label: float(np.mean(known))
        for group in groups
        if (known := [eers[run.name] for run in group.runs if run.name in eers])
    }
    best = min(means, key=means.__getitem__)
    sentences = [_sentence(other, one) for other, one in trial_lists.items()]
    if len(means) == 1:
        return FirstWords(f"EER {percent(means[best])} on {_list_name(name)}", " ".join(sentences), ())
    alone = all(len(group.runs) == 1 for group in groups)
    note = "Single trainings: a small difference may be chance. `chns compare` trains each strategy several times."
    return FirstWords(
        f"Lowest EER on {_list_name(name)}: {percent(means[best])}, by {best}",
        " ".join(sentences),
        (note,) if alone else (),
    )


def _sentence(name: str, scored: Sequence[RunScores]) -> str:
    ordered = sorted(scored, key=lambda one: one.scored.metrics.eer)
    lowest, metrics = ordered[0], ordered[0].scored.metrics
    size = f"{metrics.target_trials:,} targets, {metrics.nontarget_trials:,} non-targets"
    costs = f"minDCF {metrics.min_dcf[0.05]:.3f} (0.05) and {metrics.min_dcf[0.01]:.3f} (0.01)"
    if len(ordered) == 1:
        return f"On {_list_name(name)} ({size}): EER {percent(metrics.eer)}, {costs}."
    highest = ordered[-1]
    return (
        f"On {_list_name(name)} ({size}): EER {percent(metrics.eer)} of {lowest.run.name} ({lowest.run.strategy}) to "
        f"{percent(highest.scored.metrics.eer)} of {highest.run.name}."
    )


class Fact(NamedTuple):
    """Something of what was run: what it is of, and what it was."""

    name: str
    value: str


_MOST_DIFFERENCES = 6
_LOST_IN_TRANSIT = ("data.root", "data.train", "train.logger", "train.device", "train.num_workers", "seed")


def what_was_run(groups: Sequence[Group], comparison: ComparedRuns | None) -> list[Fact]:
    """Data, model, length, machine and version of the trainings, and the settings in which strategies differ.

    What a run's folder does not tell is left out.
    """
    runs = [run for group in groups for run in group.runs]
    facts = [Fact("Trained on", _each(map(_data, (run.trained_on for run in runs))))]
    facts.append(Fact("Encoder", _each(_encoder(run.settings, run.num_parameters) for run in runs)))
    facts.append(Fact("Length", _each(_length(run.settings) for run in runs)))
    seeds = comparison.seeds if comparison else sorted({run.settings["seed"] for run in runs if "seed" in run.settings})
    facts.append(Fact("Seeds", ", ".join(map(str, seeds))))
    facts.append(Fact("Computed in", _each(_machine(run.settings) for run in runs)))
    versions = _each(f"chns {run.trained_on['version']}" for run in runs if run.trained_on.get("version"))
    written = "" if versions in ("", f"chns {__version__}") else f"; report: {__version__}"
    facts.append(Fact("Version", versions + written))
    differing = list(differing_settings(groups))
    facts += [Fact(name, value) for name, value in differing[:_MOST_DIFFERENCES]]
    if len(differing) > _MOST_DIFFERENCES:
        facts.append(Fact("And", f"{len(differing) - _MOST_DIFFERENCES} more settings differ"))
    return [fact for fact in facts if fact.value]


def _each(texts: Any) -> str:
    """Different ones, in their order."""
    return "; ".join(dict.fromkeys(text for text in texts if text))


def _data(told: Mapping[str, Any]) -> str:
    parts = [str(told["manifest"])] if told.get("manifest") else []
    for name, form in (("hours", ",.1f"), ("speakers", ",.0f"), ("utterances", ",.0f")):
        if isinstance(told.get(name), int | float):
            parts.append(f"{told[name]:{form}} {name}")
    return ", ".join(parts)


def _encoder(settings: Mapping[str, Any], num_parameters: int | None) -> str:
    name = str(settings.get("encoder.factory", "")).rpartition(".")[2]
    if num_parameters is None:
        return name
    size = f"{num_parameters / 1e6:.2f} M" if num_parameters >= 1e5 else f"{num_parameters:,}"
    return f"{name}, {size} parameters".removeprefix(", ")


_BATCH_SETTINGS = ("steps_per_epoch", "speakers_per_batch", "utterances_per_speaker")


def _length(settings: Mapping[str, Any]) -> str:
    try:
        steps, speakers, utterances = (int(settings[f"batches.{name}"]) for name in _BATCH_SETTINGS)
        epochs, seconds = int(settings["train.epochs"]), float(settings["data.crop_seconds"])
    except (KeyError, TypeError, ValueError):
        return ""
    return f"{epochs * steps:,} steps of {speakers} speakers x {utterances} crops of {seconds:g} s"


def _machine(settings: Mapping[str, Any]) -> str:
    return ", ".join(str(settings[name]) for name in ("train.device", "train.precision") if settings.get(name))


def differing_settings(groups: Sequence[Group]) -> Iterator[Fact]:
    """Settings that not all groups share: their name, and the value of each group."""
    known = [group for group in groups if group.runs[0].settings]
    names = dict.fromkeys(name for group in known for name in group.runs[0].settings)
    for name in sorted(names):
        values = {group.label: repr_of(group.runs[0].settings.get(name)) for group in known}
        if len(set(values.values())) > 1 and name not in _LOST_IN_TRANSIT:
            by_value: dict[str, list[str]] = {}
            for label, value in values.items():
                by_value.setdefault(value, []).append(label)
            yield Fact(name, "; ".join(f"{value} ({', '.join(labels)})" for value, labels in by_value.items()))


def repr_of(value: Any) -> str:
    """A setting as a YAML file would have it, in short."""
    return "none" if value is None else in_short(str(value).lower() if isinstance(value, bool) else str(value))


_ROW_INCHES, _HEAD_INCHES, _LEAST_INCHES = 0.42, 0.75, 2.7  # two rows fill the place beside what was run, too
_MOST_ROWS = 16


class _Row(NamedTuple):
    group: Group
    values: Sequence[float]
    difference: Difference | None


def dot_figures(
    folder: Path,
    groups: Sequence[Group],
    trial_lists: Mapping[str, Sequence[RunScores]],
    comparison: ComparedRuns | None,
) -> list[Figure]:
    """A figure for each trial list: the EER of every training as a dot, a row a strategy.

    None for a single run, which has nothing to be compared with.

    Args:
        folder: Where the files go.
        groups: The rows.
        trial_lists: Scores of the runs by trial list.
        comparison: Brings the intervals of the differences to its baseline.
    """
    if sum(len(group.runs) for group in groups) == 1:
        return []
    tables = {table.name: table for table in comparison.lists} if comparison else {}
    figures = []
    for place, (name, scored) in enumerate(trial_lists.items()):
        rows = _rows(groups, scored, tables.get(name))[:_MOST_ROWS]
        baseline = comparison.baseline if comparison else None
        figures.append(_dot_figure(folder, f"dots-{place + 1}", name, rows, baseline))
    return figures


def _rows(groups: Sequence[Group], scored: Sequence[RunScores], table: ComparedList | None) -> list[_Row]:
    eers = {one.run.name: one.scored.metrics.eer for one in scored}
    compared: dict[str, ComparedValue] = {one.name: one.values["eer"] for one in table.strategies} if table else {}
    rows = []
    for group in groups:
        values = [eers[run.name] for run in group.runs if run.name in eers]
        if values:
            own = compared.get(group.label)
            rows.append(_Row(group, values, own.difference if own else None))
    return rows


def _dot_figure(folder: Path, name: str, trial_list: str, rows: Sequence[_Row], baseline: str | None) -> Figure:
    means = {row.group.label: float(np.mean(row.values)) for row in rows}
    said = "; ".join(f"{label} {percent(mean)}" for label, mean in means.items())
    return draw(
        folder,
        name,
        lambda axes: _plot_dots(axes, trial_list, rows, means, means.get(baseline or "")),
        alt=f"EER on {trial_list}, means over the trainings: {said}",
        caption="",
        inches=(3.4, max(_HEAD_INCHES + _ROW_INCHES * len(rows), _LEAST_INCHES)),
    )


def _plot_dots(
    axes: Axes, trial_list: str, rows: Sequence[_Row], means: Mapping[str, float], reference: float | None
) -> Sequence[LegendEntry]:
    if reference is not None:
        axes.axvline(100 * reference, color=MUTED.light, linewidth=1.2, linestyle=(0, (4, 3)), zorder=1)
    for place, row in enumerate(rows):
        colour, mean = row.group.style.colour.light, means[row.group.label]
        if row.difference is not None and reference is not None:
            ends = [100 * (reference + end) for end in (row.difference.low, row.difference.high)]
            axes.plot(ends, [place, place], color=colour, linewidth=2.4, solid_capstyle="butt", zorder=2)
        axes.plot(
            [100 * value for value in row.values],
            [place] * len(row.values),
            "o",
            color=colour,
            alpha=0.45,
            markersize=6,
            markeredgewidth=0,
            zorder=3,
        )
        axes.plot(100 * mean, place, "D", color=colour, markersize=7.5, markeredgecolor=PAPER.light, zorder=4)
        _write_value(axes, place, row, mean, reference)
    labels = [label_of(row.group.label, longest=14) for row in rows]
    axes.set_yticks(range(len(rows)), labels, color=INK.light)
    axes.set(ylim=(len(rows) - 0.5, -0.5), xlabel="EER (%)")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(visible=False, axis="y")
    axes.margins(x=0.08)
    axes.set_title(label_of(_list_name(trial_list)))
    return ()


def _write_value(axes: Axes, place: int, row: _Row, mean: float, reference: float | None) -> None:
    """The mean, and by how much it differs, right of the row; bold where that is measurable."""
    text, weight = f"{100 * mean:.2f}", "normal"
    if row.difference is not None and reference:
        text += f", {100 * row.difference.estimate / reference:+.0f} %".replace("-", _MINUS)
        weight = "bold" if row.difference.is_measurable else "normal"
    axes.annotate(
        text,
        (1.03, place),
        xycoords=("axes fraction", "data"),
        va="center",
        ha="left",
        fontsize=9.5,
        fontweight=weight,
        color=INK.light,
        annotation_clip=False,
    )

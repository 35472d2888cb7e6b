"""Figures of what lies beside a run's scores as JSON: groups, worse conditions, galleries, spoofs.

``chns evaluate --sweep`` writes ``RUN/scores/LIST.sweep.json`` by itself; ``chns metrics --out`` and ``chns evaluate
--gallery`` write where they are told. Whatever of it is in the folder ``scores`` of a run is drawn, runs together where
they were measured alike.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from chns.core import RunFolderError, bounded_text
from chns.report.drawing import Figure, Group, LegendEntry, draw, label_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_BYTES = 2**22
_MOST_PLACES = 20
_SWEPT = {
    "duration": ("Seconds of the test utterance", "Test utterances cut to so many seconds; the enrolment as recorded."),
    "snr": ("Signal-to-noise ratio (dB)", "Noise added to the test utterances; the enrolment as recorded."),
    "codec": ("", "Test utterances sent through a line; the enrolment as recorded."),
}
_SPOOFED = {"sasv_eer": "SASV-EER", "spf_eer": "SPF-EER", "cm_eer": "countermeasure", "t_eer": "t-EER"}


class Point(NamedTuple):
    """A rate with its interval.

    Attributes:
        label: What it is of.
        place: On an axis of numbers; None if it has no place there.
        rate: A fraction.
        low: End of the interval; the rate itself if there is none.
        high: The other end.
    """

    label: str
    place: float | None
    rate: float
    low: float
    high: float


class Look(NamedTuple):
    """What one figure shows of one run.

    Attributes:
        title: Of the figure; looks of equal titles share one.
        quantity: What the rates are.
        axis: Label of the axis of numbers; empty if places are names.
        caption: How to read it.
        points: In their order.
    """

    title: str
    quantity: str
    axis: str
    caption: str
    points: Sequence[Point]


def read_looks(folder: Path) -> list[Look]:
    """What lies as JSON in a run's folder ``scores``; other JSON files are not looked at.

    Raises:
        RunFolderError: If a file is damaged.
    """
    looks: list[Look] = []
    for path in sorted((folder / "scores").glob("*.json")):
        name = path.stem.removesuffix(".sweep").removesuffix(".metrics")
        try:
            content = json.loads(bounded_text(path, most_bytes=_MOST_BYTES))
            looks += [look for kind, read in _READERS.items() if kind in content for look in read(name, content[kind])]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise RunFolderError(
                f"{path.name} must be what `chns evaluate` or `chns metrics` writes, got something else in {path} "
                f"({type(error).__name__}: {error}). Delete it, or run the command again."
            ) from error
    return looks


def _of_sweep(name: str, content: Mapping[str, Any]) -> Iterator[Look]:
    recorded, *conditions = content["conditions"]
    for axis, (label, caption) in _SWEPT.items():
        points = [
            _point(one["value"], float(one["value"]) if label else None, one["rates"]["eer"])
            for one in conditions
            if one["axis"] == axis
        ]
        if points:
            noise = f" Noise: {content['noise']}." if axis == "snr" else ""
            as_recorded = _point("as recorded", None, recorded["rates"]["eer"])
            yield Look(f"{name}: {axis}", "EER", label, caption + noise, [as_recorded, *points])


def _of_groups(name: str, content: Mapping[str, Any]) -> Iterator[Look]:
    for column, one in content.items():
        rated = [group for group in one["groups"] if group["rates"]]
        points = [_point(group["name"], None, group["rates"]["eer"]) for group in rated]
        worst_first = sorted(points, key=lambda point: -point.rate)[:_MOST_PLACES]
        kept = f" The {_MOST_PLACES} worst of {len(points)}." if len(points) > _MOST_PLACES else ""
        if worst_first:
            caption = f"Trials whose both sides agree in {column}, each group with a threshold of its own.{kept}"
            yield Look(f"{name}: by {column}", "EER", "", caption, worst_first)


def _of_galleries(name: str, content: Mapping[str, Any]) -> Iterator[Look]:
    points = [_point(f"{one['size']:,}", float(one["size"]), one["fnir"]) for one in content["galleries"]]
    caption = (
        f"Share of enrolled people who are not found at a threshold that {float(content['fpir']):.3g} of the strangers "
        f"pass; means of {int(content['draws'])} draws of galleries."
    )
    yield Look(f"{name}: identification", "FNIR", "Speakers in the gallery", caption, points)


def _of_spoofs(name: str, content: Mapping[str, Any]) -> Iterator[Look]:
    rates = content["rates"]
    known = {rate: rates[rate] for rate in _SPOOFED if rates.get(rate, {}).get("estimate") is not None}
    points = [_point(_SPOOFED[rate], None, one) for rate, one in known.items()]
    cost = float(rates["min_a_dcf"]["estimate"])
    caption = (
        f"SASV-EER: targets against everything else. SPF-EER: against spoofs alone. t-EER: countermeasure and "
        f"verification in tandem. Lowest a-DCF: {cost:.4f}."
    )
    yield Look(f"{name}: with spoofs", "Error rate", "", caption, points)


_READERS = {"sweep": _of_sweep, "by": _of_groups, "identification": _of_galleries, "spoofing": _of_spoofs}


def _point(label: Any, place: float | None, one: Mapping[str, Any]) -> Point:
    rate = float(one["estimate"])
    low, high = (rate if one[end] is None else float(one[end]) for end in ("low", "high"))
    return Point(str(label), place, rate, low, high)


def review_figures(folder: Path, groups: Sequence[Group]) -> list[Figure]:
    """A figure for each title, with all runs that have such a look.

    Args:
        folder: Where the files go.
        groups: The runs of the report by strategy.

    Raises:
        RunFolderError: If a file is damaged.
    """
    found: dict[str, dict[str, Look]] = {}
    colours = {run.name: group.style.colour.light for group in groups for run in group.runs}
    for run in (run for group in groups for run in group.runs):
        for look in read_looks(run.path):
            found.setdefault(look.title, {})[run.name] = look
    return [
        _figure(folder, f"review-{number}", title, looks, colours)
        for number, (title, looks) in enumerate(found.items(), 1)
    ]


def _figure(folder: Path, name: str, title: str, looks: Mapping[str, Look], colours: Mapping[str, str]) -> Figure:
    first = next(iter(looks.values()))

    def plot(axes: Axes) -> list[LegendEntry]:
        labels = list(dict.fromkeys(point.label for look in looks.values() for point in look.points))
        entries = []
        for number, (run, look) in enumerate(looks.items()):
            shift = 0.5 * (number - (len(looks) - 1) / 2) / len(looks)
            if first.axis:
                entries += _line(axes, look, colours[run], label_of(run))
            else:
                places = [labels.index(point.label) + shift for point in look.points]
                spans = [[p.rate - p.low for p in look.points], [p.high - p.rate for p in look.points]]
                rates = [100 * point.rate for point in look.points]
                reach = [[100 * max(0.0, one) for one in side] for side in spans]
                drawn = axes.errorbar(rates, places, xerr=reach, fmt="o", markersize=5, color=colours[run])
                entries.append((drawn, label_of(run)))
        if first.axis:
            axes.set(xlabel=first.axis, ylabel=f"{first.quantity} (%)")
            if first.axis != _SWEPT["snr"][0]:
                axes.set_xscale("log")
                ticks = sorted({point.place for look in looks.values() for point in look.points if point.place})
                axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks], minor=False)
                axes.set_xticks([], minor=True)
        else:
            axes.set_yticks(range(len(labels)), [label_of(label) for label in labels])
            axes.set(xlabel=f"{first.quantity} (%)", ylim=(len(labels) - 0.4, -0.6))
        axes.set_title(label_of(title))
        return entries

    said = "; ".join(
        f"{run}: " + ", ".join(f"{point.label} {point.rate:.2%}" for point in look.points)
        for run, look in looks.items()
    )
    captions = dict.fromkeys(look.caption for look in looks.values())
    return draw(folder, name, plot, alt=f"{first.quantity}, {title}: {said}", caption=" ".join(captions))


def _line(axes: Axes, look: Look, colour: str, label: str) -> list[LegendEntry]:
    """The points that have a place, joined, and a level for the one without."""
    placed = sorted((point for point in look.points if point.place is not None), key=lambda point: point.place or 0)
    reach = [[100 * max(0.0, p.rate - p.low) for p in placed], [100 * max(0.0, p.high - p.rate) for p in placed]]
    places, rates = [point.place or 0.0 for point in placed], [100 * point.rate for point in placed]
    drawn = axes.errorbar(places, rates, yerr=reach, marker="o", markersize=4, color=colour, capsize=2)
    entries: list[LegendEntry] = [(drawn, label)]
    for point in look.points:
        if point.place is None:
            level = axes.axhline(100 * point.rate, color=colour, linewidth=1.0, linestyle=(0, (1, 2)))
            entries.append((level, f"{label}, {point.label}"))
    return entries

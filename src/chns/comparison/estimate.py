"""How long the runs of a comparison take and what they need: counted for other hardware, measured for this machine."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from chns.comparison.runs import Length, PlannedRun
from chns.training.build import fitted, make_loss, read_data, starting_model
from chns.training.cost import ACCELERATORS, Accelerator, EncoderCost, StepCost, count_encoder, count_step
from chns.training.log import Speed
from chns.training.run import measure_steps

_log = logging.getLogger(__name__)

_AT_PEAK, _AT_HALF = 1, 2  # times the least time


@dataclass(frozen=True, eq=False, kw_only=True)
class Estimate:
    """What the runs of a comparison that are not trained yet take.

    Attributes:
        costs: Of a step, by strategy.
        runs_left: Runs to train, by strategy.
        num_steps: Of a run.
        speeds: Measured on this machine, by the first strategy of each encoder.
    """

    costs: Mapping[str, StepCost]
    runs_left: Mapping[str, int]
    num_steps: int
    speeds: Mapping[str, Speed]

    @property
    def crops_per_second(self) -> float:
        """Crops of the corpus that one core decodes."""
        return min(speed.crops_per_second for speed in self.speeds.values())

    def least_hours(self, strategy: str, device: Accelerator) -> float:
        """Least time of a run on a device."""
        cost = self.costs[strategy]
        chunk_size = cost.chunk_size(device.usable_bytes)
        return cost.least_seconds(device, chunk_size=chunk_size) * self.num_steps / 3600

    def decoding_cores(self, device: Accelerator, times_least: int) -> int:
        """Cores that decode as fast as the fastest strategy trains on a device, in a multiple of the least time."""
        rate = max(cost.num_segments / cost.least_seconds(device) for cost in self.costs.values())
        return math.ceil(rate / times_least / self.crops_per_second)

    def to_json(self) -> dict[str, Any]:
        """The numbers by name."""
        return {
            "steps": self.num_steps,
            "crops_per_second_and_core": self.crops_per_second,
            "measured": {name: asdict(speed) for name, speed in self.speeds.items()},
            "strategies": {
                name: {
                    "runs_left": self.runs_left[name],
                    "flop": cost.flop,
                    "moved_bytes": cost.moved_bytes,
                    "memory_bytes": cost.memory_bytes(),
                    "least_hours": {device.name: self.least_hours(name, device) for device in ACCELERATORS},
                }
                for name, cost in self.costs.items()
            },
        }


def estimate(runs: Sequence[PlannedRun], length: Length) -> Estimate:
    """Count a step of every strategy that is not trained yet, and measure ten of the first with each encoder.

    Args:
        runs: All of the comparison, checked; at least one of them not finished.
        length: Of each.

    Raises:
        AudioError, FileNotFoundError: If a recording cannot be read.
    """
    left = [run for run in runs if not run.is_finished]
    first = {run.strategy: run for run in reversed(left)}
    encoders: dict[str, EncoderCost] = {}
    costs: dict[str, StepCost] = {}
    speeds: dict[str, Speed] = {}
    for name in dict.fromkeys(run.strategy for run in left):
        manifest = read_data(first[name].settings)[0]
        settings, _ = fitted(first[name].settings, manifest)
        precision, crop_seconds = settings.train.precision, settings.data.crop_seconds
        key = repr((settings.encoder, settings.features, settings.train.start_from, precision, crop_seconds))
        _, model = starting_model(settings)
        if key not in encoders:
            encoders[key] = count_encoder(model, crop_seconds=crop_seconds, precision=precision)
            _log.info("%s: measuring this machine: a first step, then ten or as many as a minute has", name)
            speeds[name] = measure_steps(settings)
        costs[name] = count_step(
            encoders[key],
            make_loss(settings, model, manifest),
            num_speakers=settings.batches.wanted_speakers,
            utterances_per_speaker=settings.batches.utterances_per_speaker,
        )
    counts = Counter(run.strategy for run in left)
    return Estimate(costs=costs, runs_left=counts, num_steps=length.num_steps, speeds=speeds)


def describe_estimate(found: Estimate) -> str:
    """Three tables: what a step costs, hours on other hardware, and this machine."""
    num_runs = sum(found.runs_left.values())
    return "\n\n".join(
        [
            "Counted for one step (docs/reproduce_the_paper.md says how):",
            _table(["strategy", "GFLOP a segment", "TFLOP", "GB moved", "GB needed"], _step_rows(found)),
            f"Hours of a run of {found.num_steps:,} steps, without validation, if all of it runs at the peaks of the\n"
            "device's data sheet, and at half of them:",
            _table(["strategy", *(device.name for device in ACCELERATORS)], _hour_rows(found, num_runs)),
            f"One core makes {found.crops_per_second:,.0f} crops a second of this corpus.",
            "Measured on this machine, on random batches, ten steps or as many as a minute has:\n"
            + "\n".join(_measured(name, speed, found.num_steps) for name, speed in found.speeds.items()),
        ]
    )


def _step_rows(found: Estimate) -> list[list[str]]:
    return [
        [
            name,
            f"{cost.flop / cost.num_segments / 1e9:.3g}",
            f"{cost.flop / 1e12:.3g}",
            f"{cost.moved_bytes / 1e9:.3g}",
            f"{cost.memory_bytes() / 1e9:.3g}",
        ]
        for name, cost in found.costs.items()
    ]


def _hour_rows(found: Estimate, num_runs: int) -> list[list[str]]:
    rows = []
    for name, cost in found.costs.items():
        cells = []
        for device in ACCELERATORS:
            chunk_size = cost.chunk_size(device.usable_bytes)
            in_chunks = "" if chunk_size is None else f", in chunks of {chunk_size}"
            cells.append(_range(found.least_hours(name, device)) + in_chunks)
        rows.append([name, *cells])
    totals = [
        sum(number * found.least_hours(name, device) for name, number in found.runs_left.items())
        for device in ACCELERATORS
    ]
    runs = "the run" if num_runs == 1 else f"all {num_runs} runs"
    cores = [
        f"{found.decoding_cores(device, _AT_PEAK)} to {found.decoding_cores(device, _AT_HALF)}"
        for device in ACCELERATORS
    ]
    return [*rows, [runs, *map(_range, totals)], ["cores to decode", *cores]]


def _range(least_hours: float) -> str:
    return f"{_hours(_AT_PEAK * least_hours)} to {_hours(_AT_HALF * least_hours)}"


def _hours(hours: float) -> str:
    return f"{hours:.2g}" if hours < 10 else f"{hours:,.0f}"


def _measured(name: str, speed: Speed, num_steps: int) -> str:
    hours = _hours(speed.seconds_per_step * num_steps / 3600)
    return (
        f"- {name}: {speed.seconds_per_step:.3g} s a step, {100 * speed.wait_share:.0f} % of it waiting for data, "
        f"{speed.memory}: {hours} hours a run"
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in (head, *rows)
    )

"""What a comparison of strategies came to, read from the ``comparison.json`` that ``chns compare`` leaves."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from chns.core.errors import RunFolderError
from chns.core.files import bounded_text

FILE_NAME = "comparison.json"
_MOST_BYTES = 2**24
_METRICS = ("eer", "min_dcf_0.05", "min_dcf_0.01")


class ComparedValue(NamedTuple):
    """A cell of the table.

    Attributes:
        value: Mean over the seeds.
        difference: To the baseline with its interval, empty in the baseline's own row.
        is_measurable: Whether that interval leaves out zero.
    """

    value: str
    difference: str
    is_measurable: bool


class ComparedStrategy(NamedTuple):
    """A row of the table: EER, minDCF 0.05 and minDCF 0.01."""

    name: str
    cells: Sequence[ComparedValue]


@dataclass(frozen=True, kw_only=True)
class ComparedList:
    """The table of one trial list."""

    name: str
    speakers: int
    targets: int
    nontargets: int
    strategies: Sequence[ComparedStrategy]


@dataclass(frozen=True, kw_only=True)
class VerdictWords:
    """Whether hard sampling helped one strategy.

    Attributes:
        headline: In a sentence.
        caveats: What the numbers cannot say.
        findings: What in the logs may explain it.
        next_steps: What to try.
    """

    headline: str
    caveats: Sequence[str]
    findings: Sequence[str]
    next_steps: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A comparison, ready for the page.

    Attributes:
        baseline: The strategy that the others are compared with.
        seeds: Each strategy was trained with each.
        steps: Of each training.
        lists: Tables.
        verdicts: On the strategies with hard batches.
        runs: Folders of its trainings that there are.
    """

    baseline: str
    seeds: Sequence[int]
    steps: int
    lists: Sequence[ComparedList]
    verdicts: Sequence[VerdictWords]
    runs: Sequence[Path]


def read_comparison(folder: Path) -> Comparison:
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
        return Comparison(
            baseline=str(content["baseline"]),
            seeds=[int(seed) for seed in content["seeds"]],
            steps=int(content["steps"]),
            lists=[_compared_list(name, one) for name, one in content["trial_lists"].items()],
            verdicts=[_verdict(one) for one in content["verdicts"]],
            runs=[folder / training for training in trainings if training in inside],
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RunFolderError(
            f"{FILE_NAME} must be what `chns compare` writes, got something else in {path} "
            f"({type(error).__name__}: {error}). Run the same `chns compare` again."
        ) from error


def _compared_list(name: str, content: Mapping[str, Any]) -> ComparedList:
    return ComparedList(
        name=name,
        speakers=int(content["speakers"]),
        targets=int(content["target_trials"]),
        nontargets=int(content["nontarget_trials"]),
        strategies=[
            ComparedStrategy(strategy, [_cell(metric, metrics[metric]) for metric in _METRICS])
            for strategy, metrics in content["results"].items()
        ],
    )


def _cell(metric: str, content: Mapping[str, Any]) -> ComparedValue:
    scale, form = (100, ".2f") if metric == "eer" else (1, ".3f")
    value = f"{scale * content['mean']['estimate']:{form}}"
    difference = content["difference"]
    if difference is None:
        return ComparedValue(value, "", False)
    low, high = difference["low"], difference["high"]
    return ComparedValue(value, f"{scale * low:+{form}} to {scale * high:+{form}}", low > 0 or high < 0)


def _verdict(content: Mapping[str, Any]) -> VerdictWords:
    return VerdictWords(
        headline=str(content["headline"]),
        caveats=[str(caveat) for caveat in content["caveats"]],
        findings=[str(finding["text"]) for finding in content["findings"]],
        next_steps=[str(step) for step in content["next_steps"]],
    )

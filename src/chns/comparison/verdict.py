"""Whether hard sampling helped, in words that the numbers bear out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any, Literal

from chns.comparison import run_evidence as advice
from chns.comparison.rules import EXPLAIN_HELP, EXPLAIN_NO_HELP, Explanation
from chns.comparison.run_evidence import TwinEvidence
from chns.evaluation import Interval
from chns.training.folder import TrainSettings

Direction = Literal["lower", "higher", "no measurable difference"]


@dataclass(frozen=True, kw_only=True)
class Change:
    """What a strategy changes in an error rate, means over seeds.

    Attributes:
        trial_list: Name of the trial list.
        metric: ``eer`` (a fraction) or ``min_dcf_P`` with P the p_target, as `chns.evaluation.intervals` names them.
        before: Value of the strategy that it is compared with.
        difference: Its own value minus that, paired.
    """

    trial_list: str
    metric: str
    before: float
    difference: Interval

    @property
    def direction(self) -> Direction:
        """What can be said of it: only an interval without zero says something."""
        if not self.difference.excludes_zero:
            return "no measurable difference"
        return "lower" if self.difference.estimate < 0 else "higher"

    def __str__(self) -> str:
        if self.metric == "eer":
            name, scale, form, unit = "EER", 100, ".2f", " %"
        else:
            name, scale, form, unit = f"minDCF ({self.metric.removeprefix('min_dcf_')})", 1, ".3f", ""
        before, after = scale * self.before, scale * (self.before + self.difference.estimate)
        estimate, low, high = (
            scale * value for value in (self.difference.estimate, self.difference.low, self.difference.high)
        )
        said: str = self.direction
        if self.difference.excludes_zero and self.before > 0:
            said = f"{100 * abs(self.difference.estimate) / self.before:.0f} % {self.direction}"
        return (
            f"{self.trial_list}, {name}: {before:{form}}{unit} to {after:{form}}{unit}, "
            f"{estimate:+{form}} [{low:+{form}}, {high:+{form}}]: {said}"
        )

    def to_json(self) -> dict[str, Any]:
        """The numbers by name."""
        return {
            "trial_list": self.trial_list,
            "metric": self.metric,
            "before": self.before,
            "difference": self.difference.to_json(),
            "direction": self.direction,
        }


_BATCHES_THEMSELVES = ("batches.kind", "clusters.", "seed")


@dataclass(frozen=True)
class Twin:
    """The strategy with random batches that one with hard batches is judged against.

    Attributes:
        name: Its name.
        other_differences: Settings in which both differ besides how batches are composed; best none.
    """

    name: str
    other_differences: tuple[str, ...] = ()


def find_twins(strategies: Mapping[str, TrainSettings]) -> dict[str, Twin]:
    """The twin of each strategy with hard batches, if it has one.

    A twin has random batches and the same loss with the same settings. Of several, the one with the fewest other
    differences, of these the first.
    """
    twins = {}
    for name, settings in strategies.items():
        if settings.batches.kind == "random":
            continue
        candidates = [
            Twin(other, _differences(settings, candidate))
            for other, candidate in strategies.items()
            if candidate.batches.kind == "random" and candidate.loss == settings.loss
        ]
        if candidates:
            twins[name] = min(candidates, key=lambda twin: len(twin.other_differences))
    return twins


def _differences(first: TrainSettings, second: TrainSettings) -> tuple[str, ...]:
    one, other = dict(_flat(asdict(first))), dict(_flat(asdict(second)))
    names = sorted(name for name in {*one, *other} if one.get(name) != other.get(name))
    return tuple(name for name in names if not name.startswith(_BATCHES_THEMSELVES))


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


Judgement = Literal["helped", "hurt", "mixed", "none"]

_FEW_SEEDS = 3


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What hard batches did to a strategy, and what in the logs may explain it.

    Attributes:
        strategy: With hard batches.
        twin: Its twin with random ones.
        effect: ``helped`` if some error rate is measurably lower and none higher, ``hurt`` for the reverse, ``mixed``
            if both occur, ``none`` if no interval leaves out zero.
        changes: Each error rate that was looked at.
        num_seeds: Trainings of each strategy.
        findings: What in the logs may explain it; empty if nothing stands out.
        next_steps: What to try, best first.
    """

    strategy: str
    twin: Twin
    effect: Judgement
    changes: tuple[Change, ...]
    num_seeds: int
    findings: tuple[Explanation, ...]
    next_steps: tuple[str, ...]

    @property
    def headline(self) -> str:
        """The effect in a sentence."""
        lower, higher, total = (*_counts(self.changes), len(self.changes))
        effects = {
            "helped": f"helped: {lower} of {total} error rates are measurably lower, none is higher",
            "hurt": f"hurt: {higher} of {total} error rates are measurably higher, none is lower",
            "mixed": f"helped here, hurt there: {lower} of {total} error rates are measurably lower, {higher} higher",
            "none": f"made no measurable difference: none of {total} intervals leaves out zero",
        }
        return f"Hard sampling ({self.strategy} against {self.twin.name}) {effects[self.effect]}."

    @property
    def caveats(self) -> tuple[str, ...]:
        """What the numbers cannot say."""
        said = []
        if self.num_seeds == 1:
            said.append(
                "One seed: the intervals hold for other speakers, not for another training; nothing follows for that."
            )
        elif self.num_seeds < _FEW_SEEDS:
            said.append(f"{self.num_seeds} seeds: how much trainings differ by chance is known only roughly.")
        if self.effect != "none":
            level = self.changes[0].difference.level
            said.append(
                f"Intervals of {100 * level:.0f} %: of {len(self.changes)} looked at, "
                f"{(1 - level) * len(self.changes):.1f} would leave out zero by chance alone, were there no difference."
            )
        else:
            said.append("That is not the same as no difference: each interval says how large one could still be.")
        if self.twin.other_differences:
            names = ", ".join(self.twin.other_differences)
            said.append(f"Both also differ in {names}, so it is not the batches alone.")
        return tuple(said)

    def __str__(self) -> str:
        return in_words([self])

    @property
    def remarks(self) -> str:
        """Markdown: what is to be known beside the numbers, and what to try."""
        parts = [" ".join(self.caveats)]
        if self.findings:
            parts += ["What in the logs fits this:", _listed(finding.text for finding in self.findings)]
        else:
            parts += ["Nothing in the logs stands out that would explain it."]
        return "\n\n".join([*parts, "To try next:", _listed(self.next_steps)])

    def to_json(self) -> dict[str, Any]:
        """Numbers and words by name."""
        return {
            "strategy": self.strategy,
            "twin": asdict(self.twin),
            "effect": self.effect,
            "headline": self.headline,
            "caveats": list(self.caveats),
            "changes": [change.to_json() for change in self.changes],
            "seeds": self.num_seeds,
            "findings": [asdict(finding) for finding in self.findings],
            "next_steps": list(self.next_steps),
        }


def in_words(verdicts: Sequence[Verdict]) -> str:
    """Markdown: of each the headline and its error rates; remarks that neighbours share come once, after them."""
    parts: list[str] = []
    for remarks, same in groupby(verdicts, key=lambda verdict: verdict.remarks):
        for verdict in same:
            parts += [verdict.headline, _listed(map(str, verdict.changes))]
        parts.append(remarks)
    return "\n\n".join(parts)


def judge(strategy: str, twin: Twin, *, changes: Sequence[Change], num_seeds: int, evidence: TwinEvidence) -> Verdict:
    """Say what hard batches did.

    Args:
        strategy: Name of the strategy with hard batches.
        twin: What it is judged against, see `chns.comparison.verdict.find_twins`.
        changes: Its error rates against the twin's.
        num_seeds: Trainings of each.
        evidence: Logs of both.

    Raises:
        ValueError: If there is no change to judge.
    """
    if not changes:
        raise ValueError("changes must hold at least one error rate, got none.")
    effect = _effect(changes)
    rules = EXPLAIN_HELP if effect == "helped" else EXPLAIN_NO_HELP
    findings = tuple(finding for rule in rules if (finding := rule(evidence)) is not None)
    return Verdict(
        strategy=strategy,
        twin=twin,
        effect=effect,
        changes=tuple(changes),
        num_seeds=num_seeds,
        findings=findings,
        next_steps=_next_steps(effect, findings, num_seeds, evidence),
    )


def _counts(changes: Sequence[Change]) -> tuple[int, int]:
    directions = [change.direction for change in changes]
    return directions.count("lower"), directions.count("higher")


def _effect(changes: Sequence[Change]) -> Judgement:
    lower, higher = _counts(changes)
    if lower and higher:
        return "mixed"
    if lower:
        return "helped"
    return "hurt" if higher else "none"


def _next_steps(
    effect: Judgement, findings: Sequence[Explanation], num_seeds: int, evidence: TwinEvidence
) -> tuple[str, ...]:
    steps = [step for finding in findings for step in finding.try_next]
    if num_seeds < _FEW_SEEDS:
        steps.insert(0, f"seeds: {list(range(_FEW_SEEDS))}")
    if effect == "helped":
        steps += advice.more_of_it(evidence)
    if effect == "none" and num_seeds >= _FEW_SEEDS:
        steps.append(f"seeds: {list(range(2 * num_seeds))}, or more speakers in the trials: narrower intervals")
    return tuple(dict.fromkeys(steps or advice.less_hard(evidence)))


def _listed(items: Any) -> str:
    return "\n".join(f"- {item}" for item in items)

"""Whether hard sampling helped, in words that the numbers bear out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from chns.verdict import advice
from chns.verdict.change import Change
from chns.verdict.evidence import TwinEvidence
from chns.verdict.rules import EXPLAIN_HELP, EXPLAIN_NO_HELP, Finding
from chns.verdict.twins import Twin

Effect = Literal["helped", "hurt", "mixed", "none"]

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
    effect: Effect
    changes: tuple[Change, ...]
    num_seeds: int
    findings: tuple[Finding, ...]
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
        """Markdown: the headline, then lists."""
        parts = [self.headline, _listed(map(str, self.changes)), " ".join(self.caveats)]
        if self.findings:
            parts += ["What in the logs fits this:", _listed(finding.text for finding in self.findings)]
        else:
            parts += ["Nothing in the logs stands out that would explain it."]
        parts += ["To try next:", _listed(self.next_steps)]
        return "\n\n".join(parts)

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


def judge(strategy: str, twin: Twin, *, changes: Sequence[Change], num_seeds: int, evidence: TwinEvidence) -> Verdict:
    """Say what hard batches did.

    Args:
        strategy: Name of the strategy with hard batches.
        twin: What it is judged against, see `chns.verdict.find_twins`.
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


def _effect(changes: Sequence[Change]) -> Effect:
    lower, higher = _counts(changes)
    if lower and higher:
        return "mixed"
    if lower:
        return "helped"
    return "hurt" if higher else "none"


def _next_steps(effect: Effect, findings: Sequence[Finding], num_seeds: int, evidence: TwinEvidence) -> tuple[str, ...]:
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

"""Findings, counted by kind."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from chns.data.check.corpus import Check
from chns.data.check.findings import Finding, action
from chns.data.check.kinds import KINDS


class KindSummary(NamedTuple):
    """One kind that was found.

    Attributes:
        kind: One of `KINDS`.
        number: Utterances, or speakers.
        action: What becomes of them in a corrected manifest: ``drop``, ``correct`` or ``keep``.
        example: Utterance or speaker of the first of them.
        detail: What was found of it.
    """

    kind: str
    number: int
    action: str
    example: str
    detail: str


def summary_by_kind(check: Check) -> list[KindSummary]:
    """The kinds that were found, in the order of `KINDS`."""
    counts = Counter(finding.kind for finding in check.findings)
    first: dict[str, Finding] = {}
    for finding in check.findings:
        first.setdefault(finding.kind, finding)
    return [
        KindSummary(
            kind=kind,
            number=counts[kind],
            action=action(kind, check.also_drop),
            example=first[kind].speaker if first[kind].row is None else check.manifest[first[kind].row or 0].name,
            detail=first[kind].detail,
        )
        for kind in KINDS
        if kind in counts
    ]

"""Did hard sampling help, and what in the logs explains it? From numbers and logs to words; nothing is read or run."""

from chns.verdict.change import Change
from chns.verdict.evidence import ConditionMixing, TwinEvidence, condition_mixing
from chns.verdict.judgement import Verdict, judge
from chns.verdict.rules import Finding
from chns.verdict.twins import Twin, find_twins

__all__ = [
    "Change",
    "ConditionMixing",
    "Finding",
    "Twin",
    "TwinEvidence",
    "Verdict",
    "condition_mixing",
    "find_twins",
    "judge",
]

"""Listen through a corpus for what would spoil a training: ``check_manifest`` in ``corpus.py``."""

from chns.data.check.corpus import Check, KindSummary, check_manifest, measure_manifest, summary_by_kind
from chns.data.check.findings import KINDS, Finding, Kind, Limits

__all__ = [
    "KINDS",
    "Check",
    "Finding",
    "Kind",
    "KindSummary",
    "Limits",
    "check_manifest",
    "measure_manifest",
    "summary_by_kind",
]

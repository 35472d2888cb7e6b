"""Listen through a corpus for what would spoil a training: ``check_manifest`` in ``corpus.py``."""

from chns.data.check.corpus import Check, check_manifest
from chns.data.check.findings import Finding, Limits
from chns.data.check.kinds import KINDS, Kind
from chns.data.check.summary import KindSummary, summary_by_kind

__all__ = ["KINDS", "Check", "Finding", "Kind", "KindSummary", "Limits", "check_manifest", "summary_by_kind"]

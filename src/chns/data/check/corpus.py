"""Check a corpus: decode every utterance, judge, count, report, correct the manifest.

Measured on one core, shared with other work: 8,473 real recordings in 36 s of processor time. VoxCeleb2 excerpts as
FLAC: 280 a second, 1,800 times real time. Opus, where decoding is most of it: 120 a second of speechocean762, 490 times
real time, and 420 a second of Speech Commands.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from chns.core import JobPart, ManifestError, atomic_path
from chns.data.check.findings import CORRECT, DROP, KINDS, Finding, Limits, action, find, require_kinds, rows_to_drop
from chns.data.check.measures import measure_utterance
from chns.data.manifest import Manifest, numbers, with_columns
from chns.data.resumable import forget, process_utterances

_MEASURES = pa.schema(
    {
        "problem": pa.string(),
        "detail": pa.string(),
        "sample_rate_hz": pa.int32(),
        "duration_seconds": pa.float64(),
        "level_dbfs": pa.float64(),
        "clipped_share": pa.float64(),
        "silent_share": pa.float64(),
        "peak": pa.float64(),
        "dc_offset": pa.float64(),
        "high_band_db": pa.float64(),
        "digest": pa.binary(),
    }
)
_REPORT = pa.schema(
    {
        "utterance": pa.string(),
        "speaker": pa.string(),
        "finding": pa.string(),
        "action": pa.string(),
        "value": pa.float64(),
        "detail": pa.string(),
    }
)


@dataclass(frozen=True, kw_only=True)
class Check:
    """What checking a corpus came to.

    Attributes:
        manifest: What was checked.
        measures: One row an utterance; see `Measures`.
        findings: In the order of `KINDS`, then of the manifest.
        also_drop: Kinds that are dropped although that is not their default.
        kept: Folder of what an interrupted check goes on from.
    """

    manifest: Manifest
    measures: pa.Table
    findings: list[Finding]
    also_drop: frozenset[str]
    kept: Path

    @property
    def needs_fixing(self) -> bool:
        """Whether a corrected manifest would differ."""
        return any(action(finding.kind, self.also_drop) in (DROP, CORRECT) for finding in self.findings)

    def write(self, path: Path) -> None:
        """Write the findings as Parquet, atomically, then delete what was kept for going on.

        Columns: utterance (empty where the speaker is meant), speaker, finding, action, value, detail.
        """
        names = self.manifest.column("utterance")
        rows = [
            {
                "utterance": None if finding.row is None else names[finding.row],
                "speaker": finding.speaker,
                "finding": finding.kind,
                "action": action(finding.kind, self.also_drop),
                "value": finding.value,
                "detail": finding.detail,
            }
            for finding in self.findings
        ]
        with atomic_path(path) as temporary:
            pq.write_table(pa.Table.from_pylist(rows, schema=_REPORT), temporary, compression="zstd")
        forget(self.kept)

    def fixed_manifest(self) -> Manifest:
        """The manifest without what is to be dropped, and with durations and rates as they are.

        Raises:
            ManifestError: If nothing is left.
        """
        left = np.flatnonzero(~rows_to_drop(self.manifest, self.findings, self.also_drop))
        if not len(left):
            raise ManifestError(f"manifest must hold a usable utterance, got none of {len(self.manifest)}.")
        columns = {}
        for kind, name in (("wrong_duration", "duration_seconds"), ("wrong_rate", "sample_rate_hz")):
            values = numbers(self.manifest, name).copy()
            for finding in self.findings:
                if finding.kind == kind:
                    values[finding.row] = finding.value
            columns[name] = values
        return with_columns(self.manifest, columns).take(left)


def check_manifest(
    manifest: Manifest,
    *,
    kept: Path,
    limits: Limits | None = None,
    also_drop: Collection[str] = (),
    jobs: int | None = None,
) -> Check:
    """Decode all utterances and find what would spoil a training.

    A manifest in which each utterance starts at 0 and has a file of its own is taken to hold whole files: those are
    decoded to their end, and their length must be the one stated. Otherwise the stated parts are decoded.

    Args:
        manifest: The utterances.
        kept: Folder in which an interrupted check keeps what is done.
        limits: What depends on the corpus.
        also_drop: Further kinds of findings to drop.
        jobs: Processes at most; by default one a core, and none for few utterances. They are spawned: a script that
            calls this needs the usual ``if __name__ == "__main__":``.

    Raises:
        ValueError: If jobs, a limit or a kind is out of range.
        ChnsError: If a package is missing that a format needs.
    """
    limits = limits or Limits()
    require_kinds(also_drop)
    measures = measure_manifest(manifest, kept=kept, jobs=jobs)
    whole_files = _holds_whole_files(manifest)
    findings = find(manifest, measures, whole_files=whole_files, limits=limits, also_drop=also_drop)
    return Check(manifest=manifest, measures=measures, findings=findings, also_drop=frozenset(also_drop), kept=kept)


def measure_manifest(
    manifest: Manifest, *, kept: Path, jobs: int | None = None, part: JobPart | None = None
) -> pa.Table:
    """The first half of `check_manifest`, and nearly all of the work: decode utterances and measure them.

    Args:
        manifest: The utterances.
        kept: Folder in which what is done is kept for `check_manifest`.
        jobs: As of `check_manifest`.
        part: The part of the utterances that is to be measured; by default all.

    Returns:
        Columns as `Measures`, one row an utterance; of a part, its utterances.

    Raises:
        ValueError: If jobs is below 1.
        ChnsError: If a package is missing that a format needs.
    """
    whole_files = _holds_whole_files(manifest)
    return process_utterances(
        partial(measure_utterance, whole_file=whole_files),
        manifest,
        schema=_MEASURES,
        settings=f"check 2, whole files: {whole_files}",
        kept=kept,
        purpose="checking",
        jobs=jobs,
        part=part,
    )


def _holds_whole_files(manifest: Manifest) -> bool:
    paths = pa.array(manifest.column("path"))
    return not numbers(manifest, "offset_seconds").any() and pc.count_distinct(paths).as_py() == len(paths)


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

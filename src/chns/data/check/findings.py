"""What a check finds: kinds, thresholds, copies, and speakers with too little.

``drop`` is for what cannot be trained on or teaches something wrong, ``correct`` for a manifest that is wrong about
good audio, ``keep`` for what deserves a look. Nothing of the last is certain to harm; whoever knows their corpus can
have it dropped as well.

The thresholds are conservative: what they call bad is bad, and much that is mediocre passes. What they cannot see:
copies with other samples (encoded with loss, cut otherwise, louder), damage inside a WAV or Vorbis file that
decodes all the same, clipping that was made quieter afterwards, speech that is not there (noise counts as sound; see
``chns.data.speech_activity``), telephone speech that was encoded with loss after resampling. Of 50 VoxCeleb2 excerpts
resampled to 8 kHz and back, 88 % are called narrow as FLAC and none as Opus; of 2,691 others none is, the nearest has
-64 dB above the telephone band.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from chns.core import BoolArray, Float64Array, IntArray
from chns.data.check.measures import DURATION_TOLERANCE_SECONDS
from chns.data.manifest import Manifest, numbers, plain_letters, same_looking
from chns.data.quality import CLIPPED_SHARE, LARGEST_SAMPLE, QUIET_DBFS

DROP, CORRECT, KEEP = "drop", "correct", "keep"


class Kind(NamedTuple):
    """One kind of finding.

    Attributes:
        action: What becomes of the utterance by default: ``drop``, ``correct`` or ``keep``.
        meaning: What was found.
        advice: What to do about it.
    """

    action: str
    meaning: str
    advice: str


KINDS = {
    "missing": Kind(DROP, "no such file", "Restore the files, or prepare the corpus anew."),
    "undecodable": Kind(DROP, "cannot be decoded", "Copy or download the files again."),
    "truncated": Kind(DROP, "cut off or damaged, less audio than promised", "Copy or download the files again."),
    "misstated": Kind(
        DROP, "more audio than the header says (joined, chained)", "Write the files anew, in one stream."
    ),
    "not_finite": Kind(DROP, "samples are not numbers", "Write the files again; something divided by zero."),
    "out_of_scale": Kind(DROP, "samples far beyond full scale", "Write the files again with full scale at 1."),
    "silent": Kind(DROP, "nothing above -60 dBFS", "Look whether the wrong channel was taken."),
    "too_short": Kind(DROP, "too short to hold a voice", "Change the limit with --min-seconds."),
    "duplicate": Kind(DROP, "the same samples as another utterance of the speaker", "One of each is kept."),
    "shared_by_speakers": Kind(
        DROP, "the same samples under several speakers", "All are dropped: one name is wrong, and which is not known."
    ),
    "wrong_duration": Kind(
        CORRECT, "another length than the manifest says", "Prepare the corpus anew if files changed."
    ),
    "wrong_rate": Kind(
        CORRECT, "another sample rate than the manifest says", "Prepare the corpus anew if files changed."
    ),
    "too_long": Kind(KEEP, "longer than utterances are", "Look whether recordings with several speakers are uncut."),
    "mostly_silent": Kind(KEEP, "at least 90 % below -60 dBFS", "Cut the silence off: `chns speech --trim`."),
    "quiet": Kind(KEEP, "mean level below -50 dBFS", "Listen whether noise drowns the voice."),
    "clipped": Kind(KEEP, "more than 0.1 % of the samples at full scale", "Harmless if rare; see --drop."),
    "dc_offset": Kind(KEEP, "mean above 2 % of full scale", "Harmless to the features; look at the sound card."),
    "narrow_band": Kind(
        KEEP, "nothing above the telephone band", "Were telephone recordings resampled? Train with them knowingly."
    ),
    "same_looking": Kind(
        KEEP,
        "speaker whose name looks like another's",
        "If they are one person, give both one name: `chns prepare csv` on the manifest does.",
    ),
    "few_utterances": Kind(KEEP, "speaker with too few usable utterances", "The samplers leave such speakers out."),
    "few_sessions": Kind(
        KEEP, "speaker with too few sessions", "A model may learn their microphones and rooms instead of voices."
    ),
}
"""In the order of reports."""


def groups_of_copies(digests: Sequence[bytes | None]) -> Iterator[IntArray]:
    """Rows with equal digests, two or more at a time, each ascending.

    Args:
        digests: One a row, of equal lengths; a row without one has no copies.
    """
    known = np.array([row for row, digest in enumerate(digests) if digest is not None], np.int64)
    if not len(known):
        return
    values = np.array([digest.hex() for digest in digests if digest is not None])
    order = np.argsort(values, kind="stable")
    beginnings = np.flatnonzero(np.r_[True, values[order][1:] != values[order][:-1]])
    for group in np.split(order, beginnings[1:]):
        if len(group) > 1:
            yield known[group]


MOSTLY_SILENT_SHARE = 0.9
DC_OFFSET = 0.02
NARROW_BAND_DB = -70.0


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What depends on the corpus and its use.

    Attributes:
        min_seconds: Shorter utterances are too short; 0.5 keeps single spoken words.
        max_seconds: Longer ones are too long; beyond 180 s an embedding does not look.
        min_utterances: That a speaker needs; a positive pair takes two.
        min_sessions: That a speaker needs, if the manifest knows sessions.
    """

    min_seconds: float = 0.5
    max_seconds: float = 180.0
    min_utterances: int = 2
    min_sessions: int = 2

    def __post_init__(self) -> None:
        if not 0 <= self.min_seconds < self.max_seconds:
            raise ValueError(
                f"min_seconds must be a number from 0 below max_seconds, got {self.min_seconds} and {self.max_seconds}."
            )
        if min(self.min_utterances, self.min_sessions) < 1:
            raise ValueError(
                f"min_utterances and min_sessions must be at least 1, got {self.min_utterances} and "
                f"{self.min_sessions}."
            )


class Finding(NamedTuple):
    """One thing found.

    Attributes:
        kind: One of `KINDS`.
        speaker: Whose.
        row: Of the manifest; none for a finding about the speaker.
        value: What was measured, in the unit of the kind.
        detail: In words.
    """

    kind: str
    speaker: str
    row: int | None
    value: float | None
    detail: str


def find(
    manifest: Manifest, measures: pa.Table, *, whole_files: bool, limits: Limits, also_drop: Collection[str] = ()
) -> list[Finding]:
    """What is wrong with a corpus.

    Args:
        manifest: The utterances.
        measures: Those of `Measures`, one row an utterance.
        whole_files: Whether each utterance is one whole file.
        limits: What depends on the corpus.
        also_drop: Kinds whose utterances are dropped although that is not their default: speakers are judged by what
            remains.

    Returns:
        In the order of `KINDS`, then of the manifest.
    """
    found = [*_problems(manifest, measures)]
    found += _beyond_thresholds(manifest, measures, limits)
    found += _wrong_in_manifest(manifest, measures, whole_files)
    found += _copies(manifest, measures)
    found += _same_looking(manifest)
    found += _poor_speakers(manifest, rows_to_drop(manifest, found, also_drop), limits)
    order = list(KINDS)
    return sorted(found, key=lambda finding: (order.index(finding.kind), finding.row or 0))


def require_kinds(names: Collection[str]) -> None:
    """Check names of kinds.

    Raises:
        ValueError: If one is unknown.
    """
    for name in names:
        if name not in KINDS:
            raise ValueError(f"kind to drop must be one of {', '.join(KINDS)}, got {name!r}.")


def action(kind: str, also_drop: Collection[str]) -> str:
    """What becomes of the utterances of a finding."""
    return DROP if kind in also_drop else KINDS[kind].action


def rows_to_drop(manifest: Manifest, findings: Sequence[Finding], also_drop: Collection[str]) -> BoolArray:
    """Which utterances a corrected manifest leaves out, shape (utterances,)."""
    dropped = np.zeros(len(manifest), np.bool_)
    dropping = [finding for finding in findings if action(finding.kind, also_drop) == DROP]
    dropped[[finding.row for finding in dropping if finding.row is not None]] = True
    speakers = {finding.speaker for finding in dropping if finding.row is None}
    labels = [label for label, speaker in enumerate(manifest.speakers) if speaker in speakers]
    return dropped | np.isin(manifest.speaker_labels, labels)


def _problems(manifest: Manifest, measures: pa.Table) -> Iterator[Finding]:
    for row in np.flatnonzero(pc.is_valid(measures["problem"]).to_numpy()).tolist():
        kind, detail = (measures[name][row].as_py() for name in ("problem", "detail"))
        yield Finding(kind, _speaker(manifest, row), row, measures["duration_seconds"][row].as_py(), detail)


def _beyond_thresholds(manifest: Manifest, measures: pa.Table, limits: Limits) -> Iterator[Finding]:
    def column(name: str) -> Float64Array:
        """NaN where there is none, and for an utterance with a problem; NaN is beyond no threshold."""
        return np.asarray(pc.if_else(is_whole, measures[name], None).to_numpy(), np.float64)

    is_whole = pc.is_null(measures["problem"])
    seconds, silent, level = column("duration_seconds"), column("silent_share"), column("level_dbfs")
    peak, clipped, offset, band = (column(n) for n in ("peak", "clipped_share", "dc_offset", "high_band_db"))
    in_scale, audible = ~(peak > LARGEST_SAMPLE), level >= QUIET_DBFS
    judged: list[tuple[str, BoolArray, Float64Array, str]] = [
        ("out_of_scale", ~in_scale, peak, "peak {:.4g}"),
        ("silent", silent == 1, level, "mean level {:.0f} dBFS"),
        ("too_short", seconds < limits.min_seconds, seconds, "{:.3f} s"),
        ("too_long", seconds > limits.max_seconds, seconds, "{:.0f} s"),
        ("mostly_silent", (silent >= MOSTLY_SILENT_SHARE) & (silent < 1), silent, "{:.1%} silent"),
        ("quiet", ~audible & (silent < 1), level, "mean level {:.0f} dBFS"),
        ("clipped", (clipped > CLIPPED_SHARE) & in_scale, clipped, "{:.2%} of the samples"),
        ("dc_offset", (np.abs(offset) > DC_OFFSET) & in_scale, offset, "mean {:+.3f}"),
        ("narrow_band", (band < NARROW_BAND_DB) & audible, band, "{:.0f} dB above 4.25 kHz"),
    ]
    for kind, is_beyond, values, words in judged:
        for row in np.flatnonzero(is_beyond).tolist():
            value = float(values[row])
            yield Finding(kind, _speaker(manifest, row), row, value, words.format(value).replace("%", " %"))


def _wrong_in_manifest(manifest: Manifest, measures: pa.Table, whole_files: bool) -> Iterator[Finding]:
    is_whole = pc.is_null(measures["problem"]).to_numpy()
    seconds, rates = (
        np.asarray(measures[name].to_numpy(), np.float64) for name in ("duration_seconds", "sample_rate_hz")
    )
    stated_seconds, stated_rates = manifest.durations_seconds, numbers(manifest, "sample_rate_hz")
    missing = stated_seconds - seconds
    is_wrong = (np.abs(missing) if whole_files else missing) > DURATION_TOLERANCE_SECONDS
    for row in np.flatnonzero(is_whole & is_wrong).tolist():
        detail = f"{seconds[row]:.3f} s, manifest says {stated_seconds[row]:.3f} s"
        yield Finding("wrong_duration", _speaker(manifest, row), row, float(seconds[row]), detail)
    for row in np.flatnonzero(is_whole & (rates != stated_rates)).tolist():
        detail = f"{rates[row]:.0f} Hz, manifest says {stated_rates[row]:.0f} Hz"
        yield Finding("wrong_rate", _speaker(manifest, row), row, float(rates[row]), detail)


def _copies(manifest: Manifest, measures: pa.Table) -> Iterator[Finding]:
    """Copies among utterances that are whole and not silent: silence is alike everywhere."""
    comparable = pc.and_(pc.is_null(measures["problem"]), pc.less(measures["silent_share"], 1.0))
    digests = pc.if_else(pc.fill_null(comparable, False), measures["digest"], None).to_pylist()
    for group in groups_of_copies(digests):
        rows = group.tolist()
        utterances = [manifest[row] for row in rows]
        speakers = [utterance.speaker for utterance in utterances]
        if len(set(speakers)) == 1:
            for row in rows[1:]:
                detail = f"same samples as {utterances[0].name}"
                yield Finding("duplicate", speakers[0], row, float(len(rows)), detail)
            continue
        for row, own in zip(rows, speakers, strict=True):
            other = next(utterance for utterance in utterances if utterance.speaker != own)
            detail = f"same samples as {other.name} of speaker {other.speaker}"
            yield Finding("shared_by_speakers", own, row, float(len(rows)), detail)


def _same_looking(manifest: Manifest) -> Iterator[Finding]:
    for names in same_looking(manifest.speakers, spelling=plain_letters):
        for name in names:
            others = ", ".join(ascii(other) for other in names if other != name)
            yield Finding("same_looking", name, None, float(len(names)), f"{name!a} looks like {others}")


def _poor_speakers(manifest: Manifest, dropped: BoolArray, limits: Limits) -> Iterator[Finding]:
    labels = manifest.speaker_labels[~dropped]
    counts = np.bincount(labels, minlength=len(manifest.speakers))
    for label in np.flatnonzero(counts < limits.min_utterances).tolist():
        detail = f"{counts[label]} usable, {limits.min_utterances} needed"
        yield Finding("few_utterances", manifest.speakers[label], None, float(counts[label]), detail)
    if "session" not in manifest.column_names:
        return
    sessions: dict[int, set[str]] = {}
    for label, session, is_dropped in zip(
        manifest.speaker_labels.tolist(), manifest.column("session"), dropped.tolist(), strict=True
    ):
        if session and not is_dropped:
            sessions.setdefault(label, set()).add(session)
    for label in sorted(sessions):
        if len(sessions[label]) < limits.min_sessions:
            detail = f"{len(sessions[label])} sessions, {limits.min_sessions} needed"
            yield Finding("few_sessions", manifest.speakers[label], None, float(len(sessions[label])), detail)


def _speaker(manifest: Manifest, row: int) -> str:
    return manifest.speakers[int(manifest.speaker_labels[row])]

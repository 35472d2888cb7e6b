"""Many recordings at once: everybody of a manifest enrolled, everything in it identified, a store of another model.

Recordings are decoded in other processes and heard as `Verifier` hears a single one, so it makes no difference how
somebody was enrolled. A model on torch takes them in batches of like length, a graph one after the other.

All of this can be killed at any moment. People are enrolled one by one, each on the disk before the next; whoever
is in the store with a recording is not enrolled with it again. What was identified is kept beside the results until
these are whole.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple, TextIO, get_args

import numpy as np
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from chns.core import AudioError, Float32Array, ManifestError, ModelFileError, atomic_path, in_short, table_cell
from chns.data import Manifest, Quality, file_channels_differ, joint_quality, proven_info
from chns.data.augmentation.speed import speed_factors
from chns.data.storage.packed import Recording
from chns.inference.listening import Part, file_windows, measured_windows, named_source, source_name
from chns.inference.verifier import Embedding, Verifier, joint_embedding
from chns.store.voiceprints import VoiceprintStore, identified, plain_name

_BATCH_SECONDS = 120.0
_SORTED_SECONDS = 1_200.0
_LONG_SECONDS = 180.0  # longer ones are not decoded whole
_GUESSED_SECONDS = 10.0

Opens = Callable[[], VoiceprintStore]
Result = Literal["enrolled", "present", "rejected"]


class Wanted(NamedTuple):
    """A recording to be heard.

    Attributes:
        utterance: Its name.
        speaker: Who is said to speak.
        recording: Where it is.
        part: The part of it that is meant; None for all.
        channel: The channel that is heard, from 0; None for the mean of all.
    """

    utterance: str
    speaker: str
    recording: Recording
    part: Part | None
    channel: int | None

    @property
    def source(self) -> str:
        """What a store keeps of it."""
        return source_name(self.recording, self.part, self.channel)


class Outcome(NamedTuple):
    """What became of a recording.

    Attributes:
        utterance: Its name in the manifest; its source where there is no manifest.
        speaker: Whose it is.
        outcome: "present" was enrolled before.
        reason: Why it was rejected.
        warnings: Why the voiceprint may be a bad one.
    """

    utterance: str
    speaker: str
    outcome: Result
    reason: str = ""
    warnings: str = ""


class Known(NamedTuple):
    """What is kept of somebody beside the voiceprint; see `chns.store.content.Voiceprint`."""

    note: str | None = None
    enrolled_at: datetime | None = None


class Identification(NamedTuple):
    """Who an utterance sounds like.

    Attributes:
        utterance: Its name.
        speaker: Who speaks, by the manifest.
        identified: Who it is taken for; empty for nobody.
        best: The most similar person.
        score: Of that person.
        second: The runner-up.
        second_score: Of the runner-up.
        rejected: Why it could not be heard; then all others are empty.
        warnings: Why the answer may be wrong.
    """

    utterance: str
    speaker: str
    identified: str = ""
    best: str = ""
    score: str = ""
    second: str = ""
    second_score: str = ""
    rejected: str = ""
    warnings: str = ""


class Measures(NamedTuple):
    """How well people were identified, where the manifest's speakers are the store's people.

    Attributes:
        known: Utterances of enrolled people.
        right: How many of them were identified as who they are.
        named: Utterances that were identified as somebody.
        strangers: Utterances of people who are not enrolled.
        strangers_named: How many of these were identified as somebody.
        left_out: Utterances that are themselves enrolled and say nothing about others; not among the above.
    """

    known: int
    right: int
    named: int
    strangers: int
    strangers_named: int
    left_out: int

    @property
    def recall(self) -> float | None:
        """Share of the utterances of enrolled people that were identified as who they are."""
        return self.right / self.known if self.known else None

    @property
    def precision(self) -> float | None:
        """Share of those identified that were identified rightly."""
        return self.right / self.named if self.named else None


def wanted_of(manifest: Manifest, *, channel: int | None = None) -> list[Wanted]:
    """The utterances of a manifest.

    Args:
        manifest: The utterances.
        channel: Of those for which the manifest names none.

    Raises:
        ManifestError: If it has speeds: what is played faster is nobody's voice.
    """
    if speed_factors(manifest) is not None:
        raise ManifestError("manifest must be of recordings as they are, got speeds. Take that of the recordings.")
    rows = map(manifest.__getitem__, range(len(manifest)))
    return [
        Wanted(
            row.name,
            row.speaker,
            row.path,
            Part(row.offset_seconds, row.duration_seconds),
            channel if row.channel is None else row.channel,
        )
        for row in rows
    ]


def enrol_many(
    verifier: Verifier,
    open_store: Opens,
    wanted: Sequence[Wanted],
    *,
    known: Callable[[str], Known] = lambda _: Known(),
    add: bool = False,
    workers: int = 2,
) -> list[Outcome]:
    """Enrol everybody, each person whole or not at all.

    Somebody who is in the store with some of these recordings, as after a kill, gets those that are missing. Somebody
    who is there with other recordings is rejected, because two people of one name would become one voiceprint.

    Args:
        verifier: The model.
        open_store: Opens the store; called twice, because no open one may be handed to the processes that decode.
        wanted: The recordings.
        known: What is to be kept of a person, by name.
        add: Add to people who are there with other recordings.
        workers: Processes that decode.

    Returns:
        One for each of ``wanted``, in its order.

    Raises:
        ModelFileError, TimeoutError, OSError: Of the store or the model; everybody enrolled so far stays so.
    """
    with open_store() as store:
        present = {person.name: set(person.sources) for person in store.voiceprints()}
    people: dict[str, list[int]] = {}
    outcomes: dict[int, Outcome] = {}
    for row, one in enumerate(wanted):
        people.setdefault(one.speaker, []).append(row)
    for speaker, rows in people.items():
        outcomes |= _settled(speaker, [wanted[row] for row in rows], rows, present, add=add)
    waiting = {speaker: len([row for row in rows if row not in outcomes]) for speaker, rows in people.items()}
    heard_of: dict[str, dict[int, Embedding]] = {}
    todo = [row for row in range(len(wanted)) if row not in outcomes]
    with ExitStack() as opened:
        hearing = _heard(verifier, [wanted[row] for row in todo], workers=workers, purpose="enrolling")
        store = opened.enter_context(open_store())
        for place, heard in hearing:
            row, one = todo[place], wanted[todo[place]]
            waiting[one.speaker] -= 1
            if isinstance(heard, str):
                outcomes[row] = Outcome(one.utterance, one.speaker, "rejected", heard)
            else:
                heard_of.setdefault(one.speaker, {})[row] = heard
            if not waiting[one.speaker] and one.speaker in heard_of:
                whole = heard_of.pop(one.speaker)
                adds = add or plain_name(one.speaker) in present
                outcomes |= _enrolled(store, one.speaker, whole, wanted, known(one.speaker), add=adds)
    return [outcomes[row] for row in range(len(wanted))]


def re_embed(
    verifier: Verifier,
    old: VoiceprintStore,
    open_new: Opens,
    *,
    manifest: Sequence[Wanted] | None = None,
    workers: int = 2,
) -> list[Outcome]:
    """Enrol the people of a store in that of another model; the old store is only read.

    Times of enrolment and notes go with them.

    Args:
        verifier: The new model.
        old: The store.
        open_new: Opens the new store; see `enrol_many`.
        manifest: Recordings of its people, and perhaps of others, who are passed over. By default those that the store
            names.
        workers: Processes that decode.

    Returns:
        One a recording, and one, rejected, for each person of whom there is none and each recording that is gone.

    Raises:
        ValueError: If the model is that of the old store.
        ModelFileError, TimeoutError, OSError: As `enrol_many`.
    """
    if verifier.model_digest == old.model_digest:
        raise ValueError(f"model must be another than that of the store, got the same, {old.model_digest[:12]}.")
    people = {person.name: person for person in old.voiceprints()}
    gone: list[Outcome] = []
    wanted: list[Wanted] = []
    if manifest is None:
        for person in people.values():
            for source in person.sources:
                found = None if source is None else named_source(source)
                if source is not None and found is not None:
                    wanted.append(Wanted(source, person.name, *found))
                    continue
                reason = f"recording must be a file, got {source or 'none that is known'}. Give a manifest."
                gone.append(Outcome(source or "", person.name, "rejected", reason))
    else:
        wanted = [one for one in manifest if _name_or_none(one.speaker) in people]
        without = people.keys() - {plain_name(one.speaker) for one in wanted}
        reason = "manifest must hold recordings of everybody in the store, got none of this person."
        gone = [Outcome("", name, "rejected", reason) for name in people if name in without]

    def known(speaker: str) -> Known:
        person = people[plain_name(speaker)]
        return Known(person.note, person.enrolled_at)

    return [*enrol_many(verifier, open_new, wanted, known=known, workers=workers), *gone]


def identify_many(
    verifier: Verifier,
    open_store: Opens,
    wanted: Sequence[Wanted],
    *,
    out: Path,
    score_by: str = "voiceprint",
    margin: float = 0.0,
    false_positive_rate: float | None = None,
    workers: int = 2,
) -> tuple[Measures, float, int]:
    """Tell who speaks in each utterance, and write it as CSV, in the order of ``wanted``.

    What is done is kept in ``OUT.part`` until all is; the same call goes on from there, if model, store, utterances
    and rule are the same.

    Args:
        verifier: The model, and its threshold.
        open_store: Opens the store; see `enrol_many`.
        wanted: The utterances.
        out: The table, with the columns of `Identification`; only the owner may read it.
        score_by: See `VoiceprintStore.identify`.
        margin: See `chns.store.voiceprints.identified`.
        false_positive_rate: Takes the threshold from the store, see `VoiceprintStore.open_set_threshold`.
        workers: Processes that decode.

    Returns:
        The measures, the threshold, and how many utterances could not be heard.

    Raises:
        ValueError: If there is no threshold; further ones as `VoiceprintStore.identify`.
    """
    with open_store() as store:
        people = store.voiceprints()
        if false_positive_rate is None:
            threshold = verifier.threshold
        else:
            threshold = store.open_set_threshold(false_positive_rate, score_by=score_by)
    key = hashlib.sha256(repr((verifier.model_digest, score_by, margin, threshold)).encode())
    for one in wanted:
        key.update(repr((one.utterance, one.speaker, one.part, one.channel)).encode())
    for person in people:
        key.update(person.name.encode() + person.vector.tobytes())
    part = out.with_name(f"{out.name}.part")
    rows = _kept(part, key.hexdigest())
    todo = [row for row in range(len(wanted)) if row not in rows]
    with ExitStack() as opened:
        hearing = _heard(verifier, [wanted[row] for row in todo], workers=workers, purpose="identifying")
        store = opened.enter_context(open_store())
        keeping = opened.enter_context(_appended(part, key.hexdigest(), begun=bool(rows)))
        lines = csv.writer(keeping, lineterminator="\n")
        for place, heard in hearing:
            one = wanted[todo[place]]
            found = Identification(one.utterance, one.speaker)
            if isinstance(heard, str):
                found = found._replace(rejected=heard)
            else:
                matches = store.identify(heard.vector, top=2, score_by=score_by)
                who = identified(matches, threshold=threshold, margin=margin) or ""
                named = [text for match in matches for text in (match.name, f"{match.score:.6f}")]
                best = dict(zip(("best", "score", "second", "second_score"), named, strict=False))
                warnings = "; ".join(heard.quality.warnings)
                found = found._replace(identified=who, warnings=warnings, **best)
            rows[todo[place]] = found
            lines.writerow((todo[place], *found))
            keeping.flush()
    results = [rows[row] for row in range(len(wanted))]
    write_table(out, Identification._fields, results)
    part.unlink()
    sources = {source for person in people for source in person.sources}
    enrolled = [one.source in sources for one in wanted]
    names = {person.name for person in people}
    return _measures(results, enrolled, names), threshold, sum(bool(result.rejected) for result in results)


def counts_of(outcomes: Sequence[Outcome]) -> dict[str, int]:
    """How many recordings were enrolled, present and rejected, and people; of rejected ones nothing is enrolled."""
    people = {kind: {one.speaker for one in outcomes if one.outcome == kind} for kind in get_args(Result)}
    return {
        **{kind: sum(one.outcome == kind for one in outcomes) for kind in people},
        "enrolled_people": len(people["enrolled"]),
        "present_people": len(people["present"]),
        "rejected_people": len(people["rejected"] - people["enrolled"] - people["present"]),
        "warned": sum(bool(one.warnings) for one in outcomes),
    }


def write_table(path: Path, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Write CSV for people, without formulas; only the owner may read it, for it tells who was recorded."""
    with atomic_path(path, mode=0o600) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([table_cell(cell) for cell in row] for row in rows)


def _settled(
    speaker: str, wanted: Sequence[Wanted], rows: Sequence[int], present: Mapping[str, set[Any]], *, add: bool
) -> dict[int, Outcome]:
    """What is known of a person's recordings before any is heard."""
    name = _name_or_none(speaker)
    if name is None:
        reason = "name must be 1 to 200 printable characters without space at the ends."
        return {row: Outcome(one.utterance, speaker, "rejected", reason) for row, one in zip(rows, wanted, strict=True)}
    there = present.get(name, set())
    settled = {
        row: Outcome(one.utterance, speaker, "present")
        for row, one in zip(rows, wanted, strict=True)
        if one.source in there
    }
    if add or there <= {one.source for one in wanted}:
        return settled
    reason = f"name must be new, got {name}, who is enrolled from other recordings. Use --add, or another name."
    return {
        row: settled.get(row, Outcome(one.utterance, speaker, "rejected", reason))
        for row, one in zip(rows, wanted, strict=True)
    }


def _enrolled(
    store: VoiceprintStore,
    speaker: str,
    heard: Mapping[int, Embedding],
    wanted: Sequence[Wanted],
    known: Known,
    *,
    add: bool,
) -> dict[int, Outcome]:
    """Store a person; a name or recordings that the store refuses are no reason to stop."""
    rows = sorted(heard)
    try:
        store.enrol(
            speaker,
            np.stack([heard[row].vector for row in rows]),
            note=known.note,
            sources=[wanted[row].source for row in rows],
            add=add,
            enrolled_at=known.enrolled_at,
        )
    except ValueError as error:
        if isinstance(error, ModelFileError) and "cancel out" not in str(error):
            raise
        return {row: Outcome(wanted[row].utterance, speaker, "rejected", in_short(error)) for row in rows}
    return {
        row: Outcome(wanted[row].utterance, speaker, "enrolled", warnings="; ".join(heard[row].quality.warnings))
        for row in rows
    }


def _name_or_none(name: str) -> str | None:
    try:
        return plain_name(name)
    except ValueError:
        return None


class _Sound(NamedTuple):
    """A recording as it is decoded: why not, or its windows with sound and its quality; None if it is too long."""

    row: int
    refused: str | None
    windows: list[Float32Array]
    quality: Quality | None


class _Sounds(Dataset[_Sound]):
    """Decodes, in other processes."""

    def __init__(self, wanted: Sequence[Wanted], *, sample_rate_hz: int, min_samples: int) -> None:
        self._wanted = wanted
        self._rate_hz = sample_rate_hz
        self._min_samples = min_samples

    def __getitem__(self, row: int) -> _Sound:
        one = self._wanted[row]
        try:
            seconds = one.part.duration_seconds if one.part else proven_info(one.recording).duration_seconds
            if seconds > _LONG_SECONDS:
                return _Sound(row, None, [], None)
            windows = list(
                measured_windows(
                    file_windows(one.recording, sample_rate_hz=self._rate_hz, channel=one.channel, part=one.part),
                    sample_rate_hz=self._rate_hz,
                    min_samples=self._min_samples,
                    source=str(one.recording),
                )
            )
            quality = _with_channels(one, joint_quality([quality for _, quality in windows]))
        except (AudioError, OSError) as error:
            return _Sound(row, in_short(error), [], None)
        return _Sound(row, None, [window for window, quality in windows if not quality.is_silent], quality)


def _with_channels(one: Wanted, quality: Quality) -> Quality:
    """The quality, with a note where channels that differ were averaged."""
    if one.channel is not None:
        return quality
    start, seconds = one.part or (0.0, None)
    differ = file_channels_differ(one.recording, offset_seconds=start, duration_seconds=seconds)
    return replace(quality, channels_differ=differ)


def _heard(
    verifier: Verifier, wanted: Sequence[Wanted], *, workers: int, purpose: str
) -> Iterator[tuple[int, Embedding | str]]:
    """Each recording's place and embedding, or why there is none, in an order of its own.

    The processes that decode are started by the call, not by the first step.
    """
    if workers < 0:
        raise ValueError(f"--workers must be at least 0, got {workers}.")
    sounds = _Sounds(wanted, sample_rate_hz=verifier.sample_rate_hz, min_samples=verifier.min_samples)
    loader: DataLoader[Any] = DataLoader(
        sounds, batch_sampler=_batches(wanted), collate_fn=list, num_workers=workers if wanted else 0
    )
    return _embedded(verifier, iter(loader), wanted, purpose)


def _embedded(
    verifier: Verifier, batches: Iterator[list[_Sound]], wanted: Sequence[Wanted], purpose: str
) -> Iterator[tuple[int, Embedding | str]]:
    with tqdm(total=len(wanted), desc=purpose, unit="recording", leave=False, disable=None) as progress:
        for sounds in batches:
            raw = iter(verifier.raw_embeddings([window for sound in sounds for window in sound.windows]))
            for sound in sounds:
                yield sound.row, _embedding(verifier, sound, list(islice(raw, len(sound.windows))), wanted[sound.row])
                progress.update()


def _embedding(verifier: Verifier, sound: _Sound, raw: list[Float32Array], one: Wanted) -> Embedding | str:
    if sound.refused is not None:
        return sound.refused
    source = str(one.recording)
    try:
        if sound.quality is not None:
            return joint_embedding(raw, sound.quality, source=source)
        windows = file_windows(
            one.recording, sample_rate_hz=verifier.sample_rate_hz, channel=one.channel, part=one.part
        )
        heard = verifier.embed_windows(windows, source=source)
        return replace(heard, quality=_with_channels(one, heard.quality))
    except (AudioError, OSError) as error:
        return in_short(error)


def _batches(wanted: Sequence[Wanted]) -> list[list[int]]:
    """Rows person by person, so that somebody is soon complete; among those of 20 minutes, like lengths together."""
    seconds = [_GUESSED_SECONDS if one.part is None else one.part.duration_seconds for one in wanted]
    people: dict[str, list[int]] = {}
    for row, one in enumerate(wanted):
        people.setdefault(one.speaker, []).append(row)
    chunks: list[list[int]] = [[]]
    for rows in people.values():
        if sum(seconds[row] for row in chunks[-1]) > _SORTED_SECONDS:
            chunks.append([])
        chunks[-1] += rows
    batches: list[list[int]] = []
    for chunk in chunks:
        longest = np.inf
        for row in sorted(chunk, key=lambda row: -seconds[row]):
            if (len(batches[-1]) + 1 if batches else 1) * longest > _BATCH_SECONDS:
                batches.append([])
                longest = seconds[row]
            batches[-1].append(row)
    return batches


def _kept(part: Path, key: str) -> dict[int, Identification]:
    """What an earlier call has identified; a last line that was cut off does not count."""
    if not part.is_file():
        return {}
    whole = part.read_text(encoding="utf-8", errors="replace").rpartition("\n")[0].split("\n")
    if whole[0] != key:
        return {}
    rows = list(csv.reader(whole[1:]))
    columns = 1 + len(Identification._fields)
    return {int(row[0]): Identification(*row[1:]) for row in rows if len(row) == columns and row[0].isdecimal()}


@contextmanager
def _appended(part: Path, key: str, *, begun: bool) -> Iterator[TextIO]:
    """The file of what is done, to be gone on with."""
    part.parent.mkdir(parents=True, exist_ok=True)
    part.touch(mode=0o600)
    with part.open("r+b") as content:
        content.truncate(content.read().rfind(b"\n") + 1 if begun else 0)
    with part.open("a", encoding="utf-8", newline="") as file:
        if not begun:
            file.write(f"{key}\n")
        yield file


def _measures(results: Sequence[Identification], enrolled: Sequence[bool], names: set[str]) -> Measures:
    told = [result for result, is_enrolled in zip(results, enrolled, strict=True) if not is_enrolled]
    known = [result for result in told if _name_or_none(result.speaker) in names and not result.rejected]
    strangers = [result for result in told if _name_or_none(result.speaker) not in names and not result.rejected]
    return Measures(
        known=len(known),
        right=sum(result.identified == _name_or_none(result.speaker) for result in known),
        named=sum(bool(result.identified) for result in [*known, *strangers]),
        strangers=len(strangers),
        strangers_named=sum(bool(result.identified) for result in strangers),
        left_out=sum(enrolled),
    )

"""Many recordings at once: everybody of a manifest enrolled, everything in it identified, a store of another model.

Recordings are heard as `Verifier` hears a single one, so it makes no difference how somebody was enrolled.

All of this can be killed at any moment. People are enrolled one by one, each on the disk before the next; whoever
is in the store with a recording is not enrolled with it again. What was identified is kept beside the results until
these are whole.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple, TextIO, get_args

import numpy as np

from chns.core import ModelFileError, atomic_path, in_short, table_cell
from chns.inference.hearing import Wanted, heard_many
from chns.inference.listening import named_source
from chns.inference.verifier import Embedding, Verifier
from chns.store import VoiceprintStore, identified, plain_name

Opens = Callable[[], VoiceprintStore]
Result = Literal["enrolled", "present", "rejected"]


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
        hearing = heard_many(verifier, [wanted[row] for row in todo], workers=workers, purpose="enrolling")
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
        hearing = heard_many(verifier, [wanted[row] for row in todo], workers=workers, purpose="identifying")
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

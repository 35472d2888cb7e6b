"""Training speakers who may be one person under two names, as a list to listen to.

Such a pair is each other's hardest negative, and clustering finds exactly these. `chns.sampling.same_person` has the
rule by which they are suspected, and what it finds and misses.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from chns.files import atomic_path
from chns.report.findings import SuspectedDuplicate
from chns.report.training_speakers import TrainingSpeakers
from chns.sampling.same_person import suspected_pairs
from chns.untrusted_text import table_cell


def suspected_duplicates(speakers: TrainingSpeakers, *, most: int = 1_000) -> list[SuspectedDuplicate]:
    """Pairs of speakers who may be one person, most suspicious first.

    Args:
        speakers: Whom to compare.
        most: Most pairs returned.
    """
    pairs = suspected_pairs(speakers.embeddings, speakers.labels)
    return [
        SuspectedDuplicate(
            speakers=(speakers.names[first], speakers.names[second]),
            similarity=float(similarity),
            own_similarity=float(own_similarity),
        )
        for first, second, similarity, own_similarity in zip(*(array[:most] for array in pairs), strict=True)
    ]


def write_duplicates(path: Path, duplicates: Sequence[SuspectedDuplicate]) -> None:
    """Write speaker_a, speaker_b, similarity and own_similarity as CSV, atomically.

    Names come from whoever made the manifest, and a spreadsheet would run one that begins like a formula. Such a name
    gets an apostrophe in front, and all names are in quotes, so that no separator in one starts a new cell.

    Args:
        path: The file.
        duplicates: In the order of the lines.
    """
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
        writer.writerow(("speaker_a", "speaker_b", "similarity", "own_similarity"))
        for duplicate in duplicates:
            names = map(table_cell, duplicate.speakers)
            writer.writerow((*names, round(duplicate.similarity, 4), round(duplicate.own_similarity, 4)))

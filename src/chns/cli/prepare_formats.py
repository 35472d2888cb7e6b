"""``chns prepare`` for CN-Celeb and for the formats of other tools."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from chns.data.prepare.scan import Candidate, ScanResult

EXAMPLES = """  chns prepare cnceleb CN-Celeb_flac --out dev.parquet                   the speakers of dev/dev.lst
  chns prepare cnceleb CN-Celeb_flac --subset eval --out eval.parquet    checks enroll.lst, enroll.map, trials.lst
  chns prepare wespeaker raw.list --root /data --out train.parquet
  chns prepare speechbrain train.csv --root /data --out train.parquet
  chns prepare nemo train.json --root /data --out train.parquet
  chns prepare lhotse cuts.jsonl.gz --root /data --out train.parquet
  chns prepare lhotse recordings.jsonl.gz --supervisions supervisions.jsonl.gz --root /data --out train.parquet
  chns prepare hugging-face data/train --speaker-column speaker_id --out train.parquet
  chns prepare csv people.csv --path-column file --speaker-column who --out mine.parquet"""

_LISTS = {
    "wespeaker": "WeSpeaker's raw list, JSON lines with key, spk and wav",
    "speechbrain": "SpeechBrain's CSV with ID, wav, start, stop and spk_id",
    "nemo": "NeMo's manifest, JSON lines with audio_filepath, offset, duration and label",
    "lhotse": "Lhotse's CutSet, or recordings and supervisions (.jsonl, .jsonl.gz)",
    "csv": "a table with a header and any names for its columns",
}
FORMATS = ("cnceleb", "hugging-face", *_LISTS)


def add_formats(corpora: Any, scan: argparse.ArgumentParser) -> None:
    """Add a subparser a format.

    Args:
        corpora: What ``add_subparsers`` gave.
        scan: The options that all corpora have.
    """
    cnceleb = corpora.add_parser("cnceleb", parents=[scan], help="CN-Celeb 1 or 2, with genres and sessions")
    cnceleb.add_argument("--subset", choices=["dev", "eval"], default="dev", help="(default: %(default)s)")
    lists = {name: corpora.add_parser(name, parents=[scan], help=purpose) for name, purpose in _LISTS.items()}
    for parser in lists.values():
        parser.add_argument("--root", type=Path, metavar="DIR", help="folder of the audio (default: that of SOURCE)")
    lists["lhotse"].add_argument(
        "--supervisions", type=Path, metavar="S.jsonl.gz", help="those of the recordings; none: SOURCE is a CutSet"
    )
    _add_columns(lists["csv"], ("path", "speaker", "utterance", "session"))
    _add_columns(lists["csv"], ("offset", "duration"), suffix="_seconds")
    lists["csv"].add_argument("--delimiter", default=",", metavar="C", help="between two fields (default: a comma)")
    hugging_face = corpora.add_parser(
        "hugging-face", parents=[scan], help="a data set of Hugging Face on disk: Parquet, Arrow, folder with metadata"
    )
    _add_columns(hugging_face, ("audio", "speaker", "session"))
    hugging_face.add_argument(
        "--utterance-column", metavar="NAME", help="names of the utterances (default: number them, or their paths)"
    )
    hugging_face.add_argument(
        "--recordings",
        type=Path,
        metavar="DIR",
        help="folder for embedded audio (default: beside OUT, NAME-recordings)",
    )


def _add_columns(parser: argparse.ArgumentParser, names: tuple[str, ...], *, suffix: str = "") -> None:
    for name in names:
        parser.add_argument(
            f"--{name}-column", default=f"{name}{suffix}", metavar="NAME", help="(default: %(default)s)"
        )


def scan_format(arguments: argparse.Namespace, settings: dict[str, Any]) -> ScanResult:
    """Scan what a command line with one of ``FORMATS`` names."""
    if arguments.corpus == "cnceleb":
        from chns.data.prepare.cnceleb import prepare_cnceleb

        return prepare_cnceleb(arguments.source, subset=arguments.subset, **settings)
    if arguments.corpus == "hugging-face":
        from chns.data.prepare.hugging_face import HuggingFaceColumns, prepare_hugging_face

        names = HuggingFaceColumns(
            arguments.audio_column, arguments.speaker_column, arguments.utterance_column, arguments.session_column
        )
        beside = arguments.out.with_name(f"{arguments.out.stem}-recordings")
        return prepare_hugging_face(
            arguments.source, recordings=arguments.recordings or beside, names=names, **settings
        )
    from chns.data.prepare.listed import scan_list

    root = arguments.root or arguments.source.parent
    return scan_list(_candidates(arguments, root), root=root, **settings)


def _candidates(arguments: argparse.Namespace, root: Path) -> Iterator[Candidate]:
    if arguments.corpus == "wespeaker":
        from chns.data.prepare.wespeaker import read_wespeaker

        return read_wespeaker(arguments.source, root=root)
    if arguments.corpus == "speechbrain":
        from chns.data.prepare.speechbrain import read_speechbrain

        return read_speechbrain(arguments.source, root=root)
    if arguments.corpus == "nemo":
        from chns.data.prepare.nemo import read_nemo

        return read_nemo(arguments.source, root=root)
    if arguments.corpus == "lhotse":
        from chns.data.prepare.lhotse_manifests import read_lhotse

        return read_lhotse(arguments.source, root=root, supervisions=arguments.supervisions)
    from chns.data.prepare.csv_table import ColumnNames, read_csv

    names = ColumnNames(
        path=arguments.path_column,
        speaker=arguments.speaker_column,
        utterance=arguments.utterance_column,
        offset_seconds=arguments.offset_column,
        duration_seconds=arguments.duration_column,
        session=arguments.session_column,
    )
    return read_csv(arguments.source, root=root, names=names, delimiter=arguments.delimiter)

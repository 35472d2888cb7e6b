"""``chns prepare``: from a folder of recordings to a manifest."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chns.cli import add_part_option, command_parser, part_of, tell_part
from chns.cli.options import as_channel
from chns.core import counted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from chns.data import Candidate, Manifest, ScanResult
    from chns.evaluation import Trials

_FORMATS = ("flac", "wav", "opus")


def add_conversion_options(parser: argparse.ArgumentParser) -> None:
    """The options of a conversion."""
    group = parser.add_argument_group("conversion to mono of 16 kHz; goes on where a stopped run was")
    group.add_argument("--convert", choices=_FORMATS, help="write all recordings anew; the manifest is that of the new")
    group.add_argument("--converted", type=Path, metavar="DIR", help="folder for them; the sources stay as they are")
    add_part_option(group)


def require_both_or_none(arguments: argparse.Namespace) -> None:
    """Refuse one of the two options without the other, and a part of anything but a conversion.

    Raises:
        ValueError: If only one is given.
    """
    if arguments.part and (arguments.convert is None or getattr(arguments, "unpack", None)):
        raise ValueError(f"--part must come with --convert, and without --unpack, got {arguments.part}.")
    if (arguments.convert is None) != (arguments.converted is None):
        raise ValueError("--convert FORMAT and --converted DIR must be given together, got only one of them.")


def convert(result: ScanResult, arguments: argparse.Namespace) -> tuple[ScanResult, dict[str, Any]]:
    """Convert what was found, if that is asked for.

    Returns:
        The utterances that could be converted, with the others added to the rejected files; and counts for the summary.
    """
    if arguments.convert is None:
        return result, {}
    from dataclasses import replace

    from chns.data import convert_audio

    conversion = convert_audio(
        result.manifest, arguments.converted, format=arguments.convert, jobs=arguments.workers, part=part_of(arguments)
    )
    rejected = [*result.rejected, *conversion.failures]
    counts = {
        "converted": conversion.num_written,
        "kept": conversion.num_kept,
        "not_converted": len(conversion.failures),
    }
    return replace(result, manifest=conversion.manifest, rejected=sorted(rejected)), counts


EXAMPLES = """  chns prepare cnceleb CN-Celeb_flac --out dev.parquet                   # the speakers of dev/dev.lst
  chns prepare cnceleb CN-Celeb_flac --subset eval --out eval.parquet    # checks enroll.lst, enroll.map, trials.lst
  chns prepare wespeaker raw.list --root /data --out train.parquet
  chns prepare speechbrain train.csv --root /data --out train.parquet
  chns prepare nemo train.json --root /data --out train.parquet
  chns prepare lhotse cuts.jsonl.gz --root /data --out train.parquet
  chns prepare lhotse recordings.jsonl.gz --supervisions supervisions.jsonl.gz --root /data --out train.parquet
  chns prepare webdataset tars --out train.parquet                       # tars; --speaker-field json.speaker
  chns prepare wespeaker-shards shard.list --root /data --out train.parquet
  chns prepare lhotse-shar shar --out train.parquet
  chns prepare hugging-face data/train --speaker-column speaker_id --out train.parquet
  chns prepare csv people.csv --path-column file --speaker-column who --out mine.parquet"""

_LISTS = {
    "wespeaker": "WeSpeaker's raw list, JSON lines with key, spk and wav",
    "speechbrain": "SpeechBrain's CSV with ID, wav, start, stop and spk_id",
    "nemo": "NeMo's manifest, JSON lines with audio_filepath, offset, duration and label",
    "lhotse": "Lhotse's CutSet, or recordings and supervisions (.jsonl, .jsonl.gz)",
    "csv": "a table with a header and any names for its columns",
}
_SHARDS = {
    "webdataset": "WebDataset's tars, or a list of them: read where they are, as those of `chns pack` are",
    "wespeaker-shards": "WeSpeaker's shards: tars with KEY.spk and KEY.wav, and their list; read where they are",
    "lhotse-shar": "Lhotse's Shar: a folder of cuts.N.jsonl.gz and recording.N.tar; read where they are",
}
FORMATS = ("cnceleb", "hugging-face", *_LISTS, *_SHARDS)


def add_formats(corpora: Any, scan: argparse.ArgumentParser) -> None:
    """Add a subparser a format.

    Args:
        corpora: What ``add_subparsers`` gave.
        scan: The options that all corpora have.
    """
    cnceleb = corpora.add_parser("cnceleb", parents=[scan], help="CN-Celeb 1 or 2, with genres and sessions")
    cnceleb.add_argument("--subset", choices=["dev", "eval"], default="dev", help="(default: %(default)s)")
    lists = {name: corpora.add_parser(name, parents=[scan], help=purpose) for name, purpose in _LISTS.items()}
    shards = {name: corpora.add_parser(name, parents=[scan], help=purpose) for name, purpose in _SHARDS.items()}
    for parser in (*lists.values(), shards["webdataset"], shards["wespeaker-shards"]):
        parser.add_argument("--root", type=Path, metavar="DIR", help="folder of the audio (default: that of SOURCE)")
    shards["webdataset"].add_argument(
        "--speaker-field",
        metavar="NAME",
        help="suffix of the file in each sample that names the speaker, or a key of JSON, as json.speaker (default: "
        "spk, speaker, cls, or speaker, speaker_id or spk_id of json)",
    )
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
        from chns.data import prepare_cnceleb

        return prepare_cnceleb(arguments.source, subset=arguments.subset, **settings)
    if arguments.corpus == "hugging-face":
        from chns.data import HuggingFaceColumns, prepare_hugging_face

        names = HuggingFaceColumns(
            arguments.audio_column, arguments.speaker_column, arguments.utterance_column, arguments.session_column
        )
        beside = arguments.out.with_name(f"{arguments.out.stem}-recordings")
        return prepare_hugging_face(
            arguments.source, recordings=arguments.recordings or beside, names=names, **settings
        )
    if arguments.corpus in _SHARDS:
        return _scan_shards(arguments, settings)
    from chns.data import scan_list

    root = arguments.root or arguments.source.parent
    return scan_list(_candidates(arguments, root), root=root, **settings)


def _scan_shards(arguments: argparse.Namespace, settings: dict[str, Any]) -> ScanResult:
    from chns.data import prepare_lhotse_shar, prepare_webdataset, prepare_wespeaker_shards

    if arguments.convert:
        raise ValueError(
            f"--convert must be of recordings in files, got those of {arguments.corpus} in tars. Leave it out, and "
            f"encode them anew with `chns pack {arguments.out} --out DIR --format flac`."
        )
    if arguments.corpus == "lhotse-shar":
        return prepare_lhotse_shar(arguments.source, **settings)
    if arguments.corpus == "wespeaker-shards":
        return prepare_wespeaker_shards(arguments.source, root=arguments.root, **settings)
    return prepare_webdataset(arguments.source, root=arguments.root, speaker_field=arguments.speaker_field, **settings)


def _candidates(arguments: argparse.Namespace, root: Path) -> Iterator[Candidate]:
    if arguments.corpus == "wespeaker":
        from chns.data import read_wespeaker

        return read_wespeaker(arguments.source, root=root)
    if arguments.corpus == "speechbrain":
        from chns.data import read_speechbrain

        return read_speechbrain(arguments.source, root=root)
    if arguments.corpus == "nemo":
        from chns.data import read_nemo

        return read_nemo(arguments.source, root=root)
    if arguments.corpus == "lhotse":
        from chns.data import read_lhotse

        return read_lhotse(arguments.source, root=root, supervisions=arguments.supervisions)
    from chns.data import ColumnNames, read_csv

    names = ColumnNames(
        path=arguments.path_column,
        speaker=arguments.speaker_column,
        utterance=arguments.utterance_column,
        offset_seconds=arguments.offset_column,
        duration_seconds=arguments.duration_column,
        session=arguments.session_column,
    )
    return read_csv(arguments.source, root=root, names=names, delimiter=arguments.delimiter)


def add_voxceleb_options(parser: argparse.ArgumentParser) -> None:
    """The options of this corpus alone."""
    parser.add_argument(
        "--unpack",
        type=Path,
        metavar="DIR",
        help="SOURCE holds the archives as downloaded (NAME.zip, or NAME_partaa, ...) or is one: unpack them into DIR",
    )
    parser.add_argument("--md5", type=Path, metavar="FILE", help="lines `MD5  NAME` that the archives must fit")
    parser.add_argument(
        "--meta",
        type=Path,
        action="append",
        default=[],
        metavar="CSV",
        help="vox1_meta.csv or vox2_meta.csv: gender, nationality and set become columns; can be repeated",
    )
    parser.add_argument(
        "--trials",
        type=Path,
        action="append",
        default=[],
        metavar="LIST",
        help="tell which utterances of a trial list are missing, and write the trials that remain; can be repeated",
    )


def read_lists(arguments: argparse.Namespace) -> list[Trials]:
    """The trial lists, before anything that takes long."""
    from chns.evaluation import read_trials

    return [read_trials(path, form="voxceleb") for path in arguments.trials]


def scan(arguments: argparse.Namespace, settings: dict[str, Any]) -> ScanResult:
    """Scan the corpus."""
    from chns.data import prepare_voxceleb

    return prepare_voxceleb(
        arguments.source, unpack=arguments.unpack, md5=arguments.md5, speaker_tables=arguments.meta, **settings
    )


def completeness(manifest: Manifest, source_root: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """How much of the official corpus there is: for programs, and as lines for people."""
    from chns.data import corpus_parts, set_of_folder

    parts = corpus_parts(manifest, default_set=set_of_folder(source_root))
    lines = [f"{part.name}: {part.completeness}" for part in parts]
    return [{**part._asdict(), "complete": part.is_complete} for part in parts], lines


def check_trials(lists: list[Trials], manifest: Manifest, out: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """What each trial list lacks: for programs, and as lines for people; remaining trials go beside the manifest."""
    from chns.evaluation import trial_coverage

    found, lines = [], []
    for trials in lists:
        coverage = trial_coverage(trials, manifest)
        name = Path(trials.source)
        files = coverage.write(out.parent, f"{out.stem}.{name.stem}")
        found.append(
            {
                "list": trials.source,
                "official": coverage.official_name,
                "trials": coverage.num_trials,
                "remaining": len(coverage.remaining),
                "missing": len(coverage.missing),
                "files": [str(file) for file in files],
            }
        )
        line = f"{name.name}: {coverage.official_name or 'no official list of VoxCeleb1'}, "
        if coverage.missing:
            line += f"{len(coverage.remaining):,} of {coverage.num_trials:,} trials remain, "
            missing = counted(len(coverage.missing), "utterance is", "utterances are")
            line += f"{missing} missing: see {', '.join(map(str, files))}"
        else:
            line += f"all {coverage.num_trials:,} trials can be scored"
        lines.append(line)
    return found, lines


_EXAMPLES = f"""  chns prepare voxceleb /data/voxceleb2/dev/wav --out vox2.parquet
  chns prepare voxceleb downloads --unpack /data/vox2 --md5 vox2.md5 --meta vox2_meta.csv \\
      --convert flac --converted /data/vox2-flac --out vox2.parquet
  chns prepare voxceleb /data/voxceleb1/wav --out vox1.parquet --trials veri_test2.txt --trials list_test_hard2.txt
  chns prepare speech-commands /data/speech_commands --out commands.parquet
  chns prepare kaldi data/train --root /data/audio --out train.parquet
  chns prepare folder recordings --out mine.parquet
  chns prepare folder flat --speaker-pattern '(?P<speaker>[a-z]+)_[0-9]+' --out mine.parquet
{EXAMPLES}
  chns prepare synthetic corpus --speakers 400 --utterances 12 --families 40 --seed 0

Files that cannot be used are listed with the reason beside the manifest, in NAME.rejected.csv."""


def prepare_parser() -> argparse.ArgumentParser:
    """The command's options, one subparser a corpus."""
    parser = command_parser("prepare", examples=_EXAMPLES)
    corpora = parser.add_subparsers(dest="corpus", required=True, metavar="CORPUS")
    output = argparse.ArgumentParser(add_help=False)
    output.add_argument("--json", action="store_true", help="print the summary as JSON")
    output.add_argument("--workers", type=int, metavar="N", help="processes at most (default: one a core)")
    scan = argparse.ArgumentParser(add_help=False, parents=[output])
    scan.add_argument("source", type=Path, metavar="SOURCE", help="the corpus's folder, or its list")
    scan.add_argument("--out", type=Path, required=True, metavar="M.parquet", help="the manifest (.parquet or .csv)")
    scan.add_argument(
        "--min-seconds",
        type=float,
        default=0.5,
        metavar="S",
        help="reject shorter recordings; 0.5 keeps single spoken words and drops cut-off ones (default: %(default)s)",
    )
    scan.add_argument(
        "--channel",
        metavar="left|right|N|mix",
        help="the channel of files with several whose channel the corpus does not tell (default: their mean)",
    )
    add_conversion_options(scan)

    voxceleb = corpora.add_parser(
        "voxceleb", parents=[scan], help="idXXXXX/VIDEO/NNNNN.wav or .m4a, or the archives; the video is the session"
    )
    add_voxceleb_options(voxceleb)
    corpora.add_parser("speech-commands", parents=[scan], help="WORD/SPEAKER_nohash_N.wav")
    kaldi = corpora.add_parser("kaldi", parents=[scan], help="a data directory with wav.scp, utt2spk, segments")
    kaldi.add_argument("--root", type=Path, metavar="DIR", help="folder of the audio (default: SOURCE)")
    folder = corpora.add_parser("folder", parents=[scan], help="any folder; by default one folder a speaker")
    folder.add_argument(
        "--speaker-pattern",
        metavar="REGEX",
        help="searched for in the path relative to SOURCE; its group `speaker`, or the first, is the speaker",
    )
    add_formats(corpora, scan)
    synthetic = corpora.add_parser("synthetic", parents=[output], help="make a corpus of synthetic speech")
    synthetic.add_argument("out", type=Path, metavar="OUT", help="folder for the recordings and the manifest")
    synthetic.add_argument("--speakers", type=int, default=400, metavar="N", help="(default: %(default)s)")
    synthetic.add_argument("--utterances", type=int, default=12, metavar="N", help="a speaker (default: %(default)s)")
    synthetic.add_argument(
        "--families", type=int, default=40, metavar="N", help="groups of similar speakers (default: %(default)s)"
    )
    synthetic.add_argument(
        "--family-spread",
        type=float,
        default=0.15,
        metavar="S",
        help="how far apart the voices of a family are, up to 1; smaller is harder (default: %(default)s)",
    )
    synthetic.add_argument("--seed", type=int, default=0, metavar="N", help="(default: %(default)s)")
    return parser


def run_prepare(arguments: argparse.Namespace) -> None:
    """Prepare a corpus and print what it holds."""
    if arguments.corpus == "synthetic":
        from chns.data import prepare_synthetic

        manifest = prepare_synthetic(
            arguments.out,
            num_speakers=arguments.speakers,
            num_utterances=arguments.utterances,
            num_families=arguments.families,
            family_spread=arguments.family_spread,
            seed=arguments.seed,
            jobs=arguments.workers,
        )
        _print({"manifest": str(arguments.out / "manifest.parquet"), **_summary(manifest)}, as_json=arguments.json)
        return
    from chns.data import manifest_suffix

    manifest_suffix(arguments.out)  # a million files later would be late
    require_both_or_none(arguments)
    channel = as_channel(arguments.channel)
    is_voxceleb = arguments.corpus == "voxceleb"
    lists = read_lists(arguments) if is_voxceleb else []
    scanned = _scan(arguments).with_channel(channel)
    result, counts = convert(scanned, arguments)
    if arguments.part:
        tell_part(arguments, counts["converted"] + counts["kept"], "files")
        return
    report = result.write(arguments.out)
    summary = {"manifest": str(arguments.out), **_summary(result.manifest), **counts}
    summary |= {"rejected": len(result.rejected), "report": str(report)}
    remarks = scanned.remarks
    if remarks:
        summary["remarks"] = list(remarks)
    if is_voxceleb:
        summary["parts"], lines = completeness(result.manifest, scanned.manifest.root)
        remarks += lines
    if lists:
        summary["trials"], lines = check_trials(lists, result.manifest, arguments.out)
        remarks += lines
    _print(summary, as_json=arguments.json, remarks=remarks)


def _scan(arguments: argparse.Namespace) -> ScanResult:
    settings: dict[str, Any] = {"min_duration_seconds": arguments.min_seconds, "jobs": arguments.workers}
    if arguments.corpus == "voxceleb":
        return scan(arguments, settings)
    if arguments.corpus == "speech-commands":
        from chns.data import prepare_speech_commands

        return prepare_speech_commands(arguments.source, **settings)
    if arguments.corpus == "kaldi":
        from chns.data import prepare_kaldi

        return prepare_kaldi(arguments.source, root=arguments.root, **settings)
    if arguments.corpus in FORMATS:
        return scan_format(arguments, settings)
    from chns.data import FIRST_LEVEL, prepare_folder

    return prepare_folder(arguments.source, speaker_pattern=arguments.speaker_pattern or FIRST_LEVEL, **settings)


def _summary(manifest: Manifest) -> dict[str, Any]:
    return {
        "speakers": len(manifest.speakers),
        "utterances": len(manifest),
        "hours": round(float(manifest.durations_seconds.sum()) / 3600, 3),
    }


def _print(summary: dict[str, Any], *, as_json: bool, remarks: Sequence[str] = ()) -> None:
    """As JSON, or one line a value; lists are for programs, and people read the remarks."""
    if as_json:
        print(json.dumps(summary))
        return
    for name, value in summary.items():
        if not isinstance(value, list):
            print(f"{name:<10}  {value:,}" if isinstance(value, int) else f"{name:<10}  {value}")
    for remark in remarks:
        print(remark)

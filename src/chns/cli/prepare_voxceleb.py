"""What ``chns prepare voxceleb`` has beyond the other corpora: archives, speakers' tables, counts and trial lists."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chns.data.manifest import Manifest
    from chns.data.prepare.scan import ScanResult
    from chns.evaluation.trials import Trials


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
    from chns.evaluation.trials import read_trials

    return [read_trials(path, form="voxceleb") for path in arguments.trials]


def scan(arguments: argparse.Namespace, settings: dict[str, Any]) -> ScanResult:
    """Scan the corpus."""
    from chns.data.prepare.voxceleb import prepare_voxceleb

    return prepare_voxceleb(
        arguments.source, unpack=arguments.unpack, md5=arguments.md5, speaker_tables=arguments.meta, **settings
    )


def completeness(manifest: Manifest, source_root: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """How much of the official corpus there is: for programs, and as lines for people."""
    from chns.data.prepare.voxceleb import set_of_folder
    from chns.data.prepare.voxceleb_speakers import corpus_parts

    parts = corpus_parts(manifest, default_set=set_of_folder(source_root))
    lines = [f"{part.name}: {part.completeness}" for part in parts]
    return [{**part._asdict(), "complete": part.is_complete} for part in parts], lines


def check_trials(lists: list[Trials], manifest: Manifest, out: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """What each trial list lacks: for programs, and as lines for people; remaining trials go beside the manifest."""
    from chns.evaluation.trial_coverage import trial_coverage

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
            line += f"{len(coverage.missing):,} utterances are missing: see {', '.join(map(str, files))}"
        else:
            line += f"all {coverage.num_trials:,} trials can be scored"
        lines.append(line)
    return found, lines

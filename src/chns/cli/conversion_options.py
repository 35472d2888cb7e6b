"""``--convert``: what every ``chns prepare`` can do with the recordings that it found."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chns.data.prepare.scan import ScanResult

_FORMATS = ("flac", "wav", "opus")


def add_conversion_options(parser: argparse.ArgumentParser) -> None:
    """The options of a conversion."""
    group = parser.add_argument_group("conversion to mono of 16 kHz; goes on where a stopped run was")
    group.add_argument("--convert", choices=_FORMATS, help="write all recordings anew; the manifest is that of the new")
    group.add_argument("--converted", type=Path, metavar="DIR", help="folder for them; the sources stay as they are")


def require_both_or_none(arguments: argparse.Namespace) -> None:
    """Refuse one of the two options without the other.

    Raises:
        ValueError: If only one is given.
    """
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

    from chns.data.conversion import convert_audio
    from chns.data.prepare.scan import Rejected

    conversion = convert_audio(result.manifest, arguments.converted, format=arguments.convert, jobs=arguments.jobs)
    rejected = [*result.rejected, *(Rejected(*failure) for failure in conversion.failures)]
    counts = {
        "converted": conversion.num_written,
        "kept": conversion.num_kept,
        "not_converted": len(conversion.failures),
    }
    return replace(result, manifest=conversion.manifest, rejected=sorted(rejected)), counts

"""Options of the commands that use a voiceprint store."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chns.core.arrays import Float32Array
    from chns.inference.verifier import Verifier

KEY_HELP = """An encrypted store needs its key: the content of --key-file, or else of the variable CHNS_STORE_KEY."""


def add_store_argument(parser: argparse.ArgumentParser) -> None:
    """Where the store is."""
    parser.add_argument("store", type=Path, metavar="STORE", help="the file with the voiceprints")


def add_key_option(parser: argparse.ArgumentParser) -> None:
    """Where the store's key is."""
    parser.add_argument(
        "--key-file", type=Path, metavar="F", help="file with the key (default: CHNS_STORE_KEY, if set)"
    )


def embed_recordings(
    verifier: Verifier, files: Sequence[Path], *, channel: str | None = None
) -> tuple[list[Float32Array], dict[str, list[str]]]:
    """The embedding of each recording, and what is wrong with some; warnings go to standard error too."""
    from chns.data.audio import as_channel

    vectors: list[Float32Array] = []
    warnings = {}
    for file in files:
        embedding = verifier.embed(file, channel=as_channel(channel))
        vectors.append(embedding.vector)
        if embedding.quality.warnings:
            warnings[str(file)] = list(embedding.quality.warnings)
            print(f"{file}: {'; '.join(embedding.quality.warnings)}", file=sys.stderr)
    return vectors, warnings

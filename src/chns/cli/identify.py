"""``chns identify``: find the enrolled speaker of a recording."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from chns.cli import command_parser
from chns.cli.model_options import add_channel_option, add_verifier_options
from chns.cli.store_options import (
    KEY_HELP,
    add_key_option,
    add_store_argument,
    embed_recordings,
)

NOBODY = 1

_EXAMPLES = f"""  chns identify runs/chns/model people.store who.wav
  chns identify runs/chns/model people.store who.wav --threshold 0.45 --top 3 --json

The score is the cosine of recording and voiceprint. The more people are enrolled, the likelier it is that one of them
passes a threshold by chance. {KEY_HELP}

exit code: 0 somebody's score reaches the threshold; 1 nobody's does; 2 error"""


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = command_parser("identify", examples=_EXAMPLES)
    parser.add_argument("model", metavar="MODEL", help="the model's folder, or hf://owner/name")
    add_store_argument(parser)
    parser.add_argument("file", type=Path, metavar="FILE", help="a recording of one speaker")
    parser.add_argument("--top", type=int, default=5, metavar="N", help="how many to show (default: %(default)s)")
    parser.add_argument(
        "--threshold", type=float, metavar="T", help="lowest score that is accepted (default: the model's own)"
    )
    add_key_option(parser)
    add_verifier_options(parser)
    add_channel_option(parser)
    parser.add_argument("--json", action="store_true", help="print the matches as JSON")
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Print who sounds most like the recording; the exit code tells whether the first is accepted."""
    from chns.inference.store import VoiceprintStore
    from chns.inference.store_encryption import read_key
    from chns.inference.verifier import Verifier

    key = read_key(arguments.key_file)
    verifier = Verifier.load(
        arguments.model, device=arguments.device, threshold=arguments.threshold, trusted_packages=arguments.trust
    )
    threshold = verifier.threshold
    [vector], warnings = embed_recordings(verifier, [arguments.file], channel=arguments.channel)
    with VoiceprintStore.open(
        arguments.store, model_digest=verifier.model_digest, dim=verifier.dim, key=key, create=False
    ) as store:
        matches = store.identify(vector, top=arguments.top)
    identified = matches[0].name if matches and matches[0].score >= threshold else None
    if arguments.json:
        summary = {
            "store": str(arguments.store),
            "file": str(arguments.file),
            "threshold": threshold,
            "identified": identified,
            "matches": [match._asdict() for match in matches],
            "warnings": [*verifier.warnings, *warnings],
        }
        print(json.dumps(summary))
    else:
        print(f"{identified or 'nobody'} (threshold {threshold:.3f})")
        for warning in verifier.warnings:
            print(f"warning: {warning}")
        for match in matches:
            print(f"  {match.score:6.3f}  {match.name}")
    return NOBODY if identified is None else 0

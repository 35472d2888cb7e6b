"""``chns identify``: find the enrolled speaker of a recording."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from chns.cli import command_parser
from chns.cli.options import (
    KEY_HELP,
    add_channel_option,
    add_key_option,
    add_store_argument,
    add_verifier_options,
    embed_recordings,
    load_verifier,
)

NOBODY = 1

_EXAMPLES = f"""  chns identify runs/chns/model people.store who.wav
  chns identify runs/chns/model people.store who.wav --threshold 0.45 --top 3 --json
  chns identify runs/chns/model people.store who.wav --false-positive-rate 0.01 --margin 0.05 --score-by top-3

The score is the cosine of recording and voiceprint. The more people are enrolled, the likelier it is that one of them
passes a threshold by chance: --false-positive-rate 0.01 asks the store itself where 1 % of strangers would pass.
{KEY_HELP}

exit code: 0 somebody is identified; 1 nobody is; 2 error"""


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
    parser.add_argument(
        "--false-positive-rate",
        type=float,
        metavar="R",
        help="instead of a threshold: the share of strangers who may be taken for somebody, as the people of the store "
        "are for one another",
    )
    parser.add_argument(
        "--margin", type=float, default=0.0, metavar="D", help="how much the first must be ahead of the runner-up"
    )
    parser.add_argument(
        "--score-by",
        default="voiceprint",
        metavar="WHAT",
        help="voiceprint (default); or mean, max or top-K of the cosines with a person's recordings",
    )
    add_key_option(parser)
    add_verifier_options(parser)
    add_channel_option(parser)
    parser.add_argument("--json", action="store_true", help="print the matches as JSON")
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Print who sounds most like the recording; the exit code tells whether the first is accepted."""
    from chns.store.encryption import read_key
    from chns.store.voiceprints import VoiceprintStore, identified, lead_of

    key = read_key(arguments.key_file)
    rate = arguments.false_positive_rate
    if rate is not None and arguments.threshold is not None:
        raise ValueError("--threshold and --false-positive-rate must not be given together, got both.")
    if arguments.top < 1 or arguments.margin < 0:
        raise ValueError(f"--top must be at least 1 and --margin 0, got {arguments.top} and {arguments.margin}.")
    verifier = load_verifier(arguments)
    threshold = verifier.threshold if rate is None else 0.0
    [vector], warnings = embed_recordings(verifier, [arguments.file], channel=arguments.channel)
    with VoiceprintStore.open(
        arguments.store, model_digest=verifier.model_digest, dim=verifier.dim, key=key, create=False
    ) as store:
        if rate is not None:
            threshold = store.open_set_threshold(rate, score_by=arguments.score_by)
        matches = store.identify(vector, top=max(2, arguments.top), score_by=arguments.score_by)
    who, lead = identified(matches, threshold=threshold, margin=arguments.margin), lead_of(matches)
    matches = matches[: arguments.top]
    if arguments.json:
        summary = {
            "store": str(arguments.store),
            "file": str(arguments.file),
            "threshold": threshold,
            "score_by": arguments.score_by,
            "identified": who,
            "lead": lead,
            "matches": [match._asdict() for match in matches],
            "warnings": [*verifier.warnings, *warnings],
        }
        print(json.dumps(summary))
    else:
        ahead = "" if lead is None else f", {lead:.3f} ahead of the runner-up"
        print(f"{who or 'nobody'} (threshold {threshold:.3f}{ahead})")
        for warning in verifier.warnings:
            print(f"warning: {warning}")
        for match in matches:
            print(f"  {match.score:6.3f}  {match.name}")
    return NOBODY if who is None else 0

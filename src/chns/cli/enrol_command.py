"""``chns enrol``: store the voiceprint of a speaker."""

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

_EXAMPLES = f"""  chns enrol runs/chns/model people.store anna anna-1.wav anna-2.wav --note "consent of 2026-05-04"
  chns enrol runs/chns/model people.store anna anna-3.wav --add
  chns enrol runs/chns/model secret.store anna anna-1.wav --key-file key.txt

A store that does not exist is made, encrypted if there is a key. {KEY_HELP}
A key: python -c 'import secrets; print(secrets.token_hex(32))' > key.txt
The paths of the recordings are kept beside the embeddings, not the recordings.

exit code: 0 enrolled, and on the disk; 2 error, nothing is enrolled"""


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = command_parser("enrol", examples=_EXAMPLES)
    parser.add_argument("model", metavar="MODEL", help="the model's folder, or hf://owner/name")
    add_store_argument(parser)
    parser.add_argument("name", metavar="NAME", help="who speaks")
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="recordings of this speaker alone")
    parser.add_argument("--note", metavar="TEXT", help="kept with the voiceprint, for example the consent")
    parser.add_argument("--add", action="store_true", help="if NAME is enrolled, add to it (otherwise an error)")
    add_key_option(parser)
    add_verifier_options(parser)
    add_channel_option(parser)
    parser.add_argument("--json", action="store_true", help="print what was enrolled as JSON")
    return parser


def run(arguments: argparse.Namespace) -> None:
    """Embed the recordings, then store all of them or none."""
    import numpy as np

    from chns.store.encryption import read_key
    from chns.store.voiceprints import VoiceprintStore

    key = read_key(arguments.key_file)
    verifier = load_verifier(arguments)
    vectors, warnings = embed_recordings(verifier, arguments.files, channel=arguments.channel)
    sources = [str(file.absolute()) for file in arguments.files]
    with VoiceprintStore.open(arguments.store, model_digest=verifier.model_digest, dim=verifier.dim, key=key) as store:
        store.enrol(arguments.name, np.stack(vectors), note=arguments.note, sources=sources, add=arguments.add)
        num_utterances = store.show(arguments.name).num_utterances
        summary = {
            "store": str(arguments.store),
            "name": arguments.name,
            "added_utterances": len(vectors),
            "utterances": num_utterances,
            "people": len(store),
            "encrypted": store.is_encrypted,
            "warnings": warnings,
        }
    if arguments.json:
        print(json.dumps(summary))
        return
    print(f"{arguments.name}: {len(vectors)} recordings enrolled, {num_utterances} in all")
    print(f"{arguments.store}: {summary['people']:,} people{', encrypted' if summary['encrypted'] else ''}")

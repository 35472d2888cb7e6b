"""``chns enrol``: store the voiceprint of a speaker."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from chns.cli import command_parser
from chns.cli.options import (
    KEY_HELP,
    add_bulk_options,
    add_channel_option,
    add_key_option,
    add_report_option,
    add_store_argument,
    add_verifier_options,
    as_channel,
    embed_recordings,
    load_verifier,
    told_outcomes,
)
from chns.core import counted

if TYPE_CHECKING:
    from chns.inference.bulk import Opens
    from chns.inference.verifier import Verifier

_EXAMPLES = f"""  chns enrol runs/chns/model people.store anna anna-1.wav anna-2.wav --note "consent of 2026-05-04"
  chns enrol runs/chns/model people.store anna anna-3.wav --add
  chns enrol runs/chns/model secret.store anna anna-1.wav --key-file key.txt
  chns enrol runs/chns/model people.store --manifest people.parquet --report people.report.csv

A store that does not exist is made, encrypted if there is a key. {KEY_HELP}
A key: python -c 'import secrets; print(secrets.token_hex(32))' > key.txt
The paths of the recordings are kept beside the embeddings, not the recordings.
With --manifest every speaker of it is enrolled (chns[train]). The same command goes on after a stop, and passes over
what is enrolled. Somebody of whom other recordings are enrolled is rejected, unless --add is given.

exit code: 0 enrolled, and on the disk; 1 recordings of a manifest were rejected; 2 error: nothing is enrolled, or of a
manifest what the store has"""


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = command_parser("enrol", examples=_EXAMPLES)
    parser.add_argument("model", metavar="MODEL", help="the model: a folder, or hf://owner/name")
    add_store_argument(parser)
    parser.add_argument("name", metavar="NAME", nargs="?", help="who speaks")
    parser.add_argument("files", type=Path, nargs="*", metavar="FILE", help="recordings of this speaker alone")
    add_bulk_options(parser, purpose="enrol all speakers of this manifest instead")
    add_report_option(parser)
    parser.add_argument("--note", metavar="TEXT", help="kept with the voiceprint, for example the consent")
    parser.add_argument("--add", action="store_true", help="if NAME is enrolled, add to it (otherwise an error)")
    add_key_option(parser)
    add_verifier_options(parser)
    add_channel_option(parser)
    parser.add_argument("--json", action="store_true", help="print what was enrolled as JSON")
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Embed the recordings, then store all of them or none; of a manifest person by person."""
    import numpy as np

    from chns.data import channel_number
    from chns.inference.listening import source_name
    from chns.store.encryption import read_key
    from chns.store.voiceprints import VoiceprintStore

    _require_one_way(arguments)
    key = read_key(arguments.key_file)
    verifier = load_verifier(arguments)

    def open_store() -> VoiceprintStore:
        return VoiceprintStore.open(arguments.store, model_digest=verifier.model_digest, dim=verifier.dim, key=key)

    if arguments.manifest is not None:
        return _enrol_manifest(arguments, verifier, open_store)
    vectors, warnings = embed_recordings(verifier, arguments.files, channel=arguments.channel)
    channel = channel_number(as_channel(arguments.channel))
    sources = [source_name(file, None, channel) for file in arguments.files]
    with open_store() as store:
        store.enrol(arguments.name, np.stack(vectors), note=arguments.note, sources=sources, add=arguments.add)
        num_utterances = store.show(arguments.name).num_utterances
        summary = {
            "store": str(arguments.store),
            "name": arguments.name,
            "added_utterances": len(vectors),
            "utterances": num_utterances,
            "people": (num_people := len(store)),
            "encrypted": store.is_encrypted,
            "warnings": warnings,
        }
    if arguments.json:
        print(json.dumps(summary))
        return 0
    print(f"{arguments.name}: {counted(len(vectors), 'recording')} enrolled, {num_utterances} in all")
    print(
        f"{arguments.store}: {counted(num_people, 'person', 'people')}{', encrypted' if summary['encrypted'] else ''}"
    )
    return 0


def _require_one_way(arguments: argparse.Namespace) -> None:
    """Make sure that there are a name and recordings, or a manifest."""
    if arguments.manifest is None and not arguments.files:
        raise ValueError("NAME and FILES, or --manifest, must be given, got neither. `chns enrol --help` explains.")
    if arguments.manifest is not None and arguments.name is not None:
        raise ValueError(f"NAME and --manifest must not be given together, got both, {arguments.name!r}.")
    for option in ("root", "report"):
        if arguments.manifest is None and getattr(arguments, option) is not None:
            raise ValueError(f"--{option} must come with --manifest, got it without.")


def _enrol_manifest(arguments: argparse.Namespace, verifier: Verifier, open_store: Opens) -> int:
    from chns.data import Manifest, channel_number
    from chns.inference.bulk import Known, enrol_many
    from chns.inference.hearing import wanted_of

    manifest = Manifest.read(arguments.manifest, root=arguments.root)
    wanted = wanted_of(manifest, channel=channel_number(as_channel(arguments.channel)))
    known = Known(note=arguments.note)
    outcomes = enrol_many(
        verifier, open_store, wanted, known=lambda _: known, add=arguments.add, workers=arguments.workers
    )
    summary, text = told_outcomes(arguments, outcomes)
    with open_store() as store:
        summary |= {"store": str(arguments.store), "people": len(store), "encrypted": store.is_encrypted}
    if arguments.json:
        print(json.dumps(summary))
    else:
        print(text)
        print(f"{arguments.store}: {counted(summary['people'], 'person', 'people')}")
    return 1 if summary["rejected"] else 0

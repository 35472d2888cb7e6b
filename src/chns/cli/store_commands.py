"""Commands that fill and keep a store of voiceprints: ``enrol`` and ``store``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chns.cli import command_parser
from chns.cli.options import (
    KEY_HELP,
    add_bulk_options,
    add_channel_option,
    add_key_option,
    add_store_argument,
    add_verifier_options,
    as_channel,
    embed_recordings,
    load_verifier,
)
from chns.core import counted

if TYPE_CHECKING:
    from chns.inference import Opens, Outcome, Verifier
    from chns.store import VoiceprintStore

_ENROL_EXAMPLES = f"""\
  chns enrol runs/chns/model people.store anna anna-1.wav anna-2.wav --note "consent of 2026-05-04"
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


def enrol_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = command_parser("enrol", examples=_ENROL_EXAMPLES)
    parser.add_argument("model", metavar="MODEL", help="the model: a folder, or hf://owner/name")
    add_store_argument(parser)
    parser.add_argument("name", metavar="NAME", nargs="?", help="who speaks")
    parser.add_argument("files", type=Path, nargs="*", metavar="FILE", help="recordings of this speaker alone")
    add_bulk_options(parser, purpose="enrol all speakers of this manifest instead")
    _add_report_option(parser)
    parser.add_argument("--note", metavar="TEXT", help="kept with the voiceprint, for example the consent")
    parser.add_argument("--add", action="store_true", help="if NAME is enrolled, add to it (otherwise an error)")
    add_key_option(parser)
    add_verifier_options(parser)
    add_channel_option(parser)
    parser.add_argument("--json", action="store_true", help="print what was enrolled as JSON")
    return parser


def run_enrol(arguments: argparse.Namespace) -> int:
    """Embed the recordings, then store all of them or none; of a manifest person by person."""
    import numpy as np

    from chns.data import channel_number
    from chns.inference import source_name
    from chns.store import VoiceprintStore, read_key

    _require_name_or_manifest(arguments)
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


def _require_name_or_manifest(arguments: argparse.Namespace) -> None:
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
    from chns.inference import Known, enrol_many, wanted_of

    manifest = Manifest.read(arguments.manifest, root=arguments.root)
    wanted = wanted_of(manifest, channel=channel_number(as_channel(arguments.channel)))
    known = Known(note=arguments.note)
    outcomes = enrol_many(
        verifier, open_store, wanted, known=lambda _: known, add=arguments.add, workers=arguments.workers
    )
    summary, text = _told_outcomes(arguments, outcomes)
    with open_store() as store:
        summary |= {"store": str(arguments.store), "people": len(store), "encrypted": store.is_encrypted}
    if arguments.json:
        print(json.dumps(summary))
    else:
        print(text)
        print(f"{arguments.store}: {counted(summary['people'], 'person', 'people')}")
    return 1 if summary["rejected"] else 0


def _add_report_option(parser: argparse.ArgumentParser) -> None:
    """Where what became of each recording is told."""
    parser.add_argument(
        "--report", type=Path, metavar="R.csv", help="what became of each recording, and why some were rejected"
    )


def _told_outcomes(arguments: argparse.Namespace, outcomes: Sequence[Outcome]) -> tuple[dict[str, Any], str]:
    """Write the report, if one is wished; the summary for JSON, and in a line."""
    from chns.inference import Outcome, counts_of, write_table

    if arguments.report is not None:
        write_table(arguments.report, Outcome._fields, outcomes)
    counts = counts_of(outcomes)
    text = f"{counted(counts['enrolled_people'], 'person', 'people')} enrolled from "
    text += counted(counts["enrolled"], "recording")
    if counts["present"]:
        text += f"; {counted(counts['present'], 'recording')} enrolled before"
    if counts["rejected"]:
        text += f"; {counted(counts['rejected'], 'recording')} rejected, nothing enrolled of "
        text += counted(counts["rejected_people"], "person", "people")
        first = next(one for one in outcomes if one.outcome == "rejected")
        text += f": {arguments.report or f'{first.reason} --report R.csv lists all.'}"
    return {**counts, "report": None if arguments.report is None else str(arguments.report)}, text


_STORE_EXAMPLES = f"""  chns store list people.store
  chns store show people.store anna --json          # with the voiceprint itself
  chns store delete people.store anna               # asks nothing; no byte of anna stays in the store's files
  chns store export people.store --out people.parquet    # all voiceprints, unencrypted
  chns store re-embed people.store runs/new/model --out new.store --report new.report.csv

A model is needed for re-embed alone: it hears the recordings of the paths that the store has kept, or of --manifest,
and makes a store for another model (chns[train]). The same command goes on after a stop. The old store stays as it is.
{KEY_HELP}
Deleting writes the whole file anew. Copies, backups and exports are not found by it.

exit code: 0 done; 1 recordings were rejected by re-embed; 2 error, also for a name that is not enrolled"""


def store_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = command_parser("store", examples=_STORE_EXAMPLES)
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    common = argparse.ArgumentParser(add_help=False)
    add_store_argument(common)
    add_key_option(common)
    common.add_argument("--json", action="store_true", help="print the answer as JSON")

    actions.add_parser("list", parents=[common], help="who is enrolled")
    for action, purpose in (("show", "what is known of a person"), ("delete", "delete a person for good")):
        of_person = actions.add_parser(action, parents=[common], help=purpose)
        of_person.add_argument("name", metavar="NAME", help="an enrolled person")
    export = actions.add_parser("export", parents=[common], help="write all voiceprints as Parquet")
    export.add_argument("--out", type=Path, required=True, metavar="OUT.parquet", help="the Parquet file")
    anew = actions.add_parser("re-embed", parents=[common], help="make a store of the same people for another model")
    anew.add_argument("model", metavar="MODEL", help="the other model's folder, or hf://owner/name")
    anew.add_argument(
        "--out", type=Path, required=True, metavar="NEW_STORE", help="the new store; encrypted if the old is"
    )
    add_bulk_options(anew, purpose="hear the recordings of this manifest, by its speakers' names")
    _add_report_option(anew)
    add_verifier_options(anew)
    add_channel_option(anew)
    return parser


def run_store(arguments: argparse.Namespace) -> int:
    """Do one of the five and print what was done."""
    from chns.store import VoiceprintStore, read_key

    actions = {"list": _list, "show": _show, "delete": _delete, "export": _export, "re-embed": _re_embed}
    with VoiceprintStore.open_existing(arguments.store, key=read_key(arguments.key_file)) as store:
        answer, text = actions[arguments.action](store, arguments)
    print(json.dumps(answer) if arguments.json else text)
    return 1 if arguments.action == "re-embed" and answer["rejected"] else 0


def _list(store: VoiceprintStore, arguments: argparse.Namespace) -> tuple[dict[str, Any], str]:
    names = store.names()
    answer = {
        "store": str(arguments.store),
        "model_digest": store.model_digest,
        "dim": store.dim,
        "encrypted": store.is_encrypted,
        "names": names,
    }
    encrypted = ", encrypted" if store.is_encrypted else ""
    head = f"{counted(len(names), 'person', 'people')}, model {store.model_digest[:12]}{encrypted}"
    return answer, "\n".join([head, *names])


def _show(store: VoiceprintStore, arguments: argparse.Namespace) -> tuple[dict[str, Any], str]:
    person = store.show(arguments.name)
    answer = {
        **person._asdict(),
        "enrolled_at": person.enrolled_at.isoformat(),
        "vector": person.vector.tolist(),
        "model_digest": store.model_digest,
    }
    lines = [
        f"name         {person.name}",
        f"enrolled at  {person.enrolled_at.isoformat()}",
        f"note         {person.note or '-'}",
        f"utterances   {person.num_utterances}",
        *(f"  {source or 'unknown source'}" for source in person.sources),
    ]
    return answer, "\n".join(lines)


def _delete(store: VoiceprintStore, arguments: argparse.Namespace) -> tuple[dict[str, Any], str]:
    num_utterances = store.delete(arguments.name)
    answer = {"store": str(arguments.store), "deleted": arguments.name, "utterances": num_utterances}
    return answer, f"deleted {arguments.name}: the voiceprint, the note and {counted(num_utterances, 'utterance')}"


def _export(store: VoiceprintStore, arguments: argparse.Namespace) -> tuple[dict[str, Any], str]:
    from chns.store import export_voiceprints

    count = export_voiceprints(store, arguments.out)
    return {
        "export": str(arguments.out),
        "people": count,
    }, f"{arguments.out}: {counted(count, 'voiceprint')}, unencrypted"


def _re_embed(store: VoiceprintStore, arguments: argparse.Namespace) -> tuple[dict[str, Any], str]:
    from chns.data import Manifest, channel_number
    from chns.inference import re_embed, wanted_of
    from chns.store import VoiceprintStore, read_key

    key = read_key(arguments.key_file)
    verifier = load_verifier(arguments)
    wanted = None
    if arguments.manifest is not None:
        manifest = Manifest.read(arguments.manifest, root=arguments.root)
        wanted = wanted_of(manifest, channel=channel_number(as_channel(arguments.channel)))

    def open_new() -> VoiceprintStore:
        return VoiceprintStore.open(arguments.out, model_digest=verifier.model_digest, dim=verifier.dim, key=key)

    outcomes = re_embed(verifier, store, open_new, manifest=wanted, workers=arguments.workers)
    summary, text = _told_outcomes(arguments, outcomes)
    with open_new() as new:
        summary |= {"store": str(arguments.out), "people": len(new), "people_before": len(store)}
    text += f"\n{arguments.out}: {summary['people']:,} of the {counted(len(store), 'person', 'people')} of {store.path}"
    return summary, text

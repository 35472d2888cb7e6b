"""``chns store``: list, show, delete and export voiceprints."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    load_verifier,
    told_outcomes,
)
from chns.core import counted

if TYPE_CHECKING:
    from chns.store.voiceprints import VoiceprintStore

_EXAMPLES = f"""  chns store list people.store
  chns store show people.store anna --json          # with the voiceprint itself
  chns store delete people.store anna               # asks nothing; no byte of anna stays in the store's files
  chns store export people.store --out people.parquet    # all voiceprints, unencrypted
  chns store re-embed people.store runs/new/model --out new.store --report new.report.csv

A model is needed for re-embed alone: it hears the recordings of the paths that the store has kept, or of --manifest,
and makes a store for another model (chns[train]). The same command goes on after a stop. The old store stays as it is.
{KEY_HELP}
Deleting writes the whole file anew. Copies, backups and exports are not found by it.

exit code: 0 done; 1 recordings were rejected by re-embed; 2 error, also for a name that is not enrolled"""


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = command_parser("store", examples=_EXAMPLES)
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
    add_report_option(anew)
    add_verifier_options(anew)
    add_channel_option(anew)
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Do one of the five and print what was done."""
    from chns.store.encryption import read_key
    from chns.store.voiceprints import VoiceprintStore

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
    from chns.store.content import export_voiceprints

    count = export_voiceprints(store, arguments.out)
    return {
        "export": str(arguments.out),
        "people": count,
    }, f"{arguments.out}: {counted(count, 'voiceprint')}, unencrypted"


def _re_embed(store: VoiceprintStore, arguments: argparse.Namespace) -> tuple[dict[str, Any], str]:
    from chns.data import Manifest, channel_number
    from chns.inference.bulk import re_embed
    from chns.inference.hearing import wanted_of
    from chns.store.encryption import read_key
    from chns.store.voiceprints import VoiceprintStore

    key = read_key(arguments.key_file)
    verifier = load_verifier(arguments)
    wanted = None
    if arguments.manifest is not None:
        manifest = Manifest.read(arguments.manifest, root=arguments.root)
        wanted = wanted_of(manifest, channel=channel_number(as_channel(arguments.channel)))

    def open_new() -> VoiceprintStore:
        return VoiceprintStore.open(arguments.out, model_digest=verifier.model_digest, dim=verifier.dim, key=key)

    outcomes = re_embed(verifier, store, open_new, manifest=wanted, workers=arguments.workers)
    summary, text = told_outcomes(arguments, outcomes)
    with open_new() as new:
        summary |= {"store": str(arguments.out), "people": len(new), "people_before": len(store)}
    text += f"\n{arguments.out}: {summary['people']:,} of the {counted(len(store), 'person', 'people')} of {store.path}"
    return summary, text

"""``chns store``: list, show, delete and export voiceprints."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from chns.cli import command_parser
from chns.cli.options import KEY_HELP, add_key_option, add_store_argument

if TYPE_CHECKING:
    from chns.store.voiceprints import VoiceprintStore

_EXAMPLES = f"""  chns store list people.store
  chns store show people.store anna --json          # with the voiceprint itself
  chns store delete people.store anna               # asks nothing; no byte of anna stays in the store's files
  chns store export people.store people.parquet     # all voiceprints, unencrypted

No model is needed. {KEY_HELP}
Deleting writes the whole file anew. Copies, backups and exports are not found by it.

exit code: 0 done; 2 error, also for a name that is not enrolled"""


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
    export.add_argument("out", type=Path, metavar="OUT.parquet", help="the Parquet file")
    return parser


def run(arguments: argparse.Namespace) -> None:
    """Do one of the four and print what was done."""
    from chns.store.encryption import read_key
    from chns.store.voiceprints import VoiceprintStore

    actions = {"list": _list, "show": _show, "delete": _delete, "export": _export}
    with VoiceprintStore.open_existing(arguments.store, key=read_key(arguments.key_file)) as store:
        answer, text = actions[arguments.action](store, arguments)
    print(json.dumps(answer) if arguments.json else text)


def _list(store: VoiceprintStore, arguments: argparse.Namespace) -> tuple[object, str]:
    names = store.names()
    answer = {
        "store": str(arguments.store),
        "model_digest": store.model_digest,
        "dim": store.dim,
        "encrypted": store.is_encrypted,
        "names": names,
    }
    head = f"{len(names):,} people, model {store.model_digest[:12]}{', encrypted' if store.is_encrypted else ''}"
    return answer, "\n".join([head, *names])


def _show(store: VoiceprintStore, arguments: argparse.Namespace) -> tuple[object, str]:
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


def _delete(store: VoiceprintStore, arguments: argparse.Namespace) -> tuple[object, str]:
    num_utterances = store.delete(arguments.name)
    answer = {"store": str(arguments.store), "deleted": arguments.name, "utterances": num_utterances}
    return answer, f"deleted {arguments.name}: the voiceprint, the note and {num_utterances} utterances"


def _export(store: VoiceprintStore, arguments: argparse.Namespace) -> tuple[object, str]:
    from chns.store.content import export_voiceprints

    count = export_voiceprints(store, arguments.out)
    return {"export": str(arguments.out), "people": count}, f"{arguments.out}: {count:,} voiceprints, unencrypted"

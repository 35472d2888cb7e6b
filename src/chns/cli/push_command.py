"""``chns push``: publish a model on the Hugging Face Hub."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from chns.cli import command_parser

_EXAMPLES = """  chns push runs/chns/model me/voice --licence mit --training-data "our own recordings" --dry-run folder
  chns push runs/chns/model me/voice --licence mit --training-data "our own recordings" --private

The repository gets config.json, model.safetensors, the graph model.onnx if the model has one, and a README.md made from
them. config.json holds the settings of the training, names of files among them: look at it with --dry-run before you
publish. Log in first: `hf auth login`."""


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = command_parser("push", examples=_EXAMPLES)
    parser.add_argument("model", metavar="MODEL", help="the model's folder")
    parser.add_argument("repository", metavar="OWNER/NAME", help="repository on the Hub; made if there is none")
    parser.add_argument(
        "--licence", required=True, metavar="ID", help="the Hub's name of it: apache-2.0, cc-by-4.0, ..."
    )
    parser.add_argument(
        "--training-data", required=True, metavar="TEXT", help="which recordings it was trained on, under which terms"
    )
    parser.add_argument("--intended-use", metavar="TEXT", help="what it is for (default: a general text)")
    parser.add_argument("--language", metavar="CODE", help="language of the training data, such as en")
    parser.add_argument("--private", action="store_true", help="a new repository is only for its owner")
    parser.add_argument(
        "--dry-run", type=Path, metavar="FOLDER", help="write what would be uploaded here, and upload nothing"
    )
    parser.add_argument(
        "--trust", action="append", default=[], metavar="PACKAGE", help="package of your own encoder; may be repeated"
    )
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    return parser


def run(arguments: argparse.Namespace) -> None:
    """Write the repository's content, upload it unless told not to, and print where it is."""
    from chns.inference.publish import Publication, push_to_hub, write_repository

    own_text = {} if arguments.intended_use is None else {"intended_use": arguments.intended_use}
    publication = Publication(
        licence=arguments.licence, training_data=arguments.training_data, language=arguments.language, **own_text
    )
    summary = {"repository": arguments.repository}
    if arguments.dry_run:
        write_repository(
            arguments.model,
            arguments.dry_run,
            repository=arguments.repository,
            publication=publication,
            trusted_packages=arguments.trust,
        )
        summary["folder"] = str(arguments.dry_run)
    else:
        summary["commit"] = push_to_hub(
            arguments.model,
            arguments.repository,
            publication,
            private=arguments.private,
            trusted_packages=arguments.trust,
        )
    if arguments.json:
        print(json.dumps(summary))
    else:
        print(f"{summary['folder']}: nothing uploaded" if arguments.dry_run else summary["commit"])

"""``chns embed``: write the embedding of every utterance."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from chns.cli import command_parser
from chns.cli.options import add_model_options, add_root_option, load_on_device
from chns.core import counted

_EXAMPLES = """  chns embed runs/chns/model test.parquet --out embeddings.parquet

Columns: utterance, speaker, embedding (a list of float32, not normalised); rows as in the manifest."""


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = command_parser("embed", examples=_EXAMPLES)
    parser.add_argument("model", metavar="MODEL", help="the model: a folder, or hf://owner/name")
    parser.add_argument("manifest", type=Path, metavar="M.parquet", help="the utterances")
    parser.add_argument("--out", type=Path, required=True, metavar="E.parquet", help="where the embeddings go")
    add_root_option(parser)
    add_model_options(parser)
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    return parser


def run(arguments: argparse.Namespace) -> None:
    """Embed, write, and print what came out."""
    from chns.data import Manifest
    from chns.evaluation import Embedder, write_embeddings

    manifest = Manifest.read(arguments.manifest, root=arguments.root)
    bundle, device = load_on_device(arguments.model, arguments)
    embeddings = Embedder(model=bundle.model, device=device, num_workers=arguments.workers).utterances(manifest)
    write_embeddings(arguments.out, manifest, embeddings)
    count, dim = embeddings.shape
    if arguments.json:
        print(json.dumps({"embeddings": str(arguments.out), "utterances": count, "dim": dim}))
    else:
        print(f"{arguments.out}: {counted(count, 'embedding')} of {counted(dim, 'dimension')}")

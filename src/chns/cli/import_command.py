"""``chns import``: take over a published model of another toolkit as a folder of one's own."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from chns.cli import command_parser

_EXAMPLES = """  chns import hf://speechbrain/spkrec-ecapa-voxceleb --out models/ecapa
  chns import downloaded/folder --out models/ecapa
  chns import wespeaker-resnet34 avg_model.pt --out models/resnet34     # a state dict alone: say whose it is

then, for instance:
  chns calibrate models/ecapa dev.parquet --trials dev.txt
  chns verify models/ecapa a.wav b.wav

Only to use a model no import is needed: every command takes hf://owner/name, and the folders and files of other
toolkits. What is imported is a folder of your own, which `chns calibrate` can write into.

The toolkit need not be installed. Widths are read off the shapes; features and dilations stand in the YAML beside the
weights. With a TOOLKIT there is no YAML: they are taken to be those of its VoxCeleb recipe, and for a model trained
with others the import succeeds, but embeddings are not what the toolkit computes."""


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = command_parser("import", examples=_EXAMPLES)
    parser.add_argument(
        "toolkit",
        nargs="?",
        choices=["speechbrain", "wespeaker-ecapa", "wespeaker-resnet34", "3d-speaker-campplus"],
        help="whose model it is, for a state dict alone",
    )
    parser.add_argument("model", metavar="MODEL", help="hf://owner/name, a folder, or with TOOLKIT the file of weights")
    parser.add_argument("--out", type=Path, required=True, metavar="MODEL", help="folder that the model goes to")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    return parser


def run(arguments: argparse.Namespace) -> None:
    """Write the bundle, and print what it is."""
    if arguments.toolkit is None:
        from chns.bundle.published import own_copy

        bundle = own_copy(arguments.model, arguments.out)
    else:
        from chns.bundle.layouts import import_model

        bundle = import_model(arguments.toolkit, Path(arguments.model), arguments.out)
    parameters = sum(parameter.numel() for parameter in bundle.model.parameters())
    if arguments.json:
        summary = {"model": str(arguments.out), "parameters": parameters, "weights_sha256": bundle.digest}
        print(json.dumps({**summary, **bundle.training}))
        return
    architecture = bundle.architecture
    print(f"{arguments.out}: {architecture.encoder} on {architecture.features}, {parameters / 1e6:.2f} M parameters")

"""``chns import``: take over published weights of another toolkit."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from chns.cli import command_parser

_EXAMPLES = """  chns import speechbrain embedding_model.ckpt --out models/ecapa
  chns import wespeaker-resnet34 avg_model.pt --out models/resnet34
  chns import wespeaker-ecapa avg_model.pt --out models/ecapa512

then, for instance:
  chns verify models/ecapa a.wav b.wav
  chns train --train.start_from models/ecapa --data.train own.parquet --out runs/tuned

The checkpoint is the encoder's state dict, as the toolkit publishes it; the toolkit need not be installed. Widths are
read off the shapes. Dilations, strides and features are those of the toolkit's VoxCeleb recipe: for a model trained
with others the import succeeds, but embeddings are not what the toolkit computes."""


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = command_parser("import", examples=_EXAMPLES)
    parser.add_argument(
        "toolkit",
        choices=["speechbrain", "wespeaker-ecapa", "wespeaker-resnet34", "3d-speaker-campplus"],
        help="whose model it is",
    )
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="the file of weights")
    parser.add_argument("--out", type=Path, required=True, metavar="MODEL", help="folder that the model goes to")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    return parser


def run(arguments: argparse.Namespace) -> None:
    """Write the bundle, and print what it is."""
    from chns.bundle.layouts import import_model

    bundle = import_model(arguments.toolkit, arguments.checkpoint, arguments.out)
    parameters = sum(parameter.numel() for parameter in bundle.model.parameters())
    if arguments.json:
        summary = {"model": str(arguments.out), "parameters": parameters, "weights_sha256": bundle.digest}
        print(json.dumps({**summary, **bundle.training}))
        return
    architecture = bundle.architecture
    print(f"{arguments.out}: {architecture.encoder} on {architecture.features}, {parameters / 1e6:.2f} M parameters")

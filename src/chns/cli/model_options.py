"""Options of every command that runs a model.

Options of the commands that use a voiceprint store.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chns.bundle.bundle import Bundle
    from chns.inference.verifier import Verifier
import sys
from collections.abc import Sequence
from pathlib import Path

if TYPE_CHECKING:
    from chns.core import Float32Array
    from chns.inference.verifier import Verifier


def add_verifier_options(parser: argparse.ArgumentParser) -> None:
    """Where the model runs, and whose code it may call, for commands that embed a recording or two."""
    parser.add_argument("--device", default="cpu", help="cpu, cuda, ... (default: %(default)s)")
    parser.add_argument(
        "--backend",
        choices=["auto", "onnx", "torch"],
        default="auto",
        help="what runs the model: onnxruntime its graph, torch its weights (default: the graph, on the CPU, if there "
        "is one)",
    )
    _add_trust_option(parser)


def add_channel_option(parser: argparse.ArgumentParser) -> None:
    """Which channel of the recordings is heard."""
    parser.add_argument(
        "--channel",
        metavar="left|right|N|mix",
        help="the channel to hear of recordings with several, N from 0 (default: their mean, with a warning if they "
        "hold different sounds)",
    )


def load_verifier(arguments: argparse.Namespace) -> Verifier:
    """The model that the options of such a command name."""
    from chns.inference.verifier import Verifier

    return Verifier.load(
        arguments.model,
        device=arguments.device,
        threshold=getattr(arguments, "threshold", None),
        backend=arguments.backend,
        trusted_packages=arguments.trust,
    )


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """The same for commands that embed a manifest, and how many processes feed them."""
    parser.add_argument("--device", default="auto", help="cpu, cuda, ... (default: a GPU if there is one)")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="processes that decode (default: 2)")
    _add_trust_option(parser)


def add_root_option(parser: argparse.ArgumentParser) -> None:
    """Where a manifest's recordings are; the only place where a command takes a URL."""
    parser.add_argument(
        "--root",
        metavar="DIR|URL",
        help="where the recordings are, if not where the manifest says: a folder, or the URL of packed shards "
        "(https://, s3://, gs://)",
    )


def _add_trust_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="PACKAGE",
        help="package of your own encoder, whose code the model may run; may be repeated",
    )


def load_on_device(model: str, arguments: argparse.Namespace) -> tuple[Bundle, str]:
    """The bundle at ``model``, moved to the wished device, and that device."""
    from chns.bundle.bundle import load_bundle

    device = resolve_device(arguments.device)
    bundle = load_bundle(model, trusted_packages=arguments.trust)
    bundle.model.to(device)
    return bundle, device


def resolve_device(name: str) -> str:
    """The device that ``--device`` means, which this machine has.

    Raises:
        ValueError: If it does not.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device must be one that this machine has, got {name!r} ({error}).") from error
    return name


KEY_HELP = """An encrypted store needs its key: the content of --key-file, or else of the variable CHNS_STORE_KEY."""


def add_store_argument(parser: argparse.ArgumentParser) -> None:
    """Where the store is."""
    parser.add_argument("store", type=Path, metavar="STORE", help="the file with the voiceprints")


def add_key_option(parser: argparse.ArgumentParser) -> None:
    """Where the store's key is."""
    parser.add_argument(
        "--key-file", type=Path, metavar="F", help="file with the key (default: CHNS_STORE_KEY, if set)"
    )


def embed_recordings(
    verifier: Verifier, files: Sequence[Path], *, channel: str | None = None
) -> tuple[list[Float32Array], dict[str, list[str]]]:
    """The embedding of each recording, and what is wrong with some; warnings go to standard error too."""
    from chns.core import shown
    from chns.data.audio import as_channel

    vectors: list[Float32Array] = []
    warnings = {}
    for file in files:
        embedding = verifier.embed(file, channel=as_channel(channel))
        vectors.append(embedding.vector)
        if embedding.quality.warnings:
            warnings[str(file)] = list(embedding.quality.warnings)
            print(shown(f"{file}: {'; '.join(embedding.quality.warnings)}"), file=sys.stderr)
    return vectors, warnings

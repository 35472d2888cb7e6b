"""Options that commands share: of models, stores and channels; and the check that no output is an input."""

from __future__ import annotations

import argparse
import os
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chns.bundle import Bundle
    from chns.core import Float32Array
    from chns.data import Channel
    from chns.evaluation import Embedder
    from chns.inference import Verifier


def add_verifier_options(parser: argparse.ArgumentParser) -> None:
    """Where the model runs, and whose code it may call, for commands that embed a recording or two."""
    parser.add_argument(
        "--device", default="cpu", help="cpu, cuda, ...; auto takes a GPU if there is one (default: %(default)s)"
    )
    parser.add_argument(
        "--backend",
        choices=["auto", "onnx", "torch"],
        default="auto",
        help="what runs the model: onnxruntime its graph, torch its weights (default: the graph, on the CPU, if there "
        "is one)",
    )
    add_trust_option(parser)


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
    from chns.inference import Verifier

    device = arguments.device
    return Verifier.load(
        arguments.model,
        device=device if device == "cpu" else resolve_device(device),
        threshold=getattr(arguments, "threshold", None),
        backend=arguments.backend,
        trusted_packages=arguments.trust,
    )


def add_bulk_options(parser: argparse.ArgumentParser, *, purpose: str) -> None:
    """A manifest instead of a recording or two."""
    parser.add_argument("--manifest", type=Path, metavar="M.parquet", help=purpose)
    add_root_option(parser)
    _add_workers_option(parser)


def _add_workers_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="processes that decode (default: 2)")


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """The same for commands that embed a manifest, and how many processes feed them."""
    parser.add_argument("--device", default="auto", help="cpu, cuda, ... (default: a GPU if there is one)")
    _add_workers_option(parser)
    add_trust_option(parser)


def add_root_option(parser: argparse.ArgumentParser) -> None:
    """Where a manifest's recordings are; the only place where a command takes a URL."""
    parser.add_argument(
        "--root",
        metavar="DIR|URL",
        help="where the recordings are, if not where the manifest says: a folder, or the URL of packed shards "
        "(https://, s3://, gs://)",
    )


def add_trust_option(parser: argparse.ArgumentParser) -> None:
    """Whose code a model may call."""
    parser.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="PACKAGE",
        help="package of your own encoder, whose code the model may run; may be repeated",
    )


def load_embedder(model: str, arguments: argparse.Namespace) -> tuple[Embedder, Bundle]:
    """The bundle at ``model``, and what embeds with it on the wished device; a graph alone stays on the CPU."""
    from chns.evaluation import Embedder, GraphModel, embedding_bundle

    bundle = embedding_bundle(model, trusted_packages=arguments.trust)
    if isinstance(bundle.model, GraphModel):
        if arguments.device not in ("auto", "cpu"):
            raise ValueError(f"--device must be cpu for a model that is a graph alone, got {arguments.device!r}.")
        device = "cpu"
    else:
        device = resolve_device(arguments.device)
        bundle.model.to(device)
    return Embedder(model=bundle.model, device=device, num_workers=arguments.workers), bundle


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

    vectors: list[Float32Array] = []
    warnings = {}
    for file in files:
        embedding = verifier.embed(file, channel=as_channel(channel))
        vectors.append(embedding.vector)
        if embedding.quality.warnings:
            warnings[str(file)] = list(embedding.quality.warnings)
            print(shown(f"{file}: {'; '.join(embedding.quality.warnings)}"), file=sys.stderr)
    return vectors, warnings


def as_channel(text: str | None) -> Channel | None:
    """What somebody typed, as a channel.

    Raises:
        ValueError: If it is none.
    """
    from chns.data import channel_number

    named: dict[str | None, Channel] = {"left": "left", "right": "right", "mix": "mix"}
    return named[text] if text in named else channel_number(text)  # type: ignore[arg-type]


_BUNDLE = ("config.json", "model.safetensors", "model.onnx")
_RUN = (
    *("config.yaml", "derived.json", "training.pt", "log.csv", "summary.json", "best.json", "decisions.txt"),
    *(f"{bundle}/{file}" for bundle in ("model", "best_model") for file in _BUNDLE),
)
_TEXTS_THAT_NAME_FILES = (
    "model",
    "labels",
    "hardest_under",
    "train",
    "root",
    "validation",
    "start_from",
    "teacher",
    "folder",
    "manifest",
)
_OUTPUT_OPTIONS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(
        ("augment-preview", "compare", "configs", "convert", "embed", "export", "import", "merge", "pack"), ("out",)
    ),
    **dict.fromkeys(("speech", "split", "train", "trials"), ("out",)),
    "report": (),  # its folder may be that of a run
    "calibrate": (),  # writes into the model, which it also reads
    "check": ("fix", "report"),
    "cluster": ("out", "table"),
    "completion": (),
    "demo": ("folder",),
    "enrol": ("store", "report"),
    "evaluate": ("scores",),
    "identify": ("store", "out"),
    "metrics": ("det", "out"),
    "prepare": ("out", "converted", "recordings"),
    "push": ("dry_run",),
    "serve": ("store",),
    "store": ("out", "report"),
    "verify": (),
}


def require_files_apart(command: str, arguments: Any) -> None:
    """Make sure, before anything is read, that nothing will be overwritten that the command needs.

    Links, hard links, ``..`` and, where the file system knows no difference, upper and lower case do not hide that two
    names are one file.

    Args:
        command: Its name.
        arguments: What was parsed.

    Raises:
        ValueError: If two are the same file.
    """
    options = dict(vars(arguments))
    written_options = {name: options[name] for name in _OUTPUT_OPTIONS[command] if options.get(name) is not None}
    read = [
        (label, path)
        for name, value in options.items()
        if name not in written_options
        for label, path in _paths(name, value)
        for path in _files(path)
    ]
    written = [(name, path) for name, value in written_options.items() for _, path in _paths(name, value, is_path=True)]
    written += _beside(command, arguments)
    changed = {"calibrate": "model", "train": "config", "report": "out"}.get(command)  # read, and written on purpose
    read = [(name, path) for name, path in read if name != changed]
    for number, (name, output) in enumerate(written):
        for other_name, other in [*read, *written[:number]]:
            if _is_same(output, other):
                raise ValueError(
                    f"{_shown(name)} must be a file of its own, got {output}, which is {_shown(other_name)} too. "
                    "Choose another name, or it would be overwritten."
                )


def _paths(name: str, value: Any, *, is_path: bool = False) -> Iterator[tuple[str, Path]]:
    """Every file or folder that an option's value names, at whatever depth."""
    if isinstance(value, Path) or (isinstance(value, str) and value and (is_path or name in _TEXTS_THAT_NAME_FILES)):
        yield name, Path(value)
    elif isinstance(value, Namespace | Mapping) or hasattr(value, "items"):
        for key, inner in dict(value if isinstance(value, Mapping) else vars(value)).items():
            yield from _paths(str(key), inner, is_path=is_path)
    elif hasattr(value, "_asdict"):  # such as the cohort of `chns evaluate`
        for key, inner in value._asdict().items():
            yield from _paths(name, inner, is_path=key == "path")
    elif hasattr(value, "absolute") and not isinstance(value, str):  # a path of jsonargparse
        yield name, Path(str(value.absolute))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _paths(name, inner, is_path=is_path)


def _files(path: Path) -> Iterator[Path]:
    """The path, and the files of the bundle that it may be."""
    yield path
    for name in _BUNDLE:
        if (path / name).is_file():
            yield path / name


def _beside(command: str, arguments: Any) -> list[tuple[str, Path]]:
    """Files that a command writes beside or below the one that it was told."""
    found = _DERIVED.get(command, lambda _: [])(arguments)
    return [("output", path) for path in found]


def sweep_path(scores: Path) -> Path:
    """Where `chns evaluate --sweep` writes what it found, beside the scores."""
    return scores.with_name(f"{scores.stem}.sweep.json")


def _of_prepare(arguments: Any) -> list[Path]:
    out: Path = arguments.out
    if arguments.corpus == "synthetic":
        return [out / "manifest.parquet"]
    beside = [out.with_name(f"{out.stem}.rejected.csv")]
    for trials in getattr(arguments, "trials", []):
        beside += [out.with_name(f"{out.stem}.{trials.stem}{end}") for end in (".missing.txt", ".txt")]
    return beside


def _of_check(arguments: Any) -> list[Path]:
    manifest: Path = arguments.manifest
    end = "check.parquet" if arguments.labels is None else "labels.csv"
    return [] if arguments.report else [manifest.with_name(f"{manifest.stem}.{end}")]


def _of_export(arguments: Any) -> list[Path]:
    out: Path = arguments.out
    return [out.with_suffix(f".int8{out.suffix}")] if arguments.int8 else []


def _of_store(arguments: Any) -> list[Path]:
    return [] if getattr(arguments, "out", None) is None else _journals(arguments)


def _journals(arguments: Any) -> list[Path]:
    return [Path(f"{arguments.store}{end}") for end in ("-wal", "-shm")]


def _of_folder(*names: str) -> Callable[[Any], list[Path]]:
    def below(arguments: Any) -> list[Path]:
        folder = arguments.out if hasattr(arguments, "out") else arguments.dry_run
        return [] if folder is None else [Path(folder) / name for name in names]

    return below


_DERIVED: Mapping[str, Callable[[Any], list[Path]]] = {
    "calibrate": lambda arguments: [Path(arguments.model) / "config.json"],
    "check": _of_check,
    "compare": _of_folder("comparison.md", "comparison.json"),
    "enrol": _journals,
    "evaluate": lambda arguments: [sweep_path(arguments.scores)] if arguments.sweep else [],
    "export": _of_export,
    "import": _of_folder(*_BUNDLE),
    "pack": _of_folder("manifest.parquet", "manifest.rejected.csv", "SHA256SUMS", "shardindex.json"),
    "prepare": _of_prepare,
    "push": _of_folder(*_BUNDLE, "README.md"),
    "report": _of_folder("report.html", "suspected_duplicates.csv"),
    "serve": lambda arguments: [] if arguments.store is None else _journals(arguments),
    "store": _of_store,
    "train": _of_folder(*_RUN),
}


def _is_same(first: Path, second: Path) -> bool:
    with suppress(OSError):  # one is not there
        if first.samefile(second):
            return True
    return os.path.normcase(os.path.realpath(first)) == os.path.normcase(os.path.realpath(second))


def _shown(name: str) -> str:
    return name.replace("_", " ") if name == "output" else f"--{name.replace('_', '-')}"

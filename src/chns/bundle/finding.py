"""Find the model that a name means: a bundle's folder, one on the Hub, or another toolkit's files, local or there.

Other toolkits' models are known by the names of their files. What they hold is read, checked and made a bundle by
`chns.bundle.published`, once: the bundle stays in a cache (``$CHNS_CACHE``, else ``~/.cache/chns``), under the Hub's
commit or the digest of the files. A graph for sherpa-onnx is no bundle and needs no conversion
(`chns.bundle.bundle_graph`).
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Collection
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from chns.bundle.download import (
    SCHEME,
    MissingFileError,
    UnreachableHubError,
    downloaded_folder,
    fetched_folder,
    listed_files,
    parsed_address,
    require_sizes,
)
from chns.core import ModelFileError, write_text

_log = logging.getLogger(__name__)

DESCRIPTION_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
GRAPH_FILE = "model.onnx"
BUNDLE_FILES = (DESCRIPTION_FILE, WEIGHTS_FILE)  # those that every bundle has, unless it is a graph alone
LARGEST_DESCRIPTION_BYTES = 2**20

_LARGEST_BUNDLE_BYTES = {DESCRIPTION_FILE: LARGEST_DESCRIPTION_BYTES, WEIGHTS_FILE: 2**31}
_LARGEST_OPTIONAL_BYTES = {GRAPH_FILE: 2**30}
_LARGEST_PUBLISHED_BYTES = 2**30
_MOST_FILES = 1_000
_CONVERSION = 1  # to be raised when a conversion changes, so that older ones are not taken from the cache


SHERPA_ONNX = "sherpa-onnx"


class Layout(NamedTuple):
    """How a toolkit publishes a model.

    Attributes:
        toolkit: Whose it is.
        weights: Name of the file with the weights, or a pattern of it.
        beside: Files that must lie beside it, since they say what the weights do not.
        optional: Files that are looked at if they lie there.
    """

    toolkit: str
    weights: str
    beside: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()


LAYOUTS = (
    Layout("SpeechBrain", "embedding_model.ckpt", ("hyperparams.yaml",)),
    Layout("WeSpeaker", "avg_model.pt", ("config.yaml",)),
    Layout("WeSpeaker", "avg_model", ("config.yaml",)),
    Layout("pyannote", "pytorch_model.bin", ("config.yaml",)),
    Layout("3D-Speaker", "campplus_*.bin", optional=("configuration.json",)),
    Layout("3D-Speaker", "campplus_*.pt", optional=("configuration.json",)),
    Layout(SHERPA_ONNX, "*.onnx"),
    Layout("ReDimNet2", "*.pt"),
)


class Published(NamedTuple):
    """A model of another toolkit.

    Attributes:
        layout: How it is laid out.
        weights: Name of its file of weights.
        names: Names of all files that are needed, the weights first.
    """

    layout: Layout
    weights: str
    names: tuple[str, ...]


def is_on_hub(model: Path | str) -> bool:
    """Whether a name is one of the Hub."""
    return isinstance(model, str) and model.startswith(SCHEME)


def require_local(model: Path | str) -> None:
    """Make sure that a model is a bundle's folder, before work that ends with writing into it.

    Raises:
        ValueError: If it is on the Hub, or another toolkit's.
    """
    if is_on_hub(model) or (not holds_bundle(Path(model)) and _local(Path(model)) is not None):
        raise ValueError(
            f"model must be a folder of chns, to write metrics into it, got {model}. Make one with "
            f"`chns import {model} --out FOLDER`."
        )


def holds_bundle(folder: Path) -> bool:
    """Whether a bundle's files lie there; a small one to be handed on may have the graph alone."""
    weighty = (folder / WEIGHTS_FILE).is_file() or (folder / GRAPH_FILE).is_file()
    return weighty and (folder / DESCRIPTION_FILE).is_file()


def bundle_folder(model: Path | str) -> Path:
    """The folder of the bundle that a name means; what is on the Hub or another toolkit's is made one first.

    A graph for sherpa-onnx stays what it is, and its file is given in place of a folder.

    Args:
        model: A folder or a file, or ``hf://owner/name[/FILE][@revision]``.

    Raises:
        FileNotFoundError: If the folder or one of its files is missing.
        ModelFileError: If another toolkit's model is none that can be taken over.
        ModuleNotFoundError: If it can, but torch is missing.
        ValueError, ChnsError, HubError: As `chns.bundle.download.downloaded_folder`.
    """
    if is_on_hub(model):
        return _from_hub(str(model))
    path = Path(model)
    _refuse_run(path)
    published = None if holds_bundle(path) else _local(path)
    if published is None:
        require_bundle(path)
        return path
    folder = path if path.is_dir() else path.parent
    digest = hashlib.sha256()
    for name in published.names:
        with (folder / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return _converted(published, folder, key=digest.hexdigest()[:40], source=str(path))


def require_bundle(folder: Path) -> None:
    """Make sure that a bundle's files are there.

    Raises:
        FileNotFoundError: If they are not.
    """
    if not holds_bundle(folder):
        raise FileNotFoundError(
            f"model must be a folder with {DESCRIPTION_FILE} and {WEIGHTS_FILE}, or a model as published by "
            f"{_toolkits()}, got {folder}."
        )


def cache_folder() -> Path:
    """Where converted models stay; it may be deleted at any time."""
    stated = os.environ.get("CHNS_CACHE")
    general = os.environ.get("XDG_CACHE_HOME")
    return Path(stated) if stated else (Path(general) if general else Path.home() / ".cache") / "chns"


def _from_hub(address: str) -> Path:
    parsed = parsed_address(address)
    remembered = _remembered(address)
    try:
        if parsed.file is None:
            try:
                return downloaded_folder(
                    address, largest_bytes=_LARGEST_BUNDLE_BYTES, optional_bytes=_LARGEST_OPTIONAL_BYTES
                )
            except MissingFileError:
                pass  # another toolkit's, then
        if remembered is not None and parsed.is_commit:
            return remembered
        sizes = listed_files(address)
        published = _published(sizes, parsed.file, source=address)
        if published is None:
            present = ", ".join(sorted(sizes)[:8]) or "no file"
            raise ModelFileError(
                f"repository must hold a model of chns ({' and '.join(BUNDLE_FILES)}) or as published by "
                f"{_toolkits()}, got {present} in {address}."
            )
        require_sizes(sizes, {name: _largest(name, published) for name in published.names}, address)
        folder = fetched_folder(address, published.names)
    except UnreachableHubError:
        if remembered is None:
            raise
        return remembered
    key = "--".join([parsed.repository.replace("/", "--"), *filter(None, [parsed.file]), folder.name])
    converted = _converted(published, folder, key=key, source=address)
    write_text(_note(address), f"{converted}\n")
    return converted


def _converted(published: Published, folder: Path, *, key: str, source: str) -> Path:
    """The bundle in the cache, made if it is not there; of a graph the graph."""
    from filelock import FileLock

    converted = cache_folder() / "models" / f"{key}--{_CONVERSION}"
    if published.layout.toolkit == SHERPA_ONNX:
        return folder / published.weights
    if holds_bundle(converted):
        return converted
    converted.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(converted.with_name(f".{converted.name}.lock")):
        if not holds_bundle(converted):
            _log.info("%s is a model of %s: converting it once, to %s", source, published.layout.toolkit, converted)
            from chns.bundle.published import convert

            convert(published, folder, converted, source=source)
    return converted


def _note(address: str) -> Path:
    """Where the cache notes what a name led to, for when the Hub is out of reach."""
    return cache_folder() / "addresses" / f"{hashlib.sha256(address.encode()).hexdigest()[:40]}--{_CONVERSION}"


def _remembered(address: str) -> Path | None:
    note = _note(address)
    if not note.is_file():
        return None
    converted = Path(note.read_text(encoding="utf-8").strip())
    return converted if converted.is_file() or holds_bundle(converted) else None


def _local(path: Path) -> Published | None:
    """The published model in a folder, or of which a file is the weights."""
    folder, file = (path, None) if path.is_dir() else (path.parent, path.name)
    if file is not None and not path.is_file():
        return None
    with os.scandir(folder) as entries:
        # Path's, for which a link that leads to itself is no file; the entry's raises an OSError
        names = [entry.name for entry in islice(entries, _MOST_FILES) if Path(entry).is_file()]
    return _published(names if file is None else {*names, file}, file, source=str(path))


def _published(names: Collection[str], file: str | None, *, source: str) -> Published | None:
    """What files are by their names, if they are known.

    Args:
        names: Those that lie there.
        file: The one that was named, if one was.
        source: For errors.

    Raises:
        ModelFileError: If several models lie there and none was named, or the named one lacks what must lie beside it.
    """
    incomplete = None
    for layout in LAYOUTS:
        candidates = names if file is None else [file]
        matching = sorted(name for name in candidates if fnmatchcase(name, layout.weights))
        if not matching:
            continue
        if not all(name in names for name in layout.beside):
            incomplete = layout
            continue
        if len(matching) > 1:
            raise ModelFileError(
                f"model must be one, got {len(matching)} of {layout.toolkit} ({', '.join(matching[:6])}) in {source}. "
                f"Name one of them: {source.partition('@')[0]}/{matching[0]}."
            )
        there = tuple(name for name in layout.optional if name in names)
        return Published(layout, matching[0], (matching[0], *layout.beside, *there))
    if file is not None and incomplete is not None:
        raise ModelFileError(
            f"{file} must lie beside {' and '.join(incomplete.beside)}, which says what the weights do not, got it "
            f"alone in {source}. If it is of the toolkit's own recipe, `chns import TOOLKIT {source} --out FOLDER`."
        )
    return None


def _largest(name: str, published: Published) -> int:
    return _LARGEST_PUBLISHED_BYTES if name == published.weights else LARGEST_DESCRIPTION_BYTES


def _toolkits() -> str:
    return ", ".join(dict.fromkeys(layout.toolkit for layout in LAYOUTS))


def _refuse_run(folder: Path) -> None:
    """Name the model of a training's folder, which is what was meant."""
    if not (folder / DESCRIPTION_FILE).is_file() and (folder / "model" / DESCRIPTION_FILE).is_file():
        raise FileNotFoundError(
            f"model must be a model's folder, got that of a training, {folder}. Its model is {folder / 'model'}."
        )

"""Model bundles on the Hugging Face Hub: ``hf://owner/name[@revision]``.

A repository holds the bundle's two files and a generated README. What is downloaded comes from strangers: only the two
files are fetched, whatever else lies there, and they are read as any bundle is, without running anything. A revision
that is a commit's hash is the only one that cannot change later.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

from chns.checkpoint import Bundle, load_bundle
from chns.errors import ChnsError
from chns.files import atomic_folder
from chns.inference.model_card import Publication, model_card

BUNDLE_FILES = ("model.json", "model.safetensors")

_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?"
_REPOSITORY = re.compile(rf"{_NAME}/{_NAME}")
_ADDRESS = re.compile(rf"hf://({_NAME}/{_NAME})(?:@([A-Za-z0-9](?:[A-Za-z0-9._/-]*[A-Za-z0-9])?))?")


def load_bundle_from_hub(address: str, *, trusted_packages: Collection[str] = ()) -> Bundle:
    """Download a bundle, or take it from the Hub's local cache, and read it.

    Args:
        address: ``hf://owner/name`` or ``hf://owner/name@revision``, a branch, a tag or a commit.
        trusted_packages: Further packages whose encoders may be built, which runs their code; `chns` is trusted.

    Raises:
        ValueError: If the address is not of that form.
        ChnsError: If ``huggingface_hub`` is missing.
        OSError: If the Hub cannot be reached, or has no such repository or revision that one may read.
        FileNotFoundError: If the repository holds no bundle.
        ModelFileError: If the bundle is damaged, of another format, or names an encoder of a package not trusted.
    """
    match = _ADDRESS.fullmatch(address)
    if match is None or ".." in address:
        raise ValueError(f"address must read hf://owner/name or hf://owner/name@revision, got {address!r}.")
    repository, revision = match.groups()
    folder = _hub().snapshot_download(repository, revision=revision, allow_patterns=list(BUNDLE_FILES))
    return load_bundle(folder, trusted_packages=trusted_packages)


def write_repository(
    model: Path | str,
    folder: Path,
    *,
    repository: str,
    publication: Publication,
    trusted_packages: Collection[str] = (),
) -> None:
    """Put what a repository on the Hub holds into a local folder: the bundle and its README.

    Args:
        model: The bundle's folder.
        folder: Where to; one that exists is replaced.
        repository: ``owner/name``.
        publication: What the README says that the bundle does not know.
        trusted_packages: Further packages whose encoders may be built.

    Raises:
        ValueError: If the repository's name is not of that form.
        FileNotFoundError: If there is no bundle.
        ModelFileError: If the bundle cannot be loaded.
    """
    _require_repository(repository)
    bundle = load_bundle(model, trusted_packages=trusted_packages)
    with atomic_folder(folder) as temporary:
        for name in BUNDLE_FILES:
            shutil.copyfile(Path(model) / name, temporary / name)
        (temporary / "README.md").write_text(model_card(repository, bundle, publication), encoding="utf-8")


def push_repository(folder: Path, *, repository: str, private: bool) -> str:
    """Upload what `write_repository` wrote; the repository is made if there is none.

    Args:
        folder: Only the bundle's two files and the README in it are uploaded.
        repository: ``owner/name``.
        private: Whether a new repository is only for its owner.

    Returns:
        Address of the commit.

    Raises:
        ValueError: If the repository's name is not of that form.
        ChnsError: If ``huggingface_hub`` is missing.
        OSError: If the Hub cannot be reached or refuses.
    """
    _require_repository(repository)
    hub = _hub()
    hub.create_repo(repository, private=private, exist_ok=True)
    commit = hub.upload_folder(
        repo_id=repository,
        folder_path=folder,
        allow_patterns=[*BUNDLE_FILES, "README.md"],
        commit_message="Model bundle of chns",
    )
    return str(commit.commit_url)


def _require_repository(repository: str) -> None:
    if _REPOSITORY.fullmatch(repository) is None or ".." in repository:
        raise ValueError(f"repository must read owner/name, got {repository!r}.")


def _hub() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise ChnsError(
            "huggingface_hub must be installed, got no such package. Run `pip install 'chns[hub]'`."
        ) from error
    return huggingface_hub

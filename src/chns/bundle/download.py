"""Fetch the files of a model from the Hugging Face Hub: ``hf://owner/name[/FILE][@revision]``.

A repository comes from a stranger, so only named files are fetched, whatever else lies there, and only if the Hub
states a size within bounds. They go into the Hub's own cache and are downloaded once; without a network the cache
answers. A revision that is a commit's hash cannot change later, and once downloaded needs no network at all.

Whole snapshots (``snapshot_download``) are not taken: they list everything that a repository holds, which has no bound.
Where names are not known before, the first thousand at the top of the repository are listed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from chns.core import ChnsError, ModelFileError

SCHEME = "hf://"

_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?"
_REPOSITORY = re.compile(rf"{_NAME}/{_NAME}")
_FILE = r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,150}"
_ADDRESS = re.compile(
    rf"{SCHEME}({_NAME}/{_NAME})(?:/({_FILE}\.(?:bin|ckpt|onnx|pt)))?(?:@([A-Za-z0-9](?:[A-Za-z0-9._/-]*[A-Za-z0-9])?))?"
)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_MOST_LISTED = 1_000


class HubError(ChnsError, OSError):
    """The Hub cannot be reached, or does not give what it is asked for."""


class UnreachableHubError(HubError):
    """Then a cache may have it."""


class MissingFileError(ModelFileError):
    """A repository lacks a file that was asked for."""


class Address(NamedTuple):
    """What ``hf://owner/name[/FILE][@revision]`` names; without the revision, the newest commit."""

    repository: str
    file: str | None
    revision: str | None

    @property
    def is_commit(self) -> bool:
        """Whether it can never name anything else."""
        return self.revision is not None and _COMMIT.fullmatch(self.revision) is not None


def downloaded_folder(
    address: str, *, largest_bytes: Mapping[str, int], optional_bytes: Mapping[str, int] | None = None
) -> Path:
    """Download a model's files, or take them from the Hub's local cache.

    Args:
        address: ``hf://owner/name`` or ``hf://owner/name@revision``, a branch, a tag or a commit.
        largest_bytes: How large each file may be; nothing but these files is downloaded.
        optional_bytes: The same of files that a repository may lack; from the cache they come if they are there.

    Returns:
        The folder in the cache; nothing in it may be changed.

    Raises:
        ValueError: If the address is not of that form.
        ChnsError: If ``huggingface_hub`` is missing.
        HubError: If the Hub cannot be reached and the cache does not have the files, or it has no such repository or
            revision that one may read.
        ModelFileError: If a file is missing in the repository, or too large.
    """
    repository, _, revision = parsed_address(address)
    hub = require_hub()
    names = list(largest_bytes)
    if parsed_address(address).is_commit:
        cached = _cached_folder(hub, repository, revision, names)
        if cached is not None:
            return cached
    try:
        with explained_hub_errors(hub, address):
            listed = hub.HfApi().get_paths_info(repository, [*names, *(optional_bytes or {})], revision=revision)
        sizes = {entry.path: getattr(entry, "size", None) for entry in listed}
        there = {name: largest for name, largest in (optional_bytes or {}).items() if name in sizes}
        require_sizes(sizes, {**largest_bytes, **there}, address)
        return fetched_folder(address, [*names, *there])
    except UnreachableHubError:
        cached = _cached_folder(hub, repository, revision, names)
        if cached is None:
            raise
        return cached


def listed_files(address: str) -> dict[str, int | None]:
    """Names and sizes of the files at the top of a repository, the first thousand.

    Raises:
        ChnsError, HubError: As `downloaded_folder`.
    """
    repository, _, revision = parsed_address(address)
    hub = require_hub()
    with explained_hub_errors(hub, address):
        entries = list(islice(hub.HfApi().list_repo_tree(repository, revision=revision), _MOST_LISTED))
    sizes = {str(entry.path): getattr(entry, "size", None) for entry in entries if hasattr(entry, "size")}
    return {name: size for name, size in sizes.items() if re.fullmatch(_FILE, name)}


def fetched_folder(address: str, names: Sequence[str]) -> Path:
    """All these files of one commit, even if the repository changes in the meantime.

    Returns:
        The folder in the cache, called by the commit; nothing in it may be changed.

    Raises:
        ChnsError, HubError: As `downloaded_folder`.
    """
    repository, _, revision = parsed_address(address)
    hub = require_hub()
    with explained_hub_errors(hub, address):
        folder = Path(hub.HfApi().hf_hub_download(repository, names[0], revision=revision)).parent
        for name in names[1:]:
            hub.HfApi().hf_hub_download(repository, name, revision=folder.name)
    return folder


def require_repository(repository: str) -> None:
    """Make sure that a name can be that of a repository.

    Raises:
        ValueError: If it does not read ``owner/name``.
    """
    if _REPOSITORY.fullmatch(repository) is None or ".." in repository:
        raise ValueError(f"repository must read owner/name, got {repository!r}.")


def require_hub() -> Any:
    """The package ``huggingface_hub``.

    Raises:
        ChnsError: If it is missing.
    """
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError as error:
        raise ChnsError(
            "huggingface_hub must be installed, got no such package. Run `pip install 'chns[hub]'`."
        ) from error
    return huggingface_hub


@contextmanager
def explained_hub_errors(hub: Any, address: str) -> Iterator[None]:
    """Turn what the Hub's package raises into errors of one line that say what to do.

    Args:
        hub: The package.
        address: What is asked for.

    Raises:
        HubError: In place of them.
    """
    errors = hub.errors
    try:
        yield
    except errors.GatedRepoError as error:
        raise HubError(
            f"model must be open to you, got {address}, which is gated. Ask for access on its page on the Hub, then "
            f"log in with `hf auth login`."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise HubError(
            f"model must be a repository that you may use, got {address}, which the Hub does not know. If it is "
            f"private, log in with `hf auth login`."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise HubError(
            f"revision must be a branch, a tag or a commit of the repository, got {address}, which has no such."
        ) from error
    except (errors.HTTPError, OSError) as error:  # HTTPError: the base of its HTTP library, which has changed twice
        raise UnreachableHubError(
            f"Hub must answer for {address}, got: {_first_line(error)} Check the network, and log in with "
            f"`hf auth login` if only you may use it."
        ) from error


def parsed_address(address: str) -> Address:
    """The parts of an address.

    Raises:
        ValueError: If it is none.
    """
    match = _ADDRESS.fullmatch(address)
    if match is None or ".." in address:
        raise ValueError(f"address must read hf://owner/name or hf://owner/name@revision, got {address!r}.")
    return Address(match[1], match[2], match[3])


def require_sizes(sizes: Mapping[str, int | None], largest_bytes: Mapping[str, int], address: str) -> None:
    """Make sure that files are there, and not too large.

    Args:
        sizes: Those that the Hub states.
        largest_bytes: How large each may be.
        address: For the error.

    Raises:
        MissingFileError: If one is not there, or the Hub does not know how large it is.
        ModelFileError: If one is larger.
    """
    for name, largest in largest_bytes.items():
        size = sizes.get(name)
        if size is None:
            raise MissingFileError(f"repository must hold {' and '.join(largest_bytes)}, got no {name} in {address}.")
        if size > largest:
            raise ModelFileError(f"{name} must be at most {largest:,} bytes, got {size:,} in {address}.")


def _cached_folder(hub: Any, repository: str, revision: str | None, names: list[str]) -> Path | None:
    """The folder of a commit in the cache, if it has all files."""
    found = hub.try_to_load_from_cache(repository, names[0], revision=revision)
    if not isinstance(found, str):
        return None
    folder = Path(found).parent
    return folder if all((folder / name).is_file() for name in names) else None


def _first_line(error: Exception) -> str:
    return ((str(error).splitlines() or [""])[0][:200] or type(error).__name__).rstrip(".") + "."

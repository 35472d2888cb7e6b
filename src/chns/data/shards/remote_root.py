"""The URL below which packed shards lie, and parts of them from there.

A manifest may come from a stranger, so only a user names such a root: none is read from a file, and a manifest's paths
are appended to it as names, whatever they look like.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TypeGuard
from urllib.parse import quote, urlsplit

from chns.data.shards.driver_ranges import driver_range
from chns.data.shards.http_ranges import Patience, http_range
from chns.errors import ChnsError

_URL = re.compile(r"([a-z][a-z0-9+.-]*)://[^\s?#]+")
_WEB = ("http", "https")


@dataclass(frozen=True)
class RemoteRoot:
    """A folder in object storage or on a web server.

    Attributes:
        url: ``https://``, ``http://``, or what fsspec has a driver for: ``s3://``, ``gs://``, ...
        patience: How long to wait for a web server; drivers have limits of their own.

    Raises:
        ValueError: If the URL is not of that form, holds a query or credentials, or nothing reads its scheme.
        ChnsError: If the package that reads it is not installed.
    """

    url: str
    patience: Patience = field(default_factory=Patience)

    def __post_init__(self) -> None:
        _require_url(self.url)
        _require_package(self._scheme)
        object.__setattr__(self, "url", self.url.rstrip("/"))

    def __str__(self) -> str:
        """The URL."""
        return self.url

    @property
    def _scheme(self) -> str:
        return self.url.partition("://")[0]

    def fetch(self, shard: str, start: int, length: int, *, place: str) -> bytes:
        """Part of a shard.

        Args:
            shard: Its path below the root.
            start: First byte.
            length: Number of bytes, at least 1.
            place: What to call it in an error.

        Returns:
            Exactly the bytes asked for.

        Raises:
            FileNotFoundError: If there is no such shard.
            AudioError: If it cannot be read, or something else than these bytes came.
        """
        if self._scheme in _WEB:
            return http_range(f"{self.url}/{quote(shard)}", start, length, place=place, patience=self.patience)
        return driver_range(self.url, shard, start, length, place=place)


def is_url(root: object) -> TypeGuard[str]:
    """Whether a root that a user gives is a URL, not a folder."""
    return isinstance(root, str) and "://" in root


def _require_url(url: str) -> None:
    try:
        match, parts = _URL.fullmatch(url), urlsplit(url)
        is_whole = match is not None and (parts.scheme not in _WEB or parts.hostname is not None)
        _ = parts.port
    except ValueError:
        is_whole = False
    if not is_whole:
        raise ValueError(
            f"root URL must read like https://bucket.example/corpus or s3://bucket/corpus, without ? or #, got {url!r}."
        )
    if parts.password is not None or (parts.scheme in _WEB and parts.username is not None):
        raise ValueError(
            f"root URL must hold no credentials, for it is written into settings and messages, got some for "
            f"{parts.hostname}. Give them to the driver instead (for s3:// and gs://, its environment variables)."
        )


def _require_package(scheme: str) -> None:
    package = "urllib3" if scheme in _WEB else "fsspec"
    if find_spec(package) is None:
        raise ChnsError(
            f"shards below {scheme}:// need the package {package}, got none. Install it with `pip install "
            f"'chns[remote]'`."
        )
    if scheme not in _WEB:
        _require_driver(scheme)


def _require_driver(scheme: str) -> None:
    from fsspec import get_filesystem_class

    try:
        get_filesystem_class(scheme)
    except ImportError as error:
        raise ChnsError(
            f"shards below {scheme}:// need fsspec's driver for it, got none ({error}). Install that with pip."
        ) from error
    except ValueError as error:
        raise ValueError(
            f"root URL must be http(s):// or one that fsspec has a driver for, like s3:// or gs://, got {scheme}://."
        ) from error

"""Part of a file from object storage (``s3://``, ``gs://``, ...), through fsspec and the driver that it names.

Credentials and endpoints are the driver's: its environment variables, its files, or fsspec's own configuration. So are
time limits and repeated attempts. A driver reads an answer to its end, and only then can its length be looked at: it
talks to the storage that its user has an account with, not to a stranger.
"""

from __future__ import annotations

import os
from functools import cache
from typing import TYPE_CHECKING

from chns.errors import AudioError

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem


def driver_range(root: str, path: str, start: int, length: int, *, place: str) -> bytes:
    """Fetch part of a file.

    Args:
        root: URL of the folder.
        path: The file below it.
        start: First byte.
        length: Number of bytes, at least 1.
        place: What to call it in an error.

    Returns:
        Exactly the bytes asked for.

    Raises:
        FileNotFoundError: If there is no such file.
        AudioError: If the driver fails, or gives another number of bytes.
    """
    try:
        driver, folder = _driver(os.getpid(), root)
        content: bytes = driver.cat_file(f"{folder.rstrip('/')}/{path}", start=start, end=start + length)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"shard must be there, got none for {place}. Put the shards below the root URL, or correct it."
        ) from error
    except Exception as error:  # each driver has exceptions of its own
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise AudioError(
            f"shard must be readable, got an error for {place} ({reason}). Check the URL, the credentials and the "
            f"network, then start again: a training goes on from its last checkpoint."
        ) from error
    if len(content) != length:
        raise AudioError(
            f"storage must send {length:,} bytes, got {len(content):,} in {place}. The shard is cut off or not that of "
            f"this manifest: upload both again."
        )
    return content


@cache
def _driver(process_id: int, root: str) -> tuple[AbstractFileSystem, str]:  # noqa: ARG001 - not for a forked process
    from fsspec.core import url_to_fs

    driver, folder = url_to_fs(root)
    return driver, folder

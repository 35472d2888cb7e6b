"""One writer a folder at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chns.errors import ManifestError


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Make the folder if need be and hold it against other processes; the system lets go of it when this one ends.

    Raises:
        ManifestError: If another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise ManifestError(
            f"folder must be written by one process at a time, got another one in {folder}. Wait for it to end."
        ) from error
    finally:
        os.close(descriptor)

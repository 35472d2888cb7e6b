"""Write files so that a reader sees the old one or the new one, never half of either."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from chns.errors import FolderInUseError


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary name beside ``path``; rename it to ``path`` when the block ends without an error.

    Args:
        path: The final name. Missing parent folders are made.

    Yields:
        A name with the same suffix, so that writers which choose a format by suffix work unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder beside ``path``; put it in place of ``path`` when the block ends without an error.

    Args:
        path: The final folder. One that exists is replaced: it is moved aside first and deleted last, so at no moment
            is there half a folder under the final name.

    Yields:
        An empty folder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        replaced = Path(tempfile.mkdtemp(prefix=f".{path.name}-old-", dir=path.parent))
        try:
            if path.exists():
                path.replace(replaced)
            temporary.replace(path)
        finally:
            shutil.rmtree(replaced, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Make the folder if need be and hold it against other processes; the system lets go of it when this one ends.

    Raises:
        FolderInUseError: If another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            yield
    except Timeout as error:
        raise FolderInUseError(
            f"folder must be written by one process at a time, got another one in {folder}. Wait for it to end."
        ) from error

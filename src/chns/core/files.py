"""Files that are whole or not there, and text from strangers that is bounded.

A folder is replaced only if everything in it is what its writer writes. What a killed process leaves has a name that
says whose it is (``.NAME.chns-tmp-PROCESS-MACHINE``), and goes when a process of the same machine next writes there.

A configuration of 500 bytes can unfold to terabytes through aliases of aliases, and a number can hold the screen's own
commands. Everything that is read as YAML or as a number, and every name that is shown, passes through here.
"""

from __future__ import annotations

import errno
import hashlib
import os
import platform
import re
import secrets
import shutil
import stat
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from chns.core.errors import ChnsError, ConfigError, FolderInUseError, in_short, quoted, suggestion

_TEMPORARY = re.compile(
    r"\.(?P<final>.*)\.chns-(?P<kind>tmp|old)-(?P<pid>\d+)-(?P<host>[0-9a-f]{8})?[0-9a-f]{8}(?:\.[^.]*)?"
)
_MACHINE = hashlib.blake2b(platform.node().encode(), digest_size=4).hexdigest()  # processes of others are not seen
_LONGEST_STEM = 40  # characters, so that the temporary name is not too long where the final one is not
_DISK_ERRORS = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM}
_PROBE_BYTES = 2**20
_LOCK = ".lock"  # left by `locked_folder`, as removing it would let two processes in
_PATIENCE_SECONDS = 10  # with which a part of a job waits for others that begin at the same time
_tidied: set[Path] = set()


@contextmanager
def atomic_path(path: Path, *, mode: int = 0o666) -> Iterator[Path]:
    """Give a temporary name beside ``path``; rename it to ``path`` when the block ends without an error.

    Args:
        path: The final name. Missing parent folders are made.
        mode: Who may do what with the file, before the umask is taken off.

    Yields:
        A name with the same suffix, so that writers which choose a format by suffix work unchanged. The file is there,
        empty and only for its owner.

    Raises:
        IsADirectoryError: If ``path`` is a folder.
        OSError: If the disk is full or the file cannot be written, whatever the library that wrote made of it.
    """
    if path.is_dir():
        raise IsADirectoryError(f"written file must not be a folder, got {path}. Choose another name.")
    with plain_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _tidy(path.parent)
        temporary = _temporary_name(path, "tmp")
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    try:
        with plain_disk_errors(path, temporary):
            yield temporary
            _finish(temporary, mode)
            temporary.replace(path)
            _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a file in UTF-8, whole or not at all; errors as `atomic_path`."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def atomic_folder(path: Path, *, ours: Collection[str]) -> Iterator[Path]:
    """Give a temporary folder beside ``path``; put it in place of ``path`` when the block ends without an error.

    Args:
        path: The final folder. One that exists is replaced if there is nothing in it but ``ours``: it is moved aside
            first and deleted last, so at no moment is there half a folder under the final name.
        ours: Names of the files that the writer writes; see `require_ours`.

    Yields:
        An empty folder. Its files get the mode that the umask gives new ones, whoever wrote them.

    Raises:
        FileExistsError: If there is something else in the folder, before the block and, again, after it.
        OSError: As `atomic_path`.
    """
    path = path.resolve()  # the folder that a link names is replaced, not the link
    require_ours(path, ours)
    with plain_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _tidy(path.parent)
        temporary = _temporary_name(path, "tmp")
        temporary.mkdir()
    try:
        with plain_disk_errors(path, temporary / ".probe"):
            yield temporary
            for written in temporary.rglob("*"):
                if written.is_file():
                    _finish(written, 0o666)
            _sync_folder(temporary)
            require_ours(path, ours)
            _exchange(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def require_ours(folder: Path, ours: Collection[str]) -> None:
    """Make sure that nothing is lost when a folder is replaced.

    Args:
        folder: It may be missing.
        ours: Names of the files that the writer writes, or patterns of them as of `fnmatch`.

    Raises:
        FileExistsError: If it is a file, or holds anything else: another name, a folder, a link.
    """
    if not os.path.lexists(folder):
        return
    if not folder.is_dir():
        raise FileExistsError(f"folder to write must not be a file, got {folder}. Choose another name.")
    foreign = sorted(
        entry.name
        for entry in os.scandir(folder)
        if not (
            entry.is_file(follow_symlinks=False)
            and (any(fnmatch(entry.name, name) for name in (*ours, f"{_LOCK}*")) or _TEMPORARY.fullmatch(entry.name))
        )
    )
    if foreign:
        more = f" and {len(foreign) - 3} more" if len(foreign) > 3 else ""
        raise FileExistsError(
            f"folder to write must be new, empty or of an earlier run, got {', '.join(map(repr, foreign[:3]))}{more} "
            f"in {folder}, which would be lost. Choose another folder."
        )


def _exchange(new: Path, path: Path) -> None:
    replaced = _temporary_name(path, "old")
    if path.exists():
        path.replace(replaced)
    try:
        new.replace(path)
    except OSError:
        if replaced.exists():
            replaced.replace(path)
        raise
    _sync_folder(path.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def _temporary_name(path: Path, kind: str) -> Path:
    stem, suffix = (path.stem[:_LONGEST_STEM], path.suffix) if kind == "tmp" else (path.name, "")
    return path.with_name(f".{stem}.chns-{kind}-{os.getpid()}-{_MACHINE}{secrets.token_hex(4)}{suffix}")


def _tidy(folder: Path, *, nobody_writes: bool = False) -> None:
    """Once a process and folder: remove what killed processes have left; a folder they had moved aside goes back."""
    if folder in _tidied:
        return
    _tidied.add(folder)
    for entry in list(os.scandir(folder)):
        found = _TEMPORARY.fullmatch(entry.name)
        if found is None or (not nobody_writes and _may_be_alive(found)):
            continue
        left_over = Path(entry.path)
        with suppress(OSError):
            if found["kind"] == "old" and not (folder / found["final"]).exists():
                left_over.replace(folder / found["final"])
            elif entry.is_dir(follow_symlinks=False):
                shutil.rmtree(left_over)
            else:
                left_over.unlink()


def _may_be_alive(name: re.Match[str]) -> bool:
    if os.name == "nt" or name["host"] not in (None, _MACHINE):  # os.kill would end it; or it is not seen from here
        return True
    try:
        os.kill(int(name["pid"]), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _finish(written: Path, mode: int) -> None:
    with written.open("r+b") as file:
        os.fsync(file.fileno())
    written.chmod(mode & ~_umask())


def _sync_folder(folder: Path) -> None:
    """Make a renaming last, where the system can do that for folders."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def plain_disk_errors(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """Name the file that the user knows; a library's own error is the disk's if nothing more can be written now."""
    try:
        yield
    except OSError as error:
        if isinstance(error, ChnsError) or error.errno not in _DISK_ERRORS or _names_another(error, path):
            raise
        raise _disk_error(path, error) from error
    except (ChnsError, ValueError):
        raise
    except Exception as error:
        refused = None if temporary is None else _refusal(temporary)
        if refused is None:
            raise
        raise _disk_error(path, refused) from error


def _names_another(error: OSError, path: Path) -> bool:
    """Whether the error is of a file elsewhere, such as one that is read in the block."""
    name = error.filename
    if not isinstance(name, str | os.PathLike):
        return False
    return not Path(name).absolute().is_relative_to(path.absolute().parent)


def _disk_error(path: Path, error: OSError) -> OSError:
    assert error.errno is not None  # it is one of `_DISK_ERRORS`, or the system's own
    reason = os.strerror(error.errno)
    text = f"written file must fit on the disk and be allowed there, got {reason!r} for {path}. Nothing was replaced."
    kind = PermissionError if isinstance(error, PermissionError) else OSError
    told = kind(text)
    told.errno = error.errno
    return told


def _refusal(temporary: Path) -> OSError | None:
    """The error that the disk gives to a megabyte more, if any."""
    try:
        with temporary.open("ab") as file:
            file.write(bytes(_PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return error
    return None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextmanager
def locked_folder(folder: Path, *, part: object = None) -> Iterator[None]:
    """Make the folder if need be and hold it against other processes; the system lets go of it when this one ends.

    With a ``part`` of a job, only against the whole and the same part, also of other machines if the storage has locks.

    Raises:
        FolderInUseError: If another process holds it, or does the same part.
    """
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        try:
            whole = held.enter_context(FileLock(folder / _LOCK, timeout=0 if part is None else _PATIENCE_SECONDS))
            own = None if part is None else folder / f"{_LOCK}-{str(part).replace('/', '-of-')}"
            parts = sorted(folder.glob(f"{_LOCK}-*")) if own is None else [own]
            for lock in parts:
                held.enter_context(FileLock(lock, timeout=0))
        except Timeout as error:
            raise FolderInUseError(
                f"folder must be written by one process at a time, got another one in {folder}. Wait for it to end."
            ) from error
        if own is not None:
            whole.release()
        else:
            for lock in parts:
                lock.unlink(missing_ok=True)  # none can begin meanwhile, and all are held
            for path, _, _ in os.walk(folder):
                _tidied.discard(Path(path))
                _tidy(Path(path), nobody_writes=True)
        yield


LARGEST_YAML_BYTES = 2**20
_MOST_VALUES, _DEEPEST = 100_000, 50
_LONGEST_SCALAR = 3_000  # longer hexadecimal integers could not be printed
_NAMES_CODE = "class_path"  # jsonargparse would import what it names


def moved_along(path: str, before: Path, now: Path) -> str:
    """Where a path leads that is gone: to what lies as it did, seen from a folder, if both were moved together.

    Args:
        path: Whole; anything else is given back.
        before: Where the folder lay.
        now: Where it lies.
    """
    if not Path(path).is_absolute() or Path(path).exists():
        return path
    with suppress(ValueError):  # another drive of Windows
        there = os.path.normpath(now / os.path.relpath(path, before))
        return there if Path(there).exists() else path
    return path


def number(text: str) -> float:
    """A number as programs write them: ASCII digits, a point, an exponent, ``inf`` or ``nan``.

    Python's own rule also takes ``1_000`` and the digits of other scripts, which other readers of the same file refuse.

    Raises:
        ValueError: If it is none.
    """
    if not text.isascii() or "_" in text:
        raise ValueError(f"number must be written with the digits 0 to 9, got {quoted(text)}.")
    return float(text)


def bounded_text(path: Path, *, most_bytes: int = LARGEST_YAML_BYTES) -> str:
    """The text of a small file.

    Raises:
        ConfigError: If it is not a regular file, larger than that, or not UTF-8.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError(f"file must be a regular one, got {path}.")
    if status.st_size > most_bytes:
        raise ConfigError(f"file must be at most {most_bytes:,} bytes, got {status.st_size:,} in {path}.")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"file must be UTF-8 text, got {error.reason} at byte {error.start} in {path}.") from error


def read_yaml(path: Path) -> Any:
    """The content of a YAML file, which may come from a stranger.

    Raises:
        ConfigError: If it is larger than `LARGEST_YAML_BYTES`, not UTF-8, or breaks a rule of `require_small_yaml`.
    """
    import yaml

    text = bounded_text(path)
    try:
        require_small_yaml(text)
        return yaml.load(text, Loader=_safe_loader())  # noqa: S506 - a safe one
    except (yaml.YAMLError, ValueError, TypeError, ArithmeticError, RecursionError) as error:
        raise ConfigError(f"YAML must be well-formed and small, got {path} ({in_short(error)}).") from error


def require_small_yaml(text: str) -> None:
    """Make sure that YAML is small once its aliases are followed, before anything is made of it.

    Raises:
        ConfigError: If it is longer than `LARGEST_YAML_BYTES`, has an alias inside what it stands for, nests deeper
            than 50, has more than 100,000 values with aliases followed or one longer than 3,000 characters, or asks for
            a class by ``class_path``. Also of the texts in it, which may be read as YAML in their turn.
        yaml.YAMLError: If it is not YAML.
    """
    import yaml

    if len(text) > LARGEST_YAML_BYTES:
        raise ConfigError(f"YAML must be at most {LARGEST_YAML_BYTES:,} characters, got {len(text):,}.")
    for scalar in _scalars(text):
        if len(scalar) > _LONGEST_SCALAR:
            raise ConfigError(f"value in YAML must be at most {_LONGEST_SCALAR:,} characters, got {quoted(scalar)}.")
        if _NAMES_CODE in scalar:
            raise ConfigError(f"YAML must name classes by `factory`, got {_NAMES_CODE} in {quoted(scalar)}.")
        if "&" in scalar and "*" in scalar and len(scalar) < len(text):
            with suppress(yaml.YAMLError):
                require_small_yaml(scalar)


def _scalars(text: str) -> Iterator[str]:
    """Texts of YAML as they stand in it; an error where the whole gets too large with aliases followed."""
    import yaml

    total = 0
    sizes: dict[str | None, int] = {}  # by anchor
    opened: list[tuple[str | None, int]] = []
    for event in yaml.parse(text, Loader=_safe_loader()):
        anchor = getattr(event, "anchor", None)
        if isinstance(event, yaml.AliasEvent):
            if any(anchor == one for one, _ in opened):
                raise ConfigError(f"alias in YAML must stand outside of what it names, got *{anchor:.100}.")
            total += sizes.get(anchor, 0)
        elif isinstance(event, yaml.ScalarEvent):
            total, sizes[anchor] = total + 1, 1
            yield event.value
        elif isinstance(event, yaml.CollectionStartEvent):
            opened.append((anchor, total))
            total += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            of_collection, before = opened.pop()
            sizes[of_collection] = total - before
        if len(opened) > _DEEPEST:
            raise ConfigError(f"YAML must be nested at most {_DEEPEST} deep, got more.")
        if total > _MOST_VALUES:
            raise ConfigError(f"YAML must hold at most {_MOST_VALUES:,} values with aliases followed, got more.")


def _safe_loader() -> Any:
    import yaml

    return getattr(yaml, "CSafeLoader", yaml.SafeLoader)


_PRESETS = Path(__file__).parents[1] / "configs"


def presets() -> dict[str, Path]:
    """The configurations that come with the package, by name."""
    return {path.stem: path for path in sorted(_PRESETS.glob("*.yaml"))}


def config_path(name: str | Path) -> Path:
    """The file of settings that a path, or the bare name of a preset, means.

    Args:
        name: A path, or the name of a preset such as ``chns``; ``./chns`` is a file all the same.

    Raises:
        FileNotFoundError: If it is neither.
    """
    known, path = presets(), Path(name)
    preset = known.get(str(name).replace("-", "_"))
    if preset is not None:
        return preset
    if path.is_file():
        return path
    raise FileNotFoundError(
        f"configuration must be a YAML file or one of {', '.join(known)}, got {quoted(str(name))}."
        f"{suggestion(path.stem, known)} `chns configs` lists them."
    )

"""Unpack VoxCeleb's archives: safely, resumably, straight from the slices.

Archives may come from a stranger. Only recordings at ``.../idXXXXX/VIDEO/NAME`` are written, never outside the folder,
never a link; sizes that an archive claims are bounded before the first byte is written. A file gets its name when it
is whole, and one that is there with the right size and CRC is not written again. Nothing is flushed to disk one by one
(a million times): after a power cut the next run finds what is torn by its CRC.

Reading the table of contents of VoxCeleb2 (1.1 million entries) takes 0.65 kB of memory an entry and 8 s.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import stat
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from chns.data.audio import EXTENSIONS
from chns.data.manifest_checks import CONTROL_CHARACTER, UNSAFE_PATH
from chns.data.prepare.joined_parts import JoinedParts
from chns.data.prepare.voxceleb_archives import Archive
from chns.errors import ManifestError
from chns.files import locked_folder

_RECORDING = re.compile(r"(?P<above>(?:[^/]+/)*)id\d+/[^/]+/[^/]+")
_MAX_FILE_BYTES = 2**30
_MAX_RATIO = 20
_BLOCK_BYTES = 2**20
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def unpack_archives(archives: Sequence[Archive], out: Path) -> Path:
    """Write all recordings of some archives.

    Args:
        archives: All must keep their speakers in one folder, such as ``dev/aac``, so that one manifest holds them.
        out: Folder to unpack into; made if it is not there.

    Returns:
        The folder of the speakers.

    Raises:
        ManifestError: If an archive is damaged or incomplete, leads outside the folder, holds links, encrypted or
            absurdly large files, no recordings, or speakers in several folders; or if the disk has too little room.
    """
    with locked_folder(out):
        above: set[str] = set()
        for archive in archives:
            with _opened(archive) as file:
                above |= {_RECORDING.fullmatch(entry.filename)["above"] for entry in _recordings(file, archive)}  # type: ignore[index]
        if len(above) != 1:
            raise ManifestError(
                f"archives must hold idXXXXX/VIDEO/NAME in one folder, got {', '.join(sorted(above)) or 'none'} in "
                f"{', '.join(archive.name for archive in archives)}. Unpack them one by one."
            )
        for archive in archives:
            with _opened(archive) as file:
                _unpack(file, archive, out)
    return out / above.pop()


@contextmanager
def _opened(archive: Archive) -> Iterator[zipfile.ZipFile]:
    with JoinedParts(archive.files) as joined, io.BufferedReader(joined, _BLOCK_BYTES) as buffered:
        try:
            with zipfile.ZipFile(buffered) as file:
                yield file
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
            raise ManifestError(
                f"archive must be a whole zip, got a damaged one or one without its last part: {archive.name} in "
                f"{archive.files[-1].parent} ({error}). Download what is missing; --md5 tells which file differs."
            ) from error


def _recordings(file: zipfile.ZipFile, archive: Archive) -> list[zipfile.ZipInfo]:
    """The entries to write, all of them checked; other regular files are left in the archive."""
    entries = [entry for entry in file.infolist() if not entry.is_dir()]
    for entry in entries:
        if problem := _problem(entry):
            raise ManifestError(f"entry of an archive must {problem}, got {entry.filename!r} in {archive.name}.")
    recordings = [
        entry
        for entry in entries
        if _RECORDING.fullmatch(entry.filename) and PurePosixPath(entry.filename).suffix.lower() in EXTENSIONS
    ]
    packed = sum(path.stat().st_size for path in archive.files)
    unpacked = sum(entry.file_size for entry in recordings)
    if unpacked > _MAX_RATIO * packed:
        raise ManifestError(
            f"archive must unpack to at most {_MAX_RATIO} times its size, got {unpacked:,} bytes from {packed:,} in "
            f"{archive.name}."
        )
    return recordings


def _problem(entry: zipfile.ZipInfo) -> str | None:
    """The rule that an entry breaks."""
    if re.search(UNSAFE_PATH, entry.filename) or re.search(CONTROL_CHARACTER, entry.filename):
        return "have a plain relative name that stays inside the folder"
    mode = entry.external_attr >> 16
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        return "be a file, not a link or a device"
    if entry.flag_bits & 1:
        return "not be encrypted"
    if entry.compress_type not in _METHODS:
        return "be stored or deflated"
    if entry.file_size > _MAX_FILE_BYTES:
        return f"have at most {_MAX_FILE_BYTES:,} bytes"
    return None


def _unpack(file: zipfile.ZipFile, archive: Archive, out: Path) -> None:
    recordings = sorted(_recordings(file, archive), key=lambda entry: entry.header_offset)
    total = sum(entry.file_size for entry in recordings)
    _require_room(recordings, out)
    root = out.resolve()
    folders: set[Path] = set()
    with tqdm(total=total, desc=f"unpacking {archive.name}", unit="B", unit_scale=True, disable=None) as progress:
        for entry in recordings:
            target = out / entry.filename
            if target.parent not in folders:
                _make_folder_inside(target.parent, root)
                folders.add(target.parent)
            if not _is_there(target, entry):
                _write(file, entry, target)
            progress.update(entry.file_size)


def _require_room(recordings: Iterable[zipfile.ZipInfo], out: Path) -> None:
    missing = sum(entry.file_size for entry in recordings if not (out / entry.filename).exists())
    free = shutil.disk_usage(out).free
    if missing > free:
        raise ManifestError(f"disk must have room for {missing:,} bytes, got {free:,} at {out}.")


def _make_folder_inside(folder: Path, root: Path) -> None:
    """Through no link that leads elsewhere."""
    existing = folder
    while not existing.exists():
        existing = existing.parent
    if not existing.resolve().is_relative_to(root):
        raise ManifestError(f"files must be unpacked inside {root}, got {existing.resolve()}. Remove the link.")
    folder.mkdir(parents=True, exist_ok=True)


def _is_there(path: Path, entry: zipfile.ZipInfo) -> bool:
    if path.is_symlink() or not path.is_file() or path.stat().st_size != entry.file_size:
        return False
    found = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            found = zlib.crc32(block, found)
    return found == entry.CRC


def _write(file: zipfile.ZipFile, entry: zipfile.ZipInfo, path: Path) -> None:
    """Under a name of its own until it is whole; always the same one, so that a killed run leaves nothing behind."""
    temporary = path.with_name(f".{path.name}.unpacking")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as target, file.open(entry) as source:
            shutil.copyfileobj(source, target, _BLOCK_BYTES)  # reads entry.file_size bytes at most, and checks the CRC
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)

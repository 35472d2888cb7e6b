"""Several files read as the one that they were cut from, without a second copy on disk.

VoxCeleb's archives as they are downloaded: which there are, which parts belong together, and their MD5 sums.

``vox2_dev_aac_partaa``, ``..._partab`` and so on are slices of one zip; ``vox1_test_wav.zip`` is whole.

Unpack VoxCeleb's archives: safely, resumably, straight from the slices.

Archives may come from a stranger. Only recordings at ``.../idXXXXX/VIDEO/NAME`` are written, never outside the folder,
never a link; sizes that an archive claims are bounded before the first byte is written. A file gets its name when it
is whole, and one that is there with the right size and CRC is not written again. Nothing is flushed to disk one by one
(a million times): after a power cut the next run finds what is torn by its CRC.

Reading the table of contents of VoxCeleb2 (1.1 million entries) takes 0.65 kB of memory an entry and 8 s.
"""

from __future__ import annotations

import bisect
import hashlib
import io
import os
import re
import shutil
import stat
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple, Never

from tqdm import tqdm

from chns.core import ManifestError, locked_folder, quoted
from chns.data.audio import EXTENSIONS
from chns.data.manifest_file import CONTROL_CHARACTER, UNSAFE_PATH


class JoinedParts(io.RawIOBase):
    """A read-only, seekable file over the concatenation of others. One of them is open at a time.

    Args:
        parts: At least one, in order.
    """

    def __init__(self, parts: Sequence[Path]) -> None:
        super().__init__()
        self._parts = list(parts)
        self._starts = [0, *accumulate(part.stat().st_size for part in self._parts)]
        self._position = 0
        self._open: tuple[int, BinaryIO] | None = None

    @property
    def size(self) -> int:
        """Bytes of all parts."""
        return self._starts[-1]

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move, as any file does."""
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence]
        if origin + offset < 0:
            raise ValueError(f"position must be at least 0, got {origin + offset}.")
        self._position = origin + offset
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill a buffer, at most up to the end of a part."""
        if self._position >= self.size:
            return 0
        number = bisect.bisect_right(self._starts, self._position) - 1
        file = self._file(number)
        file.seek(self._position - self._starts[number])
        content = file.read(min(len(buffer), self._starts[number + 1] - self._position))
        buffer[: len(content)] = content
        self._position += len(content)
        return len(content)

    def _file(self, number: int) -> BinaryIO:
        if self._open is None or self._open[0] != number:
            self._close_part()
            self._open = number, self._parts[number].open("rb", buffering=0)
        return self._open[1]

    def _close_part(self) -> None:
        if self._open is not None:
            self._open[1].close()
        self._open = None

    def close(self) -> None:
        """Close the part that is open."""
        self._close_part()
        super().close()


_PART = re.compile(r"(?P<name>.+)_part(?P<letters>[a-z]{2})")
_CHECKSUM = re.compile(r"(?P<md5>[0-9a-fA-F]{32})\s+\*?(?P<name>\S.*)")
_BLOCK_BYTES = 2**20
_MAX_LIST_BYTES = 2**20


class Archive(NamedTuple):
    """A zip.

    Attributes:
        name: Of the whole, such as ``vox2_dev_aac.zip``.
        files: The slices of it, in order.
    """

    name: str
    files: list[Path]


def find_archives(source: Path) -> list[Archive]:
    """The archives of a folder, or the one that a file is or belongs to.

    Raises:
        FileNotFoundError: If there is no such folder or file.
        ManifestError: If there is none, a slice is missing between others, or a zip is there both whole and in slices.
    """
    if not source.exists():
        raise FileNotFoundError(f"archives must be in a folder or be a file, got {source}.")
    folder = source if source.is_dir() else source.parent
    slices: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        match = _PART.fullmatch(path.name)
        if path.is_file() and match:
            slices.setdefault(f"{match['name']}.zip", []).append(path)
    for name, files in slices.items():
        _refuse_gap(files)
        if (folder / name).exists():
            raise ManifestError(f"archive must be there once, got both {folder / name} and {files[0]}. Move one away.")
    whole = {path.name: [path] for path in sorted(folder.glob("*.zip")) if path.is_file()}
    archives = [Archive(name, files) for name, files in sorted({**slices, **whole}.items())]
    if not source.is_dir():
        archives = [archive for archive in archives if source in archive.files]
    if not archives:
        raise ManifestError(f"archives must be named NAME.zip, or NAME_partaa, NAME_partab, ..., got none in {source}.")
    return archives


def _refuse_gap(files: Sequence[Path]) -> None:
    for number, path in enumerate(files):
        stem = path.name[:-2]
        expected = f"{stem}{chr(ord('a') + number // 26)}{chr(ord('a') + number % 26)}"
        if path.name != expected:
            raise ManifestError(
                f"parts of an archive must be complete, got {path.name} where {expected} is due in {path.parent}. "
                f"Download it."
            )


def check_md5(archives: Sequence[Archive], checksums: Path) -> None:
    """Compare every archive with a list of MD5 sums, of slices or of the whole; files of other archives may be listed.

    Args:
        archives: Read once, all of them.
        checksums: Lines ``MD5  NAME``, as ``md5sum`` writes them.

    Raises:
        FileNotFoundError: If there is no such list.
        ManifestError: If a line does not read like that, a listed slice of an archive is not there, a file is neither
            listed nor part of a listed whole, or a sum differs.
    """
    listed = _read_checksums(checksums)
    for archive in archives:
        _refuse_missing_slices(archive, listed, checksums)
    total = sum(path.stat().st_size for archive in archives for path in archive.files)
    with tqdm(total=total, desc="checking MD5", unit="B", unit_scale=True, disable=None) as progress:
        for archive in archives:
            whole = _md5()
            for path in archive.files:
                _require_equal(listed, path.name, _md5_of(path, whole, progress), checksums)
            _require_equal(listed, archive.name, whole.hexdigest(), checksums)


def _read_checksums(path: Path) -> dict[str, str]:
    if not path.is_file():
        raise FileNotFoundError(f"list of MD5 sums must be a file, got {path}.")
    if path.stat().st_size > _MAX_LIST_BYTES:
        raise ManifestError(f"list of MD5 sums must have at most {_MAX_LIST_BYTES:,} bytes, got more in {path}.")
    listed = {}
    for number, line in enumerate(path.read_text("utf-8", errors="replace").splitlines(), 1):
        match = _CHECKSUM.fullmatch(line.strip())
        if match:
            listed[match["name"].rsplit("/", 1)[-1]] = match["md5"].lower()
        elif line.strip():
            raise ManifestError(f"line must be `MD5  NAME`, got {line.strip()[:80]!r} in {path}:{number}.")
    return listed


def _refuse_missing_slices(archive: Archive, listed: dict[str, str], checksums: Path) -> None:
    present = {path.name for path in archive.files}
    for name in listed:
        match = _PART.fullmatch(name)
        if match and f"{match['name']}.zip" == archive.name and name not in present:
            raise ManifestError(
                f"parts of an archive must be complete, {name} of {checksums} is not in {archive.files[0].parent}. "
                f"Download it."
            )
    if archive.name not in listed and not present <= listed.keys():
        raise ManifestError(
            f"list of MD5 sums must name every archive, got none for {min(present - listed.keys())} in {checksums}."
        )


def _require_equal(listed: dict[str, str], name: str, found: str, checksums: Path) -> None:
    if listed.get(name, found) != found:
        raise ManifestError(f"MD5 of {name} must be {listed[name]} as in {checksums}, got {found}. Download it again.")


def _md5() -> hashlib._Hash:
    return hashlib.md5(usedforsecurity=False)


def _md5_of(path: Path, whole: hashlib._Hash, progress: tqdm[Never]) -> str:
    """The file's own sum; also fed to that of the whole."""
    own = _md5()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            own.update(block)
            whole.update(block)
            progress.update(len(block))
    return own.hexdigest()


_RECORDING = re.compile(r"(?P<above>(?:[^/]+/)*)id\d+/[^/]+/[^/]+")
_MAX_FILE_BYTES = 2**30
_MAX_RATIO = 20
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
            raise ManifestError(f"entry of an archive must {problem}, got {quoted(entry.filename)} in {archive.name}.")
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

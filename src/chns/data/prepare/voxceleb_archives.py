"""VoxCeleb's archives as they are downloaded: which there are, which parts belong together, and their MD5 sums.

``vox2_dev_aac_partaa``, ``..._partab`` and so on are slices of one zip; ``vox1_test_wav.zip`` is whole.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Never

from tqdm import tqdm

from chns.errors import ManifestError

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

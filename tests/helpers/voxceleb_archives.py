"""VoxCeleb archives as they are downloaded, for tests."""

import hashlib
import zipfile
from collections.abc import Mapping
from pathlib import Path


def zipped(path: Path, files: Mapping[str, bytes]) -> Path:
    """Write a zip of stored files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def cut(path: Path, num_parts: int) -> list[Path]:
    """Replace ``NAME.zip`` by ``NAME_partaa``, ``NAME_partab``, ..."""
    content = path.read_bytes()
    size = -(-len(content) // num_parts)
    parts = [path.with_name(f"{path.stem}_parta{chr(ord('a') + number)}") for number in range(num_parts)]
    for number, part in enumerate(parts):
        part.write_bytes(content[number * size : (number + 1) * size])
    path.unlink()
    return parts


def checksums(path: Path, files: list[Path]) -> Path:
    """Write a list as ``md5sum`` does."""
    lines = [f"{hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()}  {file.name}\n" for file in files]
    path.write_text("".join(lines))
    return path

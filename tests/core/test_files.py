"""Files are replaced whole or not at all."""

import os
from pathlib import Path

import pytest

from chns.core import atomic_folder, atomic_path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_new_content_appears_when_the_block_ends(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with atomic_path(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert names(tmp_path) == ["a.txt"]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="half way"), atomic_path(path) as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise RuntimeError("half way")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_missing_folders_are_made(tmp_path):
    with atomic_path(tmp_path / "b" / "c" / "a.txt") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "b" / "c" / "a.txt").read_text() == "new"


def test_the_temporary_name_has_the_same_suffix_and_folder(tmp_path):
    with atomic_path(tmp_path / "a.flac") as temporary:
        assert temporary.suffix == ".flac"
        assert temporary.parent == tmp_path


def test_permissions_follow_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        with atomic_path(tmp_path / "a.txt") as temporary:
            temporary.write_text("new")
    finally:
        os.umask(before)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o640


def test_a_folder_in_the_way_is_an_error_and_stays(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(OSError, match="a"), atomic_path(tmp_path / "a") as temporary:
        temporary.write_text("new")
    assert names(tmp_path) == ["a"]


@pytest.fixture
def steps(monkeypatch):
    """What is brought to the disk (by its number on it) and what is renamed, in this order."""
    noted = []
    fsync, replace = os.fsync, Path.replace

    def noting_fsync(descriptor):
        noted.append(("synced", os.fstat(descriptor).st_ino))
        fsync(descriptor)

    def noting_replace(self, target):
        noted.append(("renamed", self.stat().st_ino))
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", noting_fsync)
    monkeypatch.setattr(Path, "replace", noting_replace)
    return noted


def test_a_file_is_on_the_disk_before_it_gets_its_name_and_the_name_when_the_block_ends(tmp_path, steps):
    with atomic_path(tmp_path / "a.txt") as temporary:
        temporary.write_text("new")
        written = temporary.stat().st_ino
    assert steps == [("synced", written), ("renamed", written), ("synced", tmp_path.stat().st_ino)]


def test_the_files_of_a_folder_are_on_the_disk_before_it_gets_its_name(tmp_path, steps):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_text("old")
    old = (tmp_path / "a").stat().st_ino
    with atomic_folder(tmp_path / "a", ours=["x", "y"]) as temporary:
        (temporary / "x").write_text("new")
        (temporary / "y").write_text("new")
        files, new = {(temporary / name).stat().st_ino for name in "xy"}, temporary.stat().st_ino
    assert {inode for kind, inode in steps[:2] if kind == "synced"} == files
    assert steps[2:] == [("synced", new), ("renamed", old), ("renamed", new), ("synced", tmp_path.stat().st_ino)]
    assert [(tmp_path / "a" / name).read_text() for name in "xy"] == ["new", "new"]


def test_a_file_is_replaced_by_another_so_that_who_reads_the_old_one_reads_it_to_its_end(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old" * 100_000)
    with path.open() as reader:
        assert reader.read(3) == "old"
        with atomic_path(path) as temporary:
            temporary.write_text("new")
            written = temporary.stat().st_ino
        assert reader.read() == "old" * 99_999
    assert path.stat().st_ino == written


def test_a_folder_is_the_one_that_was_written(tmp_path):
    with atomic_folder(tmp_path / "a", ours=["x"]) as temporary:
        (temporary / "x").write_text("new")
        written = [temporary.stat().st_ino, (temporary / "x").stat().st_ino]
    assert [(tmp_path / "a").stat().st_ino, (tmp_path / "a" / "x").stat().st_ino] == written

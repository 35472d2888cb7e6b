"""Files are replaced whole or not at all."""

import errno
import os
import re
import resource
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from chns.core import atomic_folder, atomic_path, config_path, files, presets, require_ours, write_text


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


def test_text_is_utf_8_whatever_the_system_prefers(tmp_path):
    code = (
        "import sys; from pathlib import Path; from chns.core.files import bounded_text, write_text; "
        "write_text(Path(sys.argv[1]), 'Zo\\u00eb'); assert bounded_text(Path(sys.argv[1])) == 'Zo\\u00eb'"
    )
    ascii_only = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.txt")], env=ascii_only, check=True)
    assert (tmp_path / "a.txt").read_bytes() == b"Zo\xc3\xab"
    write_text(tmp_path / "a.txt", files.bounded_text(tmp_path / "a.txt") * 2)
    assert (tmp_path / "a.txt").read_bytes() == b"Zo\xc3\xab" * 2


def test_a_long_name_has_a_temporary_one_that_is_not_too_long_and_says_whose_it_is(tmp_path):
    with atomic_path(tmp_path / f"{'a' * 250}.txt") as temporary:
        found = files._TEMPORARY.fullmatch(temporary.name)
        assert len(temporary.name) < 100
    assert (found["final"], found["kind"], found["pid"]) == ("a" * 40, "tmp", str(os.getpid()))
    assert names(tmp_path) == [f"{'a' * 250}.txt"]


def test_a_folder_holds_what_its_writer_writes_and_what_guards_it_and_nothing_else(tmp_path):
    require_ours(tmp_path / "none", ())
    folder = tmp_path / "a"
    folder.mkdir()
    for name in ("a.txt", "shard-1.tar", ".lock", ".lock-1-of-2", ".a.chns-tmp-1-01234567"):
        (folder / name).touch()
    require_ours(folder, ("a.txt", "shard-*.tar"))
    (folder / "c").mkdir()
    for name in "deb":
        (folder / name).touch()
    told = (
        r"^folder to write must be new, empty or of an earlier run, got {} in .*a, which would be lost\. Choose another"
    )
    with pytest.raises(FileExistsError, match=told.format("'b', 'c', 'd' and 1 more")):
        require_ours(folder, ("a.txt", "shard-*.tar"))
    with pytest.raises(FileExistsError, match=told.format("'b', 'c', 'd'")):
        require_ours(folder, ("a.txt", "shard-*.tar", "e"))
    with pytest.raises(FileExistsError, match=told.format("'c'")):
        require_ours(folder, ("*",))
    (folder / "c").rmdir()
    with pytest.raises(
        FileExistsError, match=r"^folder to write must not be a file, got .*a\.txt\. Choose another name\."
    ):
        require_ours(folder / "a.txt", ("*",))
    (folder / "shard-2.tar").symlink_to(folder / "a.txt")
    with pytest.raises(FileExistsError, match=told.format("'shard-2.tar'")):
        require_ours(folder, ("a.txt", "shard-*.tar", "?"))
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileExistsError, match=r"folder to write must not be a file, got .*link"):
        require_ours(tmp_path / "link", ("*",))


@pytest.mark.parametrize("existed", [True, False])
def test_a_folder_that_cannot_be_put_in_place_leaves_the_old_one(tmp_path, monkeypatch, existed):
    if existed:
        (tmp_path / "a.b").mkdir()
        (tmp_path / "a.b" / "x").write_text("old")
    replace, aside = Path.replace, []

    def refusing(self, target):
        if ".chns-tmp-" in self.name:
            aside.extend(files._TEMPORARY.fullmatch(name) for name in names(tmp_path) if name != self.name)
            raise OSError(errno.EIO, "refused")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", refusing)
    with pytest.raises(OSError, match=r"got 'Input/output error' for .*a"), atomic_folder(tmp_path / "a.b", ours=["x"]):
        pass
    # Were the process killed now, the next one would know what this is.
    assert [(found["kind"], found["final"], found["pid"]) for found in aside] == [
        ("old", "a.b", str(os.getpid()))
    ] * existed
    assert names(tmp_path) == ["a.b"] * existed
    assert not existed or (tmp_path / "a.b" / "x").read_text() == "old"


def test_a_replaced_folder_leaves_nothing_behind(tmp_path):
    for content in ("old", "new"):
        with atomic_folder(tmp_path / "a.b", ours=["x"]) as temporary:
            (temporary / "x").write_text(content)
    assert (tmp_path / "a.b" / "x").read_text() == "new"
    assert names(tmp_path) == ["a.b"]


def dead_process():
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    return ended.pid


def test_what_a_killed_process_left_goes_when_one_first_writes_there(tmp_path):
    left = dead_process()
    here, elsewhere = files._MACHINE, "0" * 8
    for name in (
        ".a.chns-tmp-{}-01234567.pt",
        f".b.chns-tmp-{{}}-{here}01234567",
        f".c.chns-tmp-{{}}-{elsewhere}01234567",
    ):
        (tmp_path / name.format(left)).touch()
    (tmp_path / f".d.chns-tmp-{os.getpid()}-01234567").touch()
    for name in ("model", "kept"):  # both moved aside; one of them has been written anew meanwhile
        (tmp_path / f".{name}.chns-old-{left}-01234567").mkdir()
        (tmp_path / f".{name}.chns-old-{left}-01234567" / "x").write_text("old")
    (tmp_path / "kept").mkdir()
    write_text(tmp_path / "new", "")
    alive = [f".c.chns-tmp-{left}-{elsewhere}01234567", f".d.chns-tmp-{os.getpid()}-01234567"]
    assert names(tmp_path) == [*alive, "kept", "model", "new"]
    assert names(tmp_path / "model") == ["x"]
    assert names(tmp_path / "kept") == []
    (tmp_path / f".e.chns-tmp-{left}-01234567").touch()
    write_text(tmp_path / "new", "")
    assert f".e.chns-tmp-{left}-01234567" in names(tmp_path)  # a folder of many files is looked through once


def test_a_link_that_was_left_goes_and_not_what_it_names_and_what_cannot_go_stays(tmp_path, monkeypatch):
    left = dead_process()
    (tmp_path / "mine").mkdir()
    (tmp_path / f".a.chns-tmp-{left}-01234567").symlink_to(tmp_path / "mine")
    write_text(tmp_path / "new", "")
    assert names(tmp_path) == ["mine", "new"]
    (tmp_path / "mine" / f".b.chns-tmp-{left}-01234567").mkdir()

    def refuse(*_, **__):
        raise OSError(errno.EINVAL, "refused")

    fsync = os.fsync
    monkeypatch.setattr("shutil.rmtree", refuse)
    monkeypatch.setattr(os, "fsync", lambda file: refuse() if stat.S_ISDIR(os.fstat(file).st_mode) else fsync(file))
    write_text(tmp_path / "mine" / "new", "")
    assert names(tmp_path / "mine") == [f".b.chns-tmp-{left}-01234567", "new"]


def test_whoever_holds_a_folder_removes_what_is_left_in_it_whoever_left_it(tmp_path):
    (tmp_path / "in").mkdir()
    for folder in (tmp_path, tmp_path / "in"):
        (folder / f".a.chns-tmp-{os.getpid()}-{'0' * 8}01234567").touch()
    for _ in range(2):
        (tmp_path / "in" / ".b.chns-tmp-1-01234567").touch()
        with files.locked_folder(tmp_path):
            assert names(tmp_path / "in") == []
    assert names(tmp_path) == [".lock", "in"]


def test_a_process_that_cannot_be_asked_may_be_alive(monkeypatch):
    def asked(answer, name=".a.chns-tmp-1234-01234567"):
        monkeypatch.setattr(os, "kill", answer)
        return files._may_be_alive(files._TEMPORARY.fullmatch(name))

    def refusing(pid, signal):
        assert (pid, signal) == (1234, 0)
        raise PermissionError

    def gone(pid, signal):
        raise ProcessLookupError

    assert not asked(gone)
    assert asked(refusing)
    assert asked(gone, f".a.chns-tmp-1234-{'0' * 8}01234567")
    monkeypatch.undo()
    assert files._may_be_alive(files._TEMPORARY.fullmatch(f".a.chns-tmp-{10**30}-01234567"))
    with monkeypatch.context() as windows:
        windows.setattr(os, "name", "nt")
        assert asked(gone)


FULL = "^written file must fit on the disk and be allowed there, got '{}' for {}. Nothing was replaced.$"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
def test_an_error_of_the_disk_names_the_file_and_keeps_its_number(tmp_path, number, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = FULL.format(os.strerror(number), re.escape(str(tmp_path / "a.txt")))
    for named in ((), ("temporary.txt",), (str(tmp_path / "b" / "x"),), (7,)):
        error = OSError(number, "library's words", *named)
        with pytest.raises(type(error), match=told) as raised, atomic_path(tmp_path / "a.txt"):
            raise error
        assert (type(raised.value), raised.value.errno) == (type(error), number)
    for error in (OSError(number, "read", str(tmp_path.parent / "other")), OSError(errno.ENOENT, "not the disk's")):
        with pytest.raises(OSError, match=r"read|not the disk's") as raised, atomic_path(tmp_path / "a.txt"):
            raise error
        assert raised.value is error
    assert names(tmp_path) == []


def test_a_librarys_own_error_is_the_disks_if_nothing_more_can_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # a module cut off by the limit would be broken for everybody
    with pytest.raises(RuntimeError, match="of the library"), atomic_path(tmp_path / "a.txt"):
        raise RuntimeError("of the library")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    told = FULL.format("File too large", re.escape(str(tmp_path / "a.txt")))
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**20 - 1, before[1]))
        with pytest.raises(OSError, match=told), atomic_path(tmp_path / "a.txt"):
            raise RuntimeError("of the library")
        with pytest.raises(ValueError, match="of a caller"), atomic_path(tmp_path / "a.txt"):
            raise ValueError("of a caller")
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, before[1]))
        with pytest.raises(RuntimeError, match="of the library"), atomic_path(tmp_path / "a.txt"):
            raise RuntimeError("of the library")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert names(tmp_path) == []


def test_what_room_is_left_is_known_only_once_it_is_on_the_disk(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "fsync", full)
    told = FULL.format(os.strerror(errno.ENOSPC), re.escape(str(tmp_path / "a.txt")))
    with pytest.raises(OSError, match=told), atomic_path(tmp_path / "a.txt"):
        raise RuntimeError("of the library")


def test_a_configuration_is_a_preset_by_its_name_or_else_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert list(presets()) == sorted(presets())
    assert config_path("aam-softmax") == config_path("aam_softmax") == presets()["aam_softmax"]
    (tmp_path / "own.yaml").touch()
    assert config_path("own.yaml") == Path("own.yaml")
    listed = ", ".join(presets())
    for name, meant in (("chns.yaml", "chns"), ("chsn", "chns"), ("zzzz", None)):
        hint = f" Did you mean {meant}?" if meant else ""
        told = f"got '{name}'.{hint} `chns configs` lists them."
        with pytest.raises(FileNotFoundError) as raised:
            config_path(name)
        assert str(raised.value) == f"configuration must be a YAML file or one of {listed}, {told}"

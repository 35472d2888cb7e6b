"""VoxCeleb's archives: which belong together, their sums, and unpacking files that may be hostile."""

import os
import stat
import struct
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from voxceleb_archives import checksums, cut, zipped

from chns.core import FolderInUseError, ManifestError, locked_folder
from chns.data.corpora import voxceleb_archives as voxceleb_unpacking
from chns.data.corpora.voxceleb_archives import JoinedParts, check_md5, find_archives, unpack_archives

FILES = {f"dev/aac/id0000{speaker}/v/0000{n}.m4a": os.urandom(2_000 + n) for speaker in (1, 2) for n in range(5)}


def contents(folder: Path) -> dict[str, bytes]:
    """All but what tells processes, and us, whose folder it is."""
    ours = (".lock", ".chns-converted")
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name not in ours)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


@pytest.fixture
def downloads(tmp_path):
    cut(zipped(tmp_path / "downloads" / "vox2_dev_aac.zip", FILES), 3)
    return tmp_path / "downloads"


# ----- parts as one file


def test_parts_read_as_their_concatenation(tmp_path):
    whole = os.urandom(10_000)
    for number, (start, end) in enumerate([(0, 1), (1, 4_000), (4_000, 4_000), (4_000, 10_000)]):
        (tmp_path / str(number)).write_bytes(whole[start:end])
    with JoinedParts([tmp_path / str(number) for number in range(4)]) as joined:
        assert joined.size == 10_000
        assert joined.readall() == whole
        assert joined.read(1) == b""
        for start in (0, 1, 3_999, 4_000, 9_999, 10_000, 20_000):
            assert joined.seek(start) == joined.tell() == start
            assert joined.readall() == whole[start:]
        assert joined.seek(-10, os.SEEK_END) == 9_990
        assert joined.seek(4, os.SEEK_CUR) == 9_994
        assert joined.read(100) == whole[-6:]
        with pytest.raises(ValueError, match="position must be at least 0, got -1"):
            joined.seek(-1)


# ----- finding


def test_slices_of_one_zip_belong_together_and_a_file_chooses_its_archive(downloads):
    zipped(downloads / "vox1_test_wav.zip", {"wav/id10270/v/1.wav": b"x"})
    found = find_archives(downloads)
    assert [(archive.name, len(archive.files)) for archive in found] == [
        ("vox1_test_wav.zip", 1),
        ("vox2_dev_aac.zip", 3),
    ]
    assert find_archives(downloads / "vox2_dev_aac_partab") == found[1:]
    assert find_archives(downloads / "vox1_test_wav.zip") == found[:1]


def test_a_missing_slice_is_named(downloads):
    (downloads / "vox2_dev_aac_partab").unlink()
    with pytest.raises(
        ManifestError, match=r"must be complete, got vox2_dev_aac_partac where vox2_dev_aac_partab is due"
    ):
        find_archives(downloads)


def test_a_missing_last_slice_is_noticed(downloads, tmp_path):
    (downloads / "vox2_dev_aac_partac").unlink()
    with pytest.raises(ManifestError, match=r"must be a whole zip, got a damaged one or one without its last part"):
        unpack_archives(find_archives(downloads), tmp_path / "out")


def test_a_zip_that_is_there_whole_and_in_slices_is_refused(downloads):
    zipped(downloads / "vox2_dev_aac.zip", FILES)
    with pytest.raises(ManifestError, match=r"must be there once, got both .*vox2_dev_aac\.zip and .*partaa"):
        find_archives(downloads)


def test_no_archives_are_an_error(tmp_path):
    with pytest.raises(ManifestError, match=r"archives must be named NAME\.zip, or NAME_partaa, .* got none in"):
        find_archives(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"archives must be in a folder or be a file, got .*none"):
        find_archives(tmp_path / "none")


# ----- sums


def test_sums_of_slices_or_of_the_whole_are_accepted(downloads, tmp_path):
    archives = find_archives(downloads)
    check_md5(archives, checksums(tmp_path / "parts.md5", archives[0].files))
    whole = tmp_path / "vox2_dev_aac.zip"
    whole.write_bytes(b"".join(part.read_bytes() for part in archives[0].files))
    both = checksums(tmp_path / "whole.md5", [whole]).read_text() + "0" * 32 + " *vox1_dev_wav_partaa\n\n"
    (tmp_path / "whole.md5").write_text(both)
    check_md5(archives, tmp_path / "whole.md5")


def test_every_difference_from_the_list_is_named(downloads, tmp_path):
    archives = find_archives(downloads)
    sums = checksums(tmp_path / "list.md5", archives[0].files)
    good = sums.read_text()

    def refused(text: str, message: str) -> None:
        sums.write_text(text)
        with pytest.raises(ManifestError, match=message):
            check_md5(archives, sums)

    refused(
        "0" * 32 + good[32:], r"MD5 of vox2_dev_aac_partaa must be 0{32} as in .*list\.md5, got [0-9a-f]{32}\. Down"
    )
    refused(good + "0" * 32 + "  vox2_dev_aac.zip\n", r"MD5 of vox2_dev_aac\.zip must be 0{32}")
    refused(good + "0" * 32 + "  x/vox2_dev_aac_partad\n", r"must be complete, vox2_dev_aac_partad of .* is not in")
    refused(good.splitlines()[0], r"must name every archive, got none for vox2_dev_aac_partab in .*list\.md5")
    refused(good + "hello\n", r"line must be `MD5  NAME`, got 'hello' in .*list\.md5:4")
    refused("0" * 2**21, r"list of MD5 sums must have at most 1,048,576 bytes")
    with pytest.raises(FileNotFoundError, match=r"list of MD5 sums must be a file, got .*none"):
        check_md5(archives, tmp_path / "none")


# ----- unpacking


def test_the_recordings_are_unpacked_from_the_slices_and_nothing_else_is_written(downloads, tmp_path):
    before = contents(downloads)
    assert unpack_archives(find_archives(downloads), tmp_path / "out") == tmp_path / "out" / "dev" / "aac"
    assert contents(tmp_path / "out") == FILES
    assert contents(downloads) == before


def test_other_files_stay_in_the_archive(tmp_path):
    path = zipped(tmp_path / "a.zip", {**FILES, "dev/aac/id00001/v/1.txt": b"", "README": b"", "dev/.bashrc.wav": b""})
    unpack_archives(find_archives(path), tmp_path / "out")
    assert contents(tmp_path / "out") == FILES


def test_a_second_run_writes_only_what_is_missing_or_damaged(downloads, tmp_path):
    archives, out = find_archives(downloads), tmp_path / "out"
    unpack_archives(archives, out)
    files = sorted(path for path in out.rglob("*") if path.is_file())
    stamps = [path.stat().st_mtime_ns for path in files]
    unpack_archives(archives, out)
    assert stamps == [path.stat().st_mtime_ns for path in files]
    files[0].unlink()
    files[1].write_bytes(b"short")
    files[2].write_bytes(os.urandom(files[2].stat().st_size))
    files[3].with_name(f".{files[3].name}.unpacking").write_bytes(b"half")  # of a killed run
    files[3].unlink()
    unpack_archives(archives, out)
    assert contents(out) == FILES
    assert [path.stat().st_mtime_ns for path in files][4:] == stamps[4:]


@pytest.mark.parametrize(
    "name",
    ["../id00001/v/1.wav", "/id00001/v/1.wav", "x/../../id00001/v/1.wav", "a\\id00001/v/1.wav", "id00001/v/\n.wav"],
)
def test_a_name_that_leads_outside_is_refused(tmp_path, name):
    path = zipped(tmp_path / "in" / "a.zip", {"id00001/v/2.wav": b"x", name: b"x"})
    with pytest.raises(
        ManifestError, match=r"must have a plain relative name that stays inside the folder, got .* in a\.zip"
    ):
        unpack_archives(find_archives(path), tmp_path / "out")
    assert contents(tmp_path / "out") == {}


@pytest.mark.parametrize(("kind", "refused"), [(stat.S_IFLNK, True), (stat.S_IFIFO, True), (stat.S_IFREG, False)])
def test_links_and_devices_are_refused(tmp_path, kind, refused):
    entry = zipfile.ZipInfo("id00001/v/1.wav")
    entry.external_attr = (kind | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(entry, "/etc/passwd")
    if refused:
        with pytest.raises(ManifestError, match=r"must be a file, not a link or a device, got 'id00001/v/1\.wav'"):
            unpack_archives(find_archives(tmp_path / "a.zip"), tmp_path / "out")
    else:
        unpack_archives(find_archives(tmp_path / "a.zip"), tmp_path / "out")


def test_a_link_in_the_folder_does_not_lead_outside(downloads, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out" / "dev").mkdir(parents=True)
    (tmp_path / "out" / "dev" / "aac").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ManifestError, match=r"files must be unpacked inside .*out, got .*elsewhere.*Remove the link"):
        unpack_archives(find_archives(downloads), tmp_path / "out")
    assert contents(tmp_path / "elsewhere") == {}


def test_a_link_in_place_of_a_file_is_replaced_not_followed(downloads, tmp_path):
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    name = next(iter(FILES))
    link = tmp_path / "out" / name
    link.parent.mkdir(parents=True)
    link.symlink_to(victim)
    link.with_name(f".{link.name}.unpacking").symlink_to(victim)
    unpack_archives(find_archives(downloads), tmp_path / "out")
    assert victim.read_bytes() == b"mine"
    assert contents(tmp_path / "out") == FILES


def test_bombs_are_refused_before_anything_is_written(tmp_path, monkeypatch):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("id00001/v/1.wav", bytes(2**22))
    with pytest.raises(ManifestError, match=r"must unpack to at most 20 times its size, got 4,194,304 bytes from"):
        unpack_archives(find_archives(path), tmp_path / "out")
    monkeypatch.setattr(voxceleb_unpacking, "_MAX_FILE_BYTES", 2**20)
    with pytest.raises(ManifestError, match=r"must have at most 1,048,576 bytes, got 'id00001/v/1\.wav'"):
        unpack_archives(find_archives(path), tmp_path / "out")
    assert contents(tmp_path / "out") == {}


def test_an_entry_that_unpacks_to_more_than_it_states_is_damaged(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("id00001/v/1.wav", bytes(2**16))
        archive.writestr("id00001/v/2.wav", os.urandom(2**16))
    content = path.read_bytes().replace(struct.pack("<I", 2**16), struct.pack("<I", 2**10), 2)
    at = content.find(b"PK\x01\x02")
    path.write_bytes(content[: at + 24] + struct.pack("<I", 2**10) + content[at + 28 :])
    with pytest.raises(ManifestError, match=r"must be a whole zip, got a damaged one"):
        unpack_archives(find_archives(path), tmp_path / "out")
    assert contents(tmp_path / "out") == {}


def test_a_damaged_entry_is_named_and_leaves_no_half_file(downloads, tmp_path):
    part = downloads / "vox2_dev_aac_partaa"
    content = bytearray(part.read_bytes())
    content[3_000] ^= 1
    part.write_bytes(content)
    with pytest.raises(ManifestError, match=r"got a damaged one .*vox2_dev_aac\.zip in .*CRC.*id00001/v/00001\.m4a"):
        unpack_archives(find_archives(downloads), tmp_path / "out")
    assert contents(tmp_path / "out") == dict(list(FILES.items())[:1])


@pytest.mark.parametrize(
    ("offset", "value", "message"), [(8, 1, "must not be encrypted"), (10, 12, "must be stored or deflated")]
)
def test_encrypted_or_oddly_packed_entries_are_refused(tmp_path, offset, value, message):
    path = zipped(tmp_path / "a.zip", {"id00001/v/1.wav": b"x"})
    content = bytearray(path.read_bytes())
    struct.pack_into("<H", content, content.find(b"PK\x01\x02") + offset, value)
    path.write_bytes(content)
    with pytest.raises(ManifestError, match=message):
        unpack_archives(find_archives(path), tmp_path / "out")


def test_speakers_of_two_folders_are_not_unpacked_together(downloads, tmp_path):
    zipped(downloads / "vox2_test_aac.zip", {"aac/id00017/v/1.m4a": b"x"})
    with pytest.raises(
        ManifestError, match=r"in one folder, got aac/, dev/aac/ in vox2_dev_aac\.zip, vox2_test_aac\.zip"
    ):
        unpack_archives(find_archives(downloads), tmp_path / "out")
    with pytest.raises(ManifestError, match=r"in one folder, got none in x\.zip"):
        unpack_archives(find_archives(zipped(tmp_path / "x.zip", {"README": b""})), tmp_path / "out")


def test_a_disk_without_room_is_noticed_first(downloads, tmp_path, monkeypatch):
    monkeypatch.setattr(voxceleb_unpacking.shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
    with pytest.raises(ManifestError, match=r"disk must have room for 20,020 bytes, got 10 at"):
        unpack_archives(find_archives(downloads), tmp_path / "out")


def test_two_processes_cannot_unpack_into_one_folder(downloads, tmp_path):
    with locked_folder(tmp_path / "out"), pytest.raises(FolderInUseError, match="written by one process at a time"):
        unpack_archives(find_archives(downloads), tmp_path / "out")

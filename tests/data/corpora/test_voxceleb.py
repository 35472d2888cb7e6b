"""VoxCeleb's folders, and users who point one level off."""

import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
from voxceleb_archives import zipped

from chns.core import ManifestError
from chns.data.corpora.voxceleb import prepare_voxceleb, set_of_folder


def record(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.zeros(16_000, np.int16), 16_000)


@pytest.fixture
def corpus(tmp_path):
    for name in ["id10001/abc/00001", "id10001/abc/00002", "id10001/x-_y/00001", "id10270/abc/00001"]:
        record(tmp_path / "vox1" / "wav" / f"{name}.wav")
    return tmp_path


@pytest.mark.parametrize("source", ["vox1/wav", "vox1"])
def test_utterances_have_the_names_of_the_trial_lists_and_videos_are_sessions(corpus, source):
    manifest = prepare_voxceleb(corpus / source).manifest
    assert manifest.root == corpus / "vox1" / "wav"
    assert manifest.speakers == ["id10001", "id10270"]
    assert manifest.column("utterance")[2] == "id10001/x-_y/00001"
    assert manifest.column("session") == ["id10001/abc", "id10001/abc", "id10001/x-_y", "id10270/abc"]


@pytest.mark.parametrize("source", [".", "vox1/wav/id10001", "vox1/wav/id10001/abc"])
def test_one_level_off_gets_a_hint(corpus, source):
    with pytest.raises(
        ManifestError, match=rf"must hold idXXXXX folders.* Try {re.escape(str(corpus / 'vox1/wav'))}\."
    ):
        prepare_voxceleb(corpus / source)


def test_several_folders_of_speakers_are_not_guessed_between(corpus):
    record(corpus / "vox1" / "aac" / "id00012" / "abc" / "00001.wav")
    with pytest.raises(ManifestError, match=r"Choose one of .*vox1/aac, .*vox1/wav, .*chns merge"):
        prepare_voxceleb(corpus / "vox1")


def test_another_corpus_is_recognised(tmp_path):
    record(tmp_path / "alice" / "1.wav")
    with pytest.raises(ManifestError, match=r"must hold idXXXXX folders, .* look like another corpus"):
        prepare_voxceleb(tmp_path)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"corpus must be a folder, got .*none"):
        prepare_voxceleb(tmp_path / "none")


def test_other_files_between_are_rejected(corpus):
    root = corpus / "vox1" / "wav"
    for name in ["id10001/loose.wav", "id10001/abc/deep/1.wav", "noise/abc/1.wav"]:
        record(root / name)
    result = prepare_voxceleb(root)
    assert len(result.manifest) == 4
    assert {reason for _, reason in result.rejected} == {"path must be idXXXXX/VIDEO/NAME"}
    assert len(result.rejected) == 3


def test_formats_that_are_not_read_are_no_recordings(tmp_path):
    (tmp_path / "id00012" / "abc").mkdir(parents=True)
    (tmp_path / "id00012" / "abc" / "00001.wma").write_bytes(b"x")
    with pytest.raises(ManifestError, match=r"NAME ending in one of \.wav, .*\.m4a.*, got none in"):
        prepare_voxceleb(tmp_path)


def test_archives_that_were_not_unpacked_are_explained(tmp_path):
    zipped(tmp_path / "vox1_test_wav.zip", {"wav/id10270/v/1.wav": b"x"})
    with pytest.raises(ManifestError, match=r"It holds archives: say where to unpack them with --unpack"):
        prepare_voxceleb(tmp_path)


def test_sums_without_archives_are_refused(corpus):
    with pytest.raises(ValueError, match=r"MD5 sums are those of archives, got none to unpack"):
        prepare_voxceleb(corpus / "vox1", md5=corpus / "list.md5")


def test_the_published_tables_become_columns(corpus):
    table = corpus / "vox1_meta.csv"
    table.write_text("VoxCeleb1 ID\tVGGFace1 ID\tGender\tNationality\tSet\nid10001\tA.J._Buckley\tm\tIreland\tdev\n")
    manifest = prepare_voxceleb(corpus / "vox1", speaker_tables=[table]).manifest
    assert manifest.column("gender") == ["m", "m", "m", ""]
    assert manifest.column("nationality") == ["Ireland", "Ireland", "Ireland", ""]
    assert manifest.column("set") == ["dev", "dev", "dev", ""]


def test_the_folder_tells_the_set_where_no_table_does():
    assert [
        set_of_folder(Path(path)) for path in ("/x/vox2/test/aac", "/x/vox2_test/aac", "/test/vox2/dev/aac", "/a/b")
    ] == ["test", "test", "dev", "dev"]


@pytest.mark.slow
def test_the_shared_corpus_is_complete(shared_data):
    result = prepare_voxceleb(shared_data / "voxceleb2-mini")
    assert (len(result.manifest.speakers), len(result.manifest), result.rejected) == (80, 800, [])
    sessions = set(zip(result.manifest.column("speaker"), result.manifest.column("session"), strict=True))
    assert all(session.startswith(f"{speaker}/") for speaker, session in sessions)
    assert len(sessions) >= 3 * 80

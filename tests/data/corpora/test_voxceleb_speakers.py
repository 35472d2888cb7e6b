"""VoxCeleb's tables of speakers, and the official counts."""

from pathlib import Path

import pytest

from chns.core import ManifestError
from chns.data.corpora import voxceleb as voxceleb_speakers
from chns.data.corpora.voxceleb import corpus_parts, read_speaker_table, read_speaker_tables
from chns.data.manifest import Manifest

VOX1 = "VoxCeleb1 ID\tVGGFace1 ID\tGender\tNationality\tSet\nid10001\tA.J._Buckley\tm\tIreland\tdev\n"
VOX2 = "VoxCeleb2 ID \tVGGFace2 ID \tGender \tSet \nid00012 \tn000012 \tm \tdev \nid00017 \tn000017 \tf \ttest \n\n"


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def manifest_of(*names: str, sets: dict[str, str] | None = None) -> Manifest:
    rows = [
        {
            "utterance": name,
            "speaker": name.split("/")[0],
            "path": name,
            "offset_seconds": 0.0,
            "duration_seconds": 1.0,
            "sample_rate_hz": 16_000,
            **({"set": sets.get(name.split("/")[0])} if sets is not None else {}),
        }
        for name in names
    ]
    return Manifest.from_rows(rows, root=Path("/corpus"))


def test_both_published_tables_are_read_without_their_padding(tmp_path):
    tables = [written(tmp_path / "vox1_meta.csv", VOX1), written(tmp_path / "vox2_meta.csv", VOX2)]
    assert read_speaker_tables(tables) == {
        "id10001": {"gender": "m", "nationality": "Ireland", "set": "dev"},
        "id00012": {"gender": "m", "set": "dev"},
        "id00017": {"gender": "f", "set": "test"},
    }


def test_commas_and_a_byte_order_mark_are_accepted(tmp_path):
    path = written(tmp_path / "x.csv", "\ufeff" + VOX2.replace("\t", ","))
    assert read_speaker_table(path)["id00017"] == {"gender": "f", "set": "test"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"must have a header, got an empty file: .*x\.csv"),
        ("a,b\n1,2\n", r"must have columns VoxCeleb ID, Gender and Set, got a, b in .*x\.csv:1"),
        (VOX2.replace("VoxCeleb2 ID", "ID"), r"must have columns VoxCeleb ID"),
        (VOX2 + "id00018\tn\n", r"must start with idXXXXX and have 4 fields, got \['id00018', 'n'\] in .*x\.csv:5"),
        (VOX2 + "n000018\tn\tm\tdev\n", r"must start with idXXXXX and have 4 fields, got \['n000018'"),
        (VOX2 + "id00012\tn\tm\tdev\n", r"speaker must be there once, got 'id00012' again in .*x\.csv:5"),
    ],
)
def test_a_table_that_is_none_is_named_with_its_line(tmp_path, text, message):
    with pytest.raises(ManifestError, match=message):
        read_speaker_table(written(tmp_path / "x.csv", text))


def test_other_files_are_no_tables(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"table of speakers must be a file, got .*none"):
        read_speaker_table(tmp_path / "none")
    (tmp_path / "x.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ManifestError, match=r"line must be UTF-8, got .* in .*x\.csv:1"):
        read_speaker_table(tmp_path / "x.csv")
    monkeypatch.setattr(voxceleb_speakers, "_MAX_BYTES", 10)
    with pytest.raises(ManifestError, match=r"table of speakers must have at most 10 bytes, got more in .*y\.csv"):
        read_speaker_table(written(tmp_path / "y.csv", VOX2))


def test_parts_are_told_apart_by_id_table_and_folder():
    manifest = manifest_of(
        "id10001/v/1", "id10001/v/2", "id10270/v/1", "id00012/v/1", "id00017/v/1", sets={"id00017": "test"}
    )
    parts = corpus_parts(manifest, default_set="dev")
    assert [part[:3] for part in parts] == [
        ("VoxCeleb1 dev", 1, 2),
        ("VoxCeleb1 test", 1, 1),
        ("VoxCeleb2 dev", 1, 1),
        ("VoxCeleb2 test", 1, 1),
    ]
    (part,) = corpus_parts(manifest_of("id00012/v/1"), default_set="test")
    assert part == ("VoxCeleb2 test", 1, 1, 118, 36_237)


def test_a_corpus_is_complete_or_says_how_much_of_it_there_is():
    names = [f"id{10_270 + number % 40}/v/{number}" for number in range(4_874)]
    (whole,) = corpus_parts(manifest_of(*names), default_set="dev")
    assert (whole.name, whole.is_complete, whole.completeness) == ("VoxCeleb1 test", True, "complete")
    (less,) = corpus_parts(manifest_of(*names[:-1]), default_set="dev")
    assert not less.is_complete
    assert less.completeness == "partial: 40 of 40 speakers, 4,873 of 4,874 utterances"
    (other,) = corpus_parts(manifest_of("id00012/v/1"), default_set="dev")
    assert other.completeness == "partial: 1 of 5,994 speakers, 1 of 1,092,009 utterances"

"""Data sets in Hugging Face's layouts, made with the library itself."""

import io
import json
import sys

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from chns.core import ChnsError, ManifestError
from chns.data.audio import read_audio
from chns.data.corpora.hugging_face import HuggingFaceColumns, prepare_hugging_face


def encoded(value: float, *, form: str = "FLAC", seconds: float = 1.0) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.full(round(seconds * 8_000), value, np.float32), 8_000, format=form)
    return file.getvalue()


ROWS = {
    "audio": [
        {"bytes": encoded(0.25), "path": "1.flac"},
        {"bytes": encoded(0.5, form="WAV"), "path": None},
        {"bytes": encoded(-0.5), "path": "../../evil.sh"},
    ],
    "speaker": [0, 1, 1],
    "gender": ["f", None, "m"],
    "steps": [1, 2, 3],
}
FEATURES = datasets.Features(
    {
        "audio": datasets.Audio(decode=False),
        "speaker": datasets.ClassLabel(names=["anna", "boris"]),
        "gender": datasets.Value("string"),
        "steps": datasets.Value("int64"),
    }
)


def data_set_of(rows: dict[str, list], features: datasets.Features) -> datasets.Dataset:
    """As the library stores it; its own encoding of audio would need another package."""
    return datasets.Dataset(pa.Table.from_pydict(rows, schema=features.arrow_schema))


@pytest.fixture
def data_set():
    return data_set_of(ROWS, FEATURES)


def prepared(source, tmp_path, **names):
    return prepare_hugging_face(source, recordings=tmp_path / "recordings", names=HuggingFaceColumns(**names))


@pytest.mark.parametrize("layout", ["parquet", "arrow", "folder of parquet"])
def test_embedded_audio_is_written_out_and_classes_have_their_names(tmp_path, data_set, layout):
    source = tmp_path / "set"
    if layout == "arrow":
        data_set.save_to_disk(source)
    else:
        source.mkdir()
        data_set.to_parquet(source / "train.parquet")
        source = source / "train.parquet" if layout == "parquet" else source
    result = prepared(source, tmp_path)
    assert result.rejected == []
    manifest = result.manifest
    assert manifest.root == tmp_path / "recordings"
    assert manifest.column("path") == ["00000/00000000.flac", "00000/00000001.wav", "00000/00000002.flac"]
    assert manifest.column("speaker") == ["anna", "boris", "boris"]
    assert manifest.column("gender") == ["f", "", "m"]
    assert "steps" not in manifest.column_names
    levels = [read_audio(utterance.path, sample_rate_hz=8_000)[0] for utterance in manifest]
    assert levels == pytest.approx([0.25, 0.5, -0.5], abs=1e-4)
    assert not (tmp_path / "evil.sh").exists()


def test_what_is_written_is_not_written_again_and_what_differs_is(tmp_path, data_set):
    data_set.to_parquet(tmp_path / "train.parquet")
    first = prepared(tmp_path / "train.parquet", tmp_path)
    folder = tmp_path / "recordings" / "00000"
    kept, cut, lost = sorted(folder.iterdir())
    times = kept.stat().st_mtime_ns
    cut.write_bytes(cut.read_bytes()[:100])
    lost.unlink()
    second = prepared(tmp_path / "train.parquet", tmp_path)
    assert kept.stat().st_mtime_ns == times
    assert list(second.manifest) == list(first.manifest)
    assert sorted(folder.iterdir()) == [kept, cut, lost]


def test_columns_may_have_other_names(tmp_path):
    table = pa.table({"sound": [{"bytes": encoded(0.1), "path": "a"}], "who": ["x"], "id": [17], "show": ["s"]})
    pq.write_table(table, tmp_path / "t.parquet")
    names = {"audio": "sound", "speaker": "who", "utterance": "id", "session": "show"}
    manifest = prepared(tmp_path / "t.parquet", tmp_path, **names).manifest
    assert manifest[0][:2] == ("17", "x")
    assert manifest.column_names[6:] == ["session"]
    assert manifest.column("session") == ["s"]


def test_recordings_that_a_table_names_stay_where_they_are(tmp_path):
    (tmp_path / "set" / "wav").mkdir(parents=True)
    (tmp_path / "set" / "wav" / "1.flac").write_bytes(encoded(0.1))
    pq.write_table(pa.table({"audio": ["wav/1.flac"], "speaker": ["x"]}), tmp_path / "set" / "t.parquet")
    manifest = prepared(tmp_path / "set", tmp_path).manifest
    assert (manifest.root, manifest[0].name) == (tmp_path / "set", "wav/1")
    assert not (tmp_path / "recordings").exists()


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_a_folder_with_metadata_is_a_data_set(tmp_path, form):
    (tmp_path / "1.flac").write_bytes(encoded(0.1))
    rows = {"csv": "file_name,speaker,gender\n1.flac,x,f\n",
            "jsonl": json.dumps({"file_name": "1.flac", "speaker": "x", "gender": "f"})}  # fmt: skip
    (tmp_path / f"metadata.{form}").write_text(rows[form])
    manifest = prepared(tmp_path, tmp_path).manifest
    assert manifest[0][:3] == ("1", "x", tmp_path / "1.flac")
    assert manifest.column("gender") == ["f"]


@pytest.mark.parametrize("path", ["../1.flac", "/etc/passwd", "touch x |", "https://example.org/../../../1.flac"])
def test_no_path_leaves_the_folder(tmp_path, path):
    pq.write_table(pa.table({"audio": [path], "speaker": ["x"]}), tmp_path / "t.parquet")
    with pytest.raises(ManifestError, match=r"(must stay inside|got the command) .* in .*t\.parquet, row 1"):
        prepared(tmp_path / "t.parquet", tmp_path)


def test_a_row_whose_class_is_withheld_is_listed(tmp_path):
    labels = datasets.Features({**FEATURES, "speaker": datasets.ClassLabel(names=["anna"])})
    rows = {**ROWS, "speaker": [0, -1, 0]}
    data_set_of(rows, labels).to_parquet(tmp_path / "t.parquet")
    result = prepared(tmp_path / "t.parquet", tmp_path)
    assert len(result.manifest) == 2
    assert [each.reason for each in result.rejected] == [
        f"speaker must name the speaker, got nothing in {tmp_path / 't.parquet'}, row 2"
    ]


def test_embedded_bytes_that_are_no_audio_are_rejected(tmp_path):
    audio = [{"bytes": b"text", "path": "1.txt"}, {"bytes": encoded(0.1), "path": "2.flac"}]
    pq.write_table(pa.table({"audio": audio, "speaker": ["x", "y"]}), tmp_path / "t.parquet")
    result = prepared(tmp_path / "t.parquet", tmp_path)
    assert result.manifest.speakers == ["y"]
    ((row, reason),) = result.rejected
    assert row == "row 1"
    assert reason.startswith("embedded audio must be in one of .wav, .flac")


def test_rows_of_both_kinds_are_refused(tmp_path):
    audio = [{"bytes": encoded(0.1), "path": "1.flac"}, {"bytes": None, "path": "2.flac"}]
    pq.write_table(pa.table({"audio": audio, "speaker": ["x", "y"]}), tmp_path / "t.parquet")
    with pytest.raises(
        ManifestError, match=r"rows must all embed their audio or all name files, got both: .*row 1 and"
    ):
        prepared(tmp_path / "t.parquet", tmp_path)


def test_a_missing_column_is_named_with_those_that_are_there(tmp_path, data_set):
    data_set.to_parquet(tmp_path / "t.parquet")
    with pytest.raises(
        ManifestError, match=r"columns must include who, got audio, speaker, gender, steps in .*Say which"
    ):
        prepared(tmp_path / "t.parquet", tmp_path, speaker="who")


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_a_damaged_table_is_named(tmp_path, suffix):
    (tmp_path / f"t.{suffix}").write_bytes(b"damaged" * 100)
    with pytest.raises(ManifestError, match=rf"data set must be readable, got an error in .*t\.{suffix}, row 1 "):
        prepared(tmp_path / f"t.{suffix}", tmp_path)


def test_offsets_beyond_the_end_of_an_arrow_file_are_noticed(tmp_path, data_set):
    data_set.select_columns(["audio", "speaker"]).save_to_disk(tmp_path / "set")
    (path,) = (tmp_path / "set").glob("*.arrow")
    content = path.read_bytes()
    offsets = np.cumsum([0, *(len(row["bytes"]) for row in ROWS["audio"])]).astype("<i4").tobytes()
    assert content.count(offsets) == 1
    path.write_bytes(content.replace(offsets, offsets[:8] + b"\xff\xff\xff\x7f" + offsets[12:]))
    with pytest.raises(ManifestError, match=r"data set must be readable, got an error in .*arrow, row 1 .*[Oo]ffset"):
        prepared(tmp_path / "set", tmp_path)


def test_a_description_that_means_nothing_is_named(tmp_path):
    table = pa.table({"audio": ["a"], "speaker": ["b"]})
    nonsense = json.dumps({"info": {"features": {"audio": {"_type": "NoSuchType"}}}})
    pq.write_table(table.replace_schema_metadata({"huggingface": nonsense}), tmp_path / "t.parquet")
    with pytest.raises(
        ManifestError, match=r"data set must describe its columns properly, got .*NoSuchType.* in .*t\.p"
    ):
        prepared(tmp_path / "t.parquet", tmp_path)


def test_other_folders_get_a_hint(tmp_path):
    with pytest.raises(
        ManifestError, match=r"must be of \.parquet or \.arrow files or a folder with .*chns prepare folder"
    ):
        prepared(tmp_path, tmp_path)
    with pytest.raises(FileNotFoundError, match="data set must be a file or a folder, got"):
        prepared(tmp_path / "none", tmp_path)


def test_the_extra_is_named_where_the_library_is_missing(tmp_path, data_set, monkeypatch):
    data_set.to_parquet(tmp_path / "t.parquet")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ChnsError, match=r"datasets must be installed, .*pip install 'chns\[datasets\]'"):
        prepared(tmp_path / "t.parquet", tmp_path)


@pytest.mark.parametrize("missing", [None, ""])
def test_one_missing_speaker_is_listed_and_the_others_are_kept(tmp_path, missing):
    features = FEATURES | {"speaker": datasets.Value("string")}
    rows = {**ROWS, "speaker": ["anna", missing, "boris"]}
    data_set_of(rows, datasets.Features(features)).to_parquet(tmp_path / "a.parquet")
    result = prepared(tmp_path / "a.parquet", tmp_path)
    assert result.manifest.speakers == ["anna", "boris"]
    assert [reason for _, reason in result.rejected] == [
        f"speaker must name the speaker, got nothing in {tmp_path / 'a.parquet'}, row 2"
    ]
